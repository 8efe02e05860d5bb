package eni

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// publish gives the interfaces their public addresses. One that two want is nobody's: it would be a guess who
// answers there.
func publish(mine []*Interface, rules *firewall.Config, network *link.Network) (errs []error) {
	public, private := map[netip.Addr]int{}, map[netip.Addr]int{}
	for _, i := range mine {
		for _, p := range i.Public {
			public[p.Public]++
			private[p.Private]++
		}
	}
	for n, i := range mine {
		var published []firewall.Public
		for _, p := range i.Public {
			switch {
			case !p.Public.Is4() || !slices.Contains(i.Addresses, p.Private):
				errs = append(errs, refuse(i.ID, "publish %s as %s: it is not an address of %s", p.Private, p.Public, i.ID))
			case public[p.Public] > 1 || private[p.Private] > 1:
				errs = append(errs, refuse(i.ID, "publish %s as %s: one of them is taken twice", p.Private, p.Public))
			case slices.ContainsFunc(rules.Prefixes, func(own netip.Prefix) bool { return own.Contains(p.Public) }):
				errs = append(errs, refuse(i.ID, "publish %s as %s: it is an address of the VPC itself", p.Private, p.Public))
			default:
				published = append(published, firewall.Public{Public: p.Public, Private: p.Private})
				network.Public = append(network.Public, p.Public)
			}
		}
		if !slices.Equal(rules.Interfaces[n].Public, published) { // what is compiled is not changed any more: plans share it
			other := *rules.Interfaces[n]
			other.Public = published
			rules.Interfaces[n] = &other
		}
	}
	return errs
}

// compileSubnets translates what holds at the borders of the subnets.
func compileSubnets(v cloud.HostNetwork, mine []*Interface, rules *firewall.Config, network *link.Network) (errs []error) {
	subnets := slices.SortedFunc(slices.Values(v.Subnets), func(a, b cloud.HostSubnet) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range subnets {
		if !s.CIDR.IsValid() || !s.CIDR.Addr().Is4() {
			errs = append(errs, refuse("", "compile subnet %s: %s is not an IPv4 prefix", s.ID, s.CIDR))
			continue
		}
		if slices.ContainsFunc(rules.Subnets, func(o firewall.Subnet) bool { return o.CIDR.Overlaps(s.CIDR) }) {
			errs = append(errs, refuse("", "compile subnet %s: %s overlaps another", s.ID, s.CIDR))
			continue
		}
		out := firewall.Subnet{ID: string(s.ID), CIDR: s.CIDR.Masked(), CIDR6: s.IPv6(), ACL: compileACL(s.ACL)}
		for _, r := range s.Routes {
			if r.Destination.Addr().Is4() {
				out.Routes = append(out.Routes, compileRoute(r, mine, rules, network))
			} else { // to an instance, or translated: not built, and a black hole
				internet := r.Internet && slices.ContainsFunc(network.Routed6, s.IPv6().Overlaps)
				out.Routes6 = append(out.Routes6, firewall.Route{Destination: r.Destination.Masked(), Internet: internet})
			}
		}
		rules.Subnets = append(rules.Subnets, out)
	}
	slices.SortFunc(network.Public, netip.Addr.Compare)
	network.Public = slices.Compact(network.Public)
	slices.SortFunc(network.Via, func(a, b link.Via) int { return cmp.Compare(a.Mark, b.Mark) })
	network.Via = slices.Compact(network.Via)
	return errs
}

// compileRoute resolves a route's target. What is not here, or checks that it is the destination, is a black hole.
func compileRoute(r cloud.HostRoute, mine []*Interface, rules *firewall.Config, network *link.Network) firewall.Route {
	out := firewall.Route{Destination: r.Destination.Masked(), Internet: r.Internet}
	switch {
	case r.Internet:
	case r.NAT.Is4():
		// A private gateway's address is of the VPC, and nobody outside could answer to it.
		switch {
		case slices.ContainsFunc(rules.Prefixes, func(own netip.Prefix) bool { return own.Contains(r.NAT) }):
		case !r.Home.IsValid():
			out.NAT = r.NAT
			network.Public = append(network.Public, r.NAT)
		case slices.ContainsFunc(network.Peers, func(p link.Peer) bool { return p.Underlay == r.Home }):
			return lead(out, link.Via{Mark: mark(cloud.InterfaceID(r.NAT.String())), To: r.Home}, network)
		}
	case r.Interface != "":
		i := slices.IndexFunc(mine, func(i *Interface) bool { return i.ID == r.Interface })
		via := link.Via{Mark: mark(r.Interface)}
		switch at, ok := host(network, r.Via); {
		case i >= 0 && !mine[i].SourceDestCheck:
			via.Tap, via.To = TapName(r.Interface), mine[i].Primary()
		case i < 0 && ok: // whose own table says the same, and there it is known whether the instance forwards
			via.To = at
		default:
			return out
		}
		return lead(out, via, network)
	}
	return out
}

// lead gives a route its mark.
func lead(r firewall.Route, via link.Via, network *link.Network) firewall.Route {
	if slices.ContainsFunc(network.Via, func(o link.Via) bool { return o.Mark == via.Mark && o != via }) {
		return r // two of 2^28 marks are the same
	}
	r.Mark = via.Mark
	network.Via = append(network.Via, via)
	return r
}

// mark is the packet mark, and the number of the routing table, that lead to an interface.
func mark(id cloud.InterfaceID) uint32 {
	sum := sha256.Sum256([]byte(id))
	return 1<<28 | binary.BigEndian.Uint32(sum[:])>>4
}

// compileACL puts the entries of a network ACL in order.
func compileACL(acl []cloud.ACLEntry) (out []firewall.Entry) {
	acl = slices.SortedStableFunc(slices.Values(acl), func(a, b cloud.ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
	for _, e := range acl {
		out = append(out, firewall.Entry{Egress: e.Egress, Allow: e.Allow, Protocol: e.Protocol, Prefix: e.CIDR.Masked(), From: e.FromPort, To: e.ToPort})
	}
	return out
}
