package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Priorities of the policy rules, between the local table's and the main one's. Packets without a mark leave the list at
// the first rule, so their cost does not grow with the number of marks.
const (
	unmarkedPriority = 100
	markedPriority   = 101
	markBits         = 0x1fffffff // the firewall has a use for the others
)

// behind is a prefix that a guest's address is the way to.
type behind struct {
	prefix netip.Prefix
	via    netip.Addr
	index  int
}

func (b behind) route() *netlink.Route {
	return &netlink.Route{LinkIndex: b.index, Dst: ipNet(b.prefix), Gw: b.via.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: unix.RT_TABLE_MAIN}
}

// behinds returns the prefixes that are routed through a namespace's taps.
func (v view) behinds() (out []behind) {
	taps := map[int]bool{}
	for _, l := range v.links {
		taps[l.Attrs().Index] = isTap(l)
	}
	for _, r := range v.routes {
		if r.Dst == nil || r.Gw == nil || !taps[r.LinkIndex] {
			continue
		}
		to, _ := netip.AddrFromSlice(r.Dst.IP)
		via, _ := netip.AddrFromSlice(r.Gw)
		ones, _ := r.Dst.Mask.Size()
		out = append(out, behind{netip.PrefixFrom(to.Unmap(), ones), via.Unmap(), r.LinkIndex})
	}
	return out
}

func (n Network) behinds(indexes map[string]int) (out []behind) {
	for _, t := range n.Taps {
		for _, p := range t.Prefixes {
			out = append(out, behind{p, t.Addresses[0], indexes[t.Name]})
		}
	}
	return out
}

// unroute takes away routes to prefixes, and rules of marks, that are not wished.
func (s *Space) unroute(want Network, v view) error {
	indexes := map[string]int{}
	for _, l := range v.links {
		indexes[l.Attrs().Name] = l.Attrs().Index
	}
	wanted := want.behinds(indexes)
	for _, b := range v.behinds() {
		if slices.Contains(wanted, b) {
			continue
		}
		if err := s.h.RouteDel(b.route()); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("delete route of %s: %w", b.prefix, err)
		}
	}
	have, err := s.marks()
	if err != nil {
		return err
	}
	for mark, rule := range have {
		if slices.ContainsFunc(want.Via, func(w Via) bool { return w.Mark == mark }) || mark == 0 && len(want.Via) > 0 {
			continue
		}
		if err := s.h.RuleDel(&rule); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("delete rule of mark %#x: %w", mark, err)
		}
		if mark == 0 {
			continue
		}
		if err := s.empty(mark); err != nil {
			return err
		}
	}
	return nil
}

// route makes the routes to prefixes and the ways of marks.
func (s *Space) route(want Network, v view, indexes map[string]int) error {
	have := v.behinds()
	for _, b := range want.behinds(indexes) {
		if slices.Contains(have, b) {
			continue
		}
		if err := s.h.RouteReplace(b.route()); err != nil {
			return fmt.Errorf("set route of %s: %w", b.prefix, err)
		}
	}
	if len(want.Via) == 0 {
		return nil
	}
	rules, err := s.marks()
	if err != nil {
		return err
	}
	for _, w := range want.Via {
		index := indexes[w.Tap]
		if l := v.byName[overlayLink]; w.Tap == "" && l != nil {
			index = l.Attrs().Index
		}
		if err := s.way(w, index); err != nil {
			return fmt.Errorf("lead mark %#x to %s: %w", w.Mark, w.To, err)
		}
		if err := s.rule(rules, w.Mark); err != nil {
			return err
		}
	}
	return s.rule(rules, 0)
}

// way makes the one route of a mark's table.
func (s *Space) way(w Via, index int) error {
	if index == 0 {
		return syscall.ENODEV
	}
	routes, err := s.table(w.Mark)
	if err != nil {
		return err
	}
	if len(routes) == 1 && routes[0].LinkIndex == index && routes[0].Gw.Equal(w.To.AsSlice()) {
		return nil
	}
	return s.h.RouteReplace(&netlink.Route{
		LinkIndex: index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: w.To.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: int(w.Mark),
	})
}

func (s *Space) table(id uint32) ([]netlink.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return s.h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: int(id)}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of table %#x: %w", id, err)
	}
	return routes, nil
}

func (s *Space) empty(table uint32) error {
	routes, err := s.table(table)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if err := s.h.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("empty table %#x: %w", table, err)
		}
	}
	return nil
}

// marks returns our policy rules by their marks.
func (s *Space) marks() (map[uint32]netlink.Rule, error) {
	rules, err := dump(func() ([]netlink.Rule, error) { return s.h.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list policy rules: %w", err)
	}
	have := map[uint32]netlink.Rule{}
	for _, r := range rules {
		if r.Priority == unmarkedPriority || r.Priority == markedPriority {
			have[r.Mark] = r
		}
	}
	return have, nil
}

func (s *Space) rule(have map[uint32]netlink.Rule, mark uint32) error {
	if _, ok := have[mark]; ok {
		return nil
	}
	all := uint32(markBits)
	r := netlink.NewRule()
	r.Family, r.Priority, r.Mark, r.Mask, r.Table = netlink.FAMILY_V4, markedPriority, mark, &all, int(mark)
	if mark == 0 {
		r.Priority, r.Table = unmarkedPriority, unix.RT_TABLE_MAIN
	}
	if err := s.h.RuleAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("add rule of mark %#x: %w", mark, err)
	}
	return nil
}
