package link

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vethName is the root namespace's end of a network's uplink: prefix (<= 8) + "-" + 6 = 15 bytes.
func vethName(prefix, network string) string {
	sum := sha256.Sum256([]byte(network))
	return prefix + "-" + hex.EncodeToString(sum[:3])
}

func ownVeth(prefix, name string) bool {
	return len(name) == len(prefix)+7 && name[:len(prefix)+1] == prefix+"-"
}

// prepare gives a namespace all that does not depend on its guests.
func (s *Space) prepare(n Network) error {
	err := s.Do(func() error {
		return sysctls([][2]string{
			{"ipv4/ip_forward", "1"}, // first: it resets others
			{"ipv4/conf/all/rp_filter", "0"},
			{"ipv4/conf/default/rp_filter", "0"},
			{"ipv4/conf/all/send_redirects", "0"},
			{"ipv4/conf/default/send_redirects", "0"},
			{"ipv4/conf/all/accept_redirects", "0"},
			{"ipv4/conf/default/accept_redirects", "0"},
			{"ipv6/conf/all/disable_ipv6", "1"}, // for all that are there and will come: six.go takes out whom it needs
			{"ipv6/conf/default/disable_ipv6", "1"},
			{"ipv6/conf/default/addr_gen_mode", "1"}, // no link-local address
		})
	})
	if err != nil {
		return err
	}
	lo, err := s.h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := s.h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	if err := s.local(lo, n.Local); err != nil {
		return err
	}
	if err := s.shut(n.Closed); err != nil {
		return err
	}
	return s.prepare6(n, lo)
}

// local makes the addresses of lo, beside 127.0.0.1, the wanted ones.
func (s *Space) local(lo netlink.Link, want []netip.Addr) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return s.h.AddrList(lo, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of lo: %w", err)
	}
	var have []netip.Addr
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if ip.IsLoopback() {
			continue
		}
		if slices.Contains(want, ip) {
			have = append(have, ip)
		} else if err := s.h.AddrDel(lo, &a); err != nil {
			return fmt.Errorf("delete address %s: %w", ip, err)
		}
	}
	for _, ip := range want {
		if slices.Contains(have, ip) {
			continue
		}
		if err := s.h.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))}); err != nil {
			return fmt.Errorf("add address %s: %w", ip, err)
		}
	}
	return nil
}

// shut makes the VPC's prefixes end here: an address without a guest is not sent out of the uplink, and
// nobody answers ARP for it.
func (s *Space) shut(want []netip.Prefix) error {
	v, err := s.look()
	if err != nil {
		return err
	}
	var have []netip.Prefix
	for _, r := range v.routes {
		if r.Type != unix.RTN_BLACKHOLE || r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(a.Unmap(), ones)
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
		if err := s.h.RouteReplace(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_MAIN}); err != nil {
			return fmt.Errorf("close prefix %s: %w", p, err)
		}
	}
	return nil
}

// uplink joins a namespace to the root namespace. The pair of addresses, once chosen, stays with the veth.
func (l *Links) uplink(want Config, n Network, s *Space) (Range, error) {
	name := vethName(l.prefix, n.Name)
	r, err := l.pair(want, n, s, name)
	if err != nil {
		return Range{}, fmt.Errorf("make uplink %s: %w", name, err)
	}
	inner, err := s.h.LinkByName(Uplink)
	if err != nil {
		return r, fmt.Errorf("find %s: %w", Uplink, err)
	}
	if err := s.raise(inner, r.Prefix.Addr().Next()); err != nil {
		return r, err
	}
	if err := s.defaultRoute(inner.Attrs().Index, r.Prefix.Addr()); err != nil {
		return r, err
	}
	outside, err := l.outside(want.Outside)
	if err != nil {
		return r, err
	}
	// Only the two links that carry guests' packets forward, not the whole host.
	if outside != "" {
		if err := forward(outside, l.prefix); err != nil {
			return r, err
		}
		if out, err := l.root.LinkByName(outside); err == nil {
			r.outside = out.Attrs().Index
		}
	}
	if err := sysctl("ipv4/conf/"+name+"/forwarding", "1"); err != nil {
		return r, err
	}
	return r, l.uplink6(n, s, name, outside)
}

// pair finds or makes the veth pair and its addresses: the even one outside, the odd one inside (RFC 3021).
func (l *Links) pair(want Config, n Network, s *Space, name string) (Range, error) {
	unlock, err := lockMachine()
	if err != nil {
		return Range{}, err
	}
	defer unlock()
	veth, err := l.root.LinkByName(name)
	if err == nil {
		if _, inErr := s.h.LinkByName(Uplink); inErr != nil { // its other end is in a namespace that is gone
			if err := deleteLink(l.root, name); err != nil {
				return Range{}, err
			}
			veth = nil
		}
	}
	if err != nil || veth == nil {
		err := s.With(func(fd int) error {
			return l.root.LinkAdd(&netlink.Veth{
				LinkAttrs:     netlink.LinkAttrs{Name: name, Group: GroupUplink},
				PeerName:      Uplink,
				PeerNamespace: netlink.NsFd(fd),
			})
		})
		if err != nil {
			return Range{}, err
		}
		if veth, err = l.root.LinkByName(name); err != nil {
			return Range{}, err
		}
		if err := l.root.LinkSetAlias(veth, n.Name); err != nil {
			return Range{}, fmt.Errorf("set alias: %w", err)
		}
	}
	index := veth.Attrs().Index
	addrs, err := dump(func() ([]netlink.Addr, error) { return l.root.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return Range{}, fmt.Errorf("list addresses: %w", err)
	}
	r := Range{Network: n.Name, Veth: name, index: index}
	for _, a := range addrs {
		if ip, _ := netip.AddrFromSlice(a.IP); a.LinkIndex == index {
			if ones, _ := a.Mask.Size(); ones == 31 {
				r.Prefix = netip.PrefixFrom(ip.Unmap(), 31).Masked()
			}
		}
	}
	if !r.Prefix.IsValid() {
		used, err := l.used(addrs)
		if err != nil {
			return r, err
		}
		if r.Prefix, err = Choose(want.Pool, used, l.prefix+n.Name); err != nil {
			return r, err
		}
		if err := l.root.AddrReplace(veth, &netlink.Addr{IPNet: ipNet(r.Prefix)}); err != nil {
			return r, fmt.Errorf("add address %s: %w", r.Prefix, err)
		}
	}
	if veth.Attrs().Flags&net.FlagUp == 0 {
		if err := l.root.LinkSetUp(veth); err != nil {
			return r, fmt.Errorf("set up: %w", err)
		}
	}
	return r, nil
}

// used returns all prefixes that the root namespace has addresses in or, beside the default, routes to.
func (l *Links) used(addrs []netlink.Addr) ([]netip.Prefix, error) {
	routes, err := dump(func() ([]netlink.Route, error) { return l.root.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var nets []*net.IPNet
	for _, a := range addrs {
		nets = append(nets, a.IPNet)
	}
	for _, r := range routes {
		nets = append(nets, r.Dst)
	}
	var used []netip.Prefix
	for _, n := range nets {
		if n == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(n.IP)
		if ones, _ := n.Mask.Size(); ones > 0 {
			used = append(used, netip.PrefixFrom(a.Unmap(), ones).Masked())
		}
	}
	return used, nil
}

// Choose returns a /31 of the pool that overlaps nothing used. The search starts where the seed says, so
// that hosts which start together rarely look at the same place.
func Choose(pool netip.Prefix, used []netip.Prefix, seed string) (netip.Prefix, error) {
	if !pool.IsValid() || !pool.Addr().Is4() || pool.Bits() > 31 {
		return netip.Prefix{}, fmt.Errorf("choose uplink addresses: pool %s is not an IPv4 prefix of /31 or larger", pool)
	}
	base := binary.BigEndian.Uint32(pool.Masked().Addr().AsSlice())
	count := uint32(1) << (31 - pool.Bits())
	sum := sha256.Sum256([]byte(seed))
	start := binary.BigEndian.Uint32(sum[:]) % count
	for i := range count {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+2*((start+i)%count))
		p := netip.PrefixFrom(netip.AddrFrom4(b), 31)
		if !slices.ContainsFunc(used, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("choose uplink addresses: no free pair in %s: configure another range", pool)
}

func (s *Space) raise(link netlink.Link, addr netip.Addr) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return s.h.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", Uplink, err)
	}
	if len(addrs) != 1 || !addrs[0].IP.Equal(addr.AsSlice()) {
		for _, a := range addrs {
			if err := s.h.AddrDel(link, &a); err != nil {
				return fmt.Errorf("delete address %s: %w", a.IP, err)
			}
		}
		if err := s.h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 31))}); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if link.Attrs().Group != GroupUplink {
		if err := s.h.LinkSetGroup(link, GroupUplink); err != nil {
			return fmt.Errorf("set group of %s: %w", Uplink, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := s.h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", Uplink, err)
		}
	}
	return nil
}

func (s *Space) defaultRoute(index int, via netip.Addr) error {
	v, err := s.look()
	if err != nil {
		return err
	}
	for _, r := range v.routes {
		if isDefault(r) && r.LinkIndex == index && r.Gw.Equal(via.AsSlice()) {
			return nil
		}
	}
	err = s.h.RouteReplace(&netlink.Route{LinkIndex: index, Gw: via.AsSlice(), Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Table: unix.RT_TABLE_MAIN})
	if err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	return nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Type == unix.RTN_UNICAST
}

// outside returns the link that leads out of the root namespace, empty if there is none yet.
func (l *Links) outside(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	routes, err := dump(func() ([]netlink.Route, error) { return l.root.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if isDefault(r) && r.LinkIndex > 0 {
			link, err := l.root.LinkByIndex(r.LinkIndex)
			if err != nil {
				return "", fmt.Errorf("find uplink: %w", err)
			}
			return link.Attrs().Name, nil
		}
	}
	return "", nil
}

// lockMachine keeps other hosts on this machine from choosing addresses at the same time.
func lockMachine() (unlock func(), err error) {
	d, err := os.Open(spaceDir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", spaceDir, err)
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", spaceDir, err)
	}
	return func() { d.Close() }, nil
}
