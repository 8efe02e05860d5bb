//go:build net

package eni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// two is a VPC of two subnets of the default VPC's sizes, which lie beside each other: guests 1 to 99 are in the first
// one, those from 101 on in the second, at 172.31.16.(10+n-100).
func two(prefix string, first, second []cloud.HostRoute, interfaces ...Interface) Config {
	c := open(config(prefix, interfaces...))
	c.VPCs[0].Subnets = []cloud.HostSubnet{
		{Subnet: subnet, Routes: first},
		{Subnet: cloud.Subnet{ID: "subnet-2", VPC: "vpc-1", CIDR: netip.MustParsePrefix("172.31.16.0/20")}, Routes: second},
	}
	for n, i := range c.Interfaces {
		if i.Addresses[0].As4()[2] == 16 {
			c.Interfaces[n].Subnet, c.Interfaces[n].Network = "subnet-2", c.VPCs[0].Subnets[1].Subnet
		}
	}
	return c
}

// second is the n-th interface of the second subnet.
func second(n int, groups ...cloud.GroupID) Interface {
	i := guestInterface(100+n, groups...)
	i.Addresses = []netip.Addr{secondAddr(n)}
	return i
}

func secondAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{172, 31, 16, byte(10 + n)}) }

// inSecond boots the n-th guest of the second subnet.
func inSecond(t *testing.T, m *Manager, n int) *nstest.Guest {
	t.Helper()
	g := boot(t, m, 100+n)
	g.IP("addr add %s/20 dev eth0", secondAddr(n))
	g.IP("route add default via 172.31.16.1")
	return g
}

func to(destination string, set func(*cloud.HostRoute)) cloud.HostRoute {
	r := cloud.HostRoute{Destination: netip.MustParsePrefix(destination)}
	set(&r)
	return r
}

func internet(r *cloud.HostRoute)  { r.Internet = true }
func blackHole(r *cloud.HostRoute) {}

func TestOnlyWhatARouteAllowsLeaves(t *testing.T) {
	world := outside(t)
	world.IP("addr add 203.0.113.65/32 dev lo")
	world.IP("addr add 192.0.2.1/32 dev lo")
	m := start(t, "era")
	routes := []cloud.HostRoute{to("203.0.113.0/24", internet), to("203.0.113.64/26", blackHole)}
	apply(t, m, two("era", []cloud.HostRoute{to("0.0.0.0/0", internet)}, routes, publicly(1, "sg-open"), secondPublic(1, "sg-open")))
	free, bound := configured(t, m, 1), inSecond(t, m, 1)
	for _, a := range []string{"203.0.113.1:443", "203.0.113.65:443", "192.0.2.1:443"} {
		listen(t, world, a)
		if !reaches(t, free.Namespace, a) {
			t.Errorf("the subnet with a way to everywhere does not reach %s: %v", a, m.Counters())
		}
	}
	cases := []struct {
		address, counter string
		want             bool
	}{
		{"203.0.113.1:443", "", true},
		{"203.0.113.65:443", "vpc-1/blackhole", false},
		{"192.0.2.1:443", "vpc-1/noroute", false},
		{"172.31.0.11:22", "", true}, // always local
	}
	listen(t, free.Namespace, "172.31.0.11:22")
	for _, c := range cases {
		before := m.Counters()[c.counter]
		if got := reaches(t, bound.Namespace, c.address); got != c.want {
			t.Errorf("%s: got %v, want %v: %v", c.address, got, c.want, m.Counters())
		}
		if after := m.Counters()[c.counter]; c.counter != "" && after == before {
			t.Errorf("%s: %s did not move", c.address, c.counter)
		}
	}
	// The route goes: so do the connections that it carried, into the VPC too.
	at := tcp(t, world, netip.MustParseAddrPort("203.0.113.1:444"))
	s := at.stay(t, bound.Namespace, netip.MustParseAddrPort("203.0.113.1:444"))
	apply(t, m, two("era", []cloud.HostRoute{to("0.0.0.0/0", internet)}, nil, publicly(1, "sg-open"), secondPublic(1, "sg-open")))
	if s.alive(t) {
		t.Error("a connection lives on although its route is gone")
	}
	listen(t, bound.Namespace, "172.31.16.11:8080")
	if reaches(t, world, secondPublicAddr(1).String()+":8080") {
		t.Error("a guest without a way out answers the world")
	}
}

func secondPublicAddr(n int) netip.Addr { return publicAddr(100 + n) }

func secondPublic(n int, groups ...cloud.GroupID) Interface {
	i := second(n, groups...)
	i.Public = []cloud.PublicAddress{{Public: secondPublicAddr(n), Private: secondAddr(n)}}
	return i
}

func TestAGatewayTranslatesForItsSubnetsAndDestinations(t *testing.T) {
	world := outside(t)
	world.IP("addr add 192.0.2.1/32 dev lo")
	m := start(t, "erb")
	gateway := publicAddr(60)
	routes := []cloud.HostRoute{to("0.0.0.0/0", func(r *cloud.HostRoute) { r.NAT = gateway }), to("192.0.2.0/24", internet)}
	c := two("erb", []cloud.HostRoute{to("0.0.0.0/0", internet)}, routes, guestInterface(1, "sg-open"), secondPublic(1, "sg-open"), second(2, "sg-open"))
	apply(t, m, c)
	first, named, plain := configured(t, m, 1), inSecond(t, m, 1), inSecond(t, m, 2)
	for _, c := range []struct {
		from    *nstest.Guest
		address string
		want    string
	}{
		{plain, "203.0.113.1:443", gateway.String()},
		{named, "203.0.113.1:444", gateway.String()}, // the route decides, not the address that it has
		{named, "192.0.2.1:443", secondPublicAddr(1).String()},
		{first, "203.0.113.1:445", "198.51.100.1"},
	} {
		if got := seen(t, c.from.Namespace, world, c.address); got != c.want {
			t.Errorf("%s to %s is seen as %q, want %s: %v", c.from.Name, c.address, got, c.want, m.Counters())
		}
	}
	if reaches(t, world, gateway.String()+":22") {
		t.Error("the gateway's address is answered")
	}
	if out, err := plain.Run("ping", "-c", "1", "-W", "2", "203.0.113.1"); err != nil {
		t.Errorf("ping through the gateway: %s", out)
	}
	before := inside(t, "erb-vpc-1") + machine(t)
	apply(t, m, c)
	if after := inside(t, "erb-vpc-1") + machine(t); after != before {
		t.Errorf("the second Apply changed:\n%s\nbefore:\n%s", after, before)
	}
}

// The second subnet's way out is an instance of the first one, with the check switched off.
func TestARouteLeadsThroughAnInstance(t *testing.T) {
	world := outside(t)
	m := start(t, "erc")
	hop := publicly(1, "sg-open")
	hop.SourceDestCheck = false
	through := to("0.0.0.0/0", func(r *cloud.HostRoute) { r.Interface, r.Via = hop.ID, guestAddr(1) })
	first := []cloud.HostRoute{to("0.0.0.0/0", internet)}
	c := two("erc", first, []cloud.HostRoute{through}, hop, second(1, "sg-open"), guestInterface(2, "sg-open"))
	apply(t, m, c)
	nat, guest, peer := configured(t, m, 1), inSecond(t, m, 1), configured(t, m, 2)
	nat.Sysctl("ipv4/ip_forward", "1")
	if out, err := nat.Run("nft", "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p ip saddr 172.31.16.0/20 masquerade"); err != nil {
		t.Fatalf("nft: %s", out)
	}
	if got := seen(t, guest.Namespace, world, "203.0.113.1:443"); got != publicAddr(1).String() {
		t.Errorf("the world sees the guest as %q, want the instance's %s: %v", got, publicAddr(1), m.Counters())
	}
	listen(t, peer.Namespace, "172.31.0.12:8080")
	if !reaches(t, guest.Namespace, "172.31.0.12:8080") {
		t.Errorf("the VPC is not local any more: %v", m.Counters())
	}
	metadata(t, m)
	if !reaches(t, guest.Namespace, Metadata.String()) {
		t.Error("the way to everywhere has taken the metadata service along")
	}
	if got := seen(t, peer.Namespace, world, "203.0.113.1:446"); got != "198.51.100.1" {
		t.Errorf("the instance's own subnet leaves as %q", got)
	}
	before := inside(t, "erc-vpc-1") + nstest.IP(t, "-n erc-vpc-1 rule") + nstest.IP(t, "-n erc-vpc-1 route show table all")
	apply(t, m, c)
	if after := inside(t, "erc-vpc-1") + nstest.IP(t, "-n erc-vpc-1 rule") + nstest.IP(t, "-n erc-vpc-1 route show table all"); after != before {
		t.Errorf("the second Apply changed:\n%s\nbefore:\n%s", after, before)
	}

	// With the check on, the instance gets nothing that is not for it.
	checked := hop
	checked.SourceDestCheck = true
	apply(t, m, two("erc", first, []cloud.HostRoute{through}, checked, second(1, "sg-open"), guestInterface(2, "sg-open")))
	if listen(t, world, "203.0.113.1:447"); reaches(t, guest.Namespace, "203.0.113.1:447") {
		t.Error("an instance forwards although it is checked")
	}
	if m.Counters()["vpc-1/blackhole"] == 0 {
		t.Errorf("the black hole did not count: %v", m.Counters())
	}
	apply(t, m, two("erc", first, nil, checked, second(1, "sg-open"), guestInterface(2, "sg-open")))
	if got := nstest.IP(t, "-n erc-vpc-1 rule"); strings.Count(got, "\n") != 3 {
		t.Errorf("rules are left:\n%s", got)
	}
}

// A firewall appliance between two subnets forwards without translation: the groups of the destination are asked although
// the same connection has been let through to the appliance.
func TestWhatAnInstanceForwardsIsJudgedAgain(t *testing.T) {
	outside(t)
	m := start(t, "erd")
	hop := guestInterface(1, "sg-open")
	hop.SourceDestCheck = false
	via := func(prefix string) cloud.HostRoute {
		return to(prefix, func(r *cloud.HostRoute) { r.Interface, r.Via = hop.ID, guestAddr(1) })
	}
	c := two("erd", []cloud.HostRoute{to("0.0.0.0/0", internet)}, []cloud.HostRoute{via("172.31.0.0/20"), to("0.0.0.0/0", internet)},
		hop, second(1, "sg-open"), guestInterface(2, "sg-open"), guestInterface(3, "sg-other"))
	apply(t, m, c)
	firewall, guest, openPeer, closedPeer := configured(t, m, 1), inSecond(t, m, 1), configured(t, m, 2), configured(t, m, 3)
	firewall.Sysctl("ipv4/ip_forward", "1")
	l := tcp(t, openPeer.Namespace, netip.MustParseAddrPort("172.31.0.12:8080"))
	listen(t, closedPeer.Namespace, "172.31.0.13:8080")
	if got := l.from(t, guest.Namespace, netip.MustParseAddrPort("172.31.0.12:8080")); got != secondAddr(1).String() {
		t.Errorf("through the appliance: seen as %q: %v", got, m.Counters())
	}
	passed := false
	for _, f := range firewall.Received() {
		passed = passed || len(f) > 34 && netip.AddrFrom4([4]byte(f[30:34])) == guestAddr(2)
	}
	if !passed {
		t.Error("the connection did not go through the appliance: the test proves nothing")
	}
	if reaches(t, guest.Namespace, "172.31.0.13:8080") {
		t.Error("an appliance carried a connection past the groups of its destination")
	}
	// In another's name nothing leaves the VPC.
	world := netip.MustParseAddr("203.0.113.1")
	before := m.Counters()["vpc-1/foreign"]
	firewall.Inject(datagram(firewall, guestAddr(2), world, "forged"))
	firewall.Inject(datagram(firewall, publicAddr(9), world, "forged"))
	if !reaches(t, firewall.Namespace, "172.31.0.12:8080") {
		t.Errorf("the appliance itself does not reach a guest")
	}
	if after := m.Counters()["vpc-1/foreign"]; after != before+2 {
		t.Errorf("forged packets that were to leave: %d were counted, want 2: %v", after-before, m.Counters())
	}
}

func TestADelegatedPrefixIsBehindItsInterface(t *testing.T) {
	m := start(t, "ere")
	host := guestInterface(1, "sg-open")
	host.Prefixes = []netip.Prefix{netip.MustParsePrefix("172.31.2.64/28")}
	c := open(config("ere", host, guestInterface(2, "sg-open")))
	apply(t, m, c)
	g, peer := configured(t, m, 1), configured(t, m, 2)
	g.IP("addr add 172.31.2.70/32 dev lo")
	if out, ok := answered(t, peer.Namespace, netip.MustParseAddr("172.31.2.70")); !ok {
		t.Errorf("an address of the prefix does not answer: %s\n%v", out, m.Counters())
	}
	if out, err := g.Run("ping", "-c", "1", "-W", "2", "-I", "172.31.2.70", "172.31.0.12"); err != nil {
		t.Errorf("ping from the prefix: %s\n%v", out, m.Counters())
	}
	before := m.Counters()["vpc-1/spoof"]
	peer.Inject(datagram(peer, netip.MustParseAddr("172.31.2.70"), guestAddr(1), "stolen"))
	g.Inject(datagram(g, netip.MustParseAddr("172.31.2.80"), guestAddr(2), "beside"))
	if out, ok := answered(t, peer.Namespace, guestAddr(1)); !ok {
		t.Errorf("the guest does not answer: %s\n%v", out, m.Counters())
	}
	if after := m.Counters()["vpc-1/spoof"]; after != before+2 {
		t.Errorf("%d packets from beside the prefix were counted, want 2", after-before)
	}
	was := inside(t, "ere-vpc-1")
	apply(t, m, c)
	if now := inside(t, "ere-vpc-1"); now != was {
		t.Errorf("the second Apply changed:\n%s\nbefore:\n%s", now, was)
	}
	apply(t, m, open(config("ere", guestInterface(1, "sg-open"), guestInterface(2, "sg-open"))))
	if got := nstest.IP(t, "-n ere-vpc-1 route"); strings.Contains(got, "172.31.2.64") {
		t.Errorf("the route is left:\n%s", got)
	}
}

func TestANetworkACLFiltersAtTheBorderOfItsSubnet(t *testing.T) {
	world := outside(t)
	m := start(t, "erf")
	way := []cloud.HostRoute{to("0.0.0.0/0", internet)}
	c := two("erf", way, way, publicly(1, "sg-open"), guestInterface(2, "sg-open"), second(1, "sg-open"))
	any := netip.MustParsePrefix("0.0.0.0/0")
	c.VPCs[0].Subnets[0].ACL = []cloud.ACLEntry{
		{Number: 200, Protocol: 6, Allow: true, CIDR: any, FromPort: 80, ToPort: 90},
		{Number: 100, Protocol: 6, Allow: false, CIDR: netip.MustParsePrefix("172.31.16.0/20"), FromPort: 80, ToPort: 80},
		{Number: 300, Protocol: 6, Allow: true, CIDR: any, FromPort: 32768, ToPort: 65535},
		{Number: 100, Egress: true, Protocol: 6, Allow: true, CIDR: any, FromPort: 1024, ToPort: 65535},
	}
	apply(t, m, c)
	a, b, far := configured(t, m, 1), configured(t, m, 2), inSecond(t, m, 1)
	for _, port := range []string{"80", "81", "22"} {
		listen(t, a.Namespace, "172.31.0.11:"+port)
	}
	listen(t, far.Namespace, "172.31.16.11:443")
	listen(t, far.Namespace, "172.31.16.11:8443")
	metadata(t, m)
	cases := []struct {
		name    string
		from    *nstest.Namespace
		address string
		want    bool
	}{
		{"inside the subnet nothing is filtered", b.Namespace, "172.31.0.11:22", true},
		{"an entry with a lower number wins", far.Namespace, "172.31.0.11:80", false},
		{"a later entry allows", far.Namespace, "172.31.0.11:81", true},
		{"what no entry names", far.Namespace, "172.31.0.11:22", false},
		{"from the world to an allowed port", world, publicAddr(1).String() + ":80", true},
		{"from the world to another", world, publicAddr(1).String() + ":22", false},
		{"out to a port that egress allows", a.Namespace, "172.31.16.11:8443", true},
		{"out to a port that egress does not", a.Namespace, "172.31.16.11:443", false},
		{"the metadata service", a.Namespace, Metadata.String(), true},
	}
	for _, c := range cases {
		before := m.Counters()["vpc-1/acl"]
		if got := reaches(t, c.from, c.address); got != c.want {
			t.Errorf("%s: got %v, want %v: %v", c.name, got, c.want, m.Counters())
		}
		if after := m.Counters()["vpc-1/acl"]; !c.want && after == before {
			t.Errorf("%s: it was not counted", c.name)
		}
	}
	// It has no memory: the answers to a connection that is allowed need an entry of their own.
	c.VPCs[0].Subnets[0].ACL[3].FromPort, c.VPCs[0].Subnets[0].ACL[3].ToPort = 1, 100
	apply(t, m, c)
	if reaches(t, far.Namespace, "172.31.0.11:81") {
		t.Error("answers passed without an entry")
	}
	before := inside(t, "erf-vpc-1")
	apply(t, m, c)
	if after := inside(t, "erf-vpc-1"); after != before {
		t.Errorf("the second Apply changed:\n%s\nbefore:\n%s", after, before)
	}
}
