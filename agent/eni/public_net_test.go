//go:build net

package eni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// publicly is the n-th interface with its public address.
func publicly(n int, groups ...cloud.GroupID) Interface {
	i := guestInterface(n, groups...)
	i.Public = []cloud.PublicAddress{{Public: publicAddr(n), Private: guestAddr(n)}}
	return i
}

// outside is the world with a machine that neighbours answer at once.
func outside(t *testing.T) *nstest.Namespace {
	t.Helper()
	world := nstest.Internet(t, "203.0.113.1")
	nstest.Run(t, "sysctl", "-q", "-w", "net.ipv4.neigh.out.proxy_delay=0") // else up to 0.8 s late, once for each neighbour
	return world
}

// seen connects from one namespace to a server in another, and returns the address that the server sees.
func seen(t *testing.T, from, at *nstest.Namespace, address string) string {
	t.Helper()
	l := tcp(t, at, netip.MustParseAddrPort(address))
	to := netip.MustParseAddrPort(address)
	return l.from(t, from, to)
}

func TestAPublicAddressLeadsToItsGuestAndNamesIt(t *testing.T) {
	world := outside(t)
	m := start(t, "epa")
	apply(t, m, open(config("epa", publicly(1, "sg-open"), guestInterface(2, "sg-open"))))
	g, plain := configured(t, m, 1), configured(t, m, 2)
	inbound := tcp(t, g.Namespace, netip.MustParseAddrPort("172.31.0.11:8080"))
	if got := inbound.from(t, world, netip.AddrPortFrom(publicAddr(1), 8080)); got != "198.51.100.2" {
		t.Errorf("the guest sees the caller as %q, want its own address: %v", got, m.Counters())
	}
	if got := inbound.from(t, nstest.Named(t, "root"), netip.AddrPortFrom(publicAddr(1), 8080)); got == "" {
		t.Errorf("the host itself does not reach the public address: %v", m.Counters())
	}
	if got := seen(t, g.Namespace, world, "203.0.113.1:443"); got != publicAddr(1).String() {
		t.Errorf("the world sees the guest as %q, want %s", got, publicAddr(1))
	}
	if got := seen(t, plain.Namespace, world, "203.0.113.1:444"); got != "198.51.100.1" {
		t.Errorf("the world sees a guest without a public address as %q, want the host", got)
	}
	if reaches(t, world, publicAddr(2).String()+":8080") {
		t.Error("a public address that nobody has is answered")
	}
}

func TestASecondaryAddressHasItsOwnPublicOne(t *testing.T) {
	world := outside(t)
	m := start(t, "epb")
	i := publicly(1, "sg-open")
	i.Addresses = append(i.Addresses, guestAddr(90))
	i.Public = append(i.Public, cloud.PublicAddress{Public: publicAddr(90), Private: guestAddr(90)})
	apply(t, m, open(config("epb", i)))
	g := configured(t, m, 1)
	g.IP("addr add %s/20 dev eth0", guestAddr(90))
	for _, n := range []int{1, 90} {
		l := tcp(t, g.Namespace, netip.AddrPortFrom(guestAddr(n), 8080))
		if got := l.from(t, world, netip.AddrPortFrom(publicAddr(n), 8080)); got != "198.51.100.2" {
			t.Errorf("%s: the guest sees %q", publicAddr(n), got)
		}
		out, err := g.Run("ping", "-c", "1", "-W", "2", "-I", guestAddr(n).String(), "203.0.113.1")
		if err != nil {
			t.Errorf("ping from %s: %s", guestAddr(n), out)
		}
		if n := connections(t, "epb-vpc-1", publicAddr(n).String()); n == 0 {
			t.Errorf("nothing left under %s", publicAddr(n))
		}
	}
}

// A guest that asks for a public address of its own VPC meets the peer's groups as a stranger.
func TestAPublicAddressIsReachedFromInsideAsFromOutside(t *testing.T) {
	outside(t)
	m := start(t, "epc")
	apply(t, m, open(config("epc", publicly(1, "sg-open"), publicly(2, "sg-open"), publicly(3, "sg-default"), publicly(4, "sg-default"), guestInterface(5, "sg-open"))))
	a, b, c, d, plain := configured(t, m, 1), configured(t, m, 2), configured(t, m, 3), configured(t, m, 4), configured(t, m, 5)
	atB := tcp(t, b.Namespace, netip.MustParseAddrPort("172.31.0.12:8080"))
	if got := atB.from(t, a.Namespace, netip.AddrPortFrom(publicAddr(2), 8080)); got != publicAddr(1).String() {
		t.Errorf("guest to guest by the public address: got %q, want %s: %v", got, publicAddr(1), m.Counters())
	}
	if got := atB.from(t, b.Namespace, netip.AddrPortFrom(publicAddr(2), 8080)); got != publicAddr(2).String() {
		t.Errorf("a guest to its own public address: got %q: %v", got, m.Counters())
	}
	if got := atB.from(t, plain.Namespace, netip.AddrPortFrom(publicAddr(2), 8080)); got == "" || strings.HasPrefix(got, "172.31.") {
		t.Errorf("a guest without a public address: got %q: %v", got, m.Counters())
	}
	listen(t, d.Namespace, "172.31.0.14:8080")
	if !reaches(t, c.Namespace, "172.31.0.14:8080") {
		t.Errorf("a member of the default group does not reach another by the private address: %v", m.Counters())
	}
	if reaches(t, c.Namespace, publicAddr(4).String()+":8080") {
		t.Error("a rule that names a group let in a packet that came by the public address")
	}
}

func TestAPublicAddressThatMovesTakesNoConnectionAlong(t *testing.T) {
	world := outside(t)
	m := start(t, "epd")
	apply(t, m, open(config("epd", publicly(1, "sg-open"), guestInterface(2, "sg-open"), guestInterface(3, "sg-open"))))
	a, b := configured(t, m, 1), configured(t, m, 2)
	atA, atB := tcp(t, a.Namespace, netip.MustParseAddrPort("172.31.0.11:8080")), tcp(t, b.Namespace, netip.MustParseAddrPort("172.31.0.12:8080"))
	out := tcp(t, world, netip.MustParseAddrPort("203.0.113.1:443"))
	came, left := atA.stay(t, world, netip.AddrPortFrom(publicAddr(1), 8080)), out.stay(t, a.Namespace, netip.MustParseAddrPort("203.0.113.1:443"))
	other := out.stay(t, b.Namespace, netip.MustParseAddrPort("203.0.113.1:443"))
	if !came.alive(t) || !left.alive(t) || !other.alive(t) {
		t.Fatal("the connections do not work before the move: the test proves nothing")
	}
	moved := guestInterface(2, "sg-open")
	moved.Public = []cloud.PublicAddress{{Public: publicAddr(1), Private: guestAddr(2)}}
	apply(t, m, open(config("epd", guestInterface(1, "sg-open"), moved, guestInterface(3, "sg-open"))))
	if came.alive(t) || left.alive(t) {
		t.Errorf("a connection under the address lives on: into the guest %v, out of it %v", came.alive(t), left.alive(t))
	}
	if got := atB.from(t, world, netip.AddrPortFrom(publicAddr(1), 8080)); got != "198.51.100.2" {
		t.Errorf("the new owner is not reached: %q, %v", got, m.Counters())
	}
	if got := seen(t, b.Namespace, world, "203.0.113.1:445"); got != publicAddr(1).String() {
		t.Errorf("the world sees the new owner as %q", got)
	}
}

func TestNothingIsLeftOfAPublicAddress(t *testing.T) {
	nstest.Internet(t, "203.0.113.1")
	state := func() string {
		return nstest.IP(t, "route") + nstest.IP(t, "neigh show proxy") + nstest.IP(t, "rule")
	}
	before := state()
	m := start(t, "epe")
	nstest.IP(t, "neigh add proxy 198.51.100.77 dev out") // somebody else's
	before += "198.51.100.77 dev out proxy"
	apply(t, m, config("epe", publicly(1, "sg-default"), publicly(2, "sg-default")))
	if got := nstest.IP(t, "neigh show proxy"); !strings.Contains(got, publicAddr(1).String()) {
		t.Fatalf("nobody answers for the address: %s", got)
	}
	once := state()
	apply(t, m, config("epe", publicly(1, "sg-default"), publicly(2, "sg-default")))
	if got := state(); got != once {
		t.Errorf("the second Apply changed:\n%s\nto\n%s", once, got)
	}
	apply(t, m, config("epe", guestInterface(1, "sg-default")))
	for _, line := range []string{publicAddr(1).String(), publicAddr(2).String()} {
		if strings.Contains(state(), line) {
			t.Errorf("%s is still there:\n%s", line, state())
		}
	}
	apply(t, m, config("epe", publicly(1, "sg-default")))
	apply(t, m, Config{Prefix: "epe"})
	got := state()
	if !strings.Contains(got, "198.51.100.77") || strings.Contains(got, publicAddr(1).String()) {
		t.Errorf("got\n%s\nwant what was before:\n%s", got, before)
	}
	nstest.IP(t, "neigh del proxy 198.51.100.77 dev out")
}
