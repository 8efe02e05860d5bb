package link

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A VPC that is on several hosts has one VXLAN device in its namespace (RFC 7348), whose socket is the root namespace's.
// It carries routed packets, no network: each address of another host is a host route to it with that host as the next
// hop, each host one permanent neighbour and one forwarding entry. So nothing is flooded, learned or asked for, a packet
// costs the same however many addresses there are, and who is not in the wish is nowhere.
//
//	10.0.1.7 via 192.0.2.2 dev vx0 onlink  ->  192.0.2.2 lladdr 02:76:c0:00:02:02  ->  02:76:c0:00:02:02 dst 192.0.2.2
//
// The next hop of IPv6 is the link-local address with the host's in its last four bytes.

const (
	overlayLink = "vx0"
	// GroupPeer is the group of the links that lead to other hosts.
	GroupPeer = 30
	// OverlayPort is VXLAN's, of UDP.
	OverlayPort = 4789
	// overlayCost is what VXLAN puts around a packet: Ethernet, VXLAN, UDP and IPv4 headers.
	overlayCost = 14 + 8 + 8 + 20
)

// Peer is another host that has guests of the network.
type Peer struct {
	Underlay  netip.Addr     // of IPv4
	Addresses []netip.Addr   // of both families
	Prefixes6 []netip.Prefix // behind them
}

// OverlayMTU returns what the network of an underlay address has room for inside of VXLAN.
func OverlayMTU(underlay netip.Addr) (int, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(underlay.AsSlice()) {
			l, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("find the link of %s: %w", underlay, err)
			}
			return l.Attrs().MTU - overlayCost, nil
		}
	}
	return 0, fmt.Errorf("no link of this machine has the underlay address %s", underlay)
}

// overlayMAC is the hardware address of a host's devices: locally administered, "v" and the underlay address.
func overlayMAC(underlay netip.Addr) net.HardwareAddr {
	ip := underlay.As4()
	return net.HardwareAddr{0x02, 'v', ip[0], ip[1], ip[2], ip[3]}
}

// hop6 is a host as the next hop of IPv6.
func hop6(underlay netip.Addr) netip.Addr {
	a, ip := [16]byte{0: 0xfe, 1: 0x80}, underlay.As4()
	copy(a[12:], ip[:])
	return netip.AddrFrom16(a)
}

// overlay makes the device of a network, or takes it away. One that is of another number or address is made anew.
func (l *Links) overlay(want Config, n Network, s *Space) error {
	have, err := s.h.LinkByName(overlayLink)
	var none netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &none) {
		return fmt.Errorf("find %s: %w", overlayLink, err)
	}
	if err != nil {
		have = nil
	}
	wanted := n.Overlay != 0 && want.Underlay.Is4()
	if x, ok := have.(*netlink.Vxlan); have != nil && (!wanted || !ok || x.VxlanId != int(n.Overlay) || x.Port != OverlayPort || !x.SrcAddr.Equal(want.Underlay.AsSlice())) {
		if err := deleteLink(s.h, overlayLink); err != nil {
			return err
		}
		have = nil
	}
	if !wanted {
		return nil
	}
	mtu, err := OverlayMTU(want.Underlay)
	if err != nil {
		return err
	}
	if have == nil {
		err := s.With(func(fd int) error {
			return l.root.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: overlayLink, MTU: mtu, Group: GroupPeer, HardwareAddr: overlayMAC(want.Underlay), Namespace: netlink.NsFd(fd)},
				VxlanId:   int(n.Overlay), SrcAddr: want.Underlay.AsSlice(), Port: OverlayPort, NoAge: true,
			})
		})
		if err != nil {
			return fmt.Errorf("make %s with number %d: %w", overlayLink, n.Overlay, err)
		}
		if have, err = s.h.LinkByName(overlayLink); err != nil {
			return fmt.Errorf("find %s: %w", overlayLink, err)
		}
	}
	return s.raiseOverlay(have, mtu, len(n.Closed6) > 0)
}

func (s *Space) raiseOverlay(link netlink.Link, mtu int, six bool) error {
	conf, conf6 := "ipv4/conf/"+overlayLink+"/", "ipv6/conf/"+overlayLink+"/"
	values := [][2]string{
		{conf + "forwarding", "1"}, {conf + "rp_filter", "0"}, {conf + "proxy_arp", "0"}, {conf + "send_redirects", "0"}, {conf + "accept_redirects", "0"},
	}
	if six {
		values = append(values, [][2]string{
			{conf6 + "addr_gen_mode", "1"}, {conf6 + "accept_ra", "0"}, {conf6 + "autoconf", "0"}, {conf6 + "accept_redirects", "0"},
			{conf6 + "forwarding", "1"}, {conf6 + "disable_ipv6", "0"},
		}...)
	}
	if err := s.Do(func() error { return sysctls(values) }); err != nil {
		return err
	}
	if link.Attrs().Group != GroupPeer {
		if err := s.h.LinkSetGroup(link, GroupPeer); err != nil {
			return fmt.Errorf("set group of %s: %w", overlayLink, err)
		}
	}
	if link.Attrs().MTU != mtu {
		if err := s.h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s: %w", overlayLink, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := s.h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", overlayLink, err)
		}
	}
	return nil
}

// far is what leads to other hosts: routes by their destination, and the hosts that are neighbours. It is what the kernel
// is known to have as long as the memory beside it is good.
type far struct {
	index  int // of the device; 0: there is none
	routes map[netip.Prefix]netip.Addr
	hosts  map[netip.Addr]bool
	six    bool
}

// farWanted is what a network wants.
func farWanted(n Network) far {
	f := far{routes: map[netip.Prefix]netip.Addr{}, hosts: map[netip.Addr]bool{}, six: len(n.Closed6) > 0}
	for _, p := range n.Peers {
		f.hosts[p.Underlay] = true
		for _, a := range p.Addresses {
			switch {
			case a.Is4():
				f.routes[netip.PrefixFrom(a, 32)] = p.Underlay
			case f.six:
				f.routes[netip.PrefixFrom(a, 128)] = hop6(p.Underlay)
			}
		}
		for _, d := range p.Prefixes6 {
			if f.six {
				f.routes[d.Masked()] = hop6(p.Underlay)
			}
		}
	}
	return f
}

// lookFar reads what the kernel has.
func (s *Space) lookFar() (*far, error) {
	f := &far{routes: map[netip.Prefix]netip.Addr{}, hosts: map[netip.Addr]bool{}}
	link, err := s.h.LinkByName(overlayLink)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", overlayLink, err)
	}
	f.index = link.Attrs().Index
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return s.h.RouteListFiltered(family, &netlink.Route{LinkIndex: f.index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes of %s: %w", overlayLink, err)
		}
		for _, r := range routes {
			to, via := prefixOf(r.Dst), netip.Addr{}
			if a, ok := netip.AddrFromSlice(r.Gw); ok {
				via = a.Unmap()
			}
			if to.IsValid() && via.IsValid() {
				f.routes[netip.PrefixFrom(to.Addr().Unmap(), to.Bits())] = via
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, unix.AF_BRIDGE} { // who is not all of it is none
		neighs, err := dump(func() ([]netlink.Neigh, error) { return s.h.NeighList(f.index, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours of %s: %w", overlayLink, err)
		}
		seen := map[netip.Addr]bool{}
		for _, n := range neighs {
			if a, ok := netip.AddrFromSlice(n.IP); ok && n.State&netlink.NUD_PERMANENT != 0 && a.Unmap().Is4() && n.HardwareAddr.String() == overlayMAC(a.Unmap()).String() {
				seen[a.Unmap()] = true
			}
		}
		if family == netlink.FAMILY_V4 {
			f.hosts = seen
			continue
		}
		maps.DeleteFunc(f.hosts, func(a netip.Addr, _ bool) bool { return !seen[a] })
	}
	return f, nil
}

// knownFar returns what there is, from memory if that is good.
func (s *Space) knownFar() (*far, error) {
	if s.memory != nil && s.far != nil {
		return s.far, nil
	}
	f, err := s.lookFar()
	if err == nil {
		s.far = f
	}
	return f, err
}

func (f *far) route(to netip.Prefix, via netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: f.index, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: unix.RT_TABLE_MAIN}
	r.Dst = &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	return r
}

// neighbours are the entries of a host: who it is on the device, and where that is.
func (f *far) neighbours(host netip.Addr) []*netlink.Neigh {
	mac := overlayMAC(host)
	list := []*netlink.Neigh{
		{LinkIndex: f.index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: host.AsSlice(), HardwareAddr: mac},
		{LinkIndex: f.index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: host.AsSlice(), HardwareAddr: mac},
	}
	if f.six {
		list = append(list, &netlink.Neigh{LinkIndex: f.index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT, IP: hop6(host).AsSlice(), HardwareAddr: mac})
	}
	return list
}

// pruneFar takes away what leads to other hosts and is not wanted, and returns the addresses that became free: their
// connections must be forgotten before somebody else has them.
func (s *Space) pruneFar(n Network) (gone []netip.Addr, err error) {
	have, err := s.knownFar()
	if err != nil || have.index == 0 {
		return nil, err
	}
	want := farWanted(n)
	defer s.settle()
	for to, via := range have.routes {
		if want.routes[to] == via {
			continue
		}
		if err := s.h.RouteDel(have.route(to, via)); err != nil && !errors.Is(err, syscall.ESRCH) {
			return gone, fmt.Errorf("delete route of %s: %w", to, err)
		}
		delete(have.routes, to)
		if _, moved := want.routes[to]; to.IsSingleIP() && !moved {
			gone = append(gone, to.Addr())
		}
	}
	for host := range have.hosts {
		if want.hosts[host] {
			continue
		}
		for _, e := range have.neighbours(host) {
			if err := s.h.NeighDel(e); err != nil && !errors.Is(err, syscall.ENOENT) {
				return gone, fmt.Errorf("delete neighbour %s: %w", host, err)
			}
		}
		delete(have.hosts, host)
	}
	return gone, nil
}

// settle takes in the notices of what we have changed ourselves.
func (s *Space) settle() {
	if s.memory != nil {
		s.listen(true)
	}
}

// attachFar makes what leads to other hosts.
func (s *Space) attachFar(n Network) error {
	want := farWanted(n)
	have, err := s.knownFar()
	if err != nil || len(want.hosts) == 0 {
		return err
	}
	if have.index == 0 {
		return fmt.Errorf("lead to other hosts: %w", syscall.ENODEV)
	}
	have.six = have.six || want.six
	defer s.settle()
	for _, host := range slices.SortedFunc(maps.Keys(want.hosts), netip.Addr.Compare) {
		if have.hosts[host] {
			continue
		}
		for _, e := range have.neighbours(host) {
			if err := s.h.NeighSet(e); err != nil {
				return fmt.Errorf("set neighbour %s: %w", host, err)
			}
		}
		have.hosts[host] = true
	}
	for to, via := range want.routes {
		if have.routes[to] == via {
			continue
		}
		if err := s.h.RouteReplace(have.route(to, via)); err != nil {
			return fmt.Errorf("set route of %s: %w", to, err)
		}
		have.routes[to] = via
	}
	return nil
}
