package netconf

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/lease"
	"github.com/ichiro-metal/ichiro/internal/network"
)

// Protocol is in the kernel's note of every address, route and rule that is set here: `ip route` shows it as
// proto 105, which nobody has in include/uapi/linux/rtnetlink.h or iproute2's rt_protos.
const Protocol = 'i'

// Wish is an interface as the metadata has it.
type Wish struct {
	MAC       [6]byte
	Number    int // of the device; 0 is the one that the guest boots from
	Card      int
	Subnet    netip.Prefix
	Addresses []netip.Addr // of IPv4, the primary one first
	IPv6      []netip.Addr
}

// Table is the number of an interface's routing table, and the priority of its rules.
func (w Wish) Table() int { return 10000 + 100*w.Card + w.Number }

// Metric is that of its routes in the main table.
func (w Wish) Metric() int { return 512 + 100*w.Card + w.Number }

// Managed says who takes care of an interface.
type Managed int

// Who may.
const (
	Unmanaged Managed = iota
	Undecided         // there is somebody who may yet
	Elsewhere
)

// View is all that a plan is made from.
type View struct {
	Wishes    []Wish
	Links     []network.Interface
	Addresses []network.Address
	Routes    []network.Route
	Rules     []network.Rule
	Leases    map[int]lease.Answer // by interface: those that we brought up
	Managed   map[int]Managed      // by interface
	Amazon    bool                 // Amazon's own tool is at work
}

// Plan is what is to be done.
type Plan struct {
	Ask       []network.Interface // for an address, by DHCP
	Addresses Change[network.Address]
	Routes    Change[network.Route]
	Rules     Change[network.Rule]
}

// Change is the difference between what there is and what there should be.
type Change[T comparable] struct{ Delete, Add []T }

func change[T comparable](have, want []T) (c Change[T]) {
	for _, h := range have {
		if !slices.Contains(want, h) {
			c.Delete = append(c.Delete, h)
		}
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			c.Add = append(c.Add, w)
		}
	}
	return c
}

// Decide is pure: what of ours is there and should not be, and what should be and is not.
func Decide(v View) Plan {
	var p Plan
	var want setting
	have := v.mine()
	for _, w := range v.Wishes {
		n := slices.IndexFunc(v.Links, func(i network.Interface) bool { return i.MAC == w.MAC })
		if n < 0 || v.Amazon || len(w.Addresses) == 0 {
			continue // not there yet, or not any more
		}
		i := v.Links[n]
		want.addresses = append(want.addresses, v.six(w, i)...)
		if !v.ours(w, i) {
			want.addresses = append(want.addresses, v.secondary(w, i.Index, w.Addresses[0])...)
			continue
		}
		a, ok := v.Leases[i.Index]
		if !ok || a.Address.Addr() != w.Addresses[0] {
			p.Ask = append(p.Ask, i)
			if !ok {
				want.add(have.of(i.Index, w)) // what an earlier process set is good until DHCP has answered
				continue
			}
		}
		want.addresses = append(want.addresses, network.Address{Index: i.Index, Prefix: a.Address, Protocol: Protocol, Alone: true})
		want.addresses = append(want.addresses, v.secondary(w, i.Index, a.Address.Addr())...)
		want.routes = append(want.routes, routes(w, i.Index, a)...)
		for _, a := range w.Addresses {
			want.rules = append(want.rules, network.Rule{From: netip.PrefixFrom(a, 32), Table: w.Table(), Priority: w.Table(), Protocol: Protocol})
		}
	}
	p.Addresses = change(have.addresses, want.addresses)
	p.Routes = change(have.routes, want.routes)
	p.Rules = change(have.rules, want.rules)
	return p
}

// setting is what can be set.
type setting struct {
	addresses []network.Address
	routes    []network.Route
	rules     []network.Rule
}

func (s *setting) add(o setting) {
	s.addresses = append(s.addresses, o.addresses...)
	s.routes = append(s.routes, o.routes...)
	s.rules = append(s.rules, o.rules...)
}

// of returns what belongs to an interface.
func (s setting) of(index int, w Wish) setting {
	return setting{
		addresses: slices.DeleteFunc(slices.Clone(s.addresses), func(a network.Address) bool { return a.Index != index }),
		routes:    slices.DeleteFunc(slices.Clone(s.routes), func(r network.Route) bool { return r.Index != index }),
		rules:     slices.DeleteFunc(slices.Clone(s.rules), func(r network.Rule) bool { return r.Table != w.Table() }),
	}
}

// mine returns what carries our mark.
func (v View) mine() setting {
	return setting{
		addresses: slices.DeleteFunc(slices.Clone(v.Addresses), func(a network.Address) bool { return a.Protocol != Protocol }),
		routes:    slices.DeleteFunc(slices.Clone(v.Routes), func(r network.Route) bool { return r.Protocol != Protocol }),
		rules:     slices.DeleteFunc(slices.Clone(v.Rules), func(r network.Rule) bool { return r.Protocol != Protocol }),
	}
}

// ours reports whether an interface is for us to bring up: it is not the one that the guest boots from, nobody else
// manages it, and it has no address that somebody else has set. An address that one of our rules speaks of is ours, on
// kernels that do not keep who set it.
func (v View) ours(w Wish, i network.Interface) bool {
	if w.Number == 0 && w.Card == 0 || v.Managed[i.Index] != Unmanaged {
		return false
	}
	for _, a := range v.Addresses {
		if a.Index != i.Index || a.Protocol == Protocol || a.Prefix.Addr().Is6() || a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		if !slices.ContainsFunc(v.Rules, func(r network.Rule) bool {
			return r.Protocol == Protocol && r.From.IsValid() && r.From.Addr() == a.Prefix.Addr()
		}) {
			return false
		}
	}
	return true
}

// undecided reports whether somebody may yet take an interface that the metadata speaks of.
func (v View) undecided() bool {
	return slices.ContainsFunc(v.Wishes, func(w Wish) bool {
		return slices.ContainsFunc(v.Links, func(i network.Interface) bool {
			return i.MAC == w.MAC && w.Number != 0 && v.Managed[i.Index] == Undecided
		})
	})
}

// secondary returns the addresses of an interface beside its primary one that nobody else has set, once it has any: an
// interface that is not up yet would take the first of them for its own.
func (v View) secondary(w Wish, index int, primary netip.Addr) []network.Address {
	var out []network.Address
	_, up := v.Leases[index]
	for _, a := range v.Addresses {
		up = up || a.Index == index && a.Protocol != Protocol && a.Prefix.Addr().Is4()
	}
	if !up {
		return nil
	}
	for _, a := range w.Addresses {
		set := slices.ContainsFunc(v.Addresses, func(h network.Address) bool { return h.Prefix.Addr() == a && h.Protocol != Protocol })
		if a != primary && !set {
			out = append(out, network.Address{Index: index, Prefix: netip.PrefixFrom(a, 32), Protocol: Protocol, Alone: true})
		}
	}
	return out
}

// six returns the addresses of IPv6 that an interface shall have and nobody else has set. The kernel learns the way out from
// the router itself. Who takes care of an interface asks for the first one by DHCPv6, if he wants IPv6 at all: the further
// ones are added when he has it.
func (v View) six(w Wish, i network.Interface) []network.Address {
	var out []network.Address
	others := false
	for _, a := range w.IPv6 {
		set := slices.ContainsFunc(v.Addresses, func(h network.Address) bool {
			return h.Index == i.Index && h.Prefix.Addr() == a && h.Protocol != Protocol
		})
		others = others || set
		if !set {
			out = append(out, network.Address{Index: i.Index, Prefix: netip.PrefixFrom(a, 128), Protocol: Protocol, Alone: true})
		}
	}
	if v.Managed[i.Index] != Unmanaged && !others {
		return nil
	}
	return out
}

// routes are those of an answer, in the interface's own table for what comes from its addresses, and behind all others
// in the main table for programs that are bound to the interface.
func routes(w Wish, index int, a lease.Answer) []network.Route {
	var out []network.Route
	list := append([]lease.Route{{To: a.Address.Masked()}}, a.Routes...)
	for _, table := range []int{unix.RT_TABLE_MAIN, w.Table()} {
		all := func(r lease.Route) bool { return r.To.Bits() == 0 }
		if table != unix.RT_TABLE_MAIN && !slices.ContainsFunc(list, all) {
			// The answer may keep the interface from being a way out, but not from answering: the router is the
			// subnet's first address, as everywhere in EC2.
			list = append(list, lease.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: w.Subnet.Masked().Addr().Next()})
		}
		for _, r := range list {
			out = append(out, network.Route{Index: index, Table: table, Protocol: Protocol, Metric: w.Metric(), To: r.To, Via: r.Via})
		}
	}
	return out
}
