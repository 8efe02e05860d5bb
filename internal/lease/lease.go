// Package lease decides what a DHCP client says and what it hears.
//
// It builds the two messages that our init sends and reads the answers, as whole IPv4
// packets, because a guest without an address has only a packet socket. It keeps no state
// and opens nothing; package network carries its bytes. The sequence:
//
//	DISCOVER (rapid commit) --> OFFER --> REQUEST --> ACK      RFC 2131
//	                        \-> ACK                            RFC 4039, one round trip less
//
// Everything received is what a network sent us: lengths are checked at every step and an
// answer that is not for our transaction and our hardware address is not an answer.
package lease

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Type is a DHCP message type, option 53.
type Type byte

// The types that matter to a client.
const (
	Discover Type = 1
	Offer    Type = 2
	Request  Type = 3
	ACK      Type = 5
	NAK      Type = 6
)

// Route is a way to a network. A route without Via leads straight onto the link.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Answer is what a server said.
type Answer struct {
	Type     Type
	Server   netip.Addr
	Address  netip.Prefix
	Routes   []Route // from option 121, or the default route from option 3
	DNS      []netip.Addr
	Domain   string
	Hostname string
	MTU      int // 0 when not said
	Duration time.Duration
}

// Transaction is one conversation of one interface.
type Transaction struct {
	ID  uint32
	MAC [6]byte
}

// ErrNotOurs is returned for a packet that is no answer in this transaction.
var ErrNotOurs = errors.New("not an answer to us")

// Option numbers, RFC 2132 unless noted.
const (
	optMask        = 1
	optRouter      = 3
	optDNS         = 6
	optHostname    = 12
	optDomain      = 15
	optMTU         = 26
	optRequested   = 50
	optLeaseTime   = 51
	optType        = 53
	optServer      = 54
	optWanted      = 55
	optMaxSize     = 57
	optClientID    = 61
	optRapidCommit = 80  // RFC 4039
	optRoutes      = 121 // RFC 3442
	optEnd         = 255
)

const (
	ipHeader   = 20
	udpHeader  = 8
	fixed      = 236 // BOOTP up to the options
	clientPort = 68
	serverPort = 67
	smallest   = 300 // BOOTP relays and some servers drop what is shorter
)

var cookie = [4]byte{99, 130, 83, 99}

// Discover returns the packet that looks for a server.
func (t Transaction) Discover() []byte {
	return t.packet(Discover, func(o *options) { o.add(optRapidCommit) })
}

// Request returns the packet that takes an offer.
func (t Transaction) Request(offer Answer) []byte {
	return t.packet(Request, func(o *options) {
		o.add(optRequested, offer.Address.Addr().AsSlice()...)
		if offer.Server.IsValid() {
			o.add(optServer, offer.Server.AsSlice()...)
		}
	})
}

type options []byte

func (o *options) add(code byte, value ...byte) {
	*o = append(append(*o, code, byte(len(value))), value...)
}

func (t Transaction) packet(kind Type, more func(*options)) []byte {
	b := make([]byte, fixed)
	b[0], b[1], b[2] = 1, 1, 6 // BOOTREQUEST over Ethernet
	binary.BigEndian.PutUint32(b[4:], t.ID)
	copy(b[28:], t.MAC[:])
	o := options(append(b, cookie[:]...))
	o.add(optType, byte(kind))
	o.add(optClientID, append([]byte{1}, t.MAC[:]...)...)
	o.add(optMaxSize, 1500>>8, 1500&0xff)
	o.add(optWanted, optMask, optRoutes, optRouter, optDNS, optHostname, optDomain, optMTU, optLeaseTime)
	more(&o)
	o = append(o, optEnd)
	for len(o) < smallest {
		o = append(o, 0)
	}
	return wrap(o)
}

// wrap puts IPv4 and UDP headers, 0.0.0.0:68 to 255.255.255.255:67, before a message.
func wrap(payload []byte) []byte {
	p := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(payload))
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(cap(p)))
	p[8], p[9] = 64, 17
	copy(p[16:20], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipHeader]))
	binary.BigEndian.PutUint16(p[20:], clientPort)
	binary.BigEndian.PutUint16(p[22:], serverPort)
	binary.BigEndian.PutUint16(p[24:], uint16(udpHeader+len(payload)))
	return append(p, payload...) // UDP checksum zero: none, RFC 768
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// Parse reads an IPv4 packet. ErrNotOurs for everything that is no server's answer to t.
func (t Transaction) Parse(p []byte) (Answer, error) {
	if len(p) < ipHeader || p[0]>>4 != 4 || p[9] != 17 {
		return Answer{}, ErrNotOurs
	}
	head := int(p[0]&15) * 4
	total := int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:]) & 0x3fff // more fragments, or an offset
	if head < ipHeader || fragment != 0 || total > len(p) || total < head+udpHeader+fixed+len(cookie) {
		return Answer{}, ErrNotOurs
	}
	udp := p[head:total]
	if binary.BigEndian.Uint16(udp) != serverPort || binary.BigEndian.Uint16(udp[2:]) != clientPort {
		return Answer{}, ErrNotOurs
	}
	b := udp[udpHeader:]
	if b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != t.ID || [6]byte(b[28:34]) != t.MAC || [4]byte(b[fixed:]) != cookie {
		return Answer{}, ErrNotOurs
	}
	return read(b)
}

func read(b []byte) (Answer, error) {
	a := Answer{Duration: time.Hour}
	bits := 32 // without a mask we know only ourselves
	var router netip.Addr
	var classless []Route
	for o := b[fixed+len(cookie):]; len(o) > 0 && o[0] != optEnd; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			break // cut short: what came before still counts
		}
		code, v := o[0], o[2:2+int(o[1])]
		o = o[2+int(o[1]):]
		switch {
		case code == optType && len(v) == 1:
			a.Type = Type(v[0])
		case code == optServer && len(v) == 4:
			a.Server = netip.AddrFrom4([4]byte(v))
		case code == optMask && len(v) == 4:
			if n, ok := ones(binary.BigEndian.Uint32(v)); ok {
				bits = n
			}
		case code == optRouter && len(v) >= 4:
			router = netip.AddrFrom4([4]byte(v))
		case code == optDNS:
			for ; len(v) >= 4 && len(a.DNS) < 3; v = v[4:] {
				a.DNS = append(a.DNS, netip.AddrFrom4([4]byte(v)))
			}
		case code == optHostname:
			a.Hostname = name(v)
		case code == optDomain:
			a.Domain = name(v)
		case code == optMTU && len(v) == 2:
			a.MTU = int(binary.BigEndian.Uint16(v))
		case code == optLeaseTime && len(v) == 4:
			a.Duration = time.Duration(binary.BigEndian.Uint32(v)) * time.Second
		case code == optRoutes:
			classless = routes(v)
		}
	}
	if a.Type == Offer || a.Type == ACK {
		addr := netip.AddrFrom4([4]byte(b[16:20]))
		if !addr.IsGlobalUnicast() && !addr.IsLinkLocalUnicast() {
			return Answer{}, ErrNotOurs
		}
		a.Address = netip.PrefixFrom(addr, bits)
	}
	// RFC 3442: a client that understands option 121 must ignore option 3 beside it.
	if a.Routes = classless; classless == nil && router.IsValid() {
		a.Routes = []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: router}}
	}
	return a, nil
}

// routes reads option 121: width, as many bytes of destination as it needs, router.
func routes(v []byte) []Route {
	var list []Route
	for len(v) > 0 {
		width := int(v[0])
		n := (width + 7) / 8
		if width > 32 || len(v) < 1+n+4 {
			break
		}
		var dest [4]byte
		copy(dest[:], v[1:1+n])
		r := Route{To: netip.PrefixFrom(netip.AddrFrom4(dest), width).Masked()}
		if via := netip.AddrFrom4([4]byte(v[1+n:])); !via.IsUnspecified() {
			r.Via = via
		}
		list = append(list, r)
		v = v[1+n+4:]
	}
	return list
}

// ones returns the width of a mask; false if its ones are not at the front.
func ones(mask uint32) (int, bool) {
	n := 0
	for mask&(1<<31) != 0 {
		n++
		mask <<= 1
	}
	return n, mask == 0
}

// name accepts what may stand in a host or domain name, so that nothing else gets into files.
func name(v []byte) string {
	for len(v) > 0 && v[len(v)-1] == 0 {
		v = v[:len(v)-1]
	}
	for _, c := range v {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return ""
		}
	}
	return string(v)
}
