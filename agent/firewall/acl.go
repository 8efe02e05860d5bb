package firewall

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// acls adds to the table what the network ACLs of subnets need, if there is any. They have no memory of connections,
// and see what crosses the border of their subnet, not what stays inside.
func (t *table) acls(cfg Config, r *routing) {
	if !slices.ContainsFunc(cfg.Subnets, func(s Subnet) bool { return len(s.ACL) > 0 }) {
		return
	}
	inward := set{name: "v_acl_in", key: ifnameKey, isMap: true, skeleton: true}
	open := r.chain("acl_", []rule{accept()})
	egress, ingress := map[string]string{}, map[string]string{}
	for _, s := range cfg.Subnets {
		if len(s.ACL) == 0 {
			continue
		}
		taps := set{name: "taps_" + object(s.ID), key: ifnameKey}
		for _, i := range cfg.Interfaces {
			if i.Subnet == s.ID {
				taps.elements = append(taps.elements, element{key: ifname(i.Name)})
			}
		}
		t.sets = append(t.sets, taps)
		a := bounds(s.CIDR)
		stays := []rule{rules(meta(expr.MetaKeyOIFNAME, reg1), in(taps.name), accept())}
		if cfg.Overlay { // to the part of the subnet on another host
			stays = append(stays, rules(oifgroup(groupPeer), family(nfprotoIPv4), daddr(reg1), in(r.ranges([]addresses{a})), accept()))
			if cfg.six() && s.CIDR6.IsValid() {
				stays = append(stays, rules(oifgroup(groupPeer), family(nfprotoIPv6), masked(daddr6, s.CIDR6), accept()))
			}
		}
		egress[s.ID] = r.chain("acl_", append(stays, entries(s.ACL, true, cfg.six())...))
		ingress[s.ID] = r.chain("acl_", append([]rule{
			rules(foreign(), meta(expr.MetaKeyIIFNAME, reg1), in(taps.name), accept()),
			rules(honest(), family(nfprotoIPv4), saddr(reg1), in(r.ranges([]addresses{a})), accept()),
		}, append(s.inside6(), entries(s.ACL, false, cfg.six())...)...))
		for _, e := range taps.elements {
			inward.elements = append(inward.elements, element{key: e.key, chain: ingress[s.ID]})
		}
	}
	out := func(s Subnet) string { return egress[s.ID] }
	t.sets = append(t.sets, inward, bySubnet("v_acl_out", true, cfg.Subnets, out), byForeign("v_acl_any", cfg, open, out))
	leaving := []rule{rules(iifgroup(groupUplink), accept())}
	if cfg.Overlay {
		leaving = append(leaving, rules(iifgroup(groupPeer), accept())) // it has left its subnet there
	}
	leaving = append(leaving,
		rules(foreign(), meta(expr.MetaKeyIIFNAME, reg1), vmap("v_acl_any")),
		rules(family(nfprotoIPv4), saddr(reg1), vmap("v_acl_out")),
	)
	if cfg.six() {
		t.sets = append(t.sets, bySubnet6("v_acl_out6", cfg.Subnets, out))
		leaving = append(leaving, rules(family(nfprotoIPv6), saddr6(reg1), vmap("v_acl_out6")))
	}
	// Between fo, which has dropped what belongs to no connection, and fi.
	t.chains = append(t.chains,
		chain{"ao", &base{nftables.ChainTypeFilter, nftables.ChainHookForward, 5, false}, leaving, true},
		chain{"ai", &base{nftables.ChainTypeFilter, nftables.ChainHookForward, 7, false}, []rule{
			rules(meta(expr.MetaKeyOIFNAME, reg1), vmap("v_acl_in")),
		}, true})
}

// entries are the rules of one direction: a network ACL has few, and their order has a meaning.
func entries(acl []Entry, egress, six bool) []rule {
	reason, peer := "aclin", saddr
	if egress {
		reason, peer = "aclout", daddr
	}
	var rs []rule
	for _, e := range acl {
		if e.Egress != egress || e.Prefix.Addr().Is6() && !six {
			continue
		}
		end := drop(reason)
		if e.Allow {
			end = accept()
		}
		if e.Prefix.Addr().Is6() {
			rs = append(rs, rules(within6(egress, e), layer46(e), end))
			continue
		}
		rs = append(rs, rules(within(peer, e), layer4(e), end))
	}
	return append(rs, drop(reason))
}

// within matches a peer of the entry's prefix.
func within(peer func(uint32) rule, e Entry) rule {
	ip4 := family(nfprotoIPv4)
	bits := e.Prefix.Bits()
	switch bits {
	case 0:
		return ip4
	case 32:
		return rules(ip4, peer(reg1), equal(e.Prefix.Addr().AsSlice()))
	}
	a := bounds(e.Prefix)
	mask := &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: bytes4(^uint32(0) << (32 - bits)), Xor: make([]byte, 4)}
	return rules(ip4, peer(reg1), rule{mask}, equal(bytes4(a.lo)))
}

func layer4(e Entry) rule {
	switch e.Protocol {
	case AnyProtocol:
		return nil
	case protoTCP, protoUDP:
		if e.From < 0 || e.From == 0 && e.To == 65535 {
			return l4proto(byte(e.Protocol))
		}
		if e.From == e.To {
			return rules(l4proto(byte(e.Protocol)), dport(reg1), equal(port(uint16(e.From))))
		}
		return rules(l4proto(byte(e.Protocol)), dport(reg1), rule{
			&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: port(uint16(e.From))},
			&expr.Cmp{Op: expr.CmpOpLte, Register: reg1, Data: port(uint16(e.To))},
		})
	case protoICMP:
		r := l4proto(protoICMP)
		if e.From >= 0 {
			r = rules(r, payload(thHeader, 0, 1, reg1), equal([]byte{byte(e.From)}))
		}
		if e.From >= 0 && e.To >= 0 {
			r = rules(r, payload(thHeader, 1, 1, reg1), equal([]byte{byte(e.To)}))
		}
		return r
	}
	return l4proto(byte(e.Protocol))
}
