package eni

import (
	"slices"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
)

// cut ends the tracked connections that the rules do not let in any more, after the rules are in place: so none of
// them comes back. It looks at the connections only when something was taken away since it last did, or when it does not
// know what an earlier agent had seen to.
func (m *Manager) cut(plan Plan, ranges []link.Range) error {
	for network := range m.cuts {
		if _, ok := plan.Firewall[network]; !ok {
			delete(m.cuts, network)
		}
	}
	for network, cfg := range plan.Firewall {
		before, known := m.cuts[network]
		if known && !firewall.Narrows(before, cfg) {
			m.cuts[network] = cfg
			continue
		}
		r := slices.IndexFunc(ranges, func(r link.Range) bool { return r.Network == network })
		if r < 0 {
			continue
		}
		s, err := m.links.Space(network)
		if err != nil {
			return err
		}
		judge := firewall.NewJudge(cfg, ranges[r].Prefix.Addr().Next())
		n, err := s.Cut(func(f link.Flow) bool { return !judge.Allows(firewall.Flow(f)) })
		if err != nil {
			return err
		}
		if n > 0 {
			m.log.Info("connections ended that the rules do not allow any more", "network", network, "connections", n)
		}
		m.cuts[network] = cfg
	}
	return nil
}
