package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var guest = Host{
	Index: 7, MAC: [6]byte{2, 0, 0, 0, 0, 11}, Source: [6]byte{2, 0, 0, 0, 0, 1},
	Address: netip.MustParseAddr("172.31.16.11"), Subnet: netip.MustParsePrefix("172.31.16.0/20"), Router: netip.MustParseAddr("172.31.16.1"), Gateway: netip.MustParseAddr("172.31.16.1"),
	MTU: 1500, Hostname: "ip-172-31-16-11", Domain: "ichiro-1.compute.internal",
}

func ask(t testing.TB, kind dhcpv4.MessageType, with ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(guest.MAC[:]), dhcpv4.WithMessageType(kind)}, with...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.ToBytes()
}

func wish(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr)))
}

func chose(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(addr)))
}

func TestAnswers(t *testing.T) {
	renewing := dhcpv4.WithClientIP(net.IP{172, 31, 16, 11})
	id := dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{255, 1, 2, 3}))
	hurry := dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(optRapidCommit), nil)
	cases := []struct {
		name    string
		index   int
		request []byte
		want    dhcpv4.MessageType // None: silence
		mac, ip string
		counter func(*Counters) uint64
	}{
		{"discover is offered", 7, ask(t, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, "02:00:00:00:00:0b", "172.31.16.11", func(c *Counters) uint64 { return c.Offers.Load() }},
		{"discover by broadcast is offered by broadcast", 7, ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true)), dhcpv4.MessageTypeOffer, "ff:ff:ff:ff:ff:ff", "255.255.255.255", func(c *Counters) uint64 { return c.Offers.Load() }},
		{"discover in a hurry is granted", 7, ask(t, dhcpv4.MessageTypeDiscover, hurry), dhcpv4.MessageTypeAck, "02:00:00:00:00:0b", "172.31.16.11", func(c *Counters) uint64 { return c.Acks.Load() }},
		{"request of the own address is granted", 7, ask(t, dhcpv4.MessageTypeRequest, wish("172.31.16.11"), chose("172.31.16.1"), id), dhcpv4.MessageTypeAck, "02:00:00:00:00:0b", "172.31.16.11", func(c *Counters) uint64 { return c.Acks.Load() }},
		{"renewal is granted to the address", 7, ask(t, dhcpv4.MessageTypeRequest, renewing, dhcpv4.WithBroadcast(true)), dhcpv4.MessageTypeAck, "02:00:00:00:00:0b", "172.31.16.11", func(c *Counters) uint64 { return c.Acks.Load() }},
		{"request of another address is refused", 7, ask(t, dhcpv4.MessageTypeRequest, wish("172.31.16.12")), dhcpv4.MessageTypeNak, "ff:ff:ff:ff:ff:ff", "255.255.255.255", func(c *Counters) uint64 { return c.Naks.Load() }},
		{"renewal of another address is refused", 7, ask(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP{10, 0, 0, 1})), dhcpv4.MessageTypeNak, "ff:ff:ff:ff:ff:ff", "255.255.255.255", func(c *Counters) uint64 { return c.Naks.Load() }},
		{"inform is told", 7, ask(t, dhcpv4.MessageTypeInform, renewing), dhcpv4.MessageTypeAck, "02:00:00:00:00:0b", "172.31.16.11", func(c *Counters) uint64 { return c.Informs.Load() }},
		{"release is silence", 7, ask(t, dhcpv4.MessageTypeRelease, renewing), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Releases.Load() }},
		{"decline is silence", 7, ask(t, dhcpv4.MessageTypeDecline, wish("172.31.16.11")), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Declines.Load() }},
		{"another server's client is silence", 7, ask(t, dhcpv4.MessageTypeRequest, wish("172.31.16.11"), chose("10.9.9.9")), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Ignored.Load() }},
		{"a request of nothing is silence", 7, ask(t, dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"the right MAC on another tap is silence", 8, ask(t, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"another MAC is silence", 7, ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 12})), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"a relay is silence", 7, ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IP{10, 0, 0, 1})), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Ignored.Load() }},
		{"an offer is silence", 7, offer(t), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Ignored.Load() }},
		{"rubbish is silence", 7, []byte("rubbish"), dhcpv4.MessageTypeNone, "", "", func(c *Counters) uint64 { return c.Malformed.Load() }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var counters Counters
			frame := respond(c.index, c.request, &counters, guest)
			if c.counter(&counters) != 1 {
				t.Errorf("counters %v", counters.Map())
			}
			if c.want == dhcpv4.MessageTypeNone {
				if frame != nil {
					t.Errorf("got an answer % x", frame)
				}
				return
			}
			m := unwrap(t, frame)
			if got := m.MessageType(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := net.HardwareAddr(frame[:6]).String(); got != c.mac {
				t.Errorf("to MAC %s, want %s", got, c.mac)
			}
			if got := net.IP(frame[30:34]).String(); got != c.ip {
				t.Errorf("to %s, want %s", got, c.ip)
			}
			sent, _ := dhcpv4.FromBytes(c.request)
			if m.TransactionID != sent.TransactionID {
				t.Errorf("transaction %s, want %s", m.TransactionID, sent.TransactionID)
			}
			if got, want := m.Options.Get(dhcpv4.OptionClientIdentifier), sent.Options.Get(dhcpv4.OptionClientIdentifier); string(got) != string(want) {
				t.Errorf("client identifier % x, want % x", got, want)
			}
			if c.want == dhcpv4.MessageTypeNak {
				return
			}
			for code, want := range map[dhcpv4.OptionCode]string{
				dhcpv4.OptionSubnetMask:       "\xff\xff\xf0\x00",
				dhcpv4.OptionRouter:           "\xac\x1f\x10\x01",
				dhcpv4.OptionServerIdentifier: "\xac\x1f\x10\x01",
				dhcpv4.OptionBroadcastAddress: "\xac\x1f\x1f\xff",
				dhcpv4.OptionInterfaceMTU:     "\x05\xdc",
				dhcpv4.OptionHostName:         guest.Hostname,
				dhcpv4.OptionDomainName:       guest.Domain,
				dhcpv4.OptionDomainNameServer: "", // none is configured: no promise
			} {
				if got := string(m.Options.Get(code)); got != want {
					t.Errorf("option %s: got %q, want %q", code, got, want)
				}
			}
			inform := sent.MessageType() == dhcpv4.MessageTypeInform
			if lease := m.IPAddressLeaseTime(0).Seconds(); (lease == Lease) == inform {
				t.Errorf("lease of %v seconds", lease)
			}
			if m.YourIPAddr.IsUnspecified() != inform {
				t.Errorf("yiaddr %s", m.YourIPAddr)
			}
		})
	}
}

// respond is the frame that answers a packet, nil for silence.
func respond(index int, packet []byte, c *Counters, hosts ...Host) []byte {
	var list []*Host
	for i := range hosts {
		list = append(list, &hosts[i])
	}
	out := wire.Answer{Index: index, Data: make([]byte, 0, 1514)}
	if compile(Network{Hosts: list}, nil).answer(wire.Packet{Index: index, Data: packet}, &out, c) != answered {
		return nil
	}
	return out.Data
}

func offer(t testing.TB) []byte {
	b := ask(t, dhcpv4.MessageTypeOffer)
	b[0] = byte(dhcpv4.OpcodeBootReply)
	return b
}

// unwrap checks lengths and checksums of a frame as a strict client would, and parses the message.
func unwrap(t testing.TB, frame []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	if len(frame) < 14+20+8+minimum {
		t.Fatalf("frame of %d bytes", len(frame))
	}
	ip, udp := frame[14:34], frame[34:]
	if got := wire.Sum(0, ip); got != 0xffff {
		t.Errorf("IP checksum is wrong: %x", got)
	}
	if got := int(binary.BigEndian.Uint16(ip[2:])); got != len(frame)-14 {
		t.Errorf("IP length %d, want %d", got, len(frame)-14)
	}
	if got := int(binary.BigEndian.Uint16(udp[4:])); got != len(udp) {
		t.Errorf("UDP length %d, want %d", got, len(udp))
	}
	if got := wire.Sum(uint32(wire.Sum(uint32(17+len(udp)), ip[12:20])), udp); got != 0xffff {
		t.Errorf("UDP checksum is wrong: %x", got)
	}
	m, err := dhcpv4.FromBytes(udp[8:])
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return m
}
