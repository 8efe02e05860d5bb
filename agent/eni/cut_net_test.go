//go:build net

package eni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// ports is a VPC in which the group sg-open lets in what the rules say, and everything out.
func ports(prefix string, ingress []cloud.GroupRule, interfaces ...Interface) Config {
	c := open(config(prefix, interfaces...))
	c.VPCs[0].Groups[2].Ingress = ingress
	return c
}

func rule(protocol string, port int) cloud.GroupRule {
	return cloud.GroupRule{Protocol: protocol, FromPort: port, ToPort: port, CIDR: "0.0.0.0/0"}
}

func TestARevokedRuleEndsItsConnectionsAndNoOthers(t *testing.T) {
	world := outside(t)
	m := start(t, "eca")
	all := []Interface{guestInterface(1, "sg-open"), publicly(2, "sg-open")}
	rules := []cloud.GroupRule{rule("tcp", 8080), rule("tcp", 9090), rule("udp", 7070), rule("udp", 6060)}
	apply(t, m, ports("eca", rules, all...))
	a, b := configured(t, m, 1), configured(t, m, 2)
	doomed, safe := tcp(t, b.Namespace, netip.MustParseAddrPort("172.31.0.12:8080")), tcp(t, b.Namespace, netip.MustParseAddrPort("172.31.0.12:9090"))
	out := tcp(t, world, netip.MustParseAddrPort("203.0.113.1:443"))
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(guestAddr(2), port) }
	end := map[string]stream{
		"from inside":  doomed.stay(t, a.Namespace, at(8080)),
		"from outside": doomed.stay(t, world, netip.AddrPortFrom(publicAddr(2), 8080)),
	}
	stay := map[string]stream{
		"from inside to another port":  safe.stay(t, a.Namespace, at(9090)),
		"from outside to another port": safe.stay(t, world, netip.AddrPortFrom(publicAddr(2), 9090)),
		"out, masqueraded":             out.stay(t, a.Namespace, netip.MustParseAddrPort("203.0.113.1:443")),
		"out, under a public address":  out.stay(t, b.Namespace, netip.MustParseAddrPort("203.0.113.1:443")),
	}
	client := udp(t, a.Namespace, "172.31.0.11:5000")
	udpDoomed, udpSafe := udp(t, b.Namespace, "172.31.0.12:7070"), udp(t, b.Namespace, "172.31.0.12:6060")
	for name, s := range map[string]datagrams{"7070": udpDoomed, "6060": udpSafe} {
		if _, ok := client.passes(t, netip.MustParseAddrPort("172.31.0.12:"+name), s); !ok {
			t.Fatalf("UDP to %s does not pass before: the test proves nothing", name)
		}
	}
	for _, s := range []map[string]stream{end, stay} {
		for name, one := range s {
			if !one.alive(t) {
				t.Fatalf("the connection %s is dead before: the test proves nothing", name)
			}
		}
	}
	before := entries(t, "eca-vpc-1")
	apply(t, m, ports("eca", []cloud.GroupRule{rule("tcp", 9090), rule("udp", 6060)}, all...))
	after := entries(t, "eca-vpc-1")
	for tuple := range before {
		gone := strings.Contains(tuple, "dport=8080") || strings.Contains(tuple, "dport=7070")
		if after[tuple] == gone {
			t.Errorf("tracked after the change: %v, want %v: %s", after[tuple], !gone, tuple)
		}
	}
	for name, one := range end {
		if one.alive(t) {
			t.Errorf("the connection %s lives on", name)
		}
	}
	for name, one := range stay {
		if !one.alive(t) {
			t.Errorf("the connection %s was ended too: %v", name, m.Counters())
		}
	}
	if _, ok := client.passes(t, at(7070), udpDoomed); ok {
		t.Error("the UDP flow lives on")
	}
	if _, ok := client.passes(t, at(6060), udpSafe); !ok {
		t.Error("the other UDP flow was ended too")
	}
}

func TestAMemberThatLeavesAGroupLosesItsConnections(t *testing.T) {
	m := start(t, "ecb")
	apply(t, m, config("ecb", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"), guestInterface(3, "sg-default")))
	a, b, c := configured(t, m, 1), configured(t, m, 2), configured(t, m, 3)
	at := tcp(t, b.Namespace, netip.MustParseAddrPort("172.31.0.12:8080"))
	leaver, member := at.stay(t, a.Namespace, netip.MustParseAddrPort("172.31.0.12:8080")), at.stay(t, c.Namespace, netip.MustParseAddrPort("172.31.0.12:8080"))
	if !leaver.alive(t) || !member.alive(t) {
		t.Fatal("the connections are dead before: the test proves nothing")
	}
	apply(t, m, config("ecb", guestInterface(1, "sg-other"), guestInterface(2, "sg-default"), guestInterface(3, "sg-default")))
	if leaver.alive(t) {
		t.Error("a connection of an interface that left the group lives on")
	}
	if !member.alive(t) {
		t.Error("a connection of an interface that stayed was ended")
	}
}

// entries are the tracked connections of a namespace, without what changes by itself.
func entries(t *testing.T, namespace string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, line := range strings.Split(nstest.IP(t, "netns exec %s cat /proc/net/nf_conntrack", namespace), "\n") {
		var tuple []string
		for _, f := range strings.Fields(line) {
			if strings.Contains(f, "=") && !strings.HasPrefix(f, "use=") && !strings.HasPrefix(f, "mark=") {
				tuple = append(tuple, f)
			}
		}
		if len(tuple) > 0 {
			out[strings.Join(tuple, " ")] = true
		}
	}
	return out
}
