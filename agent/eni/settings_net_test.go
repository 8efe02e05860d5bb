//go:build net

package eni

import (
	"context"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// Whatever a stranger has done to the settings of however many taps, the next Apply finds all of it, also if it has
// something else to repair, or is a new agent's and was told nothing.
func TestSettingsOfSeveralTapsAreRepairedInOneGo(t *testing.T) {
	m, err := New("est", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := Remove(context.Background(), "est"); err != nil {
			t.Error(err)
		}
	})
	c := config("est", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"), guestInterface(3, "sg-default"))
	apply(t, m, c)
	want := map[string]string{}
	for n := 1; n <= 3; n++ {
		tap := TapName(guestInterface(n).ID)
		want["net.ipv4.conf."+tap+".rp_filter"], want["net.ipv4.conf."+tap+".proxy_arp"], want["net.ipv4.conf."+tap+".forwarding"] = "0", "1", "1"
	}
	spoil := func() {
		for setting, good := range want {
			nstest.IP(t, "netns exec est-vpc-1 sysctl -qw %s=%s", setting, map[string]string{"0": "1", "1": "0"}[good])
		}
	}
	for _, c2 := range []struct {
		name string
		do   func()
	}{
		{"nothing else", func() {}},
		{"a route that was deleted too", func() { nstest.IP(t, "-n est-vpc-1 route del 172.31.0.11/32") }},
		{"a new agent", func() {
			m.Close()
			if m, err = New("est", discard); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c2.name, func(t *testing.T) {
			if c2.name == "a new agent" {
				m.Close() // nobody listens while it is done
			}
			spoil()
			c2.do()
			apply(t, m, c)
			for setting, good := range want {
				if got := strings.TrimSpace(nstest.IP(t, "netns exec est-vpc-1 sysctl -n %s", setting)); got != good {
					t.Errorf("%s is %s, want %s", setting, got, good)
				}
			}
			changes := nstest.Changes(t, "est-vpc-1")
			apply(t, m, c)
			if got := changes(); got != "" {
				t.Errorf("the next Apply changed:\n%s", got)
			}
		})
	}
}
