//go:build net

package eni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// outside6 is an internet with IPv6, whose router knows that the test's block is behind this machine. The machine's
// operator lets it forward.
func outside6(t *testing.T) *nstest.Namespace {
	t.Helper()
	world := outside(t)
	nstest.Run(t, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
	t.Cleanup(func() { nstest.Run(t, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0") })
	// A router asks for neighbours from its link-local address, which is not to be waited for: no uplink is as new as this.
	for _, set := range []string{"accept_dad=0", "disable_ipv6=1", "disable_ipv6=0"} {
		nstest.Run(t, "sysctl", "-q", "-w", "net.ipv6.conf.out."+set)
		if out, err := world.Run("sysctl", "-q", "-w", "net.ipv6.conf.in."+set); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	nstest.IP(t, "addr add 2001:db8:fff::1/64 dev out nodad")
	world.IP("addr add 2001:db8:fff::2/64 dev in nodad")
	world.IP("addr add 2001:db8:eee::1/128 dev lo nodad")
	world.IP("-6 route add %s via 2001:db8:fff::1", block6)
	nstest.IP(t, "-6 route add default via 2001:db8:fff::2")
	return world
}

// wayOut gives the VPC an internet gateway for IPv6, and lets everybody into sg-default.
func wayOut(c Config) Config {
	c.Pool6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/48")}
	v := &c.VPCs[0]
	v.Subnets[0].Routes = append(v.Subnets[0].Routes, cloud.HostRoute{Destination: netip.MustParsePrefix("::/0"), Internet: true})
	g := &v.Groups[0]
	g.Ingress = append(g.Ingress, cloud.GroupRule{ID: "sgr-9", Protocol: "tcp", FromPort: 8080, ToPort: 8080, CIDR: "::/0"})
	return c
}

func TestARoutedBlockOfIPv6IsPartOfTheInternet(t *testing.T) {
	world := outside6(t)
	m := start(t, "e6i")
	c := wayOut(config6("e6i", guest6(1, "sg-default"), guest6(2, "sg-other")))
	apply(t, m, c)
	g, closed := configured6(t, m, *c.Interfaces[0]), configured6(t, m, *c.Interfaces[1])
	for _, one := range []struct {
		g  *nstest.Guest
		at netip.Addr
	}{{g, guestAddr6(1)}, {closed, guestAddr6(2)}} {
		listen(t, one.g.Namespace, at6(one.at, 8080))
	}
	listen(t, world, "[2001:db8:eee::1]:443")
	for name, way := range map[string]struct {
		from *nstest.Namespace
		to   string
		want bool
	}{
		"out":                          {g.Namespace, "[2001:db8:eee::1]:443", true},
		"in, as the group allows":      {world, at6(guestAddr6(1), 8080), true},
		"in, where the group does not": {world, at6(guestAddr6(2), 8080), false},
		"to the host's own address":    {g.Namespace, "[2001:db8:fff::1]:22", false},
	} {
		if got := reaches(t, way.from, way.to); got != way.want {
			t.Errorf("%s: got %v, want %v; counters %v", name, got, way.want, m.Counters())
		}
	}
	// Another's address does not leave.
	before := m.Counters()
	g.Inject(datagram6(g, netip.MustParseAddr("2001:db8:eee::7"), netip.MustParseAddr("2001:db8:eee::1"), "forged"))
	if out, err := g.Run("ping", "-6", "-c", "1", "-W", "5", gateway6.String()); err != nil { // behind it in the tap's queue
		t.Fatalf("ping of the router: %s", out)
	}
	if after := m.Counters(); after["vpc-1/spoof"] == before["vpc-1/spoof"] {
		t.Errorf("a forged source was not counted: %v", after)
	}
	// Twice is once, and without the pool nothing is left.
	changes := nstest.Changes(t, "e6i-vpc-1")
	apply(t, m, c)
	if got := changes(); got != "" {
		t.Errorf("the second Apply changed:\n%s", got)
	}
	c.Pool6 = nil
	apply(t, m, c)
	if routes := nstest.IP(t, "-6 route"); strings.Contains(routes, block6.String()) {
		t.Errorf("the block is still routed:\n%s", routes)
	}
	if reaches(t, world, at6(guestAddr6(1), 8080)) || reaches(t, g.Namespace, "[2001:db8:eee::1]:443") {
		t.Error("without a pool there is still a way")
	}
}

// A subnet whose table does not lead IPv6 to the internet gateway is not part of the internet, in neither direction.
func TestASubnetWithoutARouteOfIPv6IsNotPartOfTheInternet(t *testing.T) {
	world := outside6(t)
	m := start(t, "e6n")
	c := wayOut(config6("e6n", guest6(1, "sg-default")))
	routes := c.VPCs[0].Subnets[0].Routes
	c.VPCs[0].Subnets[0].Routes = routes[:len(routes)-1]
	apply(t, m, c)
	g := configured6(t, m, *c.Interfaces[0])
	listen(t, g.Namespace, at6(guestAddr6(1), 8080))
	listen(t, world, "[2001:db8:eee::1]:443")
	before := m.Counters()
	if reaches(t, g.Namespace, "[2001:db8:eee::1]:443") || reaches(t, world, at6(guestAddr6(1), 8080)) {
		t.Error("there is a way")
	}
	if after := m.Counters(); after["vpc-1/noroute"] == before["vpc-1/noroute"] || after["vpc-1/uplink"] == before["vpc-1/uplink"] {
		t.Errorf("out and in were not counted: %v", after)
	}
}
