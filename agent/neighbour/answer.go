package neighbour

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"golang.org/x/sys/unix"
)

// ICMPv6 types and options, RFC 4861.
const (
	routerSolicitation     = 133
	routerAdvertisement    = 134
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136

	optSourceLink = 1
	optTargetLink = 2
	optPrefix     = 3
	optMTU        = 5
)

const (
	lifetime  = 1800 // seconds that a guest keeps the router: RFC 4861's default, three times the longest period
	perSecond = 500  // solicitations of a guest: more than a scan of its neighbours needs, less than costs us a processor

	validFor     = 30 * 24 * 3600 // seconds of the prefix: RFC 4861's defaults
	preferredFor = 7 * 24 * 3600
)

var allNodes = [16]byte{0xff, 2, 15: 1}

// filter lets solicitations through: IPv6 with ICMPv6 as its first header, of type 133 or 135.
var filter = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: wire.EthernetSize + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 4, K: wire.ProtocolICMPv6},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: wire.EthernetSize + wire.IPv6Size},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: routerSolicitation},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: neighbourSolicitation},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K},
}

// responder is a network's answers.
type responder struct {
	prefixes []netip.Prefix
	hosts    map[int]*host // by tap
}

type host struct {
	Host
	router [16]byte // its link-local address
	bucket wire.Bucket
}

func compile(n Network) *responder {
	r := &responder{hosts: make(map[int]*host, len(n.Hosts))}
	for _, p := range n.Prefixes {
		if p.Addr().Is6() {
			r.prefixes = append(r.prefixes, p.Masked())
		}
	}
	for _, h := range n.Hosts {
		r.hosts[h.Index] = &host{Host: h, router: wire.LinkLocal(h.Source)}
	}
	return r
}

// answer writes the frame that answers a solicitation.
func (r *responder) answer(now time.Time, in wire.Packet, out *wire.Answer, c *Counters) bool {
	p, ok := wire.ReadIPv6(in.Data)
	// 255 hops: it has crossed no router (RFC 4861 section 11.2).
	if !ok || p.Protocol != wire.ProtocolICMPv6 || p.Hops != 255 || len(p.Payload) < 8 || p.Payload[1] != 0 {
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
	switch p.Payload[0] {
	case routerSolicitation:
		if !wellFormed(p.Payload[8:]) {
			break
		}
		c.RouterSolicitations.Add(1)
		c.Advertisements.Add(1)
		to := allNodes
		if wire.IsLinkLocal(p.From) {
			to = p.From
		}
		out.Data = advertisement(out.Data, h.Host, to, lifetime)
		return true
	case neighbourSolicitation:
		if len(p.Payload) < 24 || p.Payload[8] == 0xff || !wellFormed(p.Payload[24:]) {
			break
		}
		c.NeighbourSolicitations.Add(1)
		return r.solicited(h, p, out, c)
	}
	c.Malformed.Add(1)
	return false
}

// wellFormed reports whether options fill their room: one of length 0 would never end.
func wellFormed(options []byte) bool {
	for len(options) > 0 {
		if len(options) < 8 || options[1] == 0 || len(options) < 8*int(options[1]) {
			return false
		}
		options = options[8*int(options[1]):]
	}
	return true
}

// solicited answers for the router and for everybody else in the VPC.
func (r *responder) solicited(h *host, p wire.IPv6, out *wire.Answer, c *Counters) bool {
	raw := [16]byte(p.Payload[8:])
	target := netip.AddrFrom16(raw)
	router := raw == h.router
	if !router && (!contains(r.prefixes, target) || contains(h.Own, target)) {
		c.Own.Add(1)
		return false
	}
	c.Answers.Add(1)
	// The guest asks from no address to find out whether it may have this one: all nodes hear that it may not.
	to, mac, flags := allNodes, wire.Multicast(allNodes), byte(0)
	if p.From != [16]byte{} {
		to, mac, flags = p.From, h.MAC, 0x40 // solicited
	}
	if router {
		flags |= 0x80 | 0x20 // it is a router, and nobody knows better
	}
	b := wire.AppendEthernet(out.Data, mac, h.Source, wire.TypeIPv6)
	b = wire.AppendIPv6(b, raw, to, wire.ProtocolICMPv6, 255)
	b = append(b, neighbourAdvertisement, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, raw[:]...)
	b = append(append(b, optTargetLink, 1), h.Source[:]...)
	wire.FinishIPv6(b)
	out.Data = b
	return true
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// advertisement appends what a guest must know of its router.
func advertisement(b []byte, h Host, to [16]byte, seconds int) []byte {
	mac := h.MAC
	if to == allNodes {
		mac = wire.Multicast(to)
	}
	b = wire.AppendEthernet(b, mac, h.Source, wire.TypeIPv6)
	b = wire.AppendIPv6(b, wire.LinkLocal(h.Source), to, wire.ProtocolICMPv6, 255)
	const managed, other = 0x80, 0x40
	b = append(b, routerAdvertisement, 0, 0, 0, 64, managed|other)
	b = binary.BigEndian.AppendUint16(b, uint16(seconds))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // timers: as the guest likes
	b = append(append(b, optSourceLink, 1), h.Source[:]...)
	if h.MTU >= 1280 {
		b = append(b, optMTU, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(h.MTU))
	}
	if h.Subnet.IsValid() {
		b = append(b, optPrefix, 4, byte(h.Subnet.Bits()), 0) // neither L nor A
		b = binary.BigEndian.AppendUint32(b, validFor)
		b = binary.BigEndian.AppendUint32(b, preferredFor)
		b = append(b, 0, 0, 0, 0)
		prefix := h.Subnet.Masked().Addr().As16()
		b = append(b, prefix[:]...)
	}
	wire.FinishIPv6(b)
	return b
}
