package ipam

import (
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func addr(text string) netip.Addr     { return netip.MustParseAddr(text) }
func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func subnet(four, sixth string) cloud.Subnet {
	s := cloud.Subnet{ID: "subnet-1", CIDR: prefix(four)}
	if sixth != "" {
		s.Blocks = []cloud.CIDRBlock{{CIDR: prefix(sixth)}}
	}
	return s
}

func TestEveryFreeAddressIsGivenOnceThenItIsFull(t *testing.T) {
	for _, cidr := range []string{"10.0.1.16/28", "10.0.1.0/26", "10.0.1.0/25", "10.0.0.0/20"} {
		for seed := range uint64(20) {
			s := subnet(cidr, "")
			space := NewSpace(s, seed)
			seen := map[netip.Addr]bool{}
			for n := range s.Size() {
				g, err := space.Serve(Ask{Addresses: make([]netip.Addr, 1)})
				if err != nil {
					t.Fatalf("%s: address %d of %d: %v", cidr, n+1, s.Size(), err)
				}
				a := g.Addresses[0]
				if seen[a] || s.Reserved(a) || !s.CIDR.Contains(a) {
					t.Fatalf("%s: got %s, which is given, reserved or not of the subnet", cidr, a)
				}
				seen[a] = true
			}
			_, err := space.Serve(Ask{Addresses: make([]netip.Addr, 1)})
			if got, want := cloud.Code(err), "InsufficientFreeAddressesInSubnet"; got != want {
				t.Errorf("full subnet: got code %q, want %q", got, want)
			}
		}
	}
}

func TestWishes(t *testing.T) {
	s := subnet("10.0.1.0/24", "2001:db8:0:1::/64")
	for _, c := range []struct {
		name string
		ask  Ask
		code string
	}{
		{"a free address is given", Ask{Addresses: []netip.Addr{addr("10.0.1.11")}}, ""},
		{"a taken address is refused", Ask{Addresses: []netip.Addr{addr("10.0.1.10")}}, "InvalidIPAddress.InUse"},
		{"one address twice is refused", Ask{Addresses: []netip.Addr{addr("10.0.1.11"), addr("10.0.1.11")}}, "InvalidIPAddress.InUse"},
		{"the network address is reserved", Ask{Addresses: []netip.Addr{addr("10.0.1.0")}}, "InvalidParameterValue"},
		{"the router is reserved", Ask{Addresses: []netip.Addr{addr("10.0.1.1")}}, "InvalidParameterValue"},
		{"the fourth address is reserved", Ask{Addresses: []netip.Addr{addr("10.0.1.3")}}, "InvalidParameterValue"},
		{"the fifth address is free", Ask{Addresses: []netip.Addr{addr("10.0.1.4")}}, ""},
		{"the last address is reserved", Ask{Addresses: []netip.Addr{addr("10.0.1.255")}}, "InvalidParameterValue"},
		{"a foreign address is refused", Ask{Addresses: []netip.Addr{addr("10.0.2.10")}}, "InvalidParameterValue"},
		{"an address of a delegated prefix is refused", Ask{Addresses: []netip.Addr{addr("10.0.1.35")}}, "InvalidIPAddress.InUse"},
		{"a free prefix is given", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.16/28")}}, ""},
		{"a prefix with a taken address is refused", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.0/28")}}, "InvalidParameterValue"},
		{"a prefix that is delegated is refused", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.32/28")}}, "InvalidIPAddress.InUse"},
		{"the last prefix has the last address", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.240/28")}}, "InvalidParameterValue"},
		{"a prefix off its boundary is refused", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.17/28")}}, "InvalidParameterValue"},
		{"a prefix of another length is refused", Ask{Prefixes: []netip.Prefix{prefix("10.0.1.64/27")}}, "InvalidParameterValue"},
		{"a foreign prefix is refused", Ask{Prefixes: []netip.Prefix{prefix("10.0.2.16/28")}}, "InvalidParameterValue"},
		{"a free IPv6 address is given", Ask{IPv6: []netip.Addr{addr("2001:db8:0:1::11")}}, ""},
		{"a taken IPv6 address is refused", Ask{IPv6: []netip.Addr{addr("2001:db8:0:1::10")}}, "InvalidIPAddress.InUse"},
		{"the third IPv6 address is reserved", Ask{IPv6: []netip.Addr{addr("2001:db8:0:1::3")}}, "InvalidParameterValue"},
		{"the last IPv6 address is reserved", Ask{IPv6: []netip.Addr{addr("2001:db8:0:1:ffff:ffff:ffff:ffff")}}, "InvalidParameterValue"},
		{"an IPv6 address of a delegated /80 is refused", Ask{IPv6: []netip.Addr{addr("2001:db8:0:1:7::5")}}, "InvalidIPAddress.InUse"},
		{"a free /80 is given", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:1:8::/80")}}, ""},
		{"a delegated /80 is refused", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:1:7::/80")}}, "InvalidIPAddress.InUse"},
		{"a /80 with a single address in it is refused", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:1:9::/80")}}, "InvalidIPAddress.InUse"},
		{"the first /80 has reserved addresses", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:1::/80")}}, "InvalidParameterValue"},
		{"the last /80 has a reserved address", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:1:ffff::/80")}}, "InvalidParameterValue"},
		{"a foreign /80 is refused", Ask{Prefixes: []netip.Prefix{prefix("2001:db8:0:2:8::/80")}}, "InvalidParameterValue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			space := NewSpace(s, 1)
			space.Hold(cloud.NetworkInterface{Addresses: []netip.Addr{addr("10.0.1.10")}, IPv6: []netip.Addr{addr("2001:db8:0:1::10"), addr("2001:db8:0:1:9::1")},
				Prefixes: []netip.Prefix{prefix("10.0.1.32/28"), prefix("2001:db8:0:1:7::/80")}})
			if _, err := space.Serve(c.ask); cloud.Code(err) != c.code {
				t.Errorf("got %v, want code %q", err, c.code)
			}
		})
	}
}

func TestASubnetWithoutIPv6GivesNone(t *testing.T) {
	for _, ask := range []Ask{{MoreIPv6: 1}, {MorePrefixes: 1}, {IPv6: []netip.Addr{addr("2001:db8::9")}}, {Prefixes: []netip.Prefix{prefix("2001:db8:0:1:8::/80")}}} {
		if _, err := NewSpace(subnet("10.0.0.0/24", ""), 1).Serve(ask); cloud.Code(err) != "InvalidParameterValue" {
			t.Errorf("%+v: got %v", ask, err)
		}
	}
}

// What is named is served before what is chosen, so that the choice cannot take it.
func TestAChoiceLeavesTheWishesOfTheSameRequest(t *testing.T) {
	for seed := range uint64(50) {
		space := NewSpace(subnet("10.0.0.0/28", ""), seed)
		ask := Ask{Addresses: []netip.Addr{{}, addr("10.0.0.7"), {}, addr("10.0.0.8")}}
		g, err := space.Serve(ask)
		if err != nil || g.Addresses[1] != ask.Addresses[1] || g.Addresses[3] != ask.Addresses[3] || !g.Addresses[0].IsValid() {
			t.Fatalf("seed %d: got %v, %v", seed, g, err)
		}
	}
}

func TestWhatRestsIsChosenLastAndGivenWhenNamed(t *testing.T) {
	for seed := range uint64(20) {
		space := NewSpace(subnet("10.0.0.0/27", "2001:db8::/64"), seed)
		space.Rest(prefix("10.0.0.16/28"))
		if g, err := space.Serve(Ask{Addresses: []netip.Addr{addr("10.0.0.20")}}); err != nil {
			t.Fatalf("named: got %v, %v", g, err)
		}
		for range 12 { // 10.0.0.4 to 15
			if g, err := space.Serve(Ask{Addresses: make([]netip.Addr, 1)}); err != nil || !prefix("10.0.0.4/30").Contains(g.Addresses[0]) && !prefix("10.0.0.8/29").Contains(g.Addresses[0]) {
				t.Fatalf("got %v, %v, want one that does not rest", g, err)
			}
		}
		if g, err := space.Serve(Ask{Addresses: make([]netip.Addr, 1)}); err != nil || !prefix("10.0.0.16/28").Contains(g.Addresses[0]) {
			t.Fatalf("got %v, %v, want one that rests, as there is no other", g, err)
		}
	}
}

func TestPrefixesAreChosenUntilThereIsNone(t *testing.T) {
	space := NewSpace(subnet("10.0.0.0/24", "2001:db8::/64"), 7)
	g, err := space.Serve(Ask{More: 14, MorePrefixes: 3}) // 16 less the first and the last
	if err != nil || len(g.Prefixes) != 17 {
		t.Fatalf("got %v, %v", g, err)
	}
	for i, p := range g.Prefixes {
		for _, q := range g.Prefixes[:i] {
			if p.Overlaps(q) {
				t.Errorf("%s and %s overlap", p, q)
			}
		}
	}
	if _, err := space.Serve(Ask{More: 1}); cloud.Code(err) != "InsufficientCidrBlocks" {
		t.Errorf("got %v", err)
	}
	// 4 to 15 and 240 to 254 are left
	if g, err := space.Serve(Ask{Addresses: make([]netip.Addr, 27)}); err != nil {
		t.Errorf("single ones: got %v, %v", g, err)
	}
}

func TestIPv6FindsTheOneBlockThatIsNotDelegated(t *testing.T) {
	s := subnet("10.0.0.0/24", "2001:db8::/64")
	space := NewSpace(s, 3)
	free := prefix("2001:db8::abcd:0:0:0/80")
	for i := range space.six.count() {
		if p := space.six.nth(i); p != free {
			space.Hold(cloud.NetworkInterface{Prefixes: []netip.Prefix{p}})
		}
	}
	g, err := space.Serve(Ask{MoreIPv6: 2})
	if err != nil || !free.Contains(g.IPv6[0]) || g.IPv6[0] == g.IPv6[1] {
		t.Fatalf("got %v, %v, want two of %s", g, err, free)
	}
	if _, err := space.Serve(Ask{MorePrefixes: 1}); cloud.Code(err) != "InsufficientCidrBlocks" {
		t.Errorf("got %v: the block has single addresses in it", err)
	}
}

func TestThePublicPool(t *testing.T) {
	p := NewPool([]netip.Prefix{prefix("198.51.100.0/31"), prefix("203.0.113.4/32")}, 5)
	p.Rest(addr("203.0.113.4"))
	var got []netip.Addr
	for range 3 {
		a, err := p.Choose()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	if got[2] != addr("203.0.113.4") || got[0] == got[1] {
		t.Errorf("got %v, want the one that rests last", got)
	}
	for _, c := range []struct {
		name, code string
		do         func() error
	}{
		{"it is empty", "InsufficientAddressCapacity", func() error { _, err := p.Choose(); return err }},
		{"there is none", "InsufficientAddressCapacity", func() error { _, err := NewPool(nil, 1).Choose(); return err }},
		{"a taken one", "InvalidIPAddress.InUse", func() error { return p.Claim(got[0]) }},
		{"a foreign one", "InvalidAddress.NotFound", func() error { return p.Claim(addr("203.0.113.5")) }},
	} {
		if err := c.do(); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
}

func TestMACIsStableAndLocal(t *testing.T) {
	if got, want := MAC("eni-0123456789abcdef0"), "02:78:9a:bc:de:f0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The worst case of each search: all of a /16 is taken but one address, and a /64 with many single addresses.
func BenchmarkChoose(b *testing.B) {
	b.Run("the last of a /16", func(b *testing.B) {
		space := NewSpace(subnet("10.0.0.0/16", ""), 1)
		for i := range space.size {
			space.taken.set(i)
		}
		for b.Loop() {
			space.taken[300] &^= 1 << 7
			if _, err := space.choose(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one of a /64 with 5000", func(b *testing.B) {
		space := NewSpace(subnet("10.0.0.0/16", "2001:db8::/64"), 1)
		if _, err := space.Serve(Ask{MoreIPv6: 5000}); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			a, err := space.six.choose(space.subnet, space.rand)
			if err != nil {
				b.Fatal(err)
			}
			delete(space.six.taken, a)
		}
	})
}
