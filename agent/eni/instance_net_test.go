//go:build net

package eni

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

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
			world := outside(t)
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

// A kernel whose reverse path filter is strict (rp_filter 1) drops what it would not answer by the interface that it came in by, and says
// nothing. The host finds out by which one it takes what, and leads it there.
func TestAGuestWithAStrictFilterIsReachedOnAllAddresses(t *testing.T) {
	world := outside(t)
	m := start(t, "eig")
	all := []Interface{ofInstance(1, "i-1"), ofInstance(2, "i-1"), ofInstance(3, "i-1"), ofInstance(4, "i-2")}
	for n := range 3 {
		all[n].DeviceIndex = n
	}
	all[1].Groups = []cloud.GroupID{"sg-ping"} // what comes to it by another interface is still for its groups to judge
	c := open(config("eig", all...))
	ping := cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: "sg-ping", VPC: "vpc-1"}}
	ping.Ingress = []cloud.GroupRule{{Protocol: "icmp", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
	c.VPCs[0].Groups = append(c.VPCs[0].Groups, ping)
	apply(t, m, c)
	g := cards(t, m, 3)
	peer := configured(t, m, 4)
	g.Sysctl("ipv4/conf/all/rp_filter", "1")
	reached := func() (lost []string) {
		for n := 1; n <= 3; n++ {
			if _, err := peer.Run("ping", "-c", "1", "-W", "1", guestAddr(n).String()); err != nil {
				lost = append(lost, guestAddr(n).String()+" from inside")
			}
			if _, err := world.Run("ping", "-c", "1", "-W", "1", publicAddr(n).String()); err != nil {
				lost = append(lost, publicAddr(n).String()+" from outside")
			}
		}
		return lost
	}
	await := func(what string) {
		t.Helper()
		for began := time.Now(); ; {
			lost := reached()
			if len(lost) == 0 {
				return
			}
			if time.Since(began) > 60*soon {
				t.Fatalf("%s: %v\n%s\n%v", what, lost, g.IP("route"), m.Counters())
			}
		}
	}
	await("with a strict filter")
	changes := nstest.Changes(t, "eig-vpc-1")
	apply(t, m, c)
	if got := changes(); got != "" {
		t.Errorf("an Apply that has nothing to do changed:\n%s", got)
	}
	tcp(t, g.Namespace, netip.MustParseAddrPort("0.0.0.0:8080"))
	for n, want := range map[int]bool{1: true, 2: false, 3: true} {
		if got := reaches(t, peer.Namespace, guestAddr(n).String()+":8080"); got != want {
			t.Errorf("%s: the port is open: %v, want %v", guestAddr(n), got, want)
		}
	}
	// Routes of its own for each interface, as cloud-init and our agent make them: now the host must not lead.
	for n := 1; n <= 3; n++ {
		g.IP("route add default via 172.31.0.1 dev eth%d table %d", n-1, 100+n)
		g.IP("rule add from %s table %d", guestAddr(n), 100+n)
	}
	await("with routes of its own")
	for began := time.Now(); strings.Contains(nstest.Run(t, "ip", "netns", "exec", "eig-vpc-1", "nft", "list", "ruleset"), "v_way"); {
		if time.Since(began) > 60*soon {
			t.Fatal("the host still leads packets for a guest that takes them where they belong")
		}
	}
	await("with routes of its own, and the host's rules gone")
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
