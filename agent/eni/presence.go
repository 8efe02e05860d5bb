package eni

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/presence"
)

// asked names a namespace to the server of presence: one that has replaced another is another.
func asked(s *link.Space) string { return fmt.Sprintf("%s@%d", s.Name(), s.ID()) }

// lead decides for every network which addresses lead to the first one of their interface, since the guest does not have
// them. A new agent takes over what the rules of an old one say, until it has asked itself.
func (m *Manager) lead(plan Plan) error {
	for k := range plan.Link.Networks {
		n := &plan.Link.Networks[k]
		cfg := plan.Firewall[n.Name]
		s, err := m.links.Space(n.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nobody is in it yet
		}
		if err != nil {
			return err
		}
		leadWays(m.presence.Ways(asked(s)), plan.DHCP[k], n, &cfg)
		m.sayWays(n.Name, cfg.Ways)
		plan.Firewall[n.Name] = cfg
		if !slices.ContainsFunc(n.Taps, func(t *link.Tap) bool { return len(t.Addresses) > 1 }) {
			delete(m.led, n.Name)
			continue
		}
		known, ok := m.missing[asked(s)]
		if at := m.presence.Addresses(asked(s)); at != nil {
			known = nil
			for _, a := range at {
				if a.Missing {
					known = append(known, a.Addr)
				}
			}
		} else if !ok {
			if err := s.With(func(fd int) (err error) { known, err = firewall.ReadMoved(fd); return err }); err != nil {
				return fmt.Errorf("find what is led in %s: %w", n.Name, err)
			}
		}
		m.missing[asked(s)] = known
		cfg.Moved = moves(n.Taps, known)
		plan.Firewall[n.Name] = cfg
		m.sayLed(n.Name, cfg.Moved)
	}
	return nil
}

// world stands for whoever a guest reaches by its default route: an address that nobody has (RFC 5737).
var world = netip.MustParseAddr("192.0.2.1")

// leadWays leads to other interfaces of an instance what its guest takes there only. It is pure.
func leadWays(ways []presence.Way, l Leases, n *link.Network, cfg *firewall.Config) {
	if len(ways) == 0 {
		return
	}
	n.Via = slices.Clone(n.Via) // the compiler has it too
	for _, w := range ways {
		way := firewall.Way{To: w.To, From: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
		if k := slices.IndexFunc(l.Hosts, func(h *dhcp.Host) bool { return h.Router == w.From }); k >= 0 {
			way.From = l.Hosts[k].Subnet
		} else if w.From != world {
			continue // of a subnet that has no interface here any more
		}
		if w.Through.IsValid() {
			k := slices.IndexFunc(n.Taps, func(t *link.Tap) bool { return t.Addresses[0] == w.Through })
			if k < 0 {
				continue // it is gone, and its sibling is asked again
			}
			way.Name, way.Mark = n.Taps[k].Name, cfg.Interfaces[k].Mark
			via := link.Via{Mark: way.Mark, Tap: way.Name, To: w.Through}
			if slices.ContainsFunc(n.Via, func(o link.Via) bool { return o.Mark == via.Mark && o != via }) {
				continue // two of 2^28 marks are the same
			}
			n.Via = append(n.Via, via)
		}
		cfg.Ways = append(cfg.Ways, way)
	}
	slices.SortFunc(n.Via, func(a, b link.Via) int { return cmp.Compare(a.Mark, b.Mark) })
	n.Via = slices.Compact(n.Via)
}

// sayWays logs what is led elsewhere otherwise than before.
func (m *Manager) sayWays(network string, now []firewall.Way) {
	if slices.Equal(m.ways[network], now) {
		return
	}
	m.ways[network] = now
	for _, w := range now {
		if w.Name != "" {
			m.log.Info("a guest drops what comes for one of its addresses by its own interface: it goes to another", "network", network, "address", w.To, "from", w.From, "tap", w.Name)
		}
	}
	if len(now) == 0 {
		m.log.Info("guests take what comes for their addresses by their own interfaces again", "network", network)
	}
}

// kin are, by place, the places of all interfaces of the same instance, of those that have several and may speak as
// each other.
func kin(want Config, network string, list []*firewall.Interface) map[int][]int {
	if want.Strict || !slices.ContainsFunc(want.Interfaces, func(i *Interface) bool { return i.DeviceIndex > 0 && string(i.VPC) == network }) {
		return nil
	}
	by, out := map[string][]int{}, map[int][]int{}
	for k := range list {
		by[list[k].Instance] = append(by[list[k].Instance], k)
	}
	for id, places := range by {
		if id == "" || len(places) < 2 {
			continue
		}
		for _, k := range places {
			out[k] = places
		}
	}
	return out
}

// moves are pure: of the addresses that are missing those that some tap has, and not first.
func moves(taps []*link.Tap, missing []netip.Addr) (out []firewall.Moved) {
	if len(missing) == 0 {
		return nil
	}
	is := make(map[netip.Addr]bool, len(missing))
	for _, a := range missing {
		is[a] = true
	}
	for _, t := range taps {
		for _, a := range t.Addresses[1:] {
			if is[a] {
				out = append(out, firewall.Moved{From: a, To: t.Addresses[0]})
			}
		}
	}
	slices.SortFunc(out, func(a, b firewall.Moved) int { return a.From.Compare(b.From) })
	return out
}

// sayLed logs what is led otherwise than before.
func (m *Manager) sayLed(network string, now []firewall.Moved) {
	before := m.led[network]
	for _, l := range now {
		if !slices.Contains(before, l) {
			m.log.Info("a guest does not have one of its addresses: packets for it go to its first", "network", network, "address", l.From, "first", l.To)
		}
	}
	for _, l := range before {
		if !slices.Contains(now, l) {
			m.log.Info("packets for an address go to it again", "network", network, "address", l.From)
		}
	}
	m.led[network] = now
}

// ask has guests asked for the addresses of the taps that are there now.
func (m *Manager) ask(plan Plan, want Config, indexes map[string]map[string]int) error {
	var networks []presence.Network
	missing := map[string][]netip.Addr{}
	for k, l := range plan.DHCP {
		n, taps := presence.Network{}, plan.Link.Networks[k].Taps
		family := kin(want, l.Network, plan.Firewall[l.Network].Interfaces)
		for i, t := range taps {
			index := indexes[l.Network][t.Name]
			if index == 0 || len(t.Addresses) < 2 && len(family[i]) == 0 {
				continue
			}
			h := l.Hosts[i]
			host := presence.Host{Index: index, MAC: h.MAC, Source: h.Source, Router: h.Router, Addresses: t.Addresses}
			for _, s := range family[i] {
				if s == i {
					continue
				}
				if at := indexes[l.Network][taps[s].Name]; at > 0 {
					host.Siblings = append(host.Siblings, presence.Sibling{Index: at, First: taps[s].Addresses[0]})
				}
				if r := l.Hosts[s].Router; r != h.Router && !slices.Contains(host.Others, r) {
					host.Others = append(host.Others, r)
				}
			}
			if len(host.Siblings) > 0 {
				host.Others = append(host.Others, world)
			}
			n.Hosts = append(n.Hosts, host)
		}
		if len(n.Hosts) == 0 {
			continue // not even a socket
		}
		s, err := m.links.Space(l.Network)
		if err != nil {
			return err
		}
		n.Name, n.Enter = asked(s), s.Do
		missing[n.Name] = m.missing[n.Name]
		networks = append(networks, n)
	}
	for name := range m.missing {
		if _, ok := missing[name]; !ok {
			delete(m.missing, name)
		}
	}
	return m.presence.Apply(networks, missing)
}

// known is what guests have of an interface's further addresses: nil for an interface that has none.
func (m *Manager) known(i *Interface) []presence.Address {
	if len(i.Addresses) < 2 {
		return nil
	}
	s, err := m.links.Space(string(i.VPC))
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(m.presence.Addresses(asked(s)), func(a presence.Address) bool { return !slices.Contains(i.Addresses, a.Addr) })
}
