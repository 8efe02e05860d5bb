package dns

import (
	"context"

	"github.com/miekg/dns"

	"github.com/ichiro-metal/ichiro/imds/dns/zone"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// udpSize is the most that goes into a datagram, from either side: what passes every network unfragmented (DNS flag day 2020).
const udpSize = 1232

// question is one that makes sense.
type question struct {
	vpc       cloud.VPCID
	transport string // udp | tcp
	m         *dns.Msg
	edns      *dns.OPT // nil: the guest does not speak it
}

func (q *question) name() string { return q.m.Question[0].Name }
func (q *question) kind() uint16 { return q.m.Question[0].Qtype }

// key is what makes two questions of a VPC one.
func (q *question) key() key {
	return key{
		vpc: q.vpc, name: dns.CanonicalName(q.name()), kind: q.kind(),
		dnssec: q.edns != nil && q.edns.Do(), unchecked: q.m.CheckingDisabled, authentic: q.m.AuthenticatedData,
	}
}

// size is how much the guest takes.
func (q *question) size() int {
	switch {
	case q.transport == "tcp":
		return dns.MaxMsgSize
	case q.edns == nil:
		return dns.MinMsgSize
	}
	return min(max(int(q.edns.UDPSize()), dns.MinMsgSize), udpSize)
}

// read parses what a guest sent. Without a question there may still be an answer, an error.
func (s *Server) read(vpc cloud.VPCID, packet []byte, transport string) (*question, []byte) {
	q := &question{vpc: vpc, transport: transport, m: new(dns.Msg)}
	// An answer is never answered: two resolvers would keep each other busy for ever.
	if len(packet) < 12 || packet[2]&0x80 != 0 {
		s.metrics.queries.WithLabelValues(transport, malformed).Inc()
		return nil, nil
	}
	if err := q.m.Unpack(packet); err != nil || len(packet) > maxQuestion {
		s.metrics.queries.WithLabelValues(transport, malformed).Inc()
		q.m = new(dns.Msg)
		q.m.Id = uint16(packet[0])<<8 | uint16(packet[1])
		q.m.Opcode = int(packet[2]>>3) & 0xf
		return nil, q.refuse(dns.RcodeFormatError)
	}
	code := q.check()
	if code == dns.RcodeSuccess {
		return q, nil
	}
	s.metrics.count(q, malformed)
	return nil, q.refuse(code)
}

// check returns the error that a question is answered with before its name is looked at.
func (q *question) check() int {
	for _, r := range q.m.Extra {
		if o, ok := r.(*dns.OPT); ok {
			if q.edns != nil {
				return dns.RcodeFormatError // RFC 6891, 6.1.1
			}
			q.edns = o
		}
	}
	switch {
	case q.m.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case len(q.m.Question) != 1, len(q.m.Answer) > 0, len(q.m.Ns) > 0:
		return dns.RcodeFormatError
	case q.edns != nil && q.edns.Version() != 0:
		return dns.RcodeBadVers
	case q.m.Question[0].Qclass != dns.ClassINET:
		return dns.RcodeRefused
	}
	switch q.kind() {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY:
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// answer begins an answer.
func (q *question) answer() *dns.Msg {
	a := new(dns.Msg)
	a.SetReply(q.m) // takes over opcode, RD and CD, and at most one question
	a.RecursionAvailable = true
	return a
}

// refuse is an answer with nothing but an error.
func (q *question) refuse(code int) []byte {
	a := q.answer()
	a.Rcode = code
	return q.pack(a)
}

// pack makes bytes that the guest can take.
func (q *question) pack(a *dns.Msg) []byte {
	a.Compress = true
	if q.edns != nil {
		o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		o.SetUDPSize(udpSize)
		o.SetDo(q.edns.Do())
		a.Extra = append(a.Extra, o)
	} else if a.Rcode > 0xf {
		a.Rcode = dns.RcodeServerFailure // the upper bits are in EDNS, which this guest does not speak
	}
	a.Truncate(q.size())
	p, err := a.Pack()
	if err != nil { // records that can be read and not written again: there is nothing to say
		return nil
	}
	return p
}

// immediate answers what needs nobody else.
func (s *Server) immediate(q *question) ([]byte, bool) {
	n, err := s.networks.Get(q.vpc)
	if s.news.Is(string(q.vpc), err, s.now()) { // guests may ask a thousand times a second
		if err != nil {
			s.log.Warn("a VPC is not known, and its guests get no names", "vpc", q.vpc, "err", err)
		} else {
			s.log.Info("a VPC is known again", "vpc", q.vpc)
		}
	}
	switch {
	case err != nil:
		s.metrics.count(q, failed)
		return q.refuse(dns.RcodeServerFailure), true
	case !n.Resolver:
		s.metrics.count(q, refused)
		return q.refuse(dns.RcodeRefused), true
	}
	if q.kind() == dns.TypeANY {
		s.metrics.count(q, local)
		return q.pack(minimal(q)), true
	}
	if a, result := own(q, n); a != nil {
		s.metrics.count(q, result)
		return q.pack(a), true
	}
	if !q.m.RecursionDesired { // who asks what is kept wants to know what others have asked
		s.metrics.count(q, refused)
		return q.refuse(dns.RcodeRefused), true
	}
	if a := s.cache.get(q.key(), s.now()); a != nil {
		s.metrics.count(q, cached)
		return q.pass(a), true
	}
	return nil, false
}

// ask answers what the host's resolvers must be asked for.
func (s *Server) ask(ctx context.Context, q *question) []byte {
	k := q.key()
	a, shared := s.forward.ask(ctx, k, q, func() *dns.Msg { return s.cache.get(k, s.now()) }, func(a *dns.Msg) {
		s.cache.put(k, a.Copy(), s.now()) // packing writes into a message, and others read this one
	})
	if a == nil {
		s.metrics.count(q, failed)
		return q.refuse(dns.RcodeServerFailure)
	}
	if !shared {
		s.metrics.count(q, forwarded)
	} else {
		s.metrics.count(q, joined)
	}
	return q.pass(a.Copy()) // others that wait have the same
}

// pass makes another resolver's answer one to this question. The records stay as they are.
func (q *question) pass(a *dns.Msg) []byte {
	a.Id, a.Response, a.Opcode = q.m.Id, true, dns.OpcodeQuery
	a.Question = q.m.Question // in the guest's own spelling
	a.RecursionDesired, a.RecursionAvailable = true, true
	extra := a.Extra[:0]
	for _, r := range a.Extra {
		if r.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, r)
		}
	}
	a.Extra = extra
	return q.pack(a)
}

// minimal answers ANY with one small record (RFC 8482, 4.2): nobody can make much out of little with it.
func minimal(q *question) *dns.Msg {
	a := q.answer()
	a.Answer = []dns.RR{&dns.HINFO{
		Hdr: dns.RR_Header{Name: q.name(), Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600}, Cpu: "RFC8482",
	}}
	return a
}

// own answers names of the VPC; nil if the name is not one.
func own(q *question, n *bundle.Network) (*dns.Msg, string) {
	z := zone.Lookup(n, dns.CanonicalName(q.name()))
	if z.Kind == zone.Elsewhere {
		return nil, ""
	}
	a := q.answer()
	a.Authoritative = true
	header := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: zone.TTL}
	}
	soa := &dns.SOA{
		Hdr: header(z.Zone, dns.TypeSOA), Ns: "ns." + z.Zone, Mbox: "hostmaster." + z.Zone,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: zone.TTL,
	}
	switch {
	case z.Kind == zone.Unknown:
		a.Rcode = dns.RcodeNameError
		a.Ns = []dns.RR{soa}
		return a, unknown
	case q.kind() == dns.TypeA && z.Address.Is4():
		a.Answer = []dns.RR{&dns.A{Hdr: header(q.name(), dns.TypeA), A: z.Address.AsSlice()}}
	case q.kind() == dns.TypePTR && z.Name != "":
		a.Answer = []dns.RR{&dns.PTR{Hdr: header(q.name(), dns.TypePTR), Ptr: z.Name}}
	case q.kind() == dns.TypeSOA && z.Apex(q.name()):
		soa.Hdr.Name = q.name()
		a.Answer = []dns.RR{soa}
	default:
		a.Ns = []dns.RR{soa}
	}
	return a, local
}
