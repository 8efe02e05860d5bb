package placement

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Apart returns the VPCs that have interfaces on several hosts which can reach each other, in order: each needs a number
// of its own on the underlay.
func Apart(w World, instances []cloud.Instance) []cloud.VPCID {
	first := map[cloud.VPCID]cloud.HostID{}
	apart := map[cloud.VPCID]bool{}
	for _, i := range instances {
		if !w.joins(i) {
			continue
		}
		for _, id := range i.Interfaces {
			n := w.Interfaces[id]
			if _, ok := w.VPCs[n.VPC]; ok {
				h := cmp.Or(first[n.VPC], i.Host)
				first[n.VPC] = h
				if h != i.Host {
					apart[n.VPC] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(apart))
}

// joins reports whether the instance is on a host that others can reach.
func (w World) joins(i cloud.Instance) bool {
	return i.Host != "" && i.Power != cloud.PowerTerminated && w.Hosts[i.Host].Underlay.IsValid()
}

// others is what the other hosts have, seen from one.
type others struct {
	peers   map[cloud.VPCID][]cloud.HostPeer
	leading []cloud.SubnetID           // their subnets whose routes lead to the one: to an interface of it, or a gateway
	homes   map[cloud.VPCID]netip.Addr // of the VPCs' NAT gateways, where that is another host
}

// A NAT gateway's public address can be at one host only: neighbours outside must not see two that answer for it. It is at
// the first host of those with interfaces of the VPC, in the order of their IDs, and what others have for it comes there
// over the underlay.

// elsewhere returns what other hosts have of the VPCs, as far as the two can reach each other.
func (w World) elsewhere(host cloud.HostID, instances []cloud.Instance) others {
	out := others{peers: map[cloud.VPCID][]cloud.HostPeer{}, homes: map[cloud.VPCID]netip.Addr{}}
	at := w.Hosts[host].Underlay
	if !at.IsValid() {
		return out
	}
	peers := map[cloud.VPCID]map[cloud.HostID]*cloud.HostPeer{}
	subnets, here := map[cloud.SubnetID]bool{}, map[cloud.InterfaceID]bool{}
	for _, i := range instances {
		for _, id := range i.Interfaces {
			n, ok := w.Interfaces[id]
			switch {
			case !ok || !w.joins(i) || w.Overlays[n.VPC] == 0:
			case i.Host == host:
				here[id] = true
			case w.Hosts[i.Host].Underlay == at: // two hosts that call themselves the same: neither can be told from the other
			default:
				subnets[n.Subnet] = true
				if peers[n.VPC] == nil {
					peers[n.VPC] = map[cloud.HostID]*cloud.HostPeer{}
				}
				p := peers[n.VPC][i.Host]
				if p == nil {
					p = &cloud.HostPeer{Host: i.Host, Underlay: w.Hosts[i.Host].Underlay}
					peers[n.VPC][i.Host] = p
				}
				p.Members = append(p.Members, addresses(n)...)
				for _, d := range n.Prefixes {
					if d.Addr().Is6() {
						p.Prefixes = append(p.Prefixes, d.Masked())
					}
				}
			}
		}
	}
	for id, hosts := range peers {
		if first := slices.Min(slices.Collect(maps.Keys(hosts))); first < host {
			out.homes[id] = hosts[first].Underlay
		}
		for _, h := range slices.Sorted(maps.Keys(hosts)) {
			p := hosts[h]
			slices.SortFunc(p.Members, netip.Addr.Compare)
			p.Members = slices.Compact(p.Members)
			slices.SortFunc(p.Prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
			out.peers[id] = append(out.peers[id], *p)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(subnets)) {
		vpc := w.VPCs[w.Subnets[s].VPC]
		routes := w.Tables[cmp.Or(w.Subnets[s].RouteTable, vpc.MainTable)].Routes
		home := !out.homes[vpc.ID].IsValid()
		if slices.ContainsFunc(routes, func(r cloud.Route) bool { return here[r.Interface] || home && r.NAT != "" }) {
			out.leading = append(out.leading, s)
		}
	}
	return out
}
