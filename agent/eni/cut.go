package eni

import (
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
)

// cut ends the tracked connections that the rules do not let in any more, after the rules are in place: so none of
// them comes back. It looks at the connections only when something was taken away since it last did, or when it does not
// know what an earlier agent had seen to. Those of the addresses that were released are forgotten in the same look: each
// reads the whole table, which costs 3 ms even where it is empty.
func (m *Manager) cut(plan Plan, ranges []link.Range, released link.Released) error {
	for network := range m.cuts {
		if _, ok := plan.Firewall[network]; !ok {
			delete(m.cuts, network)
		}
	}
	for network, cfg := range plan.Firewall {
		before, known := m.cuts[network]
		r := slices.IndexFunc(ranges, func(r link.Range) bool { return r.Network == network })
		if wide := known && !firewall.Narrows(before, cfg); wide || r < 0 {
			if err := m.forgetIn(network, released[network]); err != nil {
				return err
			}
			if wide {
				m.cuts[network] = cfg
			}
			continue
		}
		s, err := m.links.Space(network)
		if err != nil {
			return err
		}
		judge := firewall.NewJudge(cfg, ranges[r].Prefix.Addr().Next())
		gone, n := map[netip.Addr]bool{}, 0
		for _, a := range released[network] {
			gone[a] = true
		}
		_, err = s.Cut(func(f link.Flow) bool {
			if gone[f.Source.Addr()] || gone[f.Destination.Addr()] || gone[f.ReplySource.Addr()] || gone[f.ReplyDestination.Addr()] {
				return true
			}
			if judge.Allows(firewall.Flow(f)) {
				return false
			}
			n++
			return true
		})
		if err != nil {
			return err
		}
		s.Forgotten(released[network])
		if n > 0 {
			m.log.Info("connections ended that the rules do not allow any more", "network", network, "connections", n)
		}
		m.cuts[network] = cfg
	}
	return nil
}
