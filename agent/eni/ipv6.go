package eni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/dhcp6"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/neighbour"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Leases6 are a network's interfaces with IPv6, each with its tap. An interface without an IPv6 address or prefix is not
// among them: it sees no router.
type Leases6 struct {
	Prefixes []netip.Prefix // of the VPC
	Taps     []string
	DHCP     []dhcp6.Host
	Routers  []neighbour.Host
}

func (l *Leases6) add(tap string, one *leased6) {
	if one != nil {
		l.Taps, l.DHCP, l.Routers = append(l.Taps, tap), append(l.DHCP, one.dhcp), append(l.Routers, one.router)
	}
}

// leased6 is what one interface is told.
type leased6 struct {
	dhcp   dhcp6.Host
	router neighbour.Host
}

// lease6 is what the guest of an interface is told of IPv6; nil if the interface has none.
func lease6(v cloud.HostNetwork, i Interface, mac [6]byte, mtu int) *leased6 {
	subnet := i.Network.IPv6()
	d := dhcp6.Host{MAC: mac, Source: link.RouterMAC, Preferred: v.Options.IPv6PreferredLeaseSec}
	n := neighbour.Host{MAC: mac, Source: link.RouterMAC, Subnet: subnet, MTU: mtu}
	d.Addresses, d.Prefixes = own6(i)
	for _, a := range d.Addresses {
		n.Own = append(n.Own, netip.PrefixFrom(a, a.BitLen()))
	}
	n.Own = append(n.Own, d.Prefixes...)
	if len(n.Own) == 0 {
		return nil
	}
	d.Resolvers, d.TimeServers = only6(v.Options.DomainNameServers), only6(v.Options.NTPServers)
	return &leased6{d, n}
}

// blocks6 are a VPC's blocks of IPv6.
func blocks6(v cloud.VPC) (out []netip.Prefix) {
	for _, p := range v.Prefixes() {
		if p.Addr().Is6() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// routed6 are those of the blocks that lie in the pool.
func routed6(pool, blocks []netip.Prefix) (out []netip.Prefix) {
	for _, b := range blocks {
		if slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Bits() <= b.Bits() && p.Contains(b.Addr()) }) {
			out = append(out, b)
		}
	}
	return out
}

// router6 is the address that a subnet's router answers at and reports errors from: the first after the base, which EC2
// gives to nobody.
func router6(s cloud.Subnet) netip.Addr {
	if !s.IPv6().IsValid() {
		return netip.Addr{}
	}
	return s.IPv6().Masked().Addr().Next()
}

// own6 returns the IPv6 addresses and prefixes of an interface that are its subnet's to give, in order: of what a block
// that has gone may have left, nothing comes or goes.
func own6(i Interface) (addresses []netip.Addr, prefixes []netip.Prefix) {
	subnet, router := i.Network.IPv6(), router6(i.Network)
	if !subnet.IsValid() {
		return nil, nil
	}
	for _, a := range i.IPv6 {
		if subnet.Contains(a) && a != router {
			addresses = append(addresses, a)
		}
	}
	for _, p := range i.Prefixes {
		if subnet.Bits() < p.Bits() && subnet.Contains(p.Addr()) && !p.Contains(router) {
			prefixes = append(prefixes, p.Masked())
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return addresses, slices.Compact(prefixes)
}

// behind6 returns the prefixes of those of the interfaces that are in the group: they are too large to be members one by
// one.
func behind6(group cloud.GroupID, mine []*Interface) (out []netip.Prefix) {
	for _, i := range mine {
		if len(i.Prefixes) > 0 && slices.Contains(i.Groups, group) {
			_, prefixes := own6(*i)
			out = append(out, prefixes...)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}

// families parts addresses of IPv4 from those of IPv6: in order, the former come first.
func families(sorted []netip.Addr) (four, six []netip.Addr) {
	n, _ := slices.BinarySearchFunc(sorted, true, func(a netip.Addr, _ bool) int {
		if a.Is6() {
			return 1
		}
		return -1
	})
	if n == len(sorted) {
		return sorted, nil
	}
	return sorted[:n:n], sorted[n:]
}

// six refuses addresses and prefixes of IPv6 that an interface cannot have beside the others.
func (c claims) six(i Interface) error {
	addresses, prefixes := own6(i)
	if len(addresses)+len(prefixes) == 0 {
		return nil
	}
	if subnet := i.Network.IPv6(); !slices.ContainsFunc(c.blocks, func(b netip.Prefix) bool { return b.Bits() <= subnet.Bits() && b.Contains(subnet.Addr()) }) {
		return fmt.Errorf("subnet %s is not of its VPC", subnet)
	}
	for _, a := range addresses {
		if slices.Contains(c.local, a) {
			return fmt.Errorf("address %s is the metadata service's", a)
		}
		if err := c.free(a); err != nil {
			return err
		}
	}
	for _, p := range prefixes {
		if err := c.apart(p); err != nil {
			return err
		}
	}
	return nil
}

func only6(list []string) (out []netip.Addr) {
	for _, a := range parse(list) {
		if a.Is6() {
			out = append(out, a)
		}
	}
	return out
}

// configurers are the servers that tell guests their IPv6.
type configurers struct {
	dhcp    *dhcp6.Server
	routers *neighbour.Server
}

func newConfigurers(log *slog.Logger) configurers {
	return configurers{dhcp6.New(log), neighbour.New()}
}

// apply serves the taps that are there, in the namespaces of networks, which are in the order of leases. DHCP comes
// first: a guest that hears of a router asks for its addresses.
func (c configurers) apply(leases []Leases, networks []dhcp.Network, indexes map[string]map[string]int) error {
	var dhcps []dhcp6.Network
	var routers []neighbour.Network
	for k, l := range leases {
		if len(l.IPv6.Taps) == 0 {
			continue // not even a socket
		}
		d := dhcp6.Network{Name: networks[k].Name, Enter: networks[k].Enter}
		r := neighbour.Network{Name: networks[k].Name, Enter: networks[k].Enter, Prefixes: l.IPv6.Prefixes}
		for i, tap := range l.IPv6.Taps {
			index := indexes[l.Network][tap]
			if index == 0 {
				continue
			}
			h, n := l.IPv6.DHCP[i], l.IPv6.Routers[i]
			h.Index, n.Index = index, index
			d.Hosts, r.Hosts = append(d.Hosts, h), append(r.Hosts, n)
		}
		dhcps, routers = append(dhcps, d), append(routers, r)
	}
	return errors.Join(c.dhcp.Apply(dhcps), c.routers.Apply(routers))
}

func (c configurers) run(ctx context.Context, group *sync.WaitGroup) {
	group.Go(func() { _ = c.dhcp.Run(ctx) })
	group.Go(func() { _ = c.routers.Run(ctx) })
}

func (c configurers) close() {
	c.dhcp.Close()
	c.routers.Close()
}

// counts adds the counters: dhcp6_replies, neighbour_answers.
func (c configurers) counts(out map[string]uint64) {
	for k, v := range c.dhcp.Counts() {
		out["dhcp6_"+k] = v
	}
	for k, v := range c.routers.Counts() {
		out["neighbour_"+k] = v
	}
}
