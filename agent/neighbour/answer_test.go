package neighbour

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

var guest = Host{
	Index: 7, MAC: [6]byte{2, 0, 0, 0, 0, 11}, Source: [6]byte{2, 0, 0, 0, 0, 1},
	Own:    []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1::b/128"), netip.MustParsePrefix("2001:db8:0:1:5::/80")},
	Subnet: netip.MustParsePrefix("2001:db8:0:1::/64"), MTU: 1500,
}

var vpc = Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16"), netip.MustParsePrefix("2001:db8::/56")}, Hosts: []Host{guest}}

func raw(s string) [16]byte { return netip.MustParseAddr(s).As16() }

// solicit is a guest's solicitation; change may spoil it.
func solicit(from, to string, kind byte, rest ...byte) []byte {
	b := wire.AppendEthernet(nil, wire.Multicast(raw(to)), guest.MAC, wire.TypeIPv6)
	b = wire.AppendIPv6(b, raw(from), raw(to), wire.ProtocolICMPv6, 255)
	b = append(append(b, kind, 0, 0, 0, 0, 0, 0, 0), rest...)
	wire.FinishIPv6(b)
	return b
}

func neighbour(from, target string, options ...byte) []byte {
	t := raw(target)
	return solicit(from, "ff02::1:ff00:9", neighbourSolicitation, append(t[:], options...)...)
}

func spoil(b []byte, at int, v byte) []byte { b[at] = v; return b }

// respond returns the frame that answers, nil for silence.
func respond(index int, frame []byte, c *Counters) []byte {
	out := wire.Answer{Data: make([]byte, 0, 1514)}
	if !compile(vpc).answer(time.Unix(1000, 0), wire.Packet{Index: index, Data: frame}, &out, c) {
		return nil
	}
	return out.Data
}

func TestAnswers(t *testing.T) {
	const (
		router = "fe80::ff:fe00:1"
		self   = "fe80::ff:fe00:b"
	)
	link := []byte{optSourceLink, 1, 2, 0, 0, 0, 0, 11}
	cases := []struct {
		name   string
		index  int
		frame  []byte
		want   string // destination MAC, source and destination address, type, flags of a neighbour's; empty: silence
		number func(*Counters) uint64
	}{
		{"a router is asked for", 7, solicit(self, "ff02::2", routerSolicitation, link...), "02000000000b fe80::ff:fe00:1 fe80::ff:fe00:b 134", func(c *Counters) uint64 { return c.RouterSolicitations.Load() }},
		{"a router is asked for by nobody yet", 7, solicit("::", "ff02::2", routerSolicitation), "333300000001 fe80::ff:fe00:1 ff02::1 134", func(c *Counters) uint64 { return c.Advertisements.Load() }},
		{"the router's own address", 7, neighbour(self, router, link...), "02000000000b fe80::ff:fe00:1 fe80::ff:fe00:b 136 e0", func(c *Counters) uint64 { return c.Answers.Load() }},
		{"a neighbour in the subnet", 7, neighbour("2001:db8:0:1::b", "2001:db8:0:1::c", link...), "02000000000b 2001:db8:0:1::c 2001:db8:0:1::b 136 40", func(c *Counters) uint64 { return c.Answers.Load() }},
		{"a neighbour in another subnet of the VPC", 7, neighbour(self, "2001:db8:0:2::c"), "02000000000b 2001:db8:0:2::c fe80::ff:fe00:b 136 40", func(c *Counters) uint64 { return c.Answers.Load() }},
		{"may I have another's address", 7, neighbour("::", "2001:db8:0:1::c"), "333300000001 2001:db8:0:1::c ff02::1 136 00", func(c *Counters) uint64 { return c.Answers.Load() }},
		{"may I have my address", 7, neighbour("::", "2001:db8:0:1::b"), "", func(c *Counters) uint64 { return c.Own.Load() }},
		{"an address of my prefix", 7, neighbour(self, "2001:db8:0:1:5::77"), "", func(c *Counters) uint64 { return c.Own.Load() }},
		{"my link-local address", 7, neighbour("::", self), "", func(c *Counters) uint64 { return c.Own.Load() }},
		{"an address outside the VPC", 7, neighbour(self, "2001:db9::1"), "", func(c *Counters) uint64 { return c.Own.Load() }},
		{"from another MAC", 7, spoil(neighbour(self, "2001:db8:0:1::c"), 11, 99), "", func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"from another tap", 8, neighbour(self, "2001:db8:0:1::c"), "", func(c *Counters) uint64 { return c.Unknown.Load() }},
		{"from beyond a router", 7, spoil(neighbour(self, "2001:db8:0:1::c"), 14+7, 254), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"for a multicast address", 7, neighbour(self, "ff02::1"), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"an option of no length", 7, neighbour(self, "2001:db8:0:1::c", 1, 0, 0, 0, 0, 0, 0, 0), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"an option that does not end", 7, neighbour(self, "2001:db8:0:1::c", 1, 2, 0, 0, 0, 0, 0, 0), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"cut off", 7, neighbour(self, "2001:db8:0:1::c")[:60], "", func(c *Counters) uint64 { return c.Malformed.Load() }},
		{"an advertisement", 7, spoil(neighbour(self, "2001:db8:0:1::c"), 54, neighbourAdvertisement), "", func(c *Counters) uint64 { return c.Malformed.Load() }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var counters Counters
			got := ""
			if b := respond(c.index, c.frame, &counters); b != nil {
				p := check(t, b)
				got = strings.Join([]string{hex.EncodeToString(b[:6]), netip.AddrFrom16(p.From).String(), netip.AddrFrom16(p.To).String()}, " ")
				got += map[byte]string{routerAdvertisement: " 134", neighbourAdvertisement: " 136 " + hex.EncodeToString(p.Payload[4:5])}[p.Payload[0]]
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.number(&counters) != 1 {
				t.Errorf("counters %v", counters.Map())
			}
		})
	}
}

func TestWhatTheRouterAdvertises(t *testing.T) {
	b := advertisement(nil, guest, allNodes, lifetime)
	p := check(t, b)
	want := "8600" + hex.EncodeToString(p.Payload[2:4]) + "40c00708" + "0000000000000000" + // hops 64, M and O, 1800 s
		"0101020000000001" + "0501" + "0000000005dc" +
		"03044000" + "00278d00" + "00093a80" + "00000000" + "20010db8000000010000000000000000"
	if got := hex.EncodeToString(p.Payload); got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
}

func TestAGuestIsHeldToARate(t *testing.T) {
	r := compile(vpc)
	var c Counters
	out := wire.Answer{Data: make([]byte, 0, 1514)}
	frame := neighbour("fe80::1", "2001:db8:0:1::c")
	n := testing.AllocsPerRun(2*perSecond, func() {
		out.Data = out.Data[:0]
		r.answer(time.Unix(1000, 0), wire.Packet{Index: 7, Data: frame}, &out, &c)
	})
	if got := c.Answers.Load(); got != perSecond || c.Limited.Load() == 0 {
		t.Errorf("%d answers in one second, want %d", got, perSecond)
	}
	if n != 0 {
		t.Errorf("%v allocations for an answer", n)
	}
}

// check reads a frame as a strict guest does.
func check(t testing.TB, b []byte) wire.IPv6 {
	t.Helper()
	p, ok := wire.ReadIPv6(b)
	if !ok || p.Hops != 255 || p.FromMAC != guest.Source || len(b) != 54+len(p.Payload) {
		t.Fatalf("not a frame of the router: % x", b)
	}
	ip := b[14:54]
	if got := wire.Sum(uint32(wire.Sum(uint32(p.Protocol)+uint32(len(p.Payload)), ip[8:40])), p.Payload); got != 0xffff {
		t.Errorf("checksum is wrong: %x", got)
	}
	return p
}

// A guest may send any frame: what comes back is a whole advertisement, to that guest or to all of its link.
func FuzzAnswer(f *testing.F) {
	for _, b := range [][]byte{
		solicit("::", "ff02::2", routerSolicitation), solicit("fe80::1", "ff02::2", routerSolicitation, 1, 1, 2, 0, 0, 0, 0, 11),
		neighbour("fe80::1", "2001:db8:0:1::c"), neighbour("::", "fe80::ff:fe00:1"), neighbour("fe80::1", "2001:db8:0:1::c", 14, 0, 0, 0, 0, 0, 0, 0),
		solicit("2001:db8:0:1::b", "ff02::2", routerSolicitation, 1), neighbour("ff02::1", "2001:db8:0:1::c"), {}, make([]byte, 54), make([]byte, 1514),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := respond(guest.Index, b, new(Counters))
		if got == nil {
			return
		}
		p := check(t, got)
		if p.ToMAC != guest.MAC && p.ToMAC != wire.Multicast(allNodes) {
			t.Errorf("sent to %x", p.ToMAC)
		}
		if k := p.Payload[0]; k != routerAdvertisement && k != neighbourAdvertisement {
			t.Errorf("type %d", k)
		}
		if a := netip.AddrFrom16(p.From); contains(guest.Own, a) {
			t.Errorf("answered for the guest's own %s", a)
		}
	})
}
