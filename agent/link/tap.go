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

	// By index of the link, so that thousands of taps are not sought in thousands of routes.
	byName map[string]netlink.Link
	hosts  map[int][]netip.Addr // the destinations of its host routes
	near   map[int][]netlink.Neigh
	queues map[int][]netlink.Qdisc // read for networks with shapers only
	six    view6
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
	v.index()
	if v.six, err = s.look6(); err != nil {
		return v, err
	}
	return v, nil
}

func (v *view) index() {
	v.byName = make(map[string]netlink.Link, len(v.links))
	for _, l := range v.links {
		v.byName[l.Attrs().Name] = l
	}
	v.hosts = make(map[int][]netip.Addr, len(v.links))
	for _, r := range v.routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		if ones, _ := r.Dst.Mask.Size(); ok && ones == 32 {
			v.hosts[r.LinkIndex] = append(v.hosts[r.LinkIndex], a.Unmap())
		}
	}
	v.near = make(map[int][]netlink.Neigh, len(v.links))
	for _, n := range v.neighs {
		v.near[n.LinkIndex] = append(v.near[n.LinkIndex], n)
	}
}

func isTap(l netlink.Link) bool {
	g := l.Attrs().Group
	return l.Type() == "tuntap" || l.Type() == "tun" || g == GroupTap || g == groupDoomed
}

// addresses returns the host routes through a link.
func (v view) addresses(index int) []netip.Addr { return v.hosts[index] }

// fresh returns the addresses of taps that are not routed yet.
func (v view) fresh(taps []*Tap) []netip.Addr {
	var fresh []netip.Addr
	for _, t := range taps {
		var have []netip.Addr
		if l := v.byName[t.Name]; l != nil {
			have = v.addresses(l.Attrs().Index)
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
	for _, n := range v.near[index] {
		if n.IP.Equal(a.AsSlice()) && n.Flags&netlink.NTF_PROXY == 0 {
			return n.HardwareAddr, n.State&netlink.NUD_PERMANENT != 0
		}
	}
	return nil, false
}

// prune removes what the wish does not name and returns the addresses that became free.
func (s *Space) prune(want Network) ([]netip.Addr, error) {
	if s.trusted() == nil {
		s.unsure = false // all is read from here on
	}
	far, err := s.pruneFar(want)
	if err != nil {
		return far, err
	}
	near, err := s.pruneNear(want)
	return append(far, near...), err
}

// pruneNear is prune for what this host has.
func (s *Space) pruneNear(want Network) ([]netip.Addr, error) {
	m := s.trusted()
	if m == nil || !m.simple(want) {
		s.doubt("")
		return s.pruneFull(want)
	}
	gone, err := s.pruneKnown(m, want)
	if err == nil {
		return gone, nil
	}
	s.doubt("")
	more, err := s.pruneFull(want)
	return append(gone, more...), err
}

func (s *Space) pruneFull(want Network) ([]netip.Addr, error) {
	v, err := s.look()
	if err != nil {
		return nil, err
	}
	if err := s.queues(&v, want); err != nil {
		return nil, err
	}
	wanted := make(map[string]Tap, len(want.Taps))
	for _, t := range want.Taps {
		wanted[t.Name] = *t
	}
	var gone []netip.Addr
	var doomed []device
	for _, l := range v.links {
		if !isTap(l) {
			continue
		}
		index := l.Attrs().Index
		t, ok := wanted[l.Attrs().Name]
		if ok && moved(l, t) {
			t, ok = Tap{}, false
		}
		if !ok {
			doomed = append(doomed, device{l.Attrs().Name, index})
		}
		for _, a := range v.addresses(index) {
			if slices.Contains(t.Addresses, a) {
				continue
			}
			gone = append(gone, a)
			if err := s.withdraw(index, a); err != nil {
				return gone, err
			}
		}
		free, err := s.prune6(l.Attrs().Name, index, t, v.six)
		gone = append(gone, free...)
		if err != nil {
			return gone, err
		}
		for _, n := range v.near[index] {
			a, _ := netip.AddrFromSlice(n.IP)
			if n.State&netlink.NUD_PERMANENT == 0 || slices.Contains(t.Addresses, a.Unmap()) {
				continue
			}
			if err := s.h.NeighDel(&n); err != nil && !errors.Is(err, syscall.ENOENT) {
				return gone, fmt.Errorf("delete neighbour %s: %w", a, err)
			}
		}
	}
	return gone, errors.Join(s.unroute(want, v), s.deleteTaps(doomed), s.unshape(want, &v))
}

// withdraw deletes the route of an address, whose connections must be forgotten before another may have it.
func (s *Space) withdraw(index int, a netip.Addr) error {
	s.owed[a] = true
	if err := s.h.RouteDel(hostRoute(index, a)); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("delete route of %s: %w", a, err)
	}
	return nil
}

// moved reports whether a tap is another machine's than the wish says: a machine that holds it open must not have it
// any more, so it is made anew. Kernels before 4.20 do not tell.
func moved(l netlink.Link, t Tap) bool {
	had, ok := l.(*netlink.Tuntap)
	return ok && had.Owner != 0 && had.Owner != t.Owner
}

// deleteTaps deletes many taps in one request: one by one each costs an RCU grace period, measured 18 ms.
func (s *Space) deleteTaps(taps []device) error {
	if len(taps) == 0 {
		return nil
	}
	for _, t := range taps {
		// By its index: the library would send an unknown name as index 0, which means something else.
		l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: t.name, Index: t.index}}
		if err := s.h.LinkSetGroup(l, groupDoomed); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("doom tap %s: %w", t.name, err)
		}
	}
	return s.deleteGroup(groupDoomed)
}

// device is a link by its name and the kernel's number.
type device struct {
	name  string
	index int
}

// deleteGroup is `ip link delete group N`, which the library lacks. It is not an error if the group is empty.
func (s *Space) deleteGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.Sockets = s.raw
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("delete links of group %d: %w", group, err)
	}
	return nil
}

func hostRoute(index int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(a, 32)), Scope: netlink.SCOPE_LINK, Table: unix.RT_TABLE_MAIN}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// attach makes the taps of a network, and returns their indexes.
func (s *Space) attach(want Network, up Range) (map[string]int, error) {
	if m := s.trusted(); m != nil {
		err := s.attachKnown(m, want)
		if err == nil {
			err = s.attachFar(want)
		}
		if err == nil {
			if s.lookAgain() || s.memory != nil {
				return m.at, nil
			}
		} else {
			s.doubt("")
		}
	}
	at, shapes, err := s.attachFull(want)
	if err == nil {
		err = s.attachFar(want)
	}
	if err == nil {
		s.recall(want, up, at, shapes)
	}
	return at, err
}

func (s *Space) attachFull(want Network) (at map[string]int, shapes *shapes, err error) {
	v, err := s.look()
	if err == nil {
		err = errors.Join(s.queues(&v, want), s.readSettings())
	}
	if err != nil {
		return nil, nil, err
	}
	// A connection that an earlier owner of an address left behind must not pass as established.
	if err := s.forget(append(v.fresh(want.Taps), v.fresh6(want.Taps)...)); err != nil {
		return nil, nil, err
	}
	at = make(map[string]int, len(want.Taps))
	for _, t := range want.Taps {
		index, err := s.attachTap(*t, v.byName[t.Name], v)
		if err != nil {
			return at, nil, err
		}
		at[t.Name] = index
	}
	if err := s.route(want, v, at); err != nil {
		return at, nil, err
	}
	shapes, err = s.shapes(want, &v, at)
	return at, shapes, err
}

// attachTap makes one tap what it should be, in the order device, settings, up, neighbour, route. l is the tap if it
// is there already.
func (s *Space) attachTap(t Tap, l netlink.Link, v view) (index int, err error) {
	if l == nil {
		if err := s.createTap(t); err != nil {
			return 0, err
		}
		if l, err = s.h.LinkByName(t.Name); err != nil {
			return 0, fmt.Errorf("find tap %s: %w", t.Name, err)
		}
	}
	if err := s.tune(t, l); err != nil {
		return 0, fmt.Errorf("set up tap %s: %w", t.Name, err)
	}
	if renamed(l) {
		v.near, v.six.near = nil, nil // they are gone
	}
	if err := s.address(t, l.Attrs().Index, v); err != nil {
		return l.Attrs().Index, err
	}
	return l.Attrs().Index, s.attach6(t, l.Attrs().Index, v.six)
}

// renamed reports whether a tap had another address than the router's.
func renamed(l netlink.Link) bool { return string(l.Attrs().HardwareAddr) != string(RouterMAC[:]) }

// tune gives a tap its settings. That it is up is the last of them: a tap that is up has had the others, and to read five
// files of each would be half of an Apply.
func (s *Space) tune(t Tap, l netlink.Link) error {
	a := l.Attrs()
	up := a.Flags&net.FlagUp != 0
	if !up || s.off[a.Index]&^forwarding6 != 0 {
		forwards := s.off[a.Index]&(1<<netconfForwarding) == 0 // a new link does, as its namespace
		s.mended(a.Index, ^forwarding6)
		conf, neigh := "ipv4/conf/"+t.Name+"/", "ipv4/neigh/"+t.Name+"/"
		err := s.Do(func() error {
			if !forwards {
				if err := write([][2]string{{conf + "forwarding", "1"}}); err != nil {
					return err
				}
			}
			return write([][2]string{
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
	}
	if up && a.Group == GroupTap && !renamed(l) && a.MTU == t.MTU && a.Alias == t.Alias {
		return nil
	}
	return s.set(t, l)
}

// set makes all that a link has of its own in one request, which the kernel carries out in this order: address, MTU,
// group, alias, up (do_setlink in net/core/rtnetlink.c). So no packet comes before the rules know the group.
func (s *Space) set(t Tap, l netlink.Link) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.Sockets = s.raw
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(l.Attrs().Index), unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	if renamed(l) { // never without need: the kernel forgets all neighbours of a link whose address is set
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, RouterMAC[:]))
	}
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(t.MTU))))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(GroupTap)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(t.Alias)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set group, address, MTU and alias: %w", err)
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
type connections map[netip.Addr]bool

func (c connections) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
		a, _ := netip.AddrFromSlice(ip)
		if c[a.Unmap()] {
			return true
		}
	}
	return false
}

// Forget deletes all tracked connections of the addresses.
func (s *Space) Forget(addrs []netip.Addr) error {
	s.work.Lock()
	defer s.work.Unlock()
	return s.forget(addrs)
}

func (s *Space) forget(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	set, families := make(connections, len(addrs)), map[netlink.InetFamily]bool{}
	for _, a := range addrs {
		set[a], families[familyOf(a)] = true, true
	}
	for family := range families {
		_, err := dump(func() ([]struct{}, error) {
			_, err := s.h.ConntrackDeleteFilters(netlink.ConntrackTable, family, set)
			return nil, err
		})
		if err != nil {
			return fmt.Errorf("forget connections of %d addresses, the first %s: %w", len(addrs), addrs[0], err)
		}
	}
	for _, a := range addrs {
		delete(s.owed, a)
	}
	return nil
}

func familyOf(a netip.Addr) netlink.InetFamily {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
