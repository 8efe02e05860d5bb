package eni

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// apart adds what other hosts have of the VPC. An address that an interface here has, or another host, is not theirs: an
// interface that moves from host to host is for a moment in the wish of both, and where it was last named it is.
func (n *compiled) apart(rules *firewall.Config, network *link.Network) (errs []error) {
	v := n.vpc
	if v.Overlay == 0 || !n.settings.Underlay.IsValid() {
		return nil
	}
	network.Overlay, rules.Overlay = v.Overlay, true
	taken := map[netip.Addr]bool{}
	for _, p := range v.Peers {
		if !p.Underlay.Is4() || p.Underlay == n.settings.Underlay {
			errs = append(errs, refuse("", "reach the guests of %s on %s: its underlay address %s is not another host's of IPv4", v.VPC.ID, p.Host, p.Underlay))
			continue
		}
		to := link.Peer{Underlay: p.Underlay}
		for _, a := range p.Members {
			if _, here := n.used.addresses[a]; here || taken[a] || slices.Contains(n.used.local, a) || !n.owns(a) {
				continue
			}
			taken[a] = true
			to.Addresses = append(to.Addresses, a)
			if a.Is4() {
				rules.Far = append(rules.Far, a)
			} else {
				rules.Far6 = append(rules.Far6, netip.PrefixFrom(a, 128))
			}
		}
		for _, d := range p.Prefixes {
			if n.used.apart(d) == nil && n.owns(d.Addr()) {
				to.Prefixes6, rules.Far6 = append(to.Prefixes6, d), append(rules.Far6, d)
			}
		}
		network.Peers = append(network.Peers, to)
	}
	slices.SortFunc(network.Peers, func(a, b link.Peer) int { return a.Underlay.Compare(b.Underlay) })
	slices.SortFunc(rules.Far, netip.Addr.Compare)
	slices.SortFunc(rules.Far6, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return errs
}

func (n *compiled) owns(a netip.Addr) bool {
	return slices.ContainsFunc(slices.Concat(n.used.vpc, n.used.blocks), func(p netip.Prefix) bool { return p.Contains(a) })
}

// host returns the host of an address elsewhere, on the underlay.
func host(network *link.Network, a netip.Addr) (netip.Addr, bool) {
	k := slices.IndexFunc(network.Peers, func(p link.Peer) bool { return slices.Contains(p.Addresses, a) })
	if k < 0 {
		return netip.Addr{}, false
	}
	return network.Peers[k].Underlay, true
}

func equalPeer(x, y cloud.HostPeer) bool {
	return x.Host == y.Host && x.Underlay == y.Underlay && slices.Equal(x.Members, y.Members) && slices.Equal(x.Prefixes, y.Prefixes)
}
