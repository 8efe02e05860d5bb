package dhcp

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// key is a guest's identity: where the request came from and which MAC it names.
type key struct {
	index int
	mac   [6]byte
}

// host is a Host with its options written out once.
type host struct {
	Host
	options []byte // without message type, lease and echoes
}

func compile(hosts []Host) map[key]*host {
	m := make(map[key]*host, len(hosts))
	for _, h := range hosts {
		m[key{h.Index, h.MAC}] = &host{h, options(h)}
	}
	return m
}

// options is what EC2 tells: mask, router, resolvers, host name, domain, MTU, broadcast, server.
func options(h Host) []byte {
	var b []byte
	put := func(code dhcpv4.OptionCode, v []byte) {
		if len(v) > 0 && len(v) < 256 {
			b = append(append(b, code.Code(), byte(len(v))), v...)
		}
	}
	mask := ^uint32(0) << (32 - h.Subnet.Bits())
	network := binary.BigEndian.Uint32(h.Subnet.Masked().Addr().AsSlice())
	put(dhcpv4.OptionServerIdentifier, h.Router.AsSlice())
	put(dhcpv4.OptionSubnetMask, binary.BigEndian.AppendUint32(nil, mask))
	put(dhcpv4.OptionRouter, h.Router.AsSlice())
	var resolvers []byte
	for _, r := range h.Resolvers {
		resolvers = append(resolvers, r.AsSlice()...)
	}
	put(dhcpv4.OptionDomainNameServer, resolvers)
	put(dhcpv4.OptionHostName, []byte(h.Hostname))
	put(dhcpv4.OptionDomainName, []byte(h.Domain))
	put(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(h.MTU)))
	put(dhcpv4.OptionBroadcastAddress, binary.BigEndian.AppendUint32(nil, network|^mask))
	return b
}

// answer returns the frame that answers a request which came from the tap with this index, nil for silence.
func answer(hosts map[key]*host, index int, request []byte, c *Counters) []byte {
	m, err := dhcpv4.FromBytes(request)
	if err != nil || len(m.ClientHWAddr) != 6 {
		c.Malformed.Add(1)
		return nil
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest || !zero(m.GatewayIPAddr) {
		c.Ignored.Add(1)
		return nil
	}
	h := hosts[key{index, [6]byte(m.ClientHWAddr)}]
	if h == nil {
		c.Unknown.Add(1)
		return nil
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		c.Discovers.Add(1)
		if m.Options.Has(rapidCommit) {
			c.Acks.Add(1)
			return h.reply(m, dhcpv4.MessageTypeAck)
		}
		c.Offers.Add(1)
		return h.reply(m, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		c.Requests.Add(1)
		return h.request(m, c)
	case dhcpv4.MessageTypeInform:
		c.Informs.Add(1)
		return h.inform(m)
	case dhcpv4.MessageTypeRelease:
		c.Releases.Add(1)
	case dhcpv4.MessageTypeDecline:
		c.Declines.Add(1)
	default:
		c.Ignored.Add(1)
	}
	return nil
}

// rapidCommit in a discover asks for the address at once, a round trip earlier (RFC 4039). There is one possible
// answer on a tap, so nobody is kept from choosing. EC2 ignores the option; a client that does not send it sees no
// difference.
const rapidCommit = dhcpv4.GenericOptionCode(80)

// request confirms the one address the guest may have and refuses any other at once.
func (h *host) request(m *dhcpv4.DHCPv4, c *Counters) []byte {
	if id := m.ServerIdentifier(); id != nil && !id.Equal(h.Router.AsSlice()) {
		c.Ignored.Add(1) // it has chosen another server
		return nil
	}
	wish := m.RequestedIPAddress()
	if zero(wish) {
		wish = m.ClientIPAddr
	}
	if zero(wish) {
		c.Malformed.Add(1)
		return nil
	}
	if !wish.Equal(h.Address.AsSlice()) {
		c.Naks.Add(1)
		return h.refuse(m)
	}
	c.Acks.Add(1)
	return h.reply(m, dhcpv4.MessageTypeAck)
}

// Message layout, RFC 2131 figure 1.
const (
	offFlags  = 10
	offCiaddr = 12
	offYiaddr = 16
	offChaddr = 28
	offCookie = 236
	minimum   = 300 // BOOTP's size, which old clients insist on
)

func (h *host) reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) []byte {
	b := header(m)
	copy(b[offYiaddr:], h.Address.AsSlice())
	b = append(b, dhcpv4.OptionDHCPMessageType.Code(), 1, byte(kind))
	b = append(b, h.options...)
	b = append(b, dhcpv4.OptionIPAddressLeaseTime.Code(), 4)
	b = binary.BigEndian.AppendUint32(b, Lease)
	if kind == dhcpv4.MessageTypeAck {
		copy(b[offCiaddr:], m.ClientIPAddr.To4())
	}
	if m.MessageType() == dhcpv4.MessageTypeDiscover && kind == dhcpv4.MessageTypeAck {
		b = append(b, rapidCommit.Code(), 0)
	}
	return h.frame(finish(b, m), m)
}

func (h *host) inform(m *dhcpv4.DHCPv4) []byte {
	b := header(m)
	copy(b[offCiaddr:], m.ClientIPAddr.To4())
	b = append(b, dhcpv4.OptionDHCPMessageType.Code(), 1, byte(dhcpv4.MessageTypeAck))
	b = append(b, h.options...)
	return h.frame(finish(b, m), m)
}

func (h *host) refuse(m *dhcpv4.DHCPv4) []byte {
	b := header(m)
	b = append(b, dhcpv4.OptionDHCPMessageType.Code(), 1, byte(dhcpv4.MessageTypeNak))
	b = append(b, dhcpv4.OptionServerIdentifier.Code(), 4)
	b = append(b, h.Router.AsSlice()...)
	return h.wrap(finish(b, m), broadcastMAC, netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}

var broadcastMAC = [6]byte{255, 255, 255, 255, 255, 255}

// header is the fixed part of an answer.
func header(m *dhcpv4.DHCPv4) []byte {
	b := make([]byte, offCookie, 512)
	b[0], b[1], b[2] = byte(dhcpv4.OpcodeBootReply), 1, 6
	copy(b[4:8], m.TransactionID[:])
	binary.BigEndian.PutUint16(b[offFlags:], m.Flags)
	copy(b[offChaddr:], m.ClientHWAddr)
	return append(b, 99, 130, 83, 99)
}

// finish echoes the client identifier (RFC 6842), ends the options and pads.
func finish(b []byte, m *dhcpv4.DHCPv4) []byte {
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 && len(id) < 256 {
		b = append(append(b, dhcpv4.OptionClientIdentifier.Code(), byte(len(id))), id...)
	}
	b = append(b, dhcpv4.OptionEnd.Code())
	for len(b) < minimum {
		b = append(b, 0)
	}
	return b
}

// frame addresses an answer as RFC 2131 section 4.1 says.
func (h *host) frame(message []byte, m *dhcpv4.DHCPv4) []byte {
	if zero(m.ClientIPAddr) && m.IsBroadcast() {
		return h.wrap(message, broadcastMAC, netip.AddrFrom4([4]byte{255, 255, 255, 255}))
	}
	return h.wrap(message, h.MAC, h.Address)
}

// wrap puts Ethernet, IPv4 and UDP around a message, checksums included.
func (h *host) wrap(message []byte, mac [6]byte, to netip.Addr) []byte {
	const eth, ip, udp = 14, 20, 8
	f := make([]byte, eth+ip+udp, eth+ip+udp+len(message))
	copy(f, mac[:])
	copy(f[6:], h.Source[:])
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	p := f[eth:]
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(ip+udp+len(message)))
	copy(p[12:], h.Router.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[10:], ^sum(0, p[:ip]))
	u := p[ip:]
	binary.BigEndian.PutUint16(u[0:], 67)
	binary.BigEndian.PutUint16(u[2:], 68)
	binary.BigEndian.PutUint16(u[4:], uint16(udp+len(message)))
	f = append(f, message...)
	u = f[eth+ip:]
	pseudo := sum(uint32(17+len(u)), p[12:20])
	check := ^sum(uint32(pseudo), u)
	if check == 0 {
		check = 0xffff // zero would mean none
	}
	binary.BigEndian.PutUint16(u[6:], check)
	return f
}

// sum is the ones' complement sum of the Internet checksum.
func sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func zero(ip []byte) bool {
	for _, b := range ip {
		if b != 0 {
			return false
		}
	}
	return true
}
