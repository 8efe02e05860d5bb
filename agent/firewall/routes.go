package firewall

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Marks of packets: the low bits lead to an interface of an instance (Interface.Mark, and a rule of agent/link's), one
// bit says that the interface which sent the packet did so in another's name.
const (
	markForeign = 0x20000000
)

// target is where a route leads; the zero target is nowhere.
type target struct {
	local    bool
	internet bool
	nat      netip.Addr
	mark     uint32
}

func (r Route) target() target {
	return target{internet: r.Internet, nat: r.NAT, mark: r.Mark}
}

func (t target) out() bool { return t.internet || t.nat.IsValid() }

// divide gives every address that some route covers to the longest one, as disjoint ranges in order. The VPC's
// own blocks are routes too, which longer ones may go before.
func divide(local []netip.Prefix, routes []Route) map[target][]addresses {
	type line struct {
		addresses
		bits int
		to   target
	}
	var lines []line
	for _, p := range local {
		lines = append(lines, line{bounds(p), p.Bits(), target{local: true}})
	}
	for _, r := range routes {
		lines = append(lines, line{bounds(r.Destination), r.Destination.Bits(), r.target()})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.bits, a.bits) })
	cuts := map[uint64]bool{}
	for _, l := range lines {
		cuts[uint64(l.lo)], cuts[uint64(l.hi)+1] = true, true
	}
	at := slices.Sorted(maps.Keys(cuts))
	out := map[target][]addresses{}
	for i := range len(at) - 1 {
		lo, hi := uint32(at[i]), uint32(at[i+1]-1)
		for _, l := range lines {
			if l.lo > lo || l.hi < hi {
				continue
			}
			have := out[l.to]
			if n := len(have); n > 0 && uint64(have[n-1].hi)+1 == uint64(lo) {
				have[n-1].hi = hi
			} else {
				out[l.to] = append(have, addresses{lo, hi})
			}
			break
		}
	}
	return out
}

// routing compiles the routes of subnets, equal lists once.
type routing struct {
	local  []netip.Prefix
	ip4    rule // what a table of several families must ask first
	made   map[string]bool
	sets   []set
	chains []chain
}

func newRouting(local []netip.Prefix, ip4 rule) *routing {
	return &routing{local: local, ip4: ip4, made: map[string]bool{}}
}

// ranges names a set of these ranges by its content.
func (r *routing) ranges(list []addresses) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b addresses) int { return cmp.Compare(a.lo, b.lo) })
	s := set{key: addressKey, interval: true}
	for _, a := range list {
		s.elements = append(s.elements, element{key: bytes4(a.lo), end: bytes4(a.hi)})
	}
	s.name = "to_" + digest(fmt.Sprint(list))
	if !r.made[s.name] {
		r.made[s.name] = true
		r.sets = append(r.sets, s)
	}
	return s.name
}

func (r *routing) chain(stem string, rs []rule) string {
	name := stem + digest(rs)
	if !r.made[name] {
		r.made[name] = true
		r.chains = append(r.chains, chain{name: name, rules: rs})
	}
	return name
}

// leave returns the chain that decides whether a packet of the subnet may leave by the uplink.
func (r *routing) leave(s Subnet) string {
	var out, holes, all []addresses
	for t, ranges := range divide(r.local, s.Routes) {
		switch {
		case t.out():
			out = append(out, ranges...)
		case t == target{}:
			holes = append(holes, ranges...)
		}
		if t.out() || t.local { // what is local never comes here
			all = append(all, ranges...)
		}
	}
	var rs []rule
	switch {
	case len(out) > 0 && everything(all):
		return r.chain("rt_", []rule{accept()})
	case len(out) > 0:
		rs = append(rs, rules(r.ip4, daddr(reg1), in(r.ranges(out)), accept()))
	}
	if len(holes) > 0 {
		rs = append(rs, rules(r.ip4, daddr(reg1), in(r.ranges(holes)), drop("blackhole")))
	}
	return r.chain("rt_", append(rs, drop("noroute")))
}

func everything(ranges []addresses) bool {
	next := uint64(0)
	for _, a := range slices.SortedFunc(slices.Values(ranges), func(a, b addresses) int { return cmp.Compare(a.lo, b.lo) }) {
		if uint64(a.lo) != next {
			return false
		}
		next = uint64(a.hi) + 1
	}
	return next == 1<<32
}

// steer returns the chain that marks the subnet's packets which go to an interface of an instance, beside what else
// their marks say; "" if none do.
func (r *routing) steer(s Subnet, also uint32) string {
	divided := divide(r.local, s.Routes)
	var rs []rule
	for _, t := range sortedTargets(divided) {
		if t.mark != 0 {
			rs = append(rs, rules(r.ip4, daddr(reg1), in(r.ranges(divided[t])), setMark(t.mark|also), accept()))
		}
	}
	if len(rs) == 0 {
		return ""
	}
	return r.chain("st_", rs)
}

// translate returns the chain that gives the subnet's packets their public source; "" if it is as in other subnets.
func (r *routing) translate(s Subnet) string {
	divided := divide(r.local, s.Routes)
	var rs []rule
	for _, t := range sortedTargets(divided) {
		if t.nat.IsValid() {
			rs = append(rs, rules(r.ip4, daddr(reg1), in(r.ranges(divided[t])), snatTo(t.nat)))
		}
	}
	if len(rs) == 0 {
		return ""
	}
	return r.chain("nt_", append(rs, publish()...))
}

func sortedTargets(divided map[target][]addresses) []target {
	return slices.SortedFunc(maps.Keys(divided), func(a, b target) int {
		return cmp.Or(a.nat.Compare(b.nat), cmp.Compare(a.mark, b.mark))
	})
}

// masqueraded reports whether sources without a public address may leave: the way to everywhere is a gateway's.
func (s Subnet) masqueraded() bool {
	return slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Internet && r.Destination.Bits() == 0 })
}

// bySubnet is a map from the source's address to a chain for its subnet.
func bySubnet(name string, skeleton bool, subnets []Subnet, chainOf func(Subnet) string) set {
	s := set{name: name, key: addressKey, isMap: true, interval: true, skeleton: skeleton}
	for _, sub := range subnets {
		if c := chainOf(sub); c != "" {
			a := bounds(sub.CIDR)
			s.elements = append(s.elements, element{key: bytes4(a.lo), end: bytes4(a.hi), chain: c})
		}
	}
	return s
}

// byForeign is a map from interfaces that forward for others to a chain for their subnet, or to otherwise.
func byForeign(name string, cfg Config, otherwise string, chainOf func(Subnet) string) set {
	s := set{name: name, key: ifnameKey, isMap: true, skeleton: true}
	for _, i := range cfg.Interfaces {
		if i.Unchecked {
			c := otherwise
			if n := slices.IndexFunc(cfg.Subnets, func(s Subnet) bool { return s.ID == i.Subnet }); n >= 0 {
				c = cmp.Or(chainOf(cfg.Subnets[n]), otherwise)
			}
			s.elements = append(s.elements, element{key: ifname(i.Name), chain: c})
		}
	}
	return s
}

// steering adds to the table what routes to interfaces of instances need, if there are any.
func (t *table) steering(cfg Config, r *routing) {
	own := func(s Subnet) string { return r.steer(s, 0) }
	others := func(s Subnet) string { return r.steer(s, markForeign) }
	if !slices.ContainsFunc(cfg.Subnets, func(s Subnet) bool { return own(s) != "" }) {
		return
	}
	straight := r.chain("st_", []rule{accept()})
	t.sets = append(t.sets, bySubnet("v_via", true, cfg.Subnets, own), byForeign("v_via_any", cfg, straight, others))
	t.chains = append(t.chains, chain{"steer", &base{nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, false}, []rule{
		rules(iifgroup(groupUplink), accept()),
		rules(foreign(), meta(expr.MetaKeyIIFNAME, reg1), vmap("v_via_any")),
		rules(family(nfprotoIPv4), saddr(reg1), vmap("v_via")),
	}, true})
}

// foreign matches what an interface sends in another's name.
func foreign() rule { return marked(markForeign) }

// honest matches the rest.
func honest() rule { return marked(0) }

func marked(want uint32) rule {
	return rules(meta(expr.MetaKeyMARK, reg1), rule{&expr.Bitwise{
		SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(markForeign), Xor: make([]byte, 4),
	}}, equal(binaryutil.NativeEndian.PutUint32(want)))
}

// asks matches the direction of a connection's first packet.
func asks() rule {
	return rules(rule{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}}, equal([]byte{0}))
}

func setMark(mark uint32) rule {
	return rule{
		&expr.Immediate{Register: reg1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

func snatTo(a netip.Addr) rule {
	return rule{
		&expr.Immediate{Register: reg1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: nfprotoIPv4, RegAddrMin: reg1},
	}
}

// publish gives a packet that leaves its own public address, or the uplink's.
func publish() []rule {
	return []rule{
		rules(saddr(reg1), translate("sn", expr.NATTypeSourceNAT)),
		rules(saddr(reg1), in("nat_subnets"), rule{&expr.Masq{}}),
	}
}

// String is for logs and test failures.
func (a addresses) String() string {
	return fmt.Sprintf("%v-%v", netip.AddrFrom4([4]byte(bytes4(a.lo))), netip.AddrFrom4([4]byte(bytes4(a.hi))))
}
