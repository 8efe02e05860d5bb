//go:build net

package eni

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// metered gathers the metrics of a manager: name{label=value ...} to value.
func metered(t *testing.T, m *Manager) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, x := range f.GetMetric() {
			name := f.GetName()
			for _, l := range x.GetLabel() {
				if l.GetName() != "vpc" {
					name += " " + l.GetValue()
				}
			}
			got[name] = x.GetCounter().GetValue() + x.GetGauge().GetValue()
		}
	}
	return got
}

func TestPacketsAreCountedForTheirInterface(t *testing.T) {
	m := start(t, "ema")
	c := open(config("ema", guestInterface(1, "sg-open"), guestInterface(2, "sg-other")))
	apply(t, m, c)
	a, b := configured(t, m, 1), configured(t, m, 2)
	before := metered(t, m)
	for range 3 {
		a.Inject(datagram(a, guestAddr(9), guestAddr(2), "spoofed"))
	}
	for range 5 {
		a.Inject(datagram(a, guestAddr(1), guestAddr(2), "unwanted"))
	}
	b.Inject(nstest.Ethernet(nstest.Broadcast, b.MAC, 0x0806, nstest.ARP(2, b.MAC, guestAddr(1), nstest.Broadcast, guestAddr(1))))
	settled(t, a)
	settled(t, b)
	after := metered(t, m)
	one, two := guestInterface(1).ID, guestInterface(2).ID
	for name, want := range map[string]float64{
		fmt.Sprintf("ichiro_network_dropped_packets_total %s spoof", one):     3,
		fmt.Sprintf("ichiro_network_dropped_packets_total %s sgin", two):      5,
		fmt.Sprintf("ichiro_network_dropped_packets_total %s arp_spoof", two): 1,
		fmt.Sprintf("ichiro_network_dropped_packets_total %s spoof", two):     0,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	// 5 datagrams and the ping of settled, at least.
	name := fmt.Sprintf("ichiro_network_sent_packets_total %s %s", guestAddr(1), one)
	if got := after[name] - before[name]; got < 6 {
		t.Errorf("%s: got %v, want 6 or more", name, got)
	}
	// An interface that goes takes its counters along: nothing fills up.
	apply(t, m, open(config("ema", guestInterface(2, "sg-other"))))
	metered(t, m)
	if got := nstest.IP(t, "netns exec ema-vpc-1 nft list set inet eni n_spoof"); contains(TapName(one))([]byte(got)) {
		t.Errorf("the set still has the interface that is gone:\n%s", got)
	}
}

// settled waits until all that the guest has put on its wire has been judged: an answer from the gateway says so.
func settled(t *testing.T, g *nstest.Guest) {
	t.Helper()
	if out, err := g.Run("ping", "-c", "1", "-W", "5", "172.31.0.1"); err != nil {
		t.Fatalf("ping of the gateway: %s", out)
	}
}
