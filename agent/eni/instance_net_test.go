//go:build net

package eni

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// ofInstance is the n-th interface as one of an instance, with a public address.
func ofInstance(n int, id cloud.InstanceID) Interface {
	i := guestInterface(n, "sg-open")
	i.Instance = id
	i.Public = []cloud.PublicAddress{{Public: publicAddr(n), Private: guestAddr(n)}}
	return i
}

// publicAddr is an address of the link between the host and the world, so that somebody must answer ARP for it.
func publicAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + n)}) }

// open adds the group sg-open, which everybody may reach, to the VPC.
func open(c Config) Config {
	g := cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: "sg-open", VPC: "vpc-1"}}
	g.Ingress = []cloud.GroupRule{{ID: "sgr-3", Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
	g.Egress = g.Ingress
	for _, i := range c.Interfaces {
		g.Members = append(g.Members, i.Addresses...)
	}
	c.VPCs[0].Groups = append(c.VPCs[0].Groups, g)
	return c
}

// cards boots one guest with the interfaces 1 to n as plain DHCP sets them up.
func cards(t *testing.T, m *Manager, n int) *nstest.Guest {
	t.Helper()
	g := boot(t, m, 1)
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("eth%d", i-1)
		if i > 1 {
			tap, err := m.Tap(guestInterface(i).ID)
			if err != nil {
				t.Fatal(err)
			}
			g.Plug(name, guestInterface(i).MAC, tap)
		}
		if out, err := g.Run("busybox", "udhcpc", "-i", name, "-n", "-q", "-f", "-s", script(t)); err != nil {
			t.Fatalf("udhcpc on %s: %v\n%s\n%v", name, err, out, m.Counters())
		}
	}
	return g
}

// answered counts how many of 20 pings from a namespace are.
func answered(t *testing.T, from *nstest.Namespace, to netip.Addr) (lost string, ok bool) {
	t.Helper()
	out, err := from.Run("ping", "-q", "-c", "20", "-i", "0.01", "-W", "2", to.String())
	return out, err == nil && loss.MatchString(out)
}

func TestAGuestWithThreeInterfacesInOneSubnetNeedsNoConfiguration(t *testing.T) {
	for _, filter := range []string{"0", "2"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			world := nstest.Internet(t, "203.0.113.1")
			m := start(t, "eia")
			all := []Interface{ofInstance(1, "i-1"), ofInstance(2, "i-1"), ofInstance(3, "i-1"), ofInstance(4, "i-2")}
			apply(t, m, open(config("eia", all...)))
			g := cards(t, m, 3)
			peer := configured(t, m, 4)
			for _, name := range []string{"all", "eth0", "eth1", "eth2"} {
				g.Sysctl("ipv4/conf/"+name+"/rp_filter", filter)
			}
			for n := 1; n <= 3; n++ {
				if out, ok := answered(t, peer.Namespace, guestAddr(n)); !ok {
					t.Errorf("%s from inside: %s\n%v", guestAddr(n), out, m.Counters())
				}
				if out, ok := answered(t, world, publicAddr(n)); !ok {
					t.Errorf("%s from outside: %s\n%v", publicAddr(n), out, m.Counters())
				}
			}
		})
	}
}

func TestAStrictHostLetsAnInterfaceSpeakAsItselfOnly(t *testing.T) {
	m := start(t, "eib")
	c := open(config("eib", ofInstance(1, "i-1"), ofInstance(2, "i-1"), ofInstance(3, "i-2")))
	c.Strict = true
	apply(t, m, c)
	cards(t, m, 2)
	peer := configured(t, m, 3)
	lost := 0
	for n := 1; n <= 2; n++ {
		if _, ok := answered(t, peer.Namespace, guestAddr(n)); !ok {
			lost++
		}
	}
	if lost != 1 {
		t.Errorf("%d of two interfaces do not answer, want the one that has not the default route", lost)
	}
	if n := m.Counters()["vpc-1/spoof"] + m.Counters()["vpc-1/arp_spoof"]; n == 0 {
		t.Error("the answers with the other interface's address were not counted")
	}
}

// The interface that an address belongs to decides what it may reach, whichever card it leaves by.
func TestTheGroupsAreThoseOfTheAddress(t *testing.T) {
	m := start(t, "eic")
	mute := ofInstance(2, "i-1")
	mute.Groups = []cloud.GroupID{"sg-mute"}
	c := open(config("eic", ofInstance(1, "i-1"), mute, ofInstance(3, "i-2")))
	c.VPCs[0].Groups = append(c.VPCs[0].Groups, cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: "sg-mute", VPC: "vpc-1"}})
	apply(t, m, c)
	g, peer := cards(t, m, 2), configured(t, m, 3)
	listen(t, peer.Namespace, "172.31.0.13:8080")
	for n, want := range map[int]bool{1: true, 2: false} {
		out, err := g.Run("ping", "-c", "1", "-W", "1", "-I", guestAddr(n).String(), "172.31.0.13")
		if got := err == nil; got != want {
			t.Errorf("ping from %s: got %v, want %v: %s", guestAddr(n), got, want, out)
		}
	}
}
