//go:build net

package eni

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// delegating6 is guest6 with a prefix behind it.
func delegating6(n int, groups ...cloud.GroupID) Interface {
	i := guest6(n, groups...)
	i.Prefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1:7::/80")}
	return i
}

func TestApplyingIPv6TwiceChangesNothing(t *testing.T) {
	m := start(t, "e6t")
	c := config6("e6t", delegating6(1, "sg-default"), guest6(2, "sg-other"))
	apply(t, m, c)
	look := func() string {
		return inside(t, "e6t-vpc-1") + nstest.IP(t, "-n e6t-vpc-1 -6 route show table all") + machine(t)
	}
	before := look()
	if !strings.Contains(before, "2001:db8:0:1:7::/80 via fe80::ff:fe00:b dev "+TapName(guest6(1).ID)) {
		t.Fatalf("nothing was made: the test proves nothing:\n%s", before)
	}
	changes := nstest.Changes(t, "e6t-vpc-1")
	apply(t, m, c)
	if got := changes(); got != "" {
		t.Errorf("the second Apply changed:\n%s", got)
	}
	if after := look(); after != before {
		t.Errorf("the second Apply changed the machine:\n%s", difference(t, after, before))
	}
	successor, err := New("e6t", discard) // reads all from the kernel
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	changes = nstest.Changes(t, "e6t-vpc-1")
	apply(t, successor, c)
	if got := changes(); got != "" {
		t.Errorf("a successor's Apply changed:\n%s", got)
	}
	if after := look(); after != before {
		t.Errorf("a successor's Apply changed the machine:\n%s", difference(t, after, before))
	}
}

func TestForeignChangesOfIPv6AreRepaired(t *testing.T) {
	m := start(t, "e6r")
	apply(t, m, config6("e6r", delegating6(1, "sg-default"), guest6(2, "sg-default")))
	want, tap := shape(t, "e6r"), TapName(guest6(1).ID)
	for _, attack := range []string{
		"-n e6r-vpc-1 -6 route del 2001:db8:0:1::b/128",
		"-n e6r-vpc-1 -6 route del 2001:db8:0:1:7::/80",
		"-n e6r-vpc-1 -6 route del blackhole 2001:db8::/56",
		"-n e6r-vpc-1 -6 route add 2001:db8:0:1::99/128 dev " + tap,
		"-n e6r-vpc-1 -6 neigh del 2001:db8:0:1::b dev " + tap,
		"-n e6r-vpc-1 -6 neigh del fe80::ff:fe00:b dev " + tap,
		"-n e6r-vpc-1 -6 neigh change 2001:db8:0:1::b lladdr 02:00:00:00:00:66 nud permanent dev " + tap,
		"-n e6r-vpc-1 -6 neigh add 2001:db8:0:1::99 lladdr 02:00:00:00:00:66 nud permanent dev " + tap,
		"-n e6r-vpc-1 -6 addr del 2001:db8:0:1::1/128 dev lo",
		"-n e6r-vpc-1 -6 addr add 2001:db8:0:1::99/128 dev lo",
		"-n e6r-vpc-1 link set " + tap + " down",
		"-n e6r-vpc-1 link set lo down",
		"netns exec e6r-vpc-1 nft flush ruleset",
		"netns exec e6r-vpc-1 nft flush set inet eni src6",
		"netns exec e6r-vpc-1 nft flush chain inet eni pre6",
		"netns exec e6r-vpc-1 sysctl -qw net.ipv6.conf." + tap + ".disable_ipv6=1",
		"netns exec e6r-vpc-1 sysctl -qw net.ipv6.conf.lo.disable_ipv6=1",
	} {
		t.Run(attack, func(t *testing.T) {
			<-watching(m)
			nstest.IP(t, "%s", attack)
			began := time.Now()
			var got string
			for got = shape(t, "e6r"); got != want && time.Since(began) < 20*soon; got = shape(t, "e6r") {
			}
			if got != want {
				t.Fatalf("not repaired after %v:\n%s", time.Since(began), difference(t, got, want))
			}
		})
	}
}

func TestIPv6OfABlockThatGoesLeavesNothing(t *testing.T) {
	m := start(t, "e6l")
	plain := config("e6l", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, plain)
	want := shape(t, "e6l")
	for range 2 {
		apply(t, m, config6("e6l", delegating6(1, "sg-default"), guest6(2, "sg-default")))
		if shape(t, "e6l") == want {
			t.Fatal("nothing was made: the test proves nothing")
		}
		apply(t, m, plain)
		if got := shape(t, "e6l"); got != want {
			t.Errorf("it leaves:\n%s", difference(t, got, want))
		}
	}
}

func TestConnectionsOfIPv6EndWithTheirRuleAddressOrGroup(t *testing.T) {
	m := start(t, "e6c")
	six := func(port int) cloud.GroupRule {
		return cloud.GroupRule{Protocol: "tcp", FromPort: port, ToPort: port, CIDR: "::/0"}
	}
	with := func(rules []cloud.GroupRule, interfaces ...Interface) Config {
		c := config6("e6c", interfaces...)
		c.VPCs[0].Groups[1].Ingress = rules // of sg-other
		return c
	}
	first, second := guest6(1, "sg-default"), guest6(2, "sg-other")
	second.IPv6 = append(second.IPv6, sixIn(1, 102))
	apply(t, m, with([]cloud.GroupRule{six(8080), six(9090)}, first, second))
	a, b := configured6(t, m, first), configured6(t, m, second)
	doomed := tcp(t, b.Namespace, netip.AddrPortFrom(guestAddr6(2), 8080))
	safe := tcp(t, b.Namespace, netip.AddrPortFrom(guestAddr6(2), 9090))
	moving := tcp(t, b.Namespace, netip.AddrPortFrom(sixIn(1, 102), 9090))
	revoked := doomed.stay(t, a.Namespace, netip.AddrPortFrom(guestAddr6(2), 8080))
	stays := safe.stay(t, a.Namespace, netip.AddrPortFrom(guestAddr6(2), 9090))
	unassigned := moving.stay(t, a.Namespace, netip.AddrPortFrom(sixIn(1, 102), 9090))
	if !revoked.alive(t) || !stays.alive(t) || !unassigned.alive(t) {
		t.Fatal("the connections are dead before: the test proves nothing")
	}
	before := entries(t, "e6c-vpc-1")
	apply(t, m, with([]cloud.GroupRule{six(9090)}, first, second))
	after := entries(t, "e6c-vpc-1")
	for tuple := range before {
		if gone := strings.Contains(tuple, "dport=8080"); after[tuple] == gone {
			t.Errorf("tracked after the change: %v, want %v: %s", after[tuple], !gone, tuple)
		}
	}
	if revoked.alive(t) || !stays.alive(t) || !unassigned.alive(t) {
		t.Errorf("alive after a rule was revoked: its own %v, others %v %v; want false, true, true", revoked.alive(t), stays.alive(t), unassigned.alive(t))
	}
	second.IPv6 = second.IPv6[:1]
	apply(t, m, with([]cloud.GroupRule{six(9090)}, first, second))
	if unassigned.alive(t) || !stays.alive(t) {
		t.Errorf("alive after an address was taken away: its own %v, others %v; want false, true", unassigned.alive(t), stays.alive(t))
	}
	for tuple := range entries(t, "e6c-vpc-1") {
		if strings.Contains(tuple, "0070") {
			t.Errorf("still tracked: %s", tuple)
		}
	}
	second.Groups = []cloud.GroupID{"sg-default"} // whom sg-other's rules do not concern
	first.Groups = []cloud.GroupID{"sg-other"}
	apply(t, m, with([]cloud.GroupRule{six(9090)}, first, second))
	if stays.alive(t) {
		t.Error("a connection outlives its group")
	}
}

func TestAnIPv6PrefixLeadsBehindItsGuest(t *testing.T) {
	m := start(t, "e6p")
	all := []Interface{delegating6(1, "sg-default"), guest6(2, "sg-default"), guest6(3, "sg-other")}
	apply(t, m, config6("e6p", all...))
	a, b, stranger := configured6(t, m, all[0]), configured6(t, m, all[1]), configured6(t, m, all[2])
	behind := netip.MustParseAddr("2001:db8:0:1:7::5")
	a.IP("addr add %s/128 dev lo nodad", behind)
	listen(t, a.Namespace, at6(behind, 8080))
	listen(t, b.Namespace, at6(guestAddr6(2), 8080))
	if !reaches(t, b.Namespace, at6(behind, 8080)) {
		t.Errorf("a member of the group does not reach the prefix: %v", m.Counters())
	}
	if reaches(t, stranger.Namespace, at6(behind, 8080)) {
		t.Error("a stranger reaches the prefix")
	}
	// Who is behind it is a member of the group too.
	b.Forget()
	a.Inject(datagram6(a, behind, guestAddr6(2), "from behind"))
	b.Await(contains("from behind"))
}

// Two VPCs have the same block: whatever a guest sends stays in its own.
func TestVPCsWithTheSameIPv6BlockAreApart(t *testing.T) {
	m := start(t, "e6v")
	c := config6("e6v", guest6(1, "sg-default"), guest6(2, "sg-default"))
	other := config6("e6v", guest6(3, "sg-default"), guest6(4, "sg-default"))
	v := other.VPCs[0]
	v.VPC.ID = "vpc-2"
	for i := range v.Groups {
		v.Groups[i].VPC = "vpc-2"
	}
	for i := range other.Interfaces {
		other.Interfaces[i].VPC = "vpc-2"
	}
	other.Interfaces[1].IPv6 = []netip.Addr{guestAddr6(2)} // as one of the first VPC
	other.Interfaces[0].SourceDestCheck = false
	v.Groups[0].Members = append(v.Groups[0].Members, guestAddr6(2))
	c.VPCs, c.Interfaces = append(c.VPCs, v), append(c.Interfaces, other.Interfaces...)
	apply(t, m, c)
	a, b, evil, twin := configured6(t, m, *c.Interfaces[0]), configured6(t, m, *c.Interfaces[1]), configured6(t, m, *c.Interfaces[2]), configured6(t, m, *c.Interfaces[3])
	b.Forget()
	twin.Forget()
	evil.Inject(datagram6(evil, guestAddr6(3), guestAddr6(2), "to the twin"))
	evil.Inject(datagram6(evil, guestAddr6(1), guestAddr6(2), "forged"))
	twin.Await(contains("to the twin"))
	a.Inject(datagram6(a, guestAddr6(1), guestAddr6(2), "to the other"))
	b.Await(contains("to the other"))
	for _, f := range b.Received() {
		if contains("twin")(f) || contains("forged")(f) {
			t.Errorf("a packet of another VPC arrived: % x", f)
		}
	}
	for _, f := range twin.Received() {
		if contains("to the other")(f) {
			t.Errorf("a packet of another VPC arrived: % x", f)
		}
	}
}
