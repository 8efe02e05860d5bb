package firewall

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// beforeRouting is behind the translation of destinations: addresses are the guests' own there.
const beforeRouting = -90

// markWay are the bits of a mark that lead somewhere.
const markWay = 0x1fffffff

// mending adds what leads packets to the interfaces where their guests take them, if there are any that take them only
// elsewhere.
func (t *table) mending(cfg Config, r *routing) {
	if len(cfg.Ways) == 0 {
		return
	}
	v := set{name: "v_way", key: addressKey, isMap: true, skeleton: true}
	by := byDestination(cfg.Ways)
	for _, to := range slices.SortedFunc(maps.Keys(by), netip.Addr.Compare) {
		ways, rs := by[to], []rule(nil)
		for _, w := range ways {
			match := r.ip4
			if w.From.Bits() > 0 {
				match = rules(r.ip4, saddr(reg1), in(r.ranges([]addresses{bounds(w.From)})))
			}
			if w.Name != "" {
				match = rules(match, addMark(w.Mark))
			}
			rs = append(rs, rules(match, accept()))
		}
		v.elements = append(v.elements, element{key: to.AsSlice(), chain: r.chain("wy_", rs)})
	}
	t.sets = append(t.sets, v)
	t.chains = append(t.chains, chain{"mend", &base{nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeRouting, false}, []rule{
		rules(meta(expr.MetaKeyMARK, reg1), anyBit(markWay), accept()), // a route leads it elsewhere already
		rules(family(nfprotoIPv4), daddr(reg1), vmap("v_way")),
	}, true})
}

// byDestination sorts the ways of each address, the longest prefix first.
func byDestination(ways []Way) map[netip.Addr][]Way {
	out := map[netip.Addr][]Way{}
	for _, w := range ways {
		out[w.To] = append(out[w.To], w)
	}
	for _, list := range out {
		slices.SortStableFunc(list, func(a, b Way) int { return cmp.Compare(b.From.Bits(), a.From.Bits()) })
	}
	return out
}

// addMark sets the bits of a mark that lead somewhere, and leaves the others.
func addMark(mark uint32) rule {
	return rules(meta(expr.MetaKeyMARK, reg1), rule{
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(markForeign), Xor: binaryutil.NativeEndian.PutUint32(mark),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	})
}

// guided are, by interface, the addresses of others that are led to it.
func guided(cfg Config) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, w := range cfg.Ways {
		if w.Name != "" && !slices.Contains(out[w.Name], w.To) {
			out[w.Name] = append(out[w.Name], w.To)
		}
	}
	return out
}

// entrance returns the chain that judges what comes to an interface: by the groups of whom it is for, which is not always
// the interface's own.
func (p *profiles) entrance(own string, led []netip.Addr, owner func(netip.Addr) *Interface) string {
	var rs []rule
	for _, a := range led {
		if o := owner(a); o != nil {
			if by := p.profile("in", o.Groups); by != own {
				rs = append(rs, rules(family(nfprotoIPv4), daddr(reg1), equal(a.AsSlice()), verdict(expr.VerdictGoto, by)))
			}
		}
	}
	if len(rs) == 0 {
		return own
	}
	rs = append(rs, verdict(expr.VerdictGoto, own))
	name := "in_." + digest(rs) // sorts before those that it refers to, see clean
	if p.done[name] == "" {
		p.done[name] = name
		p.chains = append(p.chains, chain{name: name, rules: rs})
	}
	return name
}

// owners returns whose an address is, by looking at all: few are asked for.
func owners(cfg Config) func(netip.Addr) *Interface {
	return func(a netip.Addr) *Interface {
		k := slices.IndexFunc(cfg.Interfaces, func(i *Interface) bool { return slices.Contains(i.Addresses, a) })
		if k < 0 {
			return nil
		}
		return cfg.Interfaces[k]
	}
}
