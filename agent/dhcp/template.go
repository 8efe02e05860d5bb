package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/ichiro-metal/ichiro/internal/delta"
)

// key is a guest's identity: where the request came from and which MAC it names.
type key struct {
	index int
	mac   [6]byte
}

// responder is a network's answers. Its memory is reused from one request to the next.
type responder struct {
	mu      sync.Mutex // held while a request is answered, and while the hosts change
	list    []*Host
	hosts   map[key]*host
	relays  map[Relay]bool
	request request
}

// compile writes out what a network's hosts are told. The last responder becomes the new one: only what differs is
// written, and a request is answered by what was, or by what is.
func compile(n Network, last *responder) *responder {
	r := last
	if r == nil {
		r = &responder{hosts: make(map[key]*host, len(n.Hosts))}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from, endWas, endIs := delta.Middle(r.list, n.Hosts, func(a, b **Host) bool { return *a == *b || (*a).equal(*b) })
	was := make(map[key]*host, endWas-from)
	for _, h := range r.list[from:endWas] {
		k := key{h.Index, h.MAC}
		was[k] = r.hosts[k]
		delete(r.hosts, k)
	}
	for _, h := range n.Hosts[from:endIs] {
		k := key{h.Index, h.MAC}
		if w := was[k]; w != nil && w.of.equal(h) {
			r.hosts[k] = w
		} else {
			r.hosts[k] = newHost(h)
		}
	}
	r.list, r.relays = n.Hosts, make(map[Relay]bool, len(n.Relays))
	for _, relay := range n.Relays {
		r.relays[relay] = true
	}
	return r
}

// bootp is where the message starts in a frame.
const bootp = wire.EthernetSize + wire.IPv4Size + wire.UDPSize

// host is a Host with its answer written out.
type host struct {
	of              *Host
	mac             [6]byte
	address, router [4]byte
	mtu             int

	template []byte   // the frame up to the options
	identity []byte   // option 54
	granted  []byte   // option 51
	told     []option // the rest, what matters most first
	last     selection
}

// option is one that a guest may be told, as it stands in the message.
type option struct {
	code   byte
	needed bool   // told to who lists others only, too: without it the link does not work, or not well
	hours  bool   // about the lease: not for who only informs itself
	shy    bool   // only for who asks for it by name
	bytes  []byte // with code and length, maybe in parts
}

// selection is what was told last: guests ask for the same again and again.
type selection struct {
	valid   bool
	asked   codes
	listed  bool
	lease   bool
	room    int
	options []byte
}

func newHost(h *Host) *host {
	c := &host{of: h, mac: h.MAC, address: as4(h.Address), router: as4(h.Router), mtu: h.MTU}
	b := wire.AppendEthernet(make([]byte, 0, bootp+offOptions), h.MAC, h.Source, wire.TypeIPv4)
	b = append(b, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, wire.ProtocolUDP, 0, 0)
	b = append(append(b, c.router[:]...), c.address[:]...)
	b = append(b, 0, 67, 0, 68, 0, 0, 0, 0)
	b = append(b, make([]byte, offOptions)...)
	m := b[bootp:]
	m[0], m[1], m[2] = 2, 1, 6 // BOOTREPLY over Ethernet
	copy(m[offChaddr:], h.MAC[:])
	copy(m[offCookie:], cookie[:])
	c.template = b
	c.identity = append([]byte{optServer, 4}, c.router[:]...)
	c.granted = binary.BigEndian.AppendUint32([]byte{optLease, 4}, Lease)
	c.told = options(h)
	return c
}

func (h *Host) equal(o *Host) bool {
	return h.Index == o.Index && h.MAC == o.MAC && h.Source == o.Source && h.Address == o.Address && h.Subnet == o.Subnet && h.Router == o.Router &&
		h.Gateway == o.Gateway && h.MTU == o.MTU && h.Hostname == o.Hostname && h.Domain == o.Domain && h.NetBIOSNode == o.NetBIOSNode &&
		slices.Equal(h.Routes, o.Routes) && slices.Equal(h.Search, o.Search) && slices.Equal(h.Resolvers, o.Resolvers) &&
		slices.Equal(h.TimeServers, o.TimeServers) && slices.Equal(h.NetBIOS, o.NetBIOS)
}

func as4(a netip.Addr) [4]byte {
	if !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}

// options is what EC2 tells, and what a set of DHCP options or an operator adds to it. Option 108 (RFC 8925, do without
// IPv4) is never among it, whoever asks: every interface has an IPv4 address.
func options(h *Host) (told []option) {
	put := func(o option, v []byte) {
		if len(v) == 0 {
			return
		}
		for len(v) > 0 { // RFC 3396: what is long goes in parts
			n := min(len(v), 255)
			o.bytes = append(append(o.bytes, o.code, byte(n)), v[:n]...)
			v = v[n:]
		}
		told = append(told, o)
	}
	mask := ^uint32(0) << (32 - h.Subnet.Bits())
	network := as4(h.Subnet.Masked().Addr())
	last := binary.BigEndian.Uint32(network[:]) | ^mask
	routes := routes(h.Routes)
	put(option{code: optMask, needed: true}, binary.BigEndian.AppendUint32(nil, mask))
	if h.MTU > 0 {
		put(option{code: optMTU, needed: true}, binary.BigEndian.AppendUint16(nil, uint16(h.MTU)))
	}
	if h.Gateway.IsValid() {
		put(option{code: optRouter}, h.Gateway.AsSlice())
	}
	put(option{code: optRoutes}, routes)
	put(option{code: optResolvers}, addresses(h.Resolvers))
	put(option{code: optHostname}, name(h.Hostname))
	put(option{code: optDomain}, name(h.Domain))
	put(option{code: optBroadcast}, binary.BigEndian.AppendUint32(nil, last))
	put(option{code: optSearch}, wire.Names(h.Search))
	put(option{code: optTimeServers}, addresses(h.TimeServers))
	put(option{code: optNetBIOS}, addresses(h.NetBIOS))
	if h.NetBIOSNode > 0 {
		put(option{code: optNetBIOSNode}, []byte{byte(h.NetBIOSNode)})
	}
	put(option{code: optRenew, hours: true, shy: true}, binary.BigEndian.AppendUint32(nil, renewAfter))
	put(option{code: optRebind, hours: true, shy: true}, binary.BigEndian.AppendUint32(nil, rebindAfter))
	put(option{code: optRoutesOld, shy: true}, routes)
	return told
}

// name is a text of at most one option's size; a longer one is not told, rather than cut.
func name(s string) []byte {
	if len(s) > 255 {
		return nil
	}
	return []byte(s)
}

func addresses(list []netip.Addr) (b []byte) {
	for _, a := range list {
		if a.Is4() {
			b = append(b, a.AsSlice()...)
		}
	}
	return b
}

// routes writes option 121: of each destination only the bytes that count.
func routes(list []Route) (b []byte) {
	for _, r := range list {
		if !r.To.Addr().Is4() {
			continue
		}
		to, via := as4(r.To.Masked().Addr()), as4(r.Via)
		b = append(b, byte(r.To.Bits()))
		b = append(b, to[:(r.To.Bits()+7)/8]...)
		b = append(b, via[:]...)
	}
	return b
}

// tell appends the options that a request gets, as far as there is room.
func (h *host) tell(b []byte, r *request, lease bool, room int) []byte {
	s := &h.last
	if !s.valid || s.listed != r.listed || s.asked != r.asked || s.lease != lease || s.room != room {
		*s = selection{true, r.asked, r.listed, lease, room, s.options[:0]}
		for _, o := range h.told {
			switch {
			case o.hours && !lease:
			case o.shy && !r.asked.has(o.code), r.listed && !o.needed && !r.asked.has(o.code):
			case len(s.options)+len(o.bytes) > room: // what follows may be shorter
			default:
				s.options = append(s.options, o.bytes...)
			}
		}
		s.options = slices.Clip(s.options)
	}
	return append(b, s.options...)
}
