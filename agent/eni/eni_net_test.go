//go:build net

package eni

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

func TestAGuestGetsItsAddressAndReachesTheMetadataService(t *testing.T) {
	m := start(t, "eta")
	apply(t, m, config("eta", guestInterface(1, "sg-default")))
	metadata(t, m)
	g := boot(t, m, 1)
	out, err := g.Run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-O", "mtu", "-s", script(t))
	if err != nil {
		t.Fatalf("udhcpc: %v\n%s\n%v", err, out, m.Counters())
	}
	for _, want := range []string{"ip=172.31.0.11", "subnet=255.255.240.0", "router=172.31.0.1", "serverid=172.31.0.1", "lease=3600", "hostname=ip-172-31-0-11", "domain=ichiro-1.compute.internal", "mtu=9001", "broadcast=172.31.15.255"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("udhcpc was not told %s:\n%s", want, out)
		}
	}
	if !reaches(t, g.Namespace, Metadata.String()) {
		t.Errorf("guest does not reach %s; counters %v", Metadata, m.Counters())
	}
	for _, closed := range []string{"169.254.169.254:22", "172.31.0.1:80"} {
		if reaches(t, g.Namespace, closed) {
			t.Errorf("guest reaches %s", closed)
		}
	}
	if out, err := g.Run("ping", "-c", "1", "-W", "1", "172.31.0.1"); err != nil {
		t.Errorf("ping of the gateway: %v %s", err, out)
	}
}

func TestDebiansDhclientGetsALease(t *testing.T) {
	if _, err := exec.LookPath("dhclient"); err != nil {
		t.Skip("dhclient is not installed: apt-get install isc-dhcp-client")
	}
	m := start(t, "etb")
	apply(t, m, config("etb", guestInterface(1, "sg-default")))
	g := boot(t, m, 1)
	dir := t.TempDir()
	sf := filepath.Join(dir, "script")
	// Bound is all we want to see: the client ends itself by its script.
	if err := os.WriteFile(sf, []byte("#!/bin/sh\nif [ $reason = BOUND ]; then env; kill $PPID; fi\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := g.Run("dhclient", "-1", "-d", "-sf", sf, "-lf", dir+"/leases", "-pf", dir+"/pid", "-cf", "/dev/null", "eth0")
	for _, want := range []string{"new_ip_address=172.31.0.11", "new_routers=172.31.0.1", "new_dhcp_server_identifier=172.31.0.1", "new_interface_mtu=9001", "new_host_name=ip-172-31-0-11"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("dhclient was not told %s: %v\n%s", want, err, out)
		}
	}
}

func TestTheDefaultGroupLetsItsMembersInAndNobodyElse(t *testing.T) {
	m := start(t, "etc")
	apply(t, m, config("etc", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"), guestInterface(3, "sg-other")))
	a, b, c := configured(t, m, 1), configured(t, m, 2), configured(t, m, 3)
	listen(t, b.Namespace, "172.31.0.12:8080")
	listen(t, a.Namespace, "172.31.0.11:8080")
	if !reaches(t, a.Namespace, "172.31.0.12:8080") {
		t.Errorf("a member of the group does not reach another: %v", m.Counters())
	}
	if reaches(t, c.Namespace, "172.31.0.12:8080") {
		t.Error("another group reaches a member")
	}
	if reaches(t, a.Namespace, "172.31.0.13:8080") {
		t.Error("a group without rules lets somebody in")
	}
	if n := m.Counters()["vpc-1/sgdrop"]; n == 0 {
		t.Error("nothing was counted as dropped by a group")
	}
	// The third interface joins the group.
	joined := config("etc", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"), guestInterface(3, "sg-default"))
	apply(t, m, joined)
	if !reaches(t, c.Namespace, "172.31.0.12:8080") {
		t.Errorf("a new member of the group does not reach another: %v", m.Counters())
	}
}

func TestGuestsLeaveByTheUplinkAndReachNothingOfTheHost(t *testing.T) {
	world := nstest.Internet(t, "203.0.113.1")
	m := start(t, "etd")
	apply(t, m, config("etd", guestInterface(1, "sg-default")))
	g := configured(t, m, 1)
	listen(t, world, "203.0.113.1:443")
	root := nstest.Named(t, "root")
	listen(t, root, "0.0.0.0:8773")
	world.IP("addr add 169.254.7.7/32 dev lo")
	listen(t, world, "169.254.7.7:443")
	nstest.IP(t, "route add 169.254.0.0/16 dev out")
	if !reaches(t, root, "198.51.100.1:8773") {
		t.Error("the host does not reach its own service: the test proves nothing")
	}
	if !reaches(t, g.Namespace, "203.0.113.1:443") {
		t.Errorf("guest does not reach the world: %v", m.Counters())
	}
	uplink := strings.Fields(nstest.IP(t, "-n etd-vpc-1 -o -4 addr show up0"))[3]
	inside := netip.MustParsePrefix(uplink).Addr()
	for _, closed := range []string{
		"198.51.100.1:8773",              // the host's own address
		inside.Prev().String() + ":8773", // its end of the uplink
		inside.String() + ":8773",
		"169.254.7.7:443", // another network's link-local addresses
	} {
		if reaches(t, g.Namespace, closed) {
			t.Errorf("guest reaches %s", closed)
		}
	}
	// From outside: neither the private address nor the metadata service.
	world.IP("route add 172.31.0.0/16 via 198.51.100.1")
	nstest.IP(t, "route add 172.31.0.0/16 via %s", inside)
	metadata(t, m)
	listen(t, g.Namespace, "172.31.0.11:8080")
	for _, from := range []*nstest.Namespace{world, root} {
		for _, closed := range []string{"172.31.0.11:8080", inside.String() + ":80"} {
			if reaches(t, from, closed) {
				t.Errorf("%s is reached from %s", closed, from.Name)
			}
		}
	}
	if c := m.Counters(); c["host/isolated"] == 0 || c["vpc-1/linklocal"] == 0 || c["vpc-1/uplink"] == 0 {
		t.Errorf("the attempts were not counted: %v", c)
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	m := start(t, "ete")
	c := config("ete", guestInterface(1, "sg-default"), guestInterface(2, "sg-other"))
	apply(t, m, c)
	before := inside(t, "ete-vpc-1") + machine(t)
	changes := nstest.Changes(t, "ete-vpc-1")
	apply(t, m, c)
	if got := changes(); got != "" {
		t.Errorf("the second Apply changed:\n%s", got)
	}
	if after := inside(t, "ete-vpc-1") + machine(t); after != before {
		t.Errorf("the second Apply changed the machine:\n%s\nbefore:\n%s", after, before)
	}
}

// inside is all that a namespace shows, with the handles that a rule loses when it is made again.
func inside(t *testing.T, name string) string {
	t.Helper()
	var b strings.Builder
	for _, c := range []string{"ip -d -o link", "ip -o addr", "ip route", "ip neigh", "nft -a -s list ruleset"} {
		b.WriteString(nstest.Run(t, "ip", append([]string{"netns", "exec", name}, strings.Fields(c)...)...))
	}
	// The kernel says late, and on a busy machine very late, that the other end of a pair is up: nobody's doing.
	text := strings.NewReplacer("NO-CARRIER,", "", "state DOWN", "state UP", "state UNKNOWN", "state UP").Replace(b.String())
	return rated.ReplaceAllString(text, "") // nor is who is metered: the traffic's own
}

// rated are the elements that packets have put into a set which bounds their rate.
var rated = regexp.MustCompile(`\n\s*elements = \{[^}]*limit rate[^}]*\}`)

func TestNothingIsLeftBehind(t *testing.T) {
	before := machine(t)
	m, end := run(t, "etf")
	apply(t, m, config("etf", guestInterface(1, "sg-default"), guestInterface(2, "sg-other")))
	g := boot(t, m, 1) // still holds its tap
	apply(t, m, Config{Prefix: "etf"})
	g.IP("link show eth0")
	nstest.IP(t, "netns del etfguest1")
	if after := machine(t); after != before {
		t.Errorf("an empty wish leaves:\n%s\nbefore:\n%s", after, before)
	}
	nstest.IP(t, "netns add etfguest1")
	apply(t, m, config("etf", guestInterface(1, "sg-default")))
	end() // or it would take the removal for a stranger's doing, and repair it
	if err := Remove(context.Background(), "etf"); err != nil {
		t.Fatal(err)
	}
	nstest.IP(t, "netns del etfguest1")
	if after := machine(t); after != before {
		t.Errorf("Remove leaves:\n%s\nbefore:\n%s", after, before)
	}
	nstest.IP(t, "netns add etfguest1")
}

func TestTwoHostsLiveOnOneMachine(t *testing.T) {
	world := nstest.Internet(t, "203.0.113.1")
	listen(t, world, "203.0.113.1:443")
	m1, end := run(t, "etg")
	m2 := start(t, "eth")
	apply(t, m1, config("etg", guestInterface(1, "sg-default")))
	apply(t, m2, config("eth", guestInterface(1, "sg-default")))
	g1, g2 := configured(t, m1, 1), configured(t, m2, 1)
	for _, g := range []*nstest.Guest{g1, g2} {
		if !reaches(t, g.Namespace, "203.0.113.1:443") {
			t.Errorf("%s does not reach the world", g.Name)
		}
	}
	end()
	if err := Remove(context.Background(), "etg"); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, g2.Namespace, "203.0.113.1:443") {
		t.Error("removing one host cut the other off")
	}
}

func TestWhatOthersDeleteIsMadeAgain(t *testing.T) {
	m := start(t, "etm")
	c := config("etm", guestInterface(1, "sg-default"))
	apply(t, m, c)
	if err := Remove(context.Background(), "etm"); err != nil { // behind the manager's back
		t.Fatal(err)
	}
	apply(t, m, c)
	metadata(t, m)
	g := boot(t, m, 1)
	if out, err := g.Run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", script(t)); err != nil {
		t.Errorf("udhcpc: %v\n%s", err, out)
	}
	if !reaches(t, g.Namespace, Metadata.String()) {
		t.Errorf("guest does not reach %s", Metadata)
	}
}

func TestATapIsOpenedAgainWhenItsHolderIsGone(t *testing.T) {
	m := start(t, "eti")
	apply(t, m, config("eti", guestInterface(1, "sg-default")))
	id := guestInterface(1).ID
	first, err := m.Tap(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Tap(id); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("second holder: got %v, want EBUSY", err)
	}
	first.Close()
	g := configured(t, m, 1)
	if out, err := g.Run("ping", "-c", "1", "-W", "1", "172.31.0.1"); err != nil {
		t.Errorf("ping by the second holder: %v %s", err, out)
	}
}

func TestASuccessorAdoptsWhatIsThere(t *testing.T) {
	m := start(t, "etj")
	c := config("etj", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, c)
	a := configured(t, m, 1)
	configured(t, m, 2)
	lost := flood(t, a, "172.31.0.12")
	before := inside(t, "etj-vpc-1")
	m.Close() // as if killed: nothing is taken down
	next := start(t, "etj")
	apply(t, next, c)
	if after := inside(t, "etj-vpc-1"); after != before {
		t.Errorf("the successor changed:\n%s\nbefore:\n%s", after, before)
	}
	if out := lost(); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("packets were lost while the agent was replaced:\n%s", out)
	}
}

// flood pings 100 times in a second in the background; the function it returns waits for the end.
func flood(t *testing.T, g *nstest.Guest, to string) func() string {
	t.Helper()
	done := make(chan string, 1)
	go func() {
		out, _ := g.Run("ping", "-q", "-c", "100", "-i", "0.01", "-W", "1", to)
		done <- out
	}()
	return func() string { return <-done }
}

func TestForeignChangesAreRepaired(t *testing.T) {
	m := start(t, "etk")
	c := config("etk", guestInterface(1, "sg-default"))
	apply(t, m, c)
	want := rulesOf(t)
	for _, attack := range []string{"flush ruleset", "delete table inet etk", "flush chain inet etk input", "flush set inet etk uplinks"} {
		<-watching(m)
		nstest.Run(t, "nft", attack)
		for rulesOf(t) != want { // ends when repaired; the test's deadline is the failure
		}
	}
	nstest.IP(t, "netns exec etk-vpc-1 nft flush ruleset")
	for !strings.Contains(nstest.IP(t, "netns exec etk-vpc-1 nft list ruleset"), "chain inp") {
	}
}

func rulesOf(t *testing.T) string {
	return nstest.Run(t, "nft", "-s", "list", "ruleset")
}

func TestAnAddressThatMovesTakesNoConnectionAlong(t *testing.T) {
	m := start(t, "etl")
	apply(t, m, config("etl", guestInterface(1, "sg-default"), guestInterface(2, "sg-default")))
	a, b := configured(t, m, 1), configured(t, m, 2)
	a.Inject(datagram(a, guestAddr(1), guestAddr(2), "hello"))
	b.Await(contains("hello"))
	if n := connections(t, "etl-vpc-1", "172.31.0.12"); n == 0 {
		t.Fatal("the flow is not tracked: the test proves nothing")
	}
	heir := guestInterface(3, "sg-other") // lets nobody in
	heir.Addresses = []netip.Addr{guestAddr(2)}
	apply(t, m, config("etl", guestInterface(1, "sg-default"), heir))
	if n := connections(t, "etl-vpc-1", "172.31.0.12"); n != 0 {
		t.Errorf("%d connections of the address are still tracked", n)
	}
	c := boot(t, m, 3)
	a.Inject(datagram(a, guestAddr(1), guestAddr(2), "again"))
	metadata(t, m)
	if !reaches(t, a.Namespace, Metadata.String()) { // a has been heard since
		t.Fatal("guest does not reach the metadata service")
	}
	for _, f := range c.Received() {
		if contains("again")(f) {
			t.Error("a packet of the old flow reached the address's new owner")
		}
	}
}

// connections counts the tracked connections of an address.
func connections(t *testing.T, namespace, addr string) int {
	t.Helper()
	return strings.Count(nstest.IP(t, "netns exec %s cat /proc/net/nf_conntrack", namespace), "dst="+addr+" ")
}

func TestTheLastHostPutsForwardingBack(t *testing.T) {
	nstest.Internet(t, "203.0.113.1")
	const setting = "/proc/sys/net/ipv4/conf/out/forwarding"
	value := func() string {
		t.Helper()
		b, err := os.ReadFile(setting)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	if got := value(); got != "0" {
		t.Fatalf("forwarding is %s before any host is there: the test proves nothing", got)
	}
	first, endFirst := run(t, "etm")
	apply(t, first, config("etm", guestInterface(1, "sg-default")))
	second, endSecond := run(t, "etn")
	apply(t, second, config("etn", guestInterface(2, "sg-default")))
	if got := value(); got != "1" {
		t.Errorf("got %s with two hosts, want 1", got)
	}
	endFirst() // or they would take the removal for a stranger's doing, and repair it
	endSecond()
	for _, c := range []struct{ prefix, want string }{{"etm", "1"}, {"etn", "0"}, {"etn", "0"}} {
		if err := Remove(context.Background(), c.prefix); err != nil {
			t.Fatal(err)
		}
		if got := value(); got != c.want {
			t.Errorf("got %s after %s is removed, want %s", got, c.prefix, c.want)
		}
	}
	if _, err := os.Stat("/run/ichiro-forwarding"); err == nil {
		t.Error("the note of what was is still there")
	}
}

// An interface that went to another instance has a tap that the first one's machine does not hold any more.
func TestAnInterfaceOfAnotherMachineHasAnotherTap(t *testing.T) {
	m := start(t, "etz")
	mine, others := guestInterface(1, "sg-default"), guestInterface(1, "sg-default")
	mine.Owner, others.Owner = 1001, 1002
	apply(t, m, config("etz", mine))
	held, err := m.Tap(mine.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	apply(t, m, config("etz", mine))
	if _, err := m.Tap(mine.ID); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a tap that is held and still wished for: got %v, want %v", err, syscall.EBUSY)
	}
	apply(t, m, config("etz", others))
	tap, err := m.Tap(others.ID)
	if err != nil {
		t.Fatalf("the tap of another machine: %v", err)
	}
	tap.Close()
	if out := nstest.IP(t, "-n etz-vpc-1 -d link show %s", TapName(others.ID)); !strings.Contains(out, "user 1002") {
		t.Errorf("QEMU's user does not own the tap:\n%s", out)
	}
	if out := nstest.IP(t, "-n etz-vpc-1 route"); !strings.Contains(out, "172.31.0.11 dev "+TapName(others.ID)) {
		t.Errorf("no route leads there:\n%s", out)
	}
}
