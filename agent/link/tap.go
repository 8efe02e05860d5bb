package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tapFlags are what QEMU expects of a tap that is handed to it: one queue, frames with a virtio-net header.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// Tap opens the queue of an existing tap for a virtual machine. There is one queue: EBUSY while it is held.
func (s *Space) Tap(name string) (*os.File, error) {
	var fd int
	err := s.Do(func() (err error) {
		// Without this check TUNSETIFF would make a new, bare tap.
		if _, err := os.Stat("/proc/sys/net/ipv4/conf/" + name); err != nil {
			return syscall.ENODEV
		}
		fd, err = openTap(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	// What the last holder had negotiated must not surprise the next one.
	if err := errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0), unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 10)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("reset tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tapFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// createTap makes a persistent tap that is down and in no group.
func (s *Space) createTap(t Tap) error {
	return s.Do(func() error {
		fd, err := openTap(t.Name)
		if err != nil {
			return fmt.Errorf("create tap %s: %w", t.Name, err)
		}
		defer unix.Close(fd)
		err = errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(t.Owner)), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
		if err != nil {
			return fmt.Errorf("keep tap %s: %w", t.Name, err)
		}
		return nil
	})
}

// view is what the kernel has of a namespace, read in three dumps.
type view struct {
	links  []netlink.Link
	routes []netlink.Route
	neighs []netlink.Neigh
}

func (s *Space) look() (v view, err error) {
	if v.links, err = listLinks(s.h); err != nil {
		return v, fmt.Errorf("list links: %w", err)
	}
	v.routes, err = dump(func() ([]netlink.Route, error) {
		return s.h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return v, fmt.Errorf("list routes: %w", err)
	}
	v.neighs, err = dump(func() ([]netlink.Neigh, error) { return s.h.NeighList(0, netlink.FAMILY_V4) })
	if err != nil {
		return v, fmt.Errorf("list neighbours: %w", err)
	}
	return v, nil
}

func isTap(l netlink.Link) bool {
	g := l.Attrs().Group
	return l.Type() == "tuntap" || l.Type() == "tun" || g == GroupTap || g == groupDoomed
}

// addresses returns the host routes through a link.
func (v view) addresses(index int) []netip.Addr {
	var addrs []netip.Addr
	for _, r := range v.routes {
		if r.LinkIndex == index && r.Dst != nil {
			a, ok := netip.AddrFromSlice(r.Dst.IP)
			if ones, _ := r.Dst.Mask.Size(); ok && ones == 32 {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs
}

// fresh returns the addresses of taps that are not routed yet.
func (v view) fresh(taps []Tap) []netip.Addr {
	var fresh []netip.Addr
	for _, t := range taps {
		i := slices.IndexFunc(v.links, func(l netlink.Link) bool { return l.Attrs().Name == t.Name })
		var have []netip.Addr
		if i >= 0 {
			have = v.addresses(v.links[i].Attrs().Index)
		}
		for _, a := range t.Addresses {
			if !slices.Contains(have, a) {
				fresh = append(fresh, a)
			}
		}
	}
	return fresh
}

func (v view) neighbour(index int, a netip.Addr) (mac net.HardwareAddr, permanent bool) {
	for _, n := range v.neighs {
		if n.LinkIndex == index && n.IP.Equal(a.AsSlice()) && n.Flags&netlink.NTF_PROXY == 0 {
			return n.HardwareAddr, n.State&netlink.NUD_PERMANENT != 0
		}
	}
	return nil, false
}

// prune removes what the wish does not name and returns the addresses that became free.
func (s *Space) prune(want Network) ([]netip.Addr, error) {
	v, err := s.look()
	if err != nil {
		return nil, err
	}
	var gone []netip.Addr
	var doomed []netlink.Link
	for _, l := range v.links {
		if !isTap(l) {
			continue
		}
		index := l.Attrs().Index
		i := slices.IndexFunc(want.Taps, func(t Tap) bool { return t.Name == l.Attrs().Name })
		var keep []netip.Addr
		if i < 0 {
			doomed = append(doomed, l)
		} else {
			keep = want.Taps[i].Addresses
		}
		for _, a := range v.addresses(index) {
			if slices.Contains(keep, a) {
				continue
			}
			gone = append(gone, a)
			if err := s.h.RouteDel(hostRoute(index, a)); err != nil && !errors.Is(err, syscall.ESRCH) {
				return gone, fmt.Errorf("delete route of %s: %w", a, err)
			}
		}
		for _, n := range v.neighs {
			a, _ := netip.AddrFromSlice(n.IP)
			if n.LinkIndex != index || n.State&netlink.NUD_PERMANENT == 0 || slices.Contains(keep, a.Unmap()) {
				continue
			}
			if err := s.h.NeighDel(&n); err != nil && !errors.Is(err, syscall.ENOENT) {
				return gone, fmt.Errorf("delete neighbour %s: %w", a, err)
			}
		}
	}
	return gone, errors.Join(s.unroute(want, v), s.deleteTaps(doomed))
}

// deleteTaps deletes many taps in one request: one by one each costs an RCU grace period, measured 18 ms.
func (s *Space) deleteTaps(taps []netlink.Link) error {
	if len(taps) == 0 {
		return nil
	}
	for _, l := range taps {
		if err := s.h.LinkSetGroup(l, groupDoomed); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("doom tap %s: %w", l.Attrs().Name, err)
		}
	}
	return s.deleteGroup(groupDoomed)
}

// deleteGroup is `ip link delete group N`, which the library lacks.
func (s *Space) deleteGroup(group uint32) error {
	links, err := listLinks(s.h)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Group == group }) {
		return nil
	}
	return s.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("delete links of group %d: %w", group, err)
		}
		return nil
	})
}

func hostRoute(index int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(a, 32)), Scope: netlink.SCOPE_LINK, Table: unix.RT_TABLE_MAIN}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// attach makes the taps of a network, in the order device, settings, up, neighbour, route.
func (s *Space) attach(want Network) (map[string]int, error) {
	v, err := s.look()
	if err != nil {
		return nil, err
	}
	byName := map[string]netlink.Link{}
	for _, l := range v.links {
		byName[l.Attrs().Name] = l
	}
	// A connection that an earlier owner of an address left behind must not pass as established.
	if err := s.Forget(v.fresh(want.Taps)); err != nil {
		return nil, err
	}
	indexes := map[string]int{}
	for _, t := range want.Taps {
		l := byName[t.Name]
		if l == nil {
			if err := s.createTap(t); err != nil {
				return indexes, err
			}
			if l, err = s.h.LinkByName(t.Name); err != nil {
				return indexes, fmt.Errorf("find tap %s: %w", t.Name, err)
			}
		}
		if err := s.tune(t, l); err != nil {
			return indexes, fmt.Errorf("set up tap %s: %w", t.Name, err)
		}
		if err := s.address(t, l.Attrs().Index, v); err != nil {
			return indexes, err
		}
		indexes[t.Name] = l.Attrs().Index
	}
	return indexes, s.route(want, v, indexes)
}

// tune gives a tap its settings; the group comes before the link is up, so that no packet is unfiltered.
func (s *Space) tune(t Tap, l netlink.Link) error {
	a := l.Attrs()
	if a.Group != GroupTap {
		if err := s.h.LinkSetGroup(l, GroupTap); err != nil {
			return fmt.Errorf("set group: %w", err)
		}
	}
	if a.HardwareAddr.String() != net.HardwareAddr(RouterMAC[:]).String() {
		if err := s.h.LinkSetHardwareAddr(l, RouterMAC[:]); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	if a.MTU != t.MTU {
		if err := s.h.LinkSetMTU(l, t.MTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
	}
	if a.Alias != t.Alias {
		if err := s.h.LinkSetAlias(l, t.Alias); err != nil {
			return fmt.Errorf("set alias: %w", err)
		}
	}
	if a.Flags&net.FlagUp != 0 {
		return nil // then it has had its settings; reading five files of each tap would be half of an Apply
	}
	conf, neigh := "ipv4/conf/"+t.Name+"/", "ipv4/neigh/"+t.Name+"/"
	err := s.Do(func() error {
		return sysctls([][2]string{
			{conf + "proxy_arp", "1"},
			{conf + "rp_filter", "0"}, // the identity set is stricter than a reverse path check
			{conf + "send_redirects", "0"},
			{conf + "accept_redirects", "0"},
			{neigh + "proxy_delay", "0"}, // else the first answer is up to 0.8 s late
		})
	})
	if err != nil {
		return err
	}
	if err := s.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

func (s *Space) address(t Tap, index int, v view) error {
	have := v.addresses(index)
	for _, a := range t.Addresses {
		if mac, permanent := v.neighbour(index, a); !permanent || mac.String() != net.HardwareAddr(t.Guest[:]).String() {
			n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: t.Guest[:]}
			if err := s.h.NeighSet(n); err != nil {
				return fmt.Errorf("set neighbour %s: %w", a, err)
			}
		}
		if slices.Contains(have, a) {
			continue
		}
		if err := s.h.RouteReplace(hostRoute(index, a)); err != nil {
			return fmt.Errorf("set route of %s: %w", a, err)
		}
	}
	return nil
}

// connections matches the entries of the connection table in which one of the addresses takes part.
type connections []netip.Addr

func (c connections) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
		a, _ := netip.AddrFromSlice(ip)
		if slices.Contains(c, a.Unmap()) {
			return true
		}
	}
	return false
}

// Forget deletes all tracked connections of the addresses.
func (s *Space) Forget(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	_, err := dump(func() ([]struct{}, error) {
		_, err := s.h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, connections(addrs))
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("forget connections of %v: %w", addrs, err)
	}
	return nil
}
