package dhcp6

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

var guest = Host{
	Index: 7, MAC: [6]byte{2, 0, 0, 0, 0, 11}, Source: [6]byte{2, 0, 0, 0, 0, 1},
	Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:0:1::b"), netip.MustParseAddr("2001:db8:0:1::c")},
	Prefixes:  []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1:5::/80")},
	Resolvers: []netip.Addr{netip.MustParseAddr("2001:db8::2")}, Search: []string{"a.example", "b.example"},
	TimeServers: []netip.Addr{netip.MustParseAddr("fd00:ec2::123")},
}

var (
	mine     = &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: guest.Source[:]}
	stranger = &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 99}}
	client   = &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: guest.MAC[:]}
)

func ask(t testing.TB, kind dhcpv6.MessageType, with ...dhcpv6.Modifier) []byte {
	t.Helper()
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(client)}, with...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	m.TransactionID = [3]byte{1, 2, 3}
	return m.ToBytes()
}

func na(id byte, addrs ...string) dhcpv6.Modifier {
	o := &dhcpv6.OptIANA{IaId: [4]byte{id}}
	for _, a := range addrs {
		o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), PreferredLifetime: time.Hour, ValidLifetime: time.Hour})
	}
	return func(d dhcpv6.DHCPv6) { d.AddOption(o) }
}

func pd(id byte, prefixes ...string) dhcpv6.Modifier {
	o := &dhcpv6.OptIAPD{IaId: [4]byte{id}}
	for _, p := range prefixes {
		_, n, _ := net.ParseCIDR(p)
		o.Options.Add(&dhcpv6.OptIAPrefix{Prefix: n, PreferredLifetime: time.Hour, ValidLifetime: time.Hour})
	}
	return func(d dhcpv6.DHCPv6) { d.AddOption(o) }
}

// frame puts a message into what the guest would send.
func frame(message []byte) []byte {
	to := netip.MustParseAddr("ff02::1:2").As16()
	b := wire.AppendEthernet(nil, wire.Multicast(to), guest.MAC, wire.TypeIPv6)
	b = wire.AppendIPv6(b, wire.LinkLocal(guest.MAC), to, wire.ProtocolUDP, 1)
	b = append(b, clientPort>>8, clientPort&0xff, serverPort>>8, serverPort&0xff, 0, 0, 0, 0)
	b = append(b, message...)
	wire.FinishIPv6(b)
	return b
}

func respond(h Host, index int, frame []byte, c *Counters) []byte {
	out := wire.Answer{Data: make([]byte, 0, 1514)}
	if !compile(Network{Hosts: []Host{h}}).answer(time.Unix(1000, 0), wire.Packet{Index: index, Data: frame}, &out, c) {
		return nil
	}
	return out.Data
}

// summary is an answer in one line, read by the library.
func summary(t testing.TB, b []byte) string {
	t.Helper()
	p, ok := wire.ReadIPv6(b)
	if !ok || p.ToMAC != guest.MAC || p.From != wire.LinkLocal(guest.Source) || len(b) != 54+len(p.Payload) {
		t.Fatalf("not a frame for the guest: % x", b)
	}
	ip := b[14:54]
	if got := wire.Sum(uint32(wire.Sum(uint32(p.Protocol)+uint32(len(p.Payload)), ip[8:40])), p.Payload); got != 0xffff {
		t.Errorf("checksum is wrong: %x", got)
	}
	m, err := dhcpv6.MessageFromBytes(p.Payload[8:])
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	parts := []string{m.MessageType.String()}
	status := func(o dhcpv6.Options) {
		if s := o.GetOne(dhcpv6.OptionStatusCode); s != nil {
			parts = append(parts, s.(*dhcpv6.OptStatusCode).StatusCode.String())
		}
	}
	for _, a := range m.Options.IANA() {
		parts = append(parts, fmt.Sprintf("NA%d %v/%v", a.IaId[0], a.T1, a.T2))
		for _, o := range a.Options.Addresses() {
			parts = append(parts, fmt.Sprintf("%s=%v/%v", o.IPv6Addr, o.PreferredLifetime, o.ValidLifetime))
		}
		status(a.Options.Options)
	}
	for _, a := range m.Options.IAPD() {
		parts = append(parts, fmt.Sprintf("PD%d", a.IaId[0]))
		for _, o := range a.Options.Prefixes() {
			parts = append(parts, fmt.Sprintf("%s=%v/%v", o.Prefix, o.PreferredLifetime, o.ValidLifetime))
		}
		status(a.Options.Options)
	}
	status(m.Options.Options)
	if len(m.Options.DNS()) > 0 {
		parts = append(parts, fmt.Sprintf("DNS %v", m.Options.DNS()))
	}
	if l := m.Options.DomainSearchList(); l != nil {
		parts = append(parts, fmt.Sprintf("search %v", l.Labels))
	}
	for _, n := range m.Options.NTPServers() {
		parts = append(parts, fmt.Sprintf("NTP %v", n))
	}
	if o := m.GetOneOption(dhcpv6.OptionPreference); o != nil {
		parts = append(parts, fmt.Sprintf("preference %x", o.ToBytes()))
	}
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		parts = append(parts, "rapid")
	}
	if !m.Options.ServerID().Equal(mine) {
		parts = append(parts, "server "+m.Options.ServerID().String())
	}
	return strings.Join(parts, " ")
}

func TestAnswers(t *testing.T) {
	const (
		all = "NA1 1m10s/1m52s 2001:db8:0:1::b=2m20s/7m30s 2001:db8:0:1::c=2m20s/7m30s"
		net = "PD2 2001:db8:0:1:5::/80=2m20s/7m30s"
	)
	me, other := dhcpv6.WithServerID(mine), dhcpv6.WithServerID(stranger)
	bare := guest
	bare.Addresses, bare.Prefixes = nil, nil
	cases := []struct {
		name    string
		host    Host
		message []byte
		want    string // empty: silence
		number  func(*Counters) uint64
	}{
		{"a solicit is offered all there is", guest, ask(t, dhcpv6.MessageTypeSolicit, na(1), pd(2)), "ADVERTISE " + all + " " + net + " preference ff", func(c *Counters) uint64 { return c.Advertises.Load() }},
		{"a solicit in a hurry is granted", guest, ask(t, dhcpv6.MessageTypeSolicit, na(1), dhcpv6.WithRapidCommit), "REPLY " + all + " rapid", func(c *Counters) uint64 { return c.Replies.Load() }},
		{"a request is granted", guest, ask(t, dhcpv6.MessageTypeRequest, me, na(1, "2001:db8:0:1::b"), pd(2, "2001:db8:0:1:5::/80")), "REPLY " + all + " " + net, func(c *Counters) uint64 { return c.Requests.Load() }},
		{"a renewal tells what is over", guest, ask(t, dhcpv6.MessageTypeRenew, me, na(1, "2001:db8:0:1::99")), "REPLY " + all + " 2001:db8:0:1::99=0s/0s", func(c *Counters) uint64 { return c.Renews.Load() }},
		{"a rebind without a server is granted", guest, ask(t, dhcpv6.MessageTypeRebind, na(1), pd(2, "2001:db8:0:1:9::/80")), "REPLY " + all + " " + net + " 2001:db8:0:1:9::/80=0s/0s", func(c *Counters) uint64 { return c.Rebinds.Load() }},
		{"a second association gets nothing", guest, ask(t, dhcpv6.MessageTypeRequest, me, na(1), na(3, "2001:db8:0:1::b")), "REPLY " + all + " NA3 1m10s/1m52s 2001:db8:0:1::b=0s/0s NoAddrsAvail", func(c *Counters) uint64 { return c.Requests.Load() }},
		{"who has nothing is told so", bare, ask(t, dhcpv6.MessageTypeSolicit, na(1), pd(2)), "ADVERTISE NA1 1m10s/1m52s NoAddrsAvail PD2 NoPrefixAvail preference ff", func(c *Counters) uint64 { return c.Advertises.Load() }},
		{"an address of its own is confirmed", guest, ask(t, dhcpv6.MessageTypeConfirm, na(1, "2001:db8:0:1::c")), "REPLY Success", func(c *Counters) uint64 { return c.Confirms.Load() }},
		{"an address of another network is not", guest, ask(t, dhcpv6.MessageTypeConfirm, na(1, "2001:db8:0:1::c", "2001:db8:9::1")), "REPLY NotOnLink", func(c *Counters) uint64 { return c.Confirms.Load() }},
		{"nothing to confirm is silence", guest, ask(t, dhcpv6.MessageTypeConfirm, na(1)), "", func(c *Counters) uint64 { return c.Confirms.Load() }},
		{"a release is thanked for", guest, ask(t, dhcpv6.MessageTypeRelease, me, na(1, "2001:db8:0:1::b")), "REPLY Success", func(c *Counters) uint64 { return c.Releases.Load() }},
		{"a decline is heard", guest, ask(t, dhcpv6.MessageTypeDecline, me, na(1, "2001:db8:0:1::b")), "REPLY Success", func(c *Counters) uint64 { return c.Declines.Load() }},
		{"who asks for information gets what it lists", guest, ask(t, dhcpv6.MessageTypeInformationRequest, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList)), "REPLY DNS [2001:db8::2] search [a.example b.example]", func(c *Counters) uint64 { return c.Informs.Load() }},
		{"the time is told to who lists it", guest, ask(t, dhcpv6.MessageTypeInformationRequest, dhcpv6.WithRequestedOptions(dhcpv6.OptionNTPServer)), "REPLY NTP fd00:ec2::123", func(c *Counters) uint64 { return c.Informs.Load() }},
		{"another server's client is silence", guest, ask(t, dhcpv6.MessageTypeRequest, other, na(1)), "", func(c *Counters) uint64 { return c.Ignored.Load() }},
		{"a request of no server is silence", guest, ask(t, dhcpv6.MessageTypeRequest, na(1)), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"a solicit of one server is silence", guest, ask(t, dhcpv6.MessageTypeSolicit, me, na(1)), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"a relay is silence", guest, append([]byte{12, 0}, make([]byte, 32)...), "", func(c *Counters) uint64 { return c.Malformed.Load() + c.Ignored.Load() }},
		{"an advertisement is silence", guest, ask(t, dhcpv6.MessageTypeAdvertise, me, na(1)), "", func(c *Counters) uint64 { return c.Ignored.Load() }},
		{"rubbish is silence", guest, []byte{1, 2, 3, 4, 5}, "", func(c *Counters) uint64 { return c.Malformed.Load() }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var counters Counters
			got := ""
			if b := respond(c.host, 7, frame(c.message), &counters); b != nil {
				got = summary(t, b)
			}
			if got != c.want {
				t.Errorf("\ngot  %q\nwant %q", got, c.want)
			}
			if c.number(&counters) != 1 {
				t.Errorf("counters %v", counters.Map())
			}
		})
	}
}

func TestStrangersAreNotAnswered(t *testing.T) {
	good := frame(ask(t, dhcpv6.MessageTypeSolicit, na(1)))
	spoil := func(at int, v byte) []byte { b := append([]byte{}, good...); b[at] = v; return b }
	cases := []struct {
		name   string
		index  int
		frame  []byte
		number func(*Counters) uint64
	}{
		{"another tap", 8, good, func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"another MAC", 7, spoil(11, 99), func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"a global address", 7, spoil(14+8, 0x20), func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"another port", 7, spoil(14+40+3, 99), func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"a length that lies", 7, spoil(14+40+5, 99), func(c *Counters) uint64 { return c.Malformed.Load() }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var counters Counters
			if b := respond(guest, c.index, c.frame, &counters); b != nil || c.number(&counters) != 1 {
				t.Errorf("got % x, counters %v", b, counters.Map())
			}
		})
	}
}

func TestAnswersCostNoMemoryAndHaveALimit(t *testing.T) {
	r := compile(Network{Hosts: []Host{guest}})
	f := frame(ask(t, dhcpv6.MessageTypeRenew, dhcpv6.WithServerID(mine), na(1, "2001:db8:0:1::99"), pd(2)))
	var c Counters
	out := wire.Answer{Data: make([]byte, 0, 1514)}
	n := testing.AllocsPerRun(2*perSecond, func() {
		out.Data = out.Data[:0]
		r.answer(time.Unix(1000, 0), wire.Packet{Index: 7, Data: f}, &out, &c)
	})
	if n != 0 || c.Replies.Load() != perSecond || c.Limited.Load() == 0 {
		t.Errorf("%v allocations, counters %v", n, c.Map())
	}
}

// A guest may send any message: what comes back is a whole frame for it, which the library can read, and gives
// it nothing that is not its own.
func FuzzAnswer(f *testing.F) {
	me := dhcpv6.WithServerID(mine)
	for _, b := range [][]byte{
		ask(f, dhcpv6.MessageTypeSolicit, na(1), pd(2)), ask(f, dhcpv6.MessageTypeRenew, me, na(1, "2001:db8:0:1::99", "::")),
		ask(f, dhcpv6.MessageTypeRebind, pd(2, "::/64", "2001:db8:0:1:9::/80")), ask(f, dhcpv6.MessageTypeConfirm, na(1, "::1")),
		ask(f, dhcpv6.MessageTypeInformationRequest, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionNTPServer)),
		ask(f, dhcpv6.MessageTypeDecline, me), ask(f, dhcpv6.MessageTypeSolicit, na(1), na(2), na(3), na(4), na(5), na(6), na(7), na(8), na(9)),
		{}, {1}, {1, 0, 0, 0}, {1, 0, 0, 0, 0, 1, 255, 255}, {1, 0, 0, 0, 0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		{1, 0, 0, 0, 0, 1, 0, 3, 1, 2, 3, 0, 25, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 255},
		{12, 0}, make([]byte, 1400),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1400 {
			return
		}
		got := respond(guest, guest.Index, frame(b), new(Counters))
		if got == nil {
			return
		}
		if len(got) > 1514 {
			t.Errorf("frame of %d bytes", len(got))
		}
		p, _ := wire.ReadIPv6(got)
		m, err := dhcpv6.MessageFromBytes(p.Payload[8:])
		if err != nil {
			if _, err := dhcpv6.MessageFromBytes(b); err != nil {
				return // the library dislikes what we have to send back, such as the DUID
			}
			t.Fatalf("the library cannot read the answer: %v\n% x", err, p.Payload[8:])
		}
		for _, a := range m.Options.IANA() {
			for _, o := range a.Options.Addresses() {
				if s := o.IPv6Addr.String(); o.ValidLifetime > 0 && s != "2001:db8:0:1::b" && s != "2001:db8:0:1::c" {
					t.Errorf("gave away %s", s)
				}
			}
		}
	})
}

// The library is a second witness of what a message says.
func FuzzMessage(f *testing.F) {
	f.Add(ask(f, dhcpv6.MessageTypeRequest, dhcpv6.WithServerID(mine), na(1, "2001:db8::1"), pd(2, "2001:db8::/80"), dhcpv6.WithRapidCommit))
	f.Add([]byte{1, 0, 0, 0, 0, 6, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		ok := m.parse(b)
		w, err := dhcpv6.MessageFromBytes(b)
		if err != nil || !ok {
			return
		}
		if byte(w.MessageType) != m.kind || w.TransactionID != m.transaction {
			t.Errorf("got type %d of %x, want %s", m.kind, m.transaction, w)
		}
		if id := w.Options.ClientID(); (id == nil) != (m.client == nil) || id != nil && string(id.ToBytes()) != string(m.client) {
			t.Errorf("client %x, want %v", m.client, id)
		}
		if got, want := m.n, len(w.Options.IANA())+len(w.Options.IAPD()); got != min(want, maxIAs) {
			t.Errorf("%d associations, want %d", got, want)
		}
		if m.rapid != (w.GetOneOption(dhcpv6.OptionRapidCommit) != nil) {
			t.Errorf("rapid commit %v", m.rapid)
		}
		for _, code := range w.Options.RequestedOptions() {
			if !m.asks(uint16(code)) {
				t.Errorf("option %s is not asked for", code)
			}
		}
	})
}
