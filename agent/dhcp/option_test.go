package dhcp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func hostOf(h Host) *Host { return &h }

// rich is a guest that is told everything.
func rich() Host {
	h := guest
	h.Search = []string{"a.example", "b.example"}
	h.Resolvers = []netip.Addr{netip.MustParseAddr("172.31.0.2"), netip.MustParseAddr("9.9.9.9")}
	h.TimeServers = []netip.Addr{netip.MustParseAddr("169.254.169.123")}
	h.NetBIOS = []netip.Addr{netip.MustParseAddr("10.0.0.7")}
	h.NetBIOSNode = 2
	h.Routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: h.Gateway}, {To: netip.MustParsePrefix("169.254.169.254/32")}}
	return h
}

// told lists the options of an answer in the order in which they stand there.
func told(t *testing.T, frame []byte) (list []string) {
	t.Helper()
	unwrap(t, frame)
	for b := frame[bootp+offOptions:]; b[0] != optEnd; b = b[2+int(b[1]):] {
		list = append(list, fmt.Sprintf("%d=%x", b[0], b[2:2+int(b[1])]))
	}
	return list
}

func TestOptions(t *testing.T) {
	asks := func(codes ...byte) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionParameterRequestList, codes))
	}
	option := func(code byte, v ...byte) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), v))
	}
	const offered = "53=02 54=ac1f1001 51=00000e10 1=fffff000 26=05dc"
	everything := offered + " 3=ac1f1001 121=00ac1f100120a9fea9fe00000000 6=ac1f000209090909 12=69702d3137322d33312d31362d3131" +
		" 15=69636869726f2d312e636f6d707574652e696e7465726e616c 28=ac1f1fff 119=0161076578616d706c65000162076578616d706c6500" +
		" 42=a9fea97b 44=0a000007 46=02"
	cases := []struct {
		name string
		host Host
		with []dhcpv4.Modifier
		want string
	}{
		{"who lists nothing is told everything but what only some understand", rich(), nil, everything},
		{"who lists is told what it lists, and what the protocol demands", rich(), []dhcpv4.Modifier{asks(3, 108)}, offered + " 3=ac1f1001"},
		{"the times to renew are told to who asks", rich(), []dhcpv4.Modifier{asks(58, 59)}, offered + " 58=00000708 59=00000c4e"},
		{"the old number of the routes is told to who asks", rich(), []dhcpv4.Modifier{asks(249)}, offered + " 249=00ac1f100120a9fea9fe00000000"},
		{"nobody is asked to do without IPv4", rich(), []dhcpv4.Modifier{asks(108)}, offered},
		{"who asks whether it may configure itself must not", rich(), []dhcpv4.Modifier{asks(), option(116, 1)}, offered + " 116=00"},
		{"the client identifier comes back", rich(), []dhcpv4.Modifier{asks(), option(61, 1, 2, 3)}, offered + " 61=010203"},
		{"a relay's option without a relay does not come back", rich(), []dhcpv4.Modifier{asks(), option(82, 1, 1, 9)}, offered},
		{"without a gateway there is no router", func() Host { h := guest; h.Gateway = netip.Addr{}; return h }(), []dhcpv4.Modifier{asks(3, 121)}, offered},
		{"a small client is told less, what matters most first", func() Host { h := rich(); h.Domain = strings.Repeat("x", 250); return h }(),
			[]dhcpv4.Modifier{option(57, 0, 100)}, strings.Replace(everything, " 15=69636869726f2d312e636f6d707574652e696e7465726e616c", "", 1)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(guest.MAC[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)}, c.with...)...)
			if err != nil {
				t.Fatal(err)
			}
			var counters Counters
			frame := respond(guest.Index, m.ToBytes(), &counters, c.host)
			if frame == nil {
				t.Fatalf("silence; counters %v", counters.Map())
			}
			if got := strings.Join(told(t, frame), " "); got != c.want {
				t.Errorf("\ngot  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestALongSearchListComesInParts(t *testing.T) {
	h := guest
	for i := range 8 {
		h.Search = append(h.Search, fmt.Sprintf("%s%d.example", strings.Repeat("x", 50), i))
	}
	big := dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500))
	m := unwrap(t, respond(guest.Index, ask(t, dhcpv4.MessageTypeDiscover, big), new(Counters), h))
	if got := m.DomainSearch().Labels; !slices.Equal(got, h.Search) {
		t.Errorf("got %v, want %v", got, h.Search)
	}
}

func TestARequestInPartsIsReadAsOne(t *testing.T) {
	b := ask(t, dhcpv4.MessageTypeDiscover)[:offOptions]
	b = append(b, optType, 1, typeDiscover, optClientID, 2, 1, 2, optOverload, 1, 3, optClientID, 1, 3, optEnd)
	copy(b[offFile:], []byte{optClientID, 1, 4, optAsked, 1, optBroadcast, optEnd})
	copy(b[offSname:], []byte{optClientID, 1, 5, optEnd})
	got := strings.Join(told(t, respond(guest.Index, b, new(Counters), guest)), " ")
	if want := "53=02 54=ac1f1001 51=00000e10 1=fffff000 26=05dc 28=ac1f1fff 61=0102030405"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRelays(t *testing.T) {
	relay := Relay{guest.Index, netip.MustParseAddr("10.9.0.1")}
	packet := ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IP{10, 9, 0, 1}), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 7, 8})))
	refused := ask(t, dhcpv4.MessageTypeRequest, dhcpv4.WithGatewayIP(net.IP{10, 9, 0, 1}), wish("172.31.16.99"))
	cases := []struct {
		name   string
		relays []Relay
		packet []byte
		want   dhcpv4.MessageType
	}{
		{"the relay of the link is answered at its address", []Relay{relay}, packet, dhcpv4.MessageTypeOffer},
		{"a refusal is to be broadcast by the relay", []Relay{relay}, refused, dhcpv4.MessageTypeNak},
		{"a relay that nobody configured is silence", nil, packet, dhcpv4.MessageTypeNone},
		{"a relay of another link is silence", []Relay{{guest.Index + 1, relay.Address}}, packet, dhcpv4.MessageTypeNone},
		{"another relay on the link is silence", []Relay{{guest.Index, netip.MustParseAddr("10.9.0.2")}}, packet, dhcpv4.MessageTypeNone},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out := wire.Answer{Index: guest.Index, Data: make([]byte, 0, 1514)}
			var counters Counters
			verdict := compile(Network{Hosts: []*Host{&guest}, Relays: c.relays}, nil).answer(wire.Packet{Index: guest.Index, Data: c.packet}, &out, &counters)
			if c.want == dhcpv4.MessageTypeNone {
				if verdict != silent || counters.Ignored.Load() != 1 {
					t.Errorf("verdict %d, counters %v", verdict, counters.Map())
				}
				return
			}
			m, err := dhcpv4.FromBytes(out.Data)
			if err != nil {
				t.Fatal(err)
			}
			if out.Relay != [4]byte{10, 9, 0, 1} || m.MessageType() != c.want || !m.GatewayIPAddr.Equal(net.IP{10, 9, 0, 1}) {
				t.Errorf("to %v: %s", out.Relay, m.Summary())
			}
			if c.want == dhcpv4.MessageTypeNak != m.IsBroadcast() {
				t.Errorf("broadcast is %v", m.IsBroadcast())
			}
			if got := m.Options.Get(dhcpv4.OptionRelayAgentInformation); c.want == dhcpv4.MessageTypeOffer && !bytes.Equal(got, []byte{1, 2, 7, 8}) {
				t.Errorf("option 82 came back as % x", got)
			}
		})
	}
}

func TestAnInformerIsAnsweredAtTheAddressThatItHas(t *testing.T) {
	packet := ask(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IP{172, 31, 16, 77}))
	frame := respond(guest.Index, packet, new(Counters), guest)
	if got := net.IP(frame[30:34]).String(); got != "172.31.16.77" || [6]byte(frame) != guest.MAC {
		t.Errorf("to %s at %x", got, frame[:6])
	}
}

func TestAnswersCostNoMemory(t *testing.T) {
	n := compile(Network{Hosts: []*Host{hostOf(rich())}}, nil)
	packet := ask(t, dhcpv4.MessageTypeRequest, wish("172.31.16.11"), dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionDomainName))
	var c Counters
	out := wire.Answer{Data: make([]byte, 0, 1514)}
	got := testing.AllocsPerRun(100, func() {
		out = wire.Answer{Index: guest.Index, Data: out.Data[:0]}
		n.answer(wire.Packet{Index: guest.Index, Data: packet}, &out, &c)
	})
	if got != 0 || c.Acks.Load() == 0 {
		t.Errorf("%v allocations for an answer, %d answers", got, c.Acks.Load())
	}
}

func BenchmarkAnswer(b *testing.B) {
	n := compile(Network{Hosts: []*Host{hostOf(rich())}}, nil)
	packet := ask(b, dhcpv4.MessageTypeDiscover)
	var c Counters
	buf := make([]byte, 0, 1514)
	for b.Loop() {
		out := wire.Answer{Index: guest.Index, Data: buf}
		n.answer(wire.Packet{Index: guest.Index, Data: packet}, &out, &c)
	}
}

// One guest more among 4,000 is what an attachment costs here.
func BenchmarkApply(b *testing.B) {
	n := Network{Hosts: make([]*Host, 4001)}
	for i := range n.Hosts {
		h := rich()
		h.Index = i + 1
		n.Hosts[i] = &h
	}
	less := Network{Hosts: slices.Clone(n.Hosts[:4000])}
	r := compile(n, nil)
	for b.Loop() {
		r = compile(n, compile(less, r))
	}
}

func TestWhatHasNotChangedIsNotWrittenAgain(t *testing.T) {
	before := rich()
	first := compile(Network{Hosts: []*Host{&before}}, nil)
	k := key{before.Index, before.MAC}
	if was := first.hosts[k]; compile(Network{Hosts: []*Host{hostOf(rich())}}, first).hosts[k] != was {
		t.Error("the same host is written again")
	}
	for name, change := range map[string]func(*Host){
		"address": func(h *Host) { h.Address = h.Address.Next() }, "source": func(h *Host) { h.Source[5]++ }, "subnet": func(h *Host) { h.Subnet = netip.MustParsePrefix("172.31.16.0/24") },
		"router": func(h *Host) { h.Router = h.Router.Next() }, "gateway": func(h *Host) { h.Gateway = netip.Addr{} }, "routes": func(h *Host) { h.Routes = h.Routes[:1] },
		"MTU": func(h *Host) { h.MTU++ }, "name": func(h *Host) { h.Hostname += "x" }, "domain": func(h *Host) { h.Domain += "x" }, "search": func(h *Host) { h.Search = nil },
		"resolvers": func(h *Host) { h.Resolvers = nil }, "times": func(h *Host) { h.TimeServers = nil }, "NetBIOS": func(h *Host) { h.NetBIOS = nil }, "node": func(h *Host) { h.NetBIOSNode = 4 },
	} {
		h := rich()
		change(&h)
		if was := first.hosts[k]; compile(Network{Hosts: []*Host{&h}}, first).hosts[k] == was {
			t.Errorf("another %s is not noticed", name)
		}
	}
}

// The hosts that come and go are those that differ, and the answers are those of a responder that begins with them.
func TestHostsComeAndGo(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	var r *responder
	var list []*Host
	for range 2000 {
		list = slices.Clone(list)
		at := dice.IntN(len(list) + 1)
		switch {
		case at == len(list) || dice.IntN(3) == 0:
			h := rich()
			h.Index = 1 + dice.IntN(1<<20)
			list = slices.Insert(list, at, &h)
		case dice.IntN(2) == 0:
			list = slices.Delete(list, at, at+1)
		default:
			h := *list[at]
			h.MTU++
			list[at] = &h
		}
		r = compile(Network{Hosts: list}, r)
		if len(r.hosts) != len(list) {
			t.Fatalf("got %d hosts, want %d", len(r.hosts), len(list))
		}
		for _, h := range list {
			if got := r.hosts[key{h.Index, h.MAC}]; got == nil || !got.of.equal(h) || got.mtu != h.MTU {
				t.Fatalf("the host of tap %d is told something else", h.Index)
			}
		}
	}
}
