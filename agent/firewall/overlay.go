package firewall

import (
	"slices"

	"github.com/google/nftables/expr"
)

// Other hosts that have guests of the VPC send here what is for guests here, by a link of its own group. They are as
// trusted as this one: what a guest of theirs sends has passed their identity set and the groups that let it out. So only
// what comes in is judged here, as if the sender were next door; and nothing of theirs reaches the host itself, goes on to a third host,
// or leaves by the uplink but for what a NAT gateway of this host translates.
//
//	pre -> peer -> conntrack -> fo (accept) -> fi -> v_in        fo -> v_out -> fi (accept) -> the other host
//
// The rules stand behind those by which what stays on this host leaves a chain.

// vxlan is the port of RFC 7348.
const vxlan = 4789

// overlay adds to the filter table what packets from and to other hosts need, if there are any.
func (t *table) overlay(cfg Config, r *routing) {
	if !cfg.Overlay {
		return
	}
	fromPeer, toPeer, ip4 := iifgroup(groupPeer), oifgroup(groupPeer), family(nfprotoIPv4)
	t.sets = append(t.sets, addressSet("far4", cfg.Far, true), bySubnet("v_translated", true, cfg.Subnets, r.translated))
	arrive := chain{"peer", nil, []rule{
		rules(ip4, saddr(reg1), in("far4"), accept()),
		rules(ip4, saddr(reg1), in("vpc4"), drop("spoof")), // of the VPC, and nobody's there: or somebody's here
		rules(ip4, l4proto(protoICMP), payload(thHeader, 0, 1, reg1), equal([]byte{5}), drop("spoof")),
		rules(ip4, accept()), // forwarded by an instance that may
		drop("ipv6"),
	}, true}
	if cfg.six() {
		t.sets = append(t.sets, prefixSet6("far6", cfg.Far6))
		arrive.rules = slices.Insert(arrive.rules, len(arrive.rules)-1,
			rules(family(nfprotoIPv6), saddr6(reg1), in("far6"), verdict(expr.VerdictGoto, "own6")),
			rules(family(nfprotoIPv6), drop("spoof")))
	}
	for k := range t.chains {
		c := &t.chains[k]
		last := len(c.rules) - 1
		switch c.name {
		case "pre":
			c.rules = slices.Insert(c.rules, c.find(rules(iifname("lo"), accept()))+1, rules(fromPeer, verdict(expr.VerdictGoto, "peer")))
		case "fo":
			c.rules = slices.Insert(c.rules, c.find(rules(iifgroup(groupUplink), verdict(expr.VerdictGoto, "enter")))+1, rules(fromPeer, accept()))
		case "fi":
			c.rules = slices.Insert(c.rules, last, rules(fromPeer, toPeer, drop("isolated")), rules(toPeer, accept()))
		case "leave":
			c.rules = slices.Insert(c.rules, 0, rules(fromPeer, verdict(expr.VerdictGoto, "through")))
		case "inp":
			c.rules = slices.Insert(c.rules, c.find(rules(iifgroup(groupUplink), drop("uplink")))+1, rules(fromPeer, drop("isolated")))
		}
	}
	k := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == "pre" })
	t.chains = slices.Insert(t.chains, k, arrive, chain{"through", nil, []rule{
		rules(ip4, saddr(reg1), vmap("v_translated")),
		drop("noroute"),
	}, true})
}

// translated returns the chain that lets the subnet's packets leave which a gateway translates; "" if there are none.
func (r *routing) translated(s Subnet) string {
	var out []addresses
	for t, ranges := range divide(r.local, s.Routes) {
		if t.nat.IsValid() {
			out = append(out, ranges...)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return r.chain("th_", []rule{rules(r.ip4, daddr(reg1), in(r.ranges(out)), accept()), drop("noroute")})
}

// hostOverlay adds to the root namespace's table that only hosts of this cloud may send what their guests send, and no
// guest to any of them what looks so: it would leave under the address of this host, whom they believe.
func (t *table) hostOverlay(h Host, fromUplink rule) {
	if !h.Overlay {
		return
	}
	t.sets = append(t.sets, addressSet("peers", h.Peers, true))
	t.counters = append(t.counters, "stranger")
	t.sets = append(t.sets, dropped("stranger"))
	t.chains = slices.Insert(t.chains, 0, dropChain("stranger", "stranger", expr.MetaKeyIIFNAME))
	encapsulated := rules(l4proto(protoUDP), dport(reg1), equal(port(vxlan)))
	for k := range t.chains {
		c := &t.chains[k]
		switch c.name {
		case "input":
			c.rules = append(c.rules, rules(encapsulated, family(nfprotoIPv4), saddr(reg1), notIn("peers"), drop("stranger")),
				rules(encapsulated, family(nfprotoIPv6), drop("stranger")))
		case "forward":
			c.rules = append([]rule{rules(fromUplink, encapsulated, family(nfprotoIPv4), daddr(reg1), in("peers"), drop("isolated"))}, c.rules...)
		}
	}
}
