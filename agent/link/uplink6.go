package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The ends of an uplink have no addresses of IPv6. Each is the other's permanent neighbour under one of these.
var (
	outer6 = netip.MustParseAddr("fe80::1")
	inner6 = netip.MustParseAddr("fe80::2")
)

var everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// uplink6 leads the VPC's routed blocks of IPv6 to its namespace, and what is for everybody else out of it. A VPC
// without such a block has no IPv6 on its uplink.
func (l *Links) uplink6(n Network, s *Space, name, outside string) error {
	if len(n.Routed6) == 0 {
		return errors.Join(sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"), s.quiet6(Uplink))
	}
	if err := errors.Join(sysctls(quietEnd(name)), s.Do(func() error { return sysctls(quietEnd(Uplink)) })); err != nil {
		return err
	}
	// A kernel before 6.17 has one switch for the whole machine, which the operator must have thrown: it also makes the
	// machine deaf to routers.
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/" + name + "/force_forwarding"); err == nil {
		if err := sysctl("ipv6/conf/"+name+"/force_forwarding", "1"); err != nil {
			return err
		}
	}
	if outside != "" && !forwards6("all", "forwarding") && !forwards6(outside, "force_forwarding") {
		l.log.Warn("IPv6 comes no further than this machine: its uplink does not forward", "uplink", outside,
			"set", "net.ipv6.conf."+outside+".force_forwarding=1, or net.ipv6.conf.all.forwarding=1 with accept_ra=2")
	}
	outer, err := l.root.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	inner, err := s.h.LinkByName(Uplink)
	if err != nil {
		return fmt.Errorf("find %s: %w", Uplink, err)
	}
	return errors.Join(
		lead6(l.root, outer, inner6, inner, n.Routed6),
		lead6(s.h, inner, outer6, outer, []netip.Prefix{everywhere6}),
	)
}

func forwards6(link, setting string) bool {
	v, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/" + setting)
	return err == nil && strings.TrimSpace(string(v)) != "0"
}

// quietEnd are the settings of an end: it hears no router, makes up no address, and passes packets on.
func quietEnd(link string) [][2]string {
	conf := "ipv6/conf/" + link + "/"
	return [][2]string{
		{conf + "accept_ra", "0"}, {conf + "autoconf", "0"}, {conf + "accept_redirects", "0"}, {conf + "addr_gen_mode", "1"},
		{conf + "disable_ipv6", "0"}, {conf + "forwarding", "1"},
	}
}

// lead6 makes the routes through a link those to the prefixes, by way of the neighbour at its other end.
func lead6(h *netlink.Handle, link netlink.Link, via netip.Addr, peer netlink.Link, want []netip.Prefix) error {
	index, mac := link.Attrs().Index, peer.Attrs().HardwareAddr
	neighs, err := dump(func() ([]netlink.Neigh, error) { return h.NeighList(index, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list neighbours of %s: %w", link.Attrs().Name, err)
	}
	if !slices.ContainsFunc(neighs, func(n netlink.Neigh) bool {
		return n.IP.Equal(via.AsSlice()) && n.State&netlink.NUD_PERMANENT != 0 && string(n.HardwareAddr) == string(mac)
	}) {
		n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(n); err != nil {
			return fmt.Errorf("set neighbour %s: %w", via, err)
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list IPv6 routes of %s: %w", link.Attrs().Name, err)
	}
	var have []netip.Prefix
	for _, r := range routes {
		p := prefixOf(r.Dst)
		if r.Dst == nil {
			p = everywhere6
		}
		if slices.Contains(want, p) && r.Gw.Equal(via.AsSlice()) {
			have = append(have, p)
		} else if err := h.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("delete route of %s: %w", p, err)
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet6(p), Gw: via.AsSlice(), Table: unix.RT_TABLE_MAIN}); err != nil {
			return fmt.Errorf("set route of %s: %w", p, err)
		}
	}
	return nil
}
