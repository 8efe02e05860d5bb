package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IPv6 is switched on link by link: on lo, and on the taps whose guests have addresses or prefixes of it. A tap has no
// address, not even a link-local one: agent/neighbour answers for the router, and the kernel need ask nobody, as every
// guest is a permanent neighbour: by its addresses, and by the link-local one of its MAC, which is the way to the
// prefixes behind it whatever the guest calls itself. So the kernel neither solicits nor learns, and no guest can fill its
// table of neighbours. Errors (a packet too big) leave with the address that its subnet's router has on lo.

// six reports whether a network has IPv6.
func (n Network) six() bool { return len(n.Closed6) > 0 }

func (t Tap) six() bool { return len(t.Addresses6)+len(t.Prefixes6) > 0 }

// guest6 is the address under which a tap's guest is its prefixes' next hop.
func (t Tap) guest6() netip.Addr { return netip.AddrFrom16(wire.LinkLocal(t.Guest)) }

// near6 are all the neighbours of a tap.
func (t Tap) near6() []netip.Addr {
	if !t.six() {
		return nil
	}
	return append([]netip.Addr{t.guest6()}, t.Addresses6...)
}

// prepare6 gives a namespace what its IPv6 needs beside its guests, or takes it away.
func (s *Space) prepare6(n Network, lo netlink.Link) error {
	if !n.six() {
		s.six = false
		return s.Do(func() error { return sysctl("ipv6/conf/lo/disable_ipv6", "1") }) // with its addresses and black holes
	}
	err := s.Do(func() error {
		return sysctls([][2]string{
			{"ipv6/conf/all/forwarding", "1"}, // first: it resets others
			{"ipv6/conf/default/accept_ra", "0"},
			{"ipv6/conf/default/autoconf", "0"},
			{"ipv6/conf/default/accept_redirects", "0"},
			{"ipv6/conf/default/accept_dad", "0"},
			{"ipv6/conf/lo/disable_ipv6", "0"},
		})
	})
	if err != nil {
		return err
	}
	s.six = true
	if err := s.local6(lo, n.Local6); err != nil {
		return err
	}
	return s.shut6(n.Closed6)
}

// local6 makes the addresses of lo, beside ::1, the wanted ones.
func (s *Space) local6(lo netlink.Link, want []netip.Addr) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return s.h.AddrList(lo, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list IPv6 addresses of lo: %w", err)
	}
	var have []netip.Addr
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		switch {
		case ip.IsLoopback():
		case slices.Contains(want, ip):
			have = append(have, ip)
		default:
			if err := s.h.AddrDel(lo, &a); err != nil {
				return fmt.Errorf("delete address %s: %w", ip, err)
			}
		}
	}
	for _, ip := range want {
		if slices.Contains(have, ip) {
			continue
		}
		if err := s.h.AddrReplace(lo, &netlink.Addr{IPNet: ipNet6(netip.PrefixFrom(ip, 128)), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add address %s: %w", ip, err)
		}
	}
	return nil
}

// shut6 makes the VPC's prefixes end here, as shut does.
func (s *Space) shut6(want []netip.Prefix) error {
	routes, err := s.routes6()
	if err != nil {
		return err
	}
	var have []netip.Prefix
	for _, r := range routes {
		p := prefixOf(r.Dst)
		if r.Type != unix.RTN_BLACKHOLE {
			continue
		}
		if slices.Contains(want, p) {
			have = append(have, p)
		} else if err := s.h.RouteDel(&r); err != nil {
			return fmt.Errorf("open prefix %s: %w", p, err)
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		if err := s.h.RouteReplace(&netlink.Route{Dst: ipNet6(p), Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_MAIN}); err != nil {
			return fmt.Errorf("close prefix %s: %w", p, err)
		}
	}
	return nil
}

func (s *Space) routes6() ([]netlink.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return s.h.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list IPv6 routes: %w", err)
	}
	return routes, nil
}

// view6 is what the kernel has of IPv6 on the links of a namespace, by index.
type view6 struct {
	hosts  map[int][]netip.Addr           // the destinations of host routes
	behind map[int][]netip.Prefix         // prefixes with the guest as their next hop
	near   map[int]map[netip.Addr][6]byte // permanent neighbours
}

func (s *Space) look6() (v view6, err error) {
	v = view6{map[int][]netip.Addr{}, map[int][]netip.Prefix{}, map[int]map[netip.Addr][6]byte{}}
	routes, err := s.routes6()
	if err != nil {
		return v, err
	}
	for _, r := range routes {
		p := prefixOf(r.Dst)
		switch {
		case r.Type == unix.RTN_BLACKHOLE || !p.IsValid():
		case r.Gw != nil:
			v.behind[r.LinkIndex] = append(v.behind[r.LinkIndex], p)
		case p.Bits() == 128:
			v.hosts[r.LinkIndex] = append(v.hosts[r.LinkIndex], p.Addr())
		}
	}
	neighs, err := dump(func() ([]netlink.Neigh, error) { return s.h.NeighList(0, netlink.FAMILY_V6) })
	if err != nil {
		return v, fmt.Errorf("list IPv6 neighbours: %w", err)
	}
	for _, n := range neighs {
		a, ok := netip.AddrFromSlice(n.IP)
		if !ok || n.State&netlink.NUD_PERMANENT == 0 || len(n.HardwareAddr) != 6 || n.Flags&netlink.NTF_PROXY != 0 {
			continue
		}
		if v.near[n.LinkIndex] == nil {
			v.near[n.LinkIndex] = map[netip.Addr][6]byte{}
		}
		v.near[n.LinkIndex][a] = [6]byte(n.HardwareAddr)
	}
	return v, nil
}

// fresh6 returns the addresses of taps that are not routed yet.
func (v view) fresh6(taps []*Tap) (fresh []netip.Addr) {
	for _, t := range taps {
		var have []netip.Addr
		if l := v.byName[t.Name]; l != nil {
			have = v.six.hosts[l.Attrs().Index]
		}
		for _, a := range t.Addresses6 {
			if !slices.Contains(have, a) {
				fresh = append(fresh, a)
			}
		}
	}
	return fresh
}

// prune6 takes from a tap what t, which is the zero Tap if it is to go, does not have of IPv6, and returns the addresses
// that became free.
func (s *Space) prune6(name string, index int, t Tap, v view6) (gone []netip.Addr, err error) {
	for _, a := range v.hosts[index] {
		if slices.Contains(t.Addresses6, a) {
			continue
		}
		gone = append(gone, a)
		if err := s.withdraw6(index, a); err != nil {
			return gone, err
		}
	}
	for _, p := range v.behind[index] {
		if slices.Contains(t.Prefixes6, p) {
			continue
		}
		if err := s.h.RouteDel(&netlink.Route{LinkIndex: index, Dst: ipNet6(p), Table: unix.RT_TABLE_MAIN}); err != nil && !errors.Is(err, syscall.ESRCH) {
			return gone, fmt.Errorf("delete route of %s: %w", p, err)
		}
	}
	wanted := t.near6()
	for a := range v.near[index] {
		if slices.Contains(wanted, a) {
			continue
		}
		if err := s.unneighbour6(index, a); err != nil {
			return gone, err
		}
	}
	if len(v.near[index]) > 0 && t.Name != "" && !t.six() {
		return gone, s.quiet6(name)
	}
	return gone, nil
}

// release6 is prune6 by what a tap is known to have had.
func (s *Space) release6(index int, had, t Tap) (gone []netip.Addr, err error) {
	v := view6{hosts: map[int][]netip.Addr{index: had.Addresses6}, near: map[int]map[netip.Addr][6]byte{index: {}}}
	for _, a := range had.near6() {
		v.near[index][a] = had.Guest
	}
	return s.prune6(had.Name, index, t, v)
}

func (s *Space) withdraw6(index int, a netip.Addr) error {
	s.owed[a] = true
	if err := s.h.RouteDel(hostRoute6(index, a)); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("delete route of %s: %w", a, err)
	}
	return nil
}

func (s *Space) unneighbour6(index int, a netip.Addr) error {
	n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V6, IP: a.AsSlice()}
	if err := s.h.NeighDel(n); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("delete neighbour %s: %w", a, err)
	}
	return nil
}

// quiet6 switches IPv6 off on a tap.
func (s *Space) quiet6(name string) error {
	return s.Do(func() error { return sysctl("ipv6/conf/"+name+"/disable_ipv6", "1") })
}

// attach6 gives a tap that is up its IPv6: the switch, neighbours, routes.
func (s *Space) attach6(t Tap, index int, v view6) error {
	if !t.six() {
		return nil
	}
	// Neighbours go when it is switched off: who is one says that it is on.
	if _, on := v.near[index][t.guest6()]; !on || s.off[index]&forwarding6 != 0 {
		conf := "ipv6/conf/" + t.Name + "/"
		err := s.Do(func() error {
			return sysctls([][2]string{
				{conf + "addr_gen_mode", "1"}, // a tap may be older than the defaults
				{conf + "accept_ra", "0"},
				{conf + "autoconf", "0"},
				{conf + "accept_redirects", "0"},
				{conf + "forwarding", "1"},
				{conf + "disable_ipv6", "0"},
			})
		})
		if err != nil {
			return err
		}
		s.mended(index, forwarding6)
	}
	for _, a := range t.near6() {
		if v.near[index][a] == t.Guest {
			continue
		}
		n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: t.Guest[:]}
		if err := s.h.NeighSet(n); err != nil {
			return fmt.Errorf("set neighbour %s: %w", a, err)
		}
	}
	for _, a := range t.Addresses6 {
		if slices.Contains(v.hosts[index], a) {
			continue
		}
		if err := s.h.RouteReplace(hostRoute6(index, a)); err != nil {
			return fmt.Errorf("set route of %s: %w", a, err)
		}
	}
	for _, p := range t.Prefixes6 {
		if slices.Contains(v.behind[index], p) {
			continue
		}
		r := &netlink.Route{LinkIndex: index, Dst: ipNet6(p), Gw: t.guest6().AsSlice(), Table: unix.RT_TABLE_MAIN}
		if err := s.h.RouteReplace(r); err != nil {
			return fmt.Errorf("set route of %s: %w", p, err)
		}
	}
	return nil
}

func hostRoute6(index int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: ipNet6(netip.PrefixFrom(a, 128)), Table: unix.RT_TABLE_MAIN}
}

func ipNet6(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}
}

// prefixOf is the zero Prefix for a default route.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}
