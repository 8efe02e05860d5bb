package eni

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/presence"
)

// asked names a namespace to the server of presence: one that has replaced another is another.
func asked(s *link.Space) string { return fmt.Sprintf("%s@%d", s.Name(), s.ID()) }

// lead decides for every network which addresses lead to the first one of their interface, since the guest does not have
// them. A new agent takes over what the rules of an old one say, until it has asked itself.
func (m *Manager) lead(plan Plan) error {
	for _, n := range plan.Link.Networks {
		cfg := plan.Firewall[n.Name]
		if !slices.ContainsFunc(n.Taps, func(t *link.Tap) bool { return len(t.Addresses) > 1 }) {
			delete(m.led, n.Name)
			continue
		}
		s, err := m.links.Space(n.Name)
		if err != nil {
			return err
		}
		known, ok := m.missing[asked(s)]
		if !ok {
			if err := s.With(func(fd int) (err error) { known, err = firewall.ReadMoved(fd); return err }); err != nil {
				return fmt.Errorf("find what is led in %s: %w", n.Name, err)
			}
			m.missing[asked(s)] = known
		} else if at := m.presence.Addresses(asked(s)); at != nil {
			known = known[:0:0]
			for _, a := range at {
				if a.Missing {
					known = append(known, a.Addr)
				}
			}
			m.missing[asked(s)] = known
		}
		cfg.Moved = moves(n.Taps, known)
		plan.Firewall[n.Name] = cfg
		m.sayLed(n.Name, cfg.Moved)
	}
	return nil
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
func (m *Manager) ask(plan Plan, indexes map[string]map[string]int) error {
	var networks []presence.Network
	missing := map[string][]netip.Addr{}
	for k, l := range plan.DHCP {
		n := presence.Network{}
		for i, t := range plan.Link.Networks[k].Taps {
			if index := indexes[l.Network][t.Name]; index > 0 && len(t.Addresses) > 1 {
				h := l.Hosts[i]
				n.Hosts = append(n.Hosts, presence.Host{Index: index, MAC: h.MAC, Source: h.Source, Router: h.Router, Addresses: t.Addresses})
			}
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
func (m *Manager) known(i Interface) []presence.Address {
	if len(i.Addresses) < 2 {
		return nil
	}
	s, err := m.links.Space(string(i.VPC))
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(m.presence.Addresses(asked(s)), func(a presence.Address) bool { return !slices.Contains(i.Addresses, a.Addr) })
}
