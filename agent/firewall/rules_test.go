package firewall

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// many is a configuration with n interfaces in one group.
func many(n int) Config {
	c := Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	g := Group{ID: "sg-1", Out: []Rule{{Protocol: AnyProtocol, Prefix: anywhere}}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		c.Interfaces = append(c.Interfaces, &Interface{Name: fmt.Sprintf("t%012x", i), MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Addresses: []netip.Addr{a}, Groups: []string{"sg-1"}})
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

// kernelOf is what the kernel has of tables, as far as it matters here.
type kernelOf map[string]map[string]bool // by table, and chain or set: its rules or elements

func fromNothing(ts []table) kernelOf {
	k := kernelOf{}
	for _, t := range ts {
		k.commit(remembered(table{}, t), t)
	}
	return k
}

// commit changes what batch would.
func (k kernelOf) commit(have kernelTable, want table) {
	name := fmt.Sprint(want.family, want.name)
	if !have.intact || k[name+" "+want.layout()] == nil {
		maps.DeleteFunc(k, func(key string, _ map[string]bool) bool { return strings.HasPrefix(key, name+" ") })
		have = kernelTable{}
	}
	name += " "
	k[name+want.layout()] = map[string]bool{}
	keep := map[string]bool{want.layout(): true}
	for _, c := range want.chains {
		keep[c.name] = true
		if !have.chains[c.name] {
			k[name+c.name] = map[string]bool{digest(c.rules): true}
		}
	}
	for _, s := range want.sets {
		keep[s.name] = true
		if _, ok := have.sets[s.name]; !ok {
			k[name+s.name] = map[string]bool{}
		}
		add, remove := difference(s.contents().beside(have.sets[s.name]))
		for _, e := range remove {
			if !k[name+s.name][e.id()] {
				panic(fmt.Sprintf("set %s has no %q to delete", s.name, e.id()))
			}
			delete(k[name+s.name], e.id())
		}
		for _, e := range add {
			k[name+s.name][e.id()] = true
		}
	}
	for c := range have.chains {
		if !keep[c] {
			delete(k, name+c)
		}
	}
	for s := range have.sets {
		if !keep[s] {
			delete(k, name+s)
		}
	}
}

// dice changes a configuration at random.
type dice struct {
	*rand.Rand
	c Config
	n int
}

func newDice(seed uint64) *dice {
	d := &dice{Rand: rand.New(rand.NewPCG(seed, 7)), c: Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}}
	for _, id := range []string{"sg-a", "sg-b", "sg-c"} {
		d.c.Groups = append(d.c.Groups, Group{ID: id, In: []Rule{{Protocol: protoUDP, From: 9, To: 9, Group: "sg-a"}}, Out: []Rule{{Protocol: AnyProtocol, Prefix: anywhere}}})
	}
	for n := range 2 {
		d.c.Subnets = append(d.c.Subnets, Subnet{
			ID: fmt.Sprintf("subnet-%d", n), CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), 0}), 24),
			Routes: []Route{{Destination: anywhere, Internet: true}},
		})
	}
	return d
}

func (d *dice) newInterface() *Interface {
	d.n++
	a := netip.AddrFrom4([4]byte{10, 0, byte(d.n & 1), byte(d.n)})
	i := &Interface{
		Name: fmt.Sprintf("t%d", d.n), MAC: [6]byte{2, 0, 0, 0, 0, byte(d.n)}, Subnet: d.c.Subnets[d.n&1].ID, Addresses: []netip.Addr{a},
		Instance: []string{"", "i-1", "i-2", "i-3"}[d.IntN(4)], Unchecked: d.IntN(4) == 0, Mark: uint32(d.n), Groups: d.groups(),
	}
	if d.IntN(4) == 0 {
		i.Public = []Public{{Public: netip.AddrFrom4([4]byte{203, 0, 113, byte(d.n)}), Private: a}}
	}
	if d.IntN(4) == 0 {
		i.Prefixes = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(128 + d.n), 0}), 28)}
	}
	return i
}

func (d *dice) groups() []string {
	return [][]string{{"sg-a"}, {"sg-b"}, {"sg-b", "sg-a"}, {"sg-c", "sg-b"}, nil}[d.IntN(5)]
}

// roll makes the next configuration, which shares nothing that differs with the one before.
func (d *dice) roll() {
	d.c.Interfaces, d.c.Groups, d.c.Subnets = slices.Clone(d.c.Interfaces), slices.Clone(d.c.Groups), slices.Clone(d.c.Subnets)
	for range 1 + d.IntN(3) {
		at := d.IntN(len(d.c.Interfaces) + 1)
		switch k := d.IntN(10); {
		case k < 3 && d.n < 100:
			d.c.Interfaces = slices.Insert(d.c.Interfaces, at, d.newInterface())
		case at == len(d.c.Interfaces):
			g := &d.c.Groups[d.IntN(3)]
			g.Members = nil
			for _, i := range d.c.Interfaces {
				if d.IntN(2) == 0 {
					g.Members = append(g.Members, i.Addresses...)
				}
			}
		case k < 5:
			d.c.Interfaces = slices.Delete(d.c.Interfaces, at, at+1)
		case k < 7:
			i := *d.c.Interfaces[at]
			i.Groups = d.groups()
			d.c.Interfaces[at] = &i
		case k < 8:
			i := *d.c.Interfaces[at]
			i.Instance = []string{"", "i-1", "i-2"}[d.IntN(3)]
			d.c.Interfaces[at] = &i
		case k < 9:
			s := &d.c.Subnets[d.IntN(2)]
			s.Routes, s.ACL = []Route{{Destination: anywhere, Internet: true}}, nil
			if d.IntN(2) == 0 {
				s.Routes = append(s.Routes, Route{Destination: netip.MustParsePrefix("192.0.2.0/24"), Mark: d.c.Interfaces[at].Mark})
			}
			if d.IntN(2) == 0 {
				s.ACL = []Entry{{Allow: true, Protocol: AnyProtocol, Prefix: anywhere}}
			}
		default:
			g := &d.c.Groups[d.IntN(3)]
			g.In = []Rule{{Protocol: protoTCP, From: d.IntN(9), To: 9, Group: []string{"", "sg-a", "sg-c"}[d.IntN(3)], Prefix: anywhere}}
		}
	}
}

// What two wishes have in common is compiled for neither: the tables must come out as if all were compiled from nothing.
func TestTheDifferenceOfWhatDiffersIsThatOfTheWhole(t *testing.T) {
	for seed := range uint64(25) {
		d := newDice(seed)
		var known wish = &vpc{Config: d.c}
		kernel := fromNothing(known.tables())
		for n := range 40 {
			d.roll()
			want := &vpc{Config: d.c}
			had, wanted := want.beside(known)
			for i := range wanted {
				kernel.commit(remembered(had[i], wanted[i]), wanted[i])
			}
			if got := fromNothing((&vpc{Config: d.c}).tables()); !maps.EqualFunc(kernel, got, maps.Equal) {
				for key := range got {
					if !maps.Equal(kernel[key], got[key]) {
						t.Errorf("%s: got %v, want %v", key, kernel[key], got[key])
					}
				}
				t.Fatalf("seed %d, change %d: got %d chains and sets, want %d", seed, n, len(kernel), len(got))
			}
			known = want
		}
	}
}

// BenchmarkOneMore is one interface more, and less, beside 4,000.
func BenchmarkOneMore(b *testing.B) {
	var known wish = &vpc{Config: many(4000)}
	known.tables()
	more, less := many(4001), many(4000)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		want := &vpc{Config: []Config{more, less}[n%2]}
		had, wanted := want.beside(known)
		for i := range wanted {
			have := remembered(had[i], wanted[i])
			for _, s := range wanted[i].sets {
				difference(s.contents().beside(have.sets[s.name]))
			}
		}
		known = want
	}
}
