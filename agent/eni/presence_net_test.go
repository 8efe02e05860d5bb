//go:build net

package eni

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// further is guestInterface(1)'s further address in these tests.
var further = guestAddr(90)

func withSecond(groups ...cloud.GroupID) Interface {
	i := publicly(1, groups...)
	i.Addresses = append(i.Addresses, further)
	i.Public = append(i.Public, cloud.PublicAddress{Public: publicAddr(90), Private: further})
	return i
}

// awaitKnown waits until the host knows whether the guest has its further address, which has no time limit of its own: a
// machine may be busy.
func awaitKnown(t *testing.T, m *Manager, want float64) {
	t.Helper()
	name := fmt.Sprintf("ichiro_network_address_in_guest %s %s", further, guestInterface(1).ID)
	for began := time.Now(); ; {
		// The rules follow what is known: they are there when the address leads, or does not, in the kernel.
		led := strings.Contains(nstest.Run(t, "ip", "netns", "exec", m.prefix+"-vpc-1", "nft", "list", "map", "ip", "enat", "moved"), further.String()+" : ")
		if got, ok := metered(t, m)[name]; ok && got == want && led == (want == 0) {
			return
		}
		if time.Since(began) > 60*soon {
			t.Fatalf("%s is not %v, or not in the rules", name, want)
		}
	}
}

// local accepts one connection after the other and tells at which of the guest's addresses it came.
func local(t *testing.T, n *nstest.Namespace, port uint16) <-chan string {
	t.Helper()
	var l net.Listener
	if err := n.Do(func() (err error) { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	at := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			at <- netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String()
			c.Close()
		}
	}()
	return at
}

// A guest that is configured by DHCP alone knows one address of its interface, and is reached at all of them.
func TestAnAddressThatTheGuestDoesNotKnowLeadsToItsFirst(t *testing.T) {
	world := outside(t)
	m, end := run(t, "esp")
	c := open(config("esp", withSecond("sg-open"), guestInterface(2, "sg-open"), guestInterface(3, "sg-other")))
	c.VPCs[0].Groups[2].Ingress = []cloud.GroupRule{rule("tcp", 8080), rule("tcp", 8081)}
	apply(t, m, c)
	g, peer := cards(t, m, 1), configured(t, m, 2)
	awaitKnown(t, m, 0)
	echo := tcp(t, g.Namespace, netip.MustParseAddrPort("0.0.0.0:8080"))
	at := local(t, g.Namespace, 8081)
	for _, to := range []netip.Addr{guestAddr(1), further} {
		if got := echo.from(t, peer.Namespace, netip.AddrPortFrom(to, 8080)); got != guestAddr(2).String() {
			t.Errorf("%s from inside: the guest sees %q", to, got)
		}
	}
	for _, n := range []int{1, 90} {
		if got := echo.from(t, world, netip.AddrPortFrom(publicAddr(n), 8080)); got != "198.51.100.2" {
			t.Errorf("%s from outside: the guest sees %q", publicAddr(n), got)
		}
	}
	tcp(t, g.Namespace, netip.MustParseAddrPort("0.0.0.0:9999"))
	if reaches(t, peer.Namespace, further.String()+":9999") {
		t.Error("a port that no group opens is open by the further address")
	}
	inside, outside := echo.stay(t, peer.Namespace, netip.AddrPortFrom(further, 8080)), echo.stay(t, world, netip.AddrPortFrom(publicAddr(90), 8080))
	still := func(when string) {
		t.Helper()
		if !inside.alive(t) || !outside.alive(t) {
			t.Errorf("%s: a connection that was there is dead", when)
		}
	}
	still("before")

	end() // its successor does not know what it knew, and takes over what is in the rules
	var stop func()
	m, stop = run(t, "esp")
	apply(t, m, c)
	if got := echo.from(t, peer.Namespace, netip.AddrPortFrom(further, 8080)); got == "" {
		t.Error("not reached after the agent was replaced")
	}
	still("under another agent")

	g.IP("addr add %s/20 dev eth0", further)
	awaitKnown(t, m, 1)
	still("when the guest has got the address")
	if !reaches(t, peer.Namespace, further.String()+":8081") || <-at != further.String() {
		t.Error("what is for the address does not come to it, though the guest has it")
	}
	c.VPCs[0].Groups[2].Ingress = c.VPCs[0].Groups[2].Ingress[:1] // a rule less: all connections are judged
	apply(t, m, c)
	still("after a rule was revoked that it does not need")
	c.VPCs[0].Groups[2].Ingress = []cloud.GroupRule{rule("tcp", 8081)}
	apply(t, m, c)
	if inside.alive(t) || outside.alive(t) {
		t.Error("a connection outlives the rule that let it in")
	}
	c.VPCs[0].Groups[2].Ingress = []cloud.GroupRule{rule("tcp", 8081)}
	g.IP("addr del %s/20 dev eth0", further)
	awaitKnown(t, m, 0)
	if !reaches(t, peer.Namespace, further.String()+":8081") || <-at != guestAddr(1).String() {
		t.Error("the guest has lost the address, and what is for it does not come to the first")
	}
	stop()
}

func TestGuestsWithOneAddressAreAskedNothing(t *testing.T) {
	m := start(t, "esq")
	apply(t, m, config("esq", guestInterface(1, "sg-default")))
	g := cards(t, m, 1)
	settled(t, g)
	for _, f := range g.Received() {
		if f[12] == 0x08 && f[13] == 0x06 && f[21] == 1 {
			t.Errorf("it was asked % x", f)
		}
	}
	if got := nstest.Run(t, "ip", "netns", "exec", "esq-vpc-1", "cat", "/proc/net/packet"); len(got) > 0 {
		for _, line := range []string{" 0806 "} { // as a word: an inode may have these digits
			if contains(line)([]byte(got)) {
				t.Errorf("a socket hears ARP:\n%s", got)
			}
		}
	}
}
