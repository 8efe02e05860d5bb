package eni

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Account is what the rules have counted for one interface: what it sent by address, and what was dropped by reason.
type Account struct {
	Network   string
	Interface cloud.InterfaceID
	Sent      []firewall.Sent
	Dropped   []firewall.Drop

	shaper string // whose drops are its: of an instance's interfaces the first one's
}

// exceeded adds what was dropped beyond the bandwidth, in packets.
func (a *Account) exceeded(by map[string]link.Excess) {
	x := by[a.shaper]
	for reason, n := range map[string]uint64{"bandwidth_in": x.Received, "bandwidth_out": x.Sent} {
		if n > 0 {
			a.Dropped = append(a.Dropped, firewall.Drop{Interface: TapName(a.Interface), Reason: reason, Count: firewall.Count{Packets: n}})
		}
	}
}

// Accounts reads what the kernel has counted for every interface, in order of their IDs. A VPC that cannot be read
// is left out.
func (m *Manager) Accounts() []Account {
	m.mu.Lock()
	applied := m.applied
	m.mu.Unlock()
	byNetwork := map[string]map[string]*Account{}
	for _, v := range applied.VPCs { // of a VPC whose interfaces are all gone, counters may be left to delete
		byNetwork[string(v.VPC.ID)] = map[string]*Account{}
	}
	for _, i := range applied.Interfaces {
		if accounts := byNetwork[string(i.VPC)]; accounts != nil {
			a := &Account{Network: string(i.VPC), Interface: i.ID}
			if i.DeviceIndex == 0 {
				a.shaper = shaper(*i).Name
			}
			accounts[TapName(i.ID)] = a
		}
	}
	var out []Account
	for network, accounts := range byNetwork {
		if err := m.account(network, accounts); err != nil {
			m.log.Warn("packets not counted", "network", network, "err", err)
			continue
		}
		for _, a := range accounts {
			out = append(out, *a)
		}
	}
	slices.SortFunc(out, func(a, b Account) int { return cmp.Compare(a.Interface, b.Interface) })
	return out
}

func (m *Manager) account(network string, accounts map[string]*Account) error {
	s, err := m.links.Space(network)
	if err != nil {
		return err
	}
	return s.With(func(fd int) error {
		drops, sent, err := firewall.Account(fd, func(name string) bool { return accounts[name] != nil || name == link.Uplink })
		if err != nil {
			return err
		}
		for _, d := range drops {
			if a := accounts[d.Interface]; a != nil {
				a.Dropped = append(a.Dropped, d)
			}
		}
		excess, err := s.Excess()
		if err != nil {
			return err
		}
		for _, a := range accounts {
			a.exceeded(excess)
		}
		for _, x := range sent {
			if a := accounts[x.Interface]; a != nil {
				a.Sent = append(a.Sent, x)
			}
		}
		return nil
	})
}

var (
	sentPackets    = describe("sent_packets_total", "Packets that an interface has sent from an address.", "vpc", "interface", "address")
	sentBytes      = describe("sent_bytes_total", "Bytes that an interface has sent from an address.", "vpc", "interface", "address")
	droppedPackets = describe("dropped_packets_total", "Packets from or to an interface that the rules have dropped.", "vpc", "interface", "reason")
	droppedBytes   = describe("dropped_bytes_total", "Bytes from or to an interface that the rules have dropped.", "vpc", "interface", "reason")
	inGuest        = describe("address_in_guest", "1 if the guest has a further address of an interface, 0 if packets for it go to the first one.", "vpc", "interface", "address")
	events         = describe("events_total", "What DHCP has done, and what the rules have dropped in all.", "event")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("ichiro", "network", name), help, labels, nil)
}

// Describe is the prometheus.Collector's.
func (m *Manager) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sentPackets, sentBytes, droppedPackets, droppedBytes, inGuest, events} {
		to <- d
	}
}

// Collect reads the kernel's counters: nothing is counted twice, and nothing is lost when the agent starts again.
func (m *Manager) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, a := range m.Accounts() {
		for _, s := range a.Sent {
			count(sentPackets, s.Packets, a.Network, string(a.Interface), s.Address.String())
			count(sentBytes, s.Bytes, a.Network, string(a.Interface), s.Address.String())
		}
		for _, d := range a.Dropped {
			count(droppedPackets, d.Packets, a.Network, string(a.Interface), d.Reason)
			count(droppedBytes, d.Bytes, a.Network, string(a.Interface), d.Reason)
		}
	}
	m.mu.Lock()
	interfaces := m.applied.Interfaces
	m.mu.Unlock()
	for _, i := range interfaces {
		for _, a := range m.known(i) {
			has := 1.
			if a.Missing {
				has = 0
			}
			to <- prometheus.MustNewConstMetric(inGuest, prometheus.GaugeValue, has, string(i.VPC), string(i.ID), a.Addr.String())
		}
	}
	for event, n := range m.Counters() {
		count(events, n, event)
	}
}
