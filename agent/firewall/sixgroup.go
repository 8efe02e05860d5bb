package firewall

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// four returns the rules that are not about prefixes of IPv6.
func four(list []Rule) []Rule {
	if !slices.ContainsFunc(list, Rule.six) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), Rule.six)
}

func (r Rule) six() bool { return r.Group == "" && r.Prefix.Addr().Is6() }

// rules6 makes what a group allows of IPv6. It stands behind what the group allows of IPv4.
func (p *profiles) rules6(stem, direction string, byPeer map[string][]Rule) (rs []rule) {
	if !p.six {
		return nil
	}
	peer := saddr6
	if direction == "out" {
		peer = daddr6
	}
	for _, ref := range slices.Sorted(maps.Keys(byPeer)) {
		if ref == "" {
			rs = append(rs, p.prefixRules6(stem, slices.DeleteFunc(slices.Clone(byPeer[""]), func(r Rule) bool { return !r.six() }), peer)...)
		} else {
			rs = append(rs, p.memberRules6(stem, ref, byPeer[ref], peer)...)
		}
	}
	return rs
}

// asked are rules by what they ask of a packet.
type asked struct {
	everything  []netip.Prefix
	ports, icmp []box
}

func sortRules6(list []Rule, prefix func(Rule) netip.Prefix) (s asked) {
	for _, r := range list {
		switch r.Protocol {
		case AnyProtocol:
			s.everything = append(s.everything, prefix(r))
		case protoICMPv6:
			s.icmp = append(s.icmp, box{prefix(r), protoICMPv6, icmpSpan(r.From, r.To)})
		default:
			s.ports = append(s.ports, box{prefix(r), uint8(r.Protocol), portSpan(r)})
		}
	}
	return s
}

// prefixRules6 is cidrRules for IPv6.
func (p *profiles) prefixRules6(stem string, list []Rule, peer func(uint32) rule) (rs []rule) {
	s := sortRules6(list, func(r Rule) netip.Prefix { return r.Prefix })
	ip6 := family(nfprotoIPv6)
	if len(s.everything) > 0 {
		all := prefixSet6(stem+"_all6", s.everything)
		all.skeleton = false
		p.sets = append(p.sets, all)
		rs = append(rs, rules(ip6, peer(reg1), in(all.name), accept()))
	}
	if len(s.ports) > 0 {
		to := set{name: stem + "6", key: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService}, interval: true}
		for _, b := range disjoint(s.ports) {
			lo, hi := ends6(b.prefix)
			to.elements = append(to.elements, element{
				key: slices.Concat(lo, pad(b.proto), pad(port(b.span.lo)...)), end: slices.Concat(hi, pad(b.proto), pad(port(b.span.hi)...)),
			})
		}
		p.sets = append(p.sets, to)
		rs = append(rs, rules(ip6, peer(reg1), meta(expr.MetaKeyL4PROTO, reg2), dport(word5), in(to.name), accept()))
	}
	if len(s.icmp) > 0 {
		kinds := set{name: stem + "_icmp6", key: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeICMP6Type, nftables.TypeICMPV6Code}, interval: true}
		for _, b := range disjoint(s.icmp) {
			lo, hi := ends6(b.prefix)
			for _, r := range icmpBoxes(b.span) {
				kinds.elements = append(kinds.elements, element{
					key: slices.Concat(lo, pad(r[0]), pad(r[2])), end: slices.Concat(hi, pad(r[1]), pad(r[3])),
				})
			}
		}
		p.sets = append(p.sets, kinds)
		rs = append(rs, rules(ip6, l4proto(protoICMPv6), peer(reg1), payload(thHeader, 0, 1, reg2), payload(thHeader, 1, 1, word5), in(kinds.name), accept()))
	}
	return rs
}

// memberRules6 is referenceRules for IPv6.
func (p *profiles) memberRules6(stem, ref string, list []Rule, peer func(uint32) rule) (rs []rule) {
	s := sortRules6(list, func(Rule) netip.Prefix { return anywhere })
	var ends []rule
	switch {
	case len(s.everything) > 0:
		ends = []rule{accept()}
	default:
		ends = p.asked6(stem+"_ref6_"+object(ref), s)
	}
	for _, members := range p.memberSets6(ref) {
		for _, end := range ends {
			rs = append(rs, rules(family(nfprotoIPv6), peer(reg1), in(members), end))
		}
	}
	return rs
}

// asked6 makes the rules that ask for ports, and for kinds of ICMPv6.
func (p *profiles) asked6(stem string, s asked) (rs []rule) {
	if len(s.ports) > 0 {
		to := set{name: stem, key: []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, interval: true}
		for _, b := range disjoint(s.ports) {
			to.elements = append(to.elements, element{
				key: slices.Concat(pad(b.proto), pad(port(b.span.lo)...)), end: slices.Concat(pad(b.proto), pad(port(b.span.hi)...)),
			})
		}
		p.sets = append(p.sets, to)
		rs = append(rs, rules(meta(expr.MetaKeyL4PROTO, reg1), dport(word1), in(to.name), accept()))
	}
	if len(s.icmp) > 0 {
		kinds := set{name: stem + "_icmp", key: []nftables.SetDatatype{nftables.TypeICMP6Type, nftables.TypeICMPV6Code}, interval: true}
		for _, b := range disjoint(s.icmp) {
			for _, r := range icmpBoxes(b.span) {
				kinds.elements = append(kinds.elements, element{key: slices.Concat(pad(r[0]), pad(r[2])), end: slices.Concat(pad(r[1]), pad(r[3]))})
			}
		}
		p.sets = append(p.sets, kinds)
		rs = append(rs, rules(l4proto(protoICMPv6), payload(thHeader, 0, 1, reg1), payload(thHeader, 1, 1, word1), in(kinds.name), accept()))
	}
	return rs
}

// memberSets6 returns the names of the sets of a group's members: addresses, and prefixes that are delegated to them.
func (p *profiles) memberSets6(id string) []string {
	g, name, behind := p.groups[id], "sgm6_"+object(id), "sgm6p_"+object(id)
	names := []string{name}
	if len(g.Behind6) > 0 {
		names = append(names, behind)
	}
	if p.members[name] {
		return names
	}
	p.members[name] = true
	s := set{name: name, key: address6Key}
	for _, a := range g.Members6 {
		s.elements = append(s.elements, element{key: a.AsSlice()})
	}
	p.sets = append(p.sets, s)
	if len(g.Behind6) > 0 {
		s := prefixSet6(behind, g.Behind6)
		s.skeleton = false
		p.sets = append(p.sets, s)
	}
	return names
}

// within6 matches a peer of the entry's prefix.
func within6(egress bool, e Entry) rule {
	if egress {
		return rules(family(nfprotoIPv6), masked(daddr6, e.Prefix))
	}
	return rules(family(nfprotoIPv6), masked(saddr6, e.Prefix))
}

// layer46 is layer4 with ICMPv6.
func layer46(e Entry) rule {
	if e.Protocol != protoICMPv6 {
		return layer4(e)
	}
	r := l4proto(protoICMPv6)
	if e.From >= 0 {
		r = rules(r, payload(thHeader, 0, 1, reg1), equal([]byte{byte(e.From)}))
	}
	if e.From >= 0 && e.To >= 0 {
		r = rules(r, payload(thHeader, 1, 1, reg1), equal([]byte{byte(e.To)}))
	}
	return r
}
