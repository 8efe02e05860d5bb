package firewall

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// many is a configuration with n interfaces in one group.
func many(n int) Config {
	c := Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	g := Group{ID: "sg-1", Out: []Rule{{Protocol: AnyProtocol, Prefix: anywhere}}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		c.Interfaces = append(c.Interfaces, Interface{Name: fmt.Sprintf("t%012x", i), MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Addresses: []netip.Addr{a}, Groups: []string{"sg-1"}})
		g.Members = append(g.Members, a)
	}
	c.Groups = []Group{g}
	return c
}

func TestDifferenceMakesOneSetTheOther(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	list := func() []element {
		l := make([]element, r.IntN(8))
		for i := range l {
			l[i] = element{key: []byte{byte(r.IntN(4))}, chain: []string{"", "a"}[r.IntN(2)]}
		}
		return l
	}
	for range 20000 {
		have, want := list(), list()
		add, remove := difference(have, want)
		got := map[string]bool{}
		for _, e := range have {
			got[e.id()] = true
		}
		for _, e := range remove {
			if !got[e.id()] {
				t.Fatalf("from %v to %v: removes %v twice", have, want, e)
			}
			delete(got, e.id())
		}
		for _, e := range add { // one that is there already the kernel takes for the same
			got[e.id()] = true
		}
		wanted := map[string]bool{}
		for _, e := range want {
			wanted[e.id()] = true
		}
		if !maps.Equal(got, wanted) {
			t.Fatalf("from %v to %v: got %v", have, want, slices.Collect(maps.Keys(got)))
		}
	}
}

func TestTheMemoryGivesTheSameNames(t *testing.T) {
	p := newParts()
	for _, n := range []int{3, 4, 0, 4} {
		for i, got := range p.compile(many(n)) {
			if want := compile(many(n))[i]; got.layout() != want.layout() {
				t.Errorf("table %s: got layout %s, want %s", got.name, got.layout(), want.layout())
			}
		}
	}
}

// BenchmarkCompile is the rules of a host that has 4,000 interfaces in one VPC.
func BenchmarkCompile(b *testing.B) {
	p, c := newParts(), many(4000)
	b.ReportAllocs()
	for b.Loop() {
		p.compile(c)
	}
}

func BenchmarkDifference(b *testing.B) {
	p := newParts()
	less, more := p.compile(many(4000)), p.compile(many(4001))
	for b.Loop() {
		for i := range less {
			for j, s := range less[i].sets {
				difference(s.elements, more[i].sets[j].elements)
			}
		}
	}
}
