package placement

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Networks returns what the host needs to know of each VPC in which it has an interface: the subnets of those
// interfaces with their routes and rules, and those whose routes lead to one of them from another host; the groups that
// they are in and those that the groups' rules refer to, each with the addresses of all its members; the public addresses
// that have names; and what other hosts have of the VPC. The result is in order of IDs.
func Networks(w World, host cloud.HostID, instances []cloud.Instance) []cloud.HostNetwork {
	vpcs := map[cloud.VPCID]bool{}
	subnets := map[cloud.SubnetID]bool{}
	groups := map[cloud.GroupID]bool{}
	members := map[cloud.GroupID][]netip.Addr{}
	for _, i := range instances {
		for _, id := range i.Interfaces {
			n, ok := w.Interfaces[id]
			if !ok {
				continue
			}
			if i.Power != cloud.PowerTerminated { // its addresses may soon be somebody else's
				for _, g := range n.Groups {
					members[g] = append(members[g], addresses(n)...)
				}
			}
			if i.Host != host {
				continue
			}
			vpcs[n.VPC], subnets[n.Subnet] = true, true
			for _, g := range n.Groups {
				groups[g] = true
			}
		}
	}
	own := maps.Clone(groups)
	for g := range own {
		for _, r := range slices.Concat(w.Groups[g].Ingress, w.Groups[g].Egress) {
			if r.Group != "" {
				groups[r.Group] = true
			}
		}
	}
	elsewhere := w.elsewhere(host, instances)
	for _, s := range elsewhere.leading {
		subnets[s] = true
	}
	var out []cloud.HostNetwork
	for _, id := range slices.Sorted(maps.Keys(vpcs)) {
		v, ok := w.VPCs[id]
		if !ok {
			continue
		}
		n := cloud.HostNetwork{VPC: v, Options: w.Options[v.DHCPOptions]}
		n.VPC.Tags, n.Options.Tags = nil, nil // a host has no use for them, and they change often
		for _, s := range slices.Sorted(maps.Keys(subnets)) {
			if w.Subnets[s].VPC == id {
				n.Subnets = append(n.Subnets, w.subnet(v, w.Subnets[s], elsewhere.homes[id]))
			}
		}
		for _, g := range slices.Sorted(maps.Keys(groups)) {
			sg, ok := w.Groups[g]
			if !ok || sg.VPC != id {
				continue
			}
			sg = untold(sg, own[g])
			addrs := slices.SortedFunc(slices.Values(members[g]), netip.Addr.Compare)
			n.Groups = append(n.Groups, cloud.HostGroup{SecurityGroup: sg, Members: slices.Compact(addrs)})
		}
		if v.EnableDNS && v.EnableDNSName {
			n.Public = w.named(id)
		}
		n.Overlay, n.Peers = w.Overlays[id], elsewhere.peers[id]
		out = append(out, n)
	}
	return out
}

// untold returns a group without what a host has no use for, and what may be long or changes often: what people say of
// it and of its rules; all rules, if none of the host's interfaces is in it.
func untold(g cloud.SecurityGroup, own bool) cloud.SecurityGroup {
	g.Tags, g.Description = nil, ""
	bare := func(rules []cloud.GroupRule) []cloud.GroupRule {
		if !own {
			return nil
		}
		rules = slices.Clone(rules)
		for i := range rules {
			rules[i].Tags, rules[i].Description = nil, ""
		}
		return rules
	}
	g.Ingress, g.Egress = bare(g.Ingress), bare(g.Egress)
	return g
}

// named returns the public addresses of a VPC's interfaces, in order.
func (w World) named(id cloud.VPCID) (out []cloud.PublicAddress) {
	for _, a := range w.Addresses {
		if n, ok := w.Interfaces[a.Interface]; ok && n.VPC == id && a.Private.IsValid() {
			out = append(out, cloud.PublicAddress{Public: a.Public, Private: a.Private})
		}
	}
	slices.SortFunc(out, func(a, b cloud.PublicAddress) int { return a.Public.Compare(b.Public) })
	return out
}

// addresses returns the addresses that an interface sends from: its own, and those of a delegated /28. A /80 has too
// many to be named.
func addresses(n cloud.NetworkInterface) []netip.Addr {
	out := slices.Concat(n.Addresses, n.IPv6)
	for _, p := range n.Prefixes {
		for a := p.Addr(); p.Addr().Is4() && p.Contains(a); a = a.Next() {
			out = append(out, a)
		}
	}
	return out
}

// subnet resolves the routes and rules of a subnet. home is the host of the VPC's NAT gateways, if it is another one.
func (w World) subnet(v cloud.VPC, s cloud.Subnet, home netip.Addr) cloud.HostSubnet {
	s.Tags = nil
	acl, known := w.ACLs[cmp.Or(s.NetworkACL, v.NetworkACL)]
	out := cloud.HostSubnet{Subnet: s, ACL: acl.Entries}
	switch {
	case slices.Equal(out.ACL, cloud.OpenACL()):
		out.ACL = nil
	case known && len(out.ACL) == 0: // a list without entries lets nothing pass, and no list everything
		out.ACL = closedACL()
	}
	for _, r := range w.Tables[cmp.Or(s.RouteTable, v.MainTable)].Routes {
		out.Routes = append(out.Routes, w.route(v, r, home))
	}
	return out
}

// closedACL says what the end of every network ACL says.
func closedACL() []cloud.ACLEntry {
	out := cloud.OpenACL()
	for i := range out {
		out[i].Number, out[i].Allow = 32767, false
	}
	return out
}

// route says what a route's target means now. One that is gone, or has no instance, drops.
func (w World) route(v cloud.VPC, r cloud.Route, home netip.Addr) cloud.HostRoute {
	out := cloud.HostRoute{Destination: r.Destination}
	switch {
	case r.Gateway != "":
		out.Internet = r.Gateway == v.Gateway
	case r.NAT != "":
		if nat, ok := w.NATs[r.NAT]; ok && nat.Deleted.IsZero() {
			out.NAT = w.Interfaces[nat.Interface].Primary()
			if !nat.Private {
				out.NAT, out.Home = w.Addresses[nat.Allocation].Public, home
			}
		}
	case r.Interface != "":
		if n, ok := w.Interfaces[r.Interface]; ok && n.Instance != "" {
			out.Interface, out.Via = n.ID, n.Primary()
		}
	}
	return out
}

// public returns the public addresses of an interface, in the order of its private ones.
func (w World) public(n cloud.NetworkInterface) []cloud.PublicAddress {
	var out []cloud.PublicAddress
	for _, a := range w.Standing[n.ID] {
		out = append(out, cloud.PublicAddress{Public: a.Public, Private: a.Private})
	}
	slices.SortFunc(out, func(a, b cloud.PublicAddress) int {
		return cmp.Compare(slices.Index(n.Addresses, a.Private), slices.Index(n.Addresses, b.Private))
	})
	return out
}
