//go:build net

package eni

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// The test's VPC has a block of IPv6, and its subnets one each: subnet-1 has 2001:db8:0:1::/64.
var (
	block6    = netip.MustParsePrefix("2001:db8::/56")
	gateway6  = netip.MustParseAddr("2001:db8:0:1::1")
	ownRouter = netip.AddrFrom16(wire.LinkLocal(link.RouterMAC))
)

func guestAddr6(n int) netip.Addr { return sixIn(1, n) }

// sixIn is the address of the n-th interface in the k-th subnet.
func sixIn(k, n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::%x", k, 10+n))
}

// guest6 is the n-th interface with an IPv6 address.
func guest6(n int, groups ...cloud.GroupID) Interface {
	i := guestInterface(n, groups...)
	i.Network.Blocks = []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-1", CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}
	i.IPv6 = []netip.Addr{guestAddr6(n)}
	return i
}

// config6 is config with IPv6: groups let out what they let out of IPv4.
func config6(prefix string, interfaces ...Interface) Config {
	c := config(prefix, interfaces...)
	v := &c.VPCs[0]
	v.VPC.Blocks = []cloud.CIDRBlock{{ID: "vpc-cidr-assoc-1", CIDR: block6}}
	v.Subnets[0].Blocks = []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-1", CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}
	for k := range v.Groups {
		g := &v.Groups[k]
		g.Egress = append(g.Egress, cloud.GroupRule{ID: "sgr-6", Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "::/0"})
		for _, i := range interfaces {
			for _, in := range i.Groups {
				if in == g.ID {
					g.Members = append(g.Members, i.IPv6...)
				}
			}
		}
	}
	return c
}

// configured6 is a booted guest with both its addresses, and the router that it is told of.
func configured6(t *testing.T, m *Manager, i Interface) *nstest.Guest {
	t.Helper()
	tap, err := m.Tap(i.ID)
	if err != nil {
		t.Fatal(err)
	}
	g := nstest.NewGuest(t, m.prefix+"guest"+i.MAC[len(i.MAC)-2:], i.MAC, tap)
	g.IP("addr add %s/20 dev eth0", i.Primary())
	g.IP("route add default via 172.31.0.1")
	enable6(g)
	for _, a := range i.IPv6 {
		g.IP("addr add %s/128 dev eth0 nodad", a)
	}
	g.IP("-6 route replace default via %s dev eth0", ownRouter)
	return g
}

// enable6 gives a guest IPv6 without waiting for what its kernel checks first.
func enable6(g *nstest.Guest) {
	g.Sysctl("ipv6/conf/lo/disable_ipv6", "0")
	g.Sysctl("ipv6/conf/eth0/accept_dad", "0")
	g.Sysctl("ipv6/conf/eth0/disable_ipv6", "0")
}

func at6(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

func TestGuestsReachEachOtherByIPv6(t *testing.T) {
	m := start(t, "e6a")
	elsewhere := guest6(3, "sg-default") // in another subnet
	elsewhere.Subnet, elsewhere.Network.ID = "subnet-2", "subnet-2"
	elsewhere.Network.Blocks = []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-2", CIDR: netip.MustParsePrefix("2001:db8:0:2::/64")}}
	elsewhere.IPv6 = []netip.Addr{sixIn(2, 3)}
	without := guestInterface(5, "sg-default")
	all := []Interface{guest6(1, "sg-default"), guest6(2, "sg-default"), elsewhere, guest6(4, "sg-other"), without}
	apply(t, m, config6("e6a", all...))
	a, b, c, other := configured6(t, m, all[0]), configured6(t, m, all[1]), configured6(t, m, all[2]), configured6(t, m, all[3])
	for _, l := range []struct {
		g  *nstest.Guest
		at netip.Addr
	}{{a, guestAddr6(1)}, {b, guestAddr6(2)}, {c, sixIn(2, 3)}, {other, guestAddr6(4)}} {
		listen(t, l.g.Namespace, at6(l.at, 8080))
	}
	for name, way := range map[string]struct {
		from *nstest.Guest
		to   netip.Addr
		want bool
	}{
		"in the subnet":                    {a, guestAddr6(2), true},
		"the way back":                     {b, guestAddr6(1), true},
		"to the next subnet":               {a, sixIn(2, 3), true},
		"from the next subnet":             {c, guestAddr6(1), true},
		"into a group that lets nobody in": {a, guestAddr6(4), false},
		"out of it, to a stranger":         {other, guestAddr6(1), false},
		"to an address that nobody has":    {a, sixIn(1, 200), false},
	} {
		if got := reaches(t, way.from.Namespace, at6(way.to, 8080)); got != way.want {
			t.Errorf("%s: got %v, want %v; counters %v", name, got, way.want, m.Counters())
		}
	}
	if out, err := a.Run("ping", "-6", "-c", "1", "-W", "5", gateway6.String()); err != nil {
		t.Errorf("the subnet's router does not answer: %s", out)
	}
	if got := nstest.IP(t, "-n e6a-vpc-1 -6 addr"); strings.Contains(got, "fe80") || strings.Contains(got, TapName(without.ID)) {
		t.Errorf("the kernel has addresses of its own on taps, or IPv6 where none is wanted:\n%s", got)
	}
}

// Nobody on the way makes fragments of IPv6: who sends too much must hear of it, from an address of the VPC.
func TestAGuestHearsThatAPacketOfIPv6IsTooBig(t *testing.T) {
	m := start(t, "e6m")
	all := []Interface{guest6(1, "sg-default"), guest6(2, "sg-default")}
	all[1].MTU = 1400
	apply(t, m, config6("e6m", all...))
	g := configured6(t, m, all[0])
	configured6(t, m, all[1])
	g.IP("link set eth0 mtu 9001")
	out, _ := g.Run("ping", "-6", "-M", "do", "-c", "1", "-W", "5", "-s", "3000", guestAddr6(2).String())
	if !strings.Contains(out, "From "+gateway6.String()) || !strings.Contains(out, "mtu=1400") {
		t.Errorf("got %q, want to be told of 1400 bytes by %s; counters %v", out, gateway6, m.Counters())
	}
}
