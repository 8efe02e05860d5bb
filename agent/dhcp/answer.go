package dhcp

import (
	"encoding/binary"
	"net/netip"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// verdict is what became of a packet.
type verdict int

const (
	silent verdict = iota
	answered
	declined
)

// none is the address that is not there.
var none = [4]byte{}

// answer writes the frame that answers a packet, or the message for a relay.
func (n *responder) answer(in wire.Packet, out *wire.Answer, c *Counters) verdict {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &n.request
	if !r.parse(in.Data) {
		c.Malformed.Add(1)
		return silent
	}
	if r.op != 1 || r.giaddr != none && !n.relays[Relay{in.Index, netip.AddrFrom4(r.giaddr)}] {
		c.Ignored.Add(1)
		return silent
	}
	h := n.hosts[key{in.Index, r.mac}]
	if h == nil {
		c.Unknown.Add(1)
		return silent
	}
	kind := h.decide(r, c)
	switch {
	case kind != 0:
		h.write(out, r, kind)
		return answered
	case r.kind == typeDecline && (r.server == none || r.server == h.router):
		return declined
	}
	return silent
}

// decide returns the type of the answer to a request, 0 for silence.
func (h *host) decide(r *request, c *Counters) (kind byte) {
	switch r.kind {
	case typeDiscover:
		c.Discovers.Add(1)
		// A discover with rapid commit asks for the address at once, a round trip earlier (RFC 4039). There is
		// one possible answer on a tap, so nobody is kept from choosing. EC2 ignores the option; a client that does not
		// send it sees no difference.
		if r.rapid {
			c.Acks.Add(1)
			return typeAck
		}
		c.Offers.Add(1)
		return typeOffer
	case typeRequest:
		c.Requests.Add(1)
		return h.request(r, c)
	case typeInform:
		c.Informs.Add(1)
		return typeAck
	case typeRelease:
		c.Releases.Add(1)
	case typeDecline:
		c.Declines.Add(1)
	default:
		c.Ignored.Add(1)
	}
	return 0
}

// request confirms the one address the guest may have and refuses any other at once. The four kinds of requests
// (RFC 2131 section 4.3.2) differ in where they say the address and whether they name a server:
//
//	SELECTING           wish, server
//	INIT-REBOOT         wish
//	RENEWING, REBINDING ciaddr
func (h *host) request(r *request, c *Counters) (kind byte) {
	if r.server != none && r.server != h.router {
		c.Ignored.Add(1) // it has chosen another server
		return 0
	}
	wish := r.wish
	if wish == none {
		wish = r.ciaddr
	}
	switch wish {
	case none:
		c.Malformed.Add(1)
		return 0
	case h.address:
		c.Acks.Add(1)
		return typeAck
	}
	c.Naks.Add(1)
	return typeNak
}

// write writes an answer of this type.
func (h *host) write(out *wire.Answer, r *request, kind byte) {
	b := append(out.Data, h.template...)
	m := b[bootp:]
	copy(m[offXid:], r.xid[:])
	copy(m[offFlags:], r.flags[:])
	lease := kind != typeNak && r.kind != typeInform
	if lease {
		copy(m[offYiaddr:], h.address[:])
	}
	if kind == typeAck && r.kind != typeDiscover {
		copy(m[offCiaddr:], r.ciaddr[:])
	}
	copy(m[offGiaddr:], r.giaddr[:])
	b = append(b, optType, 1, kind)
	b = append(b, h.identity...)
	if lease {
		b = append(b, h.granted...)
	}
	if kind != typeNak {
		// What is said in return comes last, but has its room first.
		b = h.tell(b, r, lease, h.room(r)-(len(b)-bootp)-(2+len(r.clientID)+2+len(r.relay)+2+3+1))
	}
	b = echo(b, r, kind)
	b = append(b, optEnd)
	for len(b) < bootp+minimum {
		b = append(b, 0)
	}
	h.address4(out, r, kind, b)
}

// room is the size of the message that the guest takes: what it says less the headers, and less than a packet of the link.
func (h *host) room(r *request) int {
	const headers = wire.IPv4Size + wire.UDPSize
	size := max(r.maxSize, 576) // RFC 2131: everybody takes that much
	if h.mtu >= 576 {
		size = min(size, h.mtu)
	}
	return min(size-headers, 1514-bootp)
}

// echo appends what is an answer to an option of the request by itself.
func echo(b []byte, r *request, kind byte) []byte {
	if r.kind == typeDiscover && kind == typeAck {
		b = append(b, optRapidCommit, 0)
	}
	if r.auto && r.kind == typeDiscover {
		// No: link-local addresses are the host's services here, and there is an address to have.
		b = append(b, optAutoConfigure, 1, 0)
	}
	if n := len(r.clientID); n > 0 && n < 256 { // RFC 6842
		b = append(append(b, optClientID, byte(n)), r.clientID...)
	}
	if n := len(r.relay); r.giaddr != none && n > 0 && n < 256 { // RFC 3046: the last one
		b = append(append(b, optRelayInfo, byte(n)), r.relay...)
	}
	return b
}

// address4 addresses an answer as RFC 2131 section 4.1 says, and finishes it.
func (h *host) address4(out *wire.Answer, r *request, kind byte, b []byte) {
	m := b[bootp:]
	if r.giaddr != none {
		if kind == typeNak {
			m[offFlags] |= 0x80 // the relay must broadcast it: the guest does not have the address that it named
		}
		out.Relay, out.Data = r.giaddr, m
		return
	}
	to := b[wire.EthernetSize+16 : wire.EthernetSize+20]
	switch {
	case kind == typeNak, r.ciaddr == none && r.flags[0]&0x80 != 0:
		copy(b, wire.Broadcast[:])
		binary.BigEndian.PutUint32(to, 0xffffffff)
	case r.kind == typeInform && r.ciaddr != none:
		copy(to, r.ciaddr[:]) // maybe a secondary one; the frame goes to this guest in any case
	}
	wire.FinishIPv4(b)
	out.Data = b
}
