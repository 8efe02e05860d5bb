package firewall

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
)

// host6 adds to the root namespace's table what the uplinks need whose VPCs have blocks of IPv6 that are routed to this
// machine, if there are any. Nobody translates: a packet leaves from one of the VPC's own addresses or not at all.
func (t *table) host6(uplinks []Uplink, fromUplink, toUplink rule) {
	sources := set{name: "sources6", key: speaker6Key, interval: true, skeleton: true}
	var routed []netip.Prefix
	for _, u := range uplinks {
		for _, p := range u.Routed6 {
			routed = append(routed, p)
			lo, hi := ends6(p)
			sources.elements = append(sources.elements, element{key: slices.Concat(ifname(u.Name), lo), end: slices.Concat(ifname(u.Name), hi)})
		}
	}
	if len(routed) == 0 {
		return
	}
	t.sets = append(t.sets, sources, prefixSet6("routed6", routed))
	ip6 := family(nfprotoIPv6)
	k := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == "forward" })
	t.chains[k].rules = append([]rule{
		rules(ip6, fromUplink, masked(daddr6, services6), drop("linklocal")),
		rules(ip6, fromUplink, meta(expr.MetaKeyIIFNAME, reg1), saddr6(reg2), notIn("sources6"), drop("spoof")),
		rules(ip6, toUplink, daddr6(reg1), in("routed6"), accept()), // also from another VPC, or the same
	}, t.chains[k].rules...)
}
