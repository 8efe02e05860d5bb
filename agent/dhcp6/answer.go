package dhcp6

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// perSecond is what a guest may ask: a client sends one message a second at most.
const perSecond = 100

// responder is a network's answers.
type responder struct {
	hosts   map[int]*host // by tap
	message message       // memory that is used again
}

// host is a Host with what is written out once.
type host struct {
	Host
	router    [16]byte // its link-local address
	duid      []byte
	preferred uint32
	valid     uint32
	names     []byte // the search list in DNS's form
	bucket    wire.Bucket
}

func compile(n Network) *responder {
	r := &responder{hosts: make(map[int]*host, len(n.Hosts))}
	for _, h := range n.Hosts {
		c := &host{Host: h, router: wire.LinkLocal(h.Source), names: wire.Names(h.Search)}
		c.duid = append([]byte{0, 3, 0, 1}, h.Source[:]...) // DUID-LL, of Ethernet
		c.preferred = uint32(min(cmp.Or(h.Preferred, DefaultPreferred), math.MaxInt32))
		c.valid = c.preferred + 310 // EC2: 140 and 450
		r.hosts[h.Index] = c
	}
	return r
}

// answer writes the frame that answers a packet.
func (r *responder) answer(now time.Time, in wire.Packet, out *wire.Answer, c *Counters) bool {
	p, ok := wire.ReadIPv6(in.Data)
	if !ok || p.Protocol != wire.ProtocolUDP || len(p.Payload) < wire.UDPSize || !wire.IsLinkLocal(p.From) ||
		int(binary.BigEndian.Uint16(p.Payload[4:])) != len(p.Payload) || binary.BigEndian.Uint16(p.Payload[2:]) != serverPort {
		c.Malformed.Add(1)
		return false
	}
	h := r.hosts[in.Index]
	if h == nil || p.FromMAC != h.MAC {
		c.Unknown.Add(1)
		return false
	}
	if !h.bucket.Take(now, perSecond) {
		c.Limited.Add(1)
		return false
	}
	m := &r.message
	if !m.parse(p.Payload[wire.UDPSize:]) {
		c.Malformed.Add(1)
		return false
	}
	if !h.meant(m, c) {
		return false
	}
	kind := h.decide(m, c)
	if kind == 0 {
		return false
	}
	b := wire.AppendEthernet(out.Data, h.MAC, h.Source, wire.TypeIPv6)
	b = wire.AppendIPv6(b, h.router, p.From, wire.ProtocolUDP, 64)
	b = append(b, serverPort>>8, serverPort&0xff, clientPort>>8, clientPort&0xff, 0, 0, 0, 0)
	b = h.write(append(append(b, kind), m.transaction[:]...), m, kind)
	if len(b) > 1514 {
		c.Ignored.Add(1) // more prefixes than a frame holds: EC2's limits are far below
		return false
	}
	wire.FinishIPv6(b)
	out.Data = b
	return true
}

// meant reports whether a message names whom it must name (RFC 8415 section 16).
func (h *host) meant(m *message, c *Counters) bool {
	switch m.kind {
	case typeSolicit, typeConfirm, typeRebind:
		if m.client == nil || m.server != nil {
			c.Malformed.Add(1)
			return false
		}
	case typeRequest, typeRenew, typeRelease, typeDecline:
		if m.client == nil || m.server == nil {
			c.Malformed.Add(1)
			return false
		}
		if !bytes.Equal(m.server, h.duid) {
			c.Ignored.Add(1)
			return false
		}
	case typeInformation:
		if m.server != nil && !bytes.Equal(m.server, h.duid) {
			c.Ignored.Add(1)
			return false
		}
	}
	return true
}

// decide returns the type of the answer, 0 for silence.
func (h *host) decide(m *message, c *Counters) byte {
	switch m.kind {
	case typeSolicit:
		c.Solicits.Add(1)
		if !m.rapid {
			c.Advertises.Add(1)
			return typeAdvertise
		}
	case typeRequest:
		c.Requests.Add(1)
	case typeConfirm:
		c.Confirms.Add(1)
		if m.addresses() == 0 {
			return 0
		}
	case typeRenew:
		c.Renews.Add(1)
	case typeRebind:
		c.Rebinds.Add(1)
	case typeRelease:
		c.Releases.Add(1)
	case typeDecline:
		c.Declines.Add(1)
	case typeInformation:
		c.Informs.Add(1)
	default:
		c.Ignored.Add(1)
		return 0
	}
	c.Replies.Add(1)
	return typeReply
}

// write appends the options of an answer.
func (h *host) write(b []byte, m *message, kind byte) []byte {
	if m.client != nil {
		b = put(b, optClientID, m.client)
	}
	b = put(b, optServerID, h.duid)
	switch m.kind {
	case typeConfirm:
		if !h.owns(m) {
			return putStatus(b, statusNotOnLink)
		}
		return putStatus(b, statusSuccess)
	case typeRelease, typeDecline:
		return putStatus(b, statusSuccess)
	case typeSolicit:
		if kind == typeAdvertise {
			b = put(b, optPreference, []byte{255}) // nobody better will come: do not wait for others
		} else {
			b = put(b, optRapidCommit, nil)
		}
	}
	given := [2]bool{} // addresses, prefixes
	for _, a := range m.ias[:m.n] {
		which := 0
		if a.code == optIAPD {
			which = 1
		}
		b = h.associate(b, a, !given[which])
		given[which] = true
	}
	return h.tell(b, m)
}

// associate appends an IA with what the guest has, if it is the first of its kind, and an end to all else that the client names.
func (h *host) associate(b []byte, a ia, first bool) []byte {
	start := len(b)
	b = append(binary.BigEndian.AppendUint16(b, a.code), 0, 0)
	b = append(b, a.id[:]...)
	b = binary.BigEndian.AppendUint32(b, h.preferred/2)
	b = binary.BigEndian.AppendUint32(b, uint32(uint64(h.preferred)*4/5))
	count := 0
	if first && a.code == optIANA {
		for _, addr := range h.Addresses {
			b = h.address(b, addr, h.preferred, h.valid)
			count++
		}
	}
	if first && a.code == optIAPD {
		for _, p := range h.Prefixes {
			b = h.prefix(b, p, h.preferred, h.valid)
			count++
		}
	}
	for o := a.options; len(b) < 1200; {
		code, v, rest, ok := option(o)
		if !ok {
			break
		}
		o = rest
		switch {
		case a.code == optIANA && code == optIAAddress && len(v) >= 24:
			if addr := netip.AddrFrom16([16]byte(v)); !first || !slices.Contains(h.Addresses, addr) {
				b = h.address(b, addr, 0, 0)
			}
		case a.code == optIAPD && code == optIAPrefix && len(v) >= 25 && v[8] <= 128:
			// A hint (no prefix, or one of a length only) is no claim.
			p := netip.PrefixFrom(netip.AddrFrom16([16]byte(v[9:])), int(v[8]))
			if !p.Addr().IsUnspecified() && (!first || !slices.Contains(h.Prefixes, p)) {
				b = h.prefix(b, p, 0, 0)
			}
		}
	}
	if count == 0 {
		status := uint16(statusNoAddresses)
		if a.code == optIAPD {
			status = statusNoPrefixes
		}
		b = putStatus(b, status)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-4))
	return b
}

func (h *host) address(b []byte, a netip.Addr, preferred, valid uint32) []byte {
	raw := a.As16()
	b = append(b, 0, optIAAddress, 0, 24)
	b = append(b, raw[:]...)
	b = binary.BigEndian.AppendUint32(b, preferred)
	return binary.BigEndian.AppendUint32(b, valid)
}

func (h *host) prefix(b []byte, p netip.Prefix, preferred, valid uint32) []byte {
	raw := p.Addr().As16()
	b = append(b, 0, optIAPrefix, 0, 25)
	b = binary.BigEndian.AppendUint32(b, preferred)
	b = binary.BigEndian.AppendUint32(b, valid)
	return append(append(b, byte(p.Bits())), raw[:]...)
}

// tell appends what the client lists of the rest.
func (h *host) tell(b []byte, m *message) []byte {
	if len(h.Resolvers) > 0 && m.asks(optResolvers) {
		b = putAddresses(b, optResolvers, h.Resolvers)
	}
	if len(h.names) > 0 && m.asks(optSearch) {
		b = put(b, optSearch, h.names)
	}
	if len(h.TimeServers) > 0 && m.asks(optSNTP) {
		b = putAddresses(b, optSNTP, h.TimeServers)
	}
	if len(h.TimeServers) > 0 && m.asks(optNTP) {
		b = append(b, 0, optNTP)
		b = binary.BigEndian.AppendUint16(b, uint16(20*len(h.TimeServers)))
		for _, a := range h.TimeServers {
			raw := a.As16()
			b = append(append(b, 0, 1, 0, 16), raw[:]...) // NTP_SUBOPTION_SRV_ADDR
		}
	}
	if m.kind == typeInformation && m.asks(optRefresh) {
		b = append(b, 0, optRefresh, 0, 4)
		b = binary.BigEndian.AppendUint32(b, max(600, h.valid)) // 600: the least that RFC 8415 allows
	}
	return b
}

func put(b []byte, code uint16, v []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

func putStatus(b []byte, code uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, 0, optStatus, 0, 2), code)
}

func putAddresses(b []byte, code uint16, list []netip.Addr) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(16*len(list)))
	for _, a := range list {
		raw := a.As16()
		b = append(b, raw[:]...)
	}
	return b
}

// addresses counts the addresses that a message names.
func (m *message) addresses() (n int) {
	for _, a := range m.ias[:m.n] {
		for o := a.options; ; {
			code, v, rest, ok := option(o)
			if !ok {
				break
			}
			o = rest
			if code == optIAAddress && len(v) >= 24 {
				n++
			}
		}
	}
	return n
}

// owns reports whether all addresses that a message names are the guest's.
func (h *host) owns(m *message) bool {
	for _, a := range m.ias[:m.n] {
		for o := a.options; ; {
			code, v, rest, ok := option(o)
			if !ok {
				break
			}
			o = rest
			if code == optIAAddress && len(v) >= 24 && !slices.Contains(h.Addresses, netip.AddrFrom16([16]byte(v))) {
				return false
			}
		}
	}
	return true
}
