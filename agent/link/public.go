package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A public address is ours where the root namespace has a route for it to one of our veths. The proxy entry with which the
// machine answers ARP for it outside comes after the route and goes before it, so one never outlives what tells whose
// it is.

// owned is a public address with the veth that it is routed to.
type owned struct {
	addr netip.Addr
	veth int
}

// publish makes the routes and the proxy entries of public addresses what is wanted.
func (l *Links) publish(want Config, ranges []Range) error {
	inner := map[owned]netip.Addr{}
	links, err := listLinks(l.root)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	veths := map[int]bool{}
	for _, link := range links {
		a := link.Attrs()
		veths[a.Index] = ownVeth(l.prefix, a.Name)
		for _, r := range ranges {
			n := slices.IndexFunc(want.Networks, func(n Network) bool { return n.Name == r.Network })
			if r.Veth != a.Name || n < 0 {
				continue
			}
			for _, p := range want.Networks[n].Public {
				inner[owned{p, a.Index}] = r.Prefix.Addr().Next()
			}
		}
	}
	have, err := published(l.root, veths)
	if err != nil {
		return err
	}
	for _, o := range have {
		if _, ok := inner[o]; !ok {
			if err := unpublish(l.root, o); err != nil {
				return err
			}
		}
	}
	outside, err := l.outside(want.Outside)
	if err != nil {
		return err
	}
	proxies, err := proxied(l.root)
	if err != nil {
		return err
	}
	var errs []error
	for o, via := range inner {
		if !slices.Contains(have, o) {
			err := l.root.RouteAdd(&netlink.Route{LinkIndex: o.veth, Dst: ipNet(netip.PrefixFrom(o.addr, 32)), Gw: via.AsSlice(), Table: unix.RT_TABLE_MAIN})
			if err != nil {
				errs = append(errs, fmt.Errorf("route public address %s: %w", o.addr, err))
				continue
			}
		}
		errs = append(errs, l.answer(links, outside, o.addr, proxies))
	}
	return errors.Join(errs...)
}

// answer makes the machine answer ARP for the address on the link that leads out, and on no other.
func (l *Links) answer(links []netlink.Link, outside string, addr netip.Addr, proxies map[netip.Addr][]int) error {
	i := slices.IndexFunc(links, func(link netlink.Link) bool { return link.Attrs().Name == outside })
	for _, index := range proxies[addr] {
		if i >= 0 && links[i].Attrs().Index == index {
			return nil
		}
		if err := unproxy(l.root, index, addr); err != nil {
			return err
		}
	}
	if i < 0 || links[i].Attrs().Flags&net.FlagBroadcast == 0 {
		return nil // nobody asks there
	}
	link := links[i]
	n := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, Flags: netlink.NTF_PROXY, IP: addr.AsSlice()}
	if err := l.root.NeighSet(n); err != nil {
		return fmt.Errorf("answer for public address %s on %s: %w", addr, outside, err)
	}
	announce(link, addr)
	return nil
}

// published returns the public addresses that are routed to veths.
func published(root *netlink.Handle, veths map[int]bool) ([]owned, error) {
	routes, err := dump(func() ([]netlink.Route, error) { return root.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []owned
	for _, r := range routes {
		if !veths[r.LinkIndex] || r.Dst == nil || r.Gw == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		out = append(out, owned{a.Unmap(), r.LinkIndex})
	}
	return out, nil
}

// unpublish is the way back of publish for one address.
func unpublish(root *netlink.Handle, o owned) error {
	proxies, err := proxied(root)
	if err != nil {
		return err
	}
	for _, index := range proxies[o.addr] {
		if err := unproxy(root, index, o.addr); err != nil {
			return err
		}
	}
	err = root.RouteDel(&netlink.Route{LinkIndex: o.veth, Dst: ipNet(netip.PrefixFrom(o.addr, 32)), Table: unix.RT_TABLE_MAIN})
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("withdraw public address %s: %w", o.addr, err)
	}
	return nil
}

// withdraw unpublishes all addresses of a veth. It is not an error if there is no such link.
func withdraw(root *netlink.Handle, veth string) error {
	link, err := root.LinkByName(veth)
	if err != nil {
		return nil
	}
	have, err := published(root, map[int]bool{link.Attrs().Index: true})
	if err != nil {
		return err
	}
	for _, o := range have {
		if err := unpublish(root, o); err != nil {
			return err
		}
	}
	return nil
}

// proxied returns the links on which the machine answers ARP for an address.
func proxied(root *netlink.Handle) (map[netip.Addr][]int, error) {
	list, err := dump(func() ([]netlink.Neigh, error) { return root.NeighProxyList(0, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list proxy entries: %w", err)
	}
	out := map[netip.Addr][]int{}
	for _, n := range list {
		a, _ := netip.AddrFromSlice(n.IP)
		out[a.Unmap()] = append(out[a.Unmap()], n.LinkIndex)
	}
	return out, nil
}

func unproxy(root *netlink.Handle, index int, addr netip.Addr) error {
	n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, Flags: netlink.NTF_PROXY, IP: addr.AsSlice()}
	if err := root.NeighDel(n); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("stop answering for %s: %w", addr, err)
	}
	return nil
}

// announce tells the neighbours outside where the address is now: they may know it at another host's. That a
// frame is lost costs only the time until they ask again, so it has no error.
func announce(link netlink.Link, addr netip.Addr) {
	a := link.Attrs()
	if len(a.HardwareAddr) != 6 {
		return
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	everyone := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	ip := addr.AsSlice()
	frame := slices.Concat(everyone, a.HardwareAddr, []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1}, a.HardwareAddr, ip, make([]byte, 6), ip)
	_ = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: a.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}})
}
