//go:build net

package eni

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// The underlay addresses of the two hosts of these tests: this process is the first, another process the second.
var (
	underlayA = netip.MustParseAddr("192.0.2.1")
	underlayB = netip.MustParseAddr("192.0.2.2")
)

// otherHost is the second host: a process of its own in a namespace that is its machine. It applies what it is given.
type otherHost struct {
	t     *testing.T
	at    *nstest.Namespace
	links *link.Links
	in    *json.Encoder
	out   *bufio.Scanner
}

// TestTheSecondHost is no test: it is the process of otherHost.
func TestTheSecondHost(t *testing.T) {
	if os.Getenv("ICHIRO_VICTIM") != "second host" {
		t.Skip("another test starts it, as a process")
	}
	m, err := New("ovb", slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	fmt.Println("at work")
	for dec := json.NewDecoder(os.Stdin); ; {
		var c Config
		if err := dec.Decode(&c); err != nil {
			break
		}
		fmt.Println(m.Apply(context.Background(), c))
	}
	stop() // or it would take the removal for a stranger's doing, and repair it
	wg.Wait()
	m.Close()
	if err := Remove(context.Background(), "ovb"); err != nil {
		t.Error(err)
	}
}

// machines makes the two machines, joined by a link with an MTU of 9100, and starts the second host.
func machines(t *testing.T) *otherHost {
	t.Helper()
	n := &otherHost{t: t, at: nstest.New(t, "machineb")}
	nstest.IP(t, "link add wire type veth peer name wire netns machineb")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "wire").Run() })
	for k, ip := range []func(string, ...any) string{func(f string, a ...any) string { return nstest.IP(t, f, a...) }, n.at.IP} {
		ip("addr add 192.0.2.%d/24 dev wire", k+1)
		ip("link set wire mtu 9100 up")
	}
	child := exec.Command("/proc/self/exe", "-test.run", "^TestTheSecondHost$")
	child.Env = append(os.Environ(), "ICHIRO_VICTIM=second host")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.at.Do(child.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = child.Wait() })
	n.in, n.out = json.NewEncoder(in), bufio.NewScanner(out)
	if !n.out.Scan() || n.out.Text() != "at work" {
		t.Fatalf("the second host says %q", n.out.Text())
	}
	if n.links, err = link.New("ovb", discard); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.links.Close)
	return n
}

func (n *otherHost) apply(c Config) {
	n.t.Helper()
	if err := n.in.Encode(c); err != nil {
		n.t.Fatal(err)
	}
	if !n.out.Scan() || n.out.Text() != "<nil>" {
		n.t.Fatalf("the second host could not apply: %s", n.out.Text())
	}
}

// guest boots the guest of an interface on the second host, as plain DHCP sets it up.
func (n *otherHost) guest(i Interface) *nstest.Guest {
	n.t.Helper()
	s, err := n.links.Space("vpc-1")
	if err != nil {
		n.t.Fatal(err)
	}
	tap, err := s.Tap(TapName(i.ID))
	if err != nil {
		n.t.Fatal(err)
	}
	g := nstest.NewGuest(n.t, "ovbguest"+string(i.ID[len(i.ID)-3:]), i.MAC, tap)
	g.IP("addr add %s/20 dev eth0", i.Primary())
	g.IP("route add default via %s", netip.PrefixFrom(i.Primary(), 20).Masked().Addr().Next())
	return g
}

func (n *otherHost) configured(k int) *nstest.Guest { return n.guest(guestInterface(k)) }

// apart is the wish of both hosts for a VPC whose interfaces are spread over them.
func apart(here, there []Interface) (a, b Config) {
	a, b = config("ova", here...), config("ovb", there...)
	a.Underlay, b.Underlay = underlayA, underlayB
	spread(&a, there, "h-b", underlayB)
	spread(&b, here, "h-a", underlayA)
	return a, b
}

// spread tells a host what another has.
func spread(c *Config, elsewhere []Interface, id cloud.HostID, at netip.Addr) {
	v := &c.VPCs[0]
	v.Overlay = 0xabcdef
	peer := cloud.HostPeer{Host: id, Underlay: at}
	for _, i := range elsewhere {
		peer.Members = append(peer.Members, slices.Concat(i.Addresses, i.IPv6)...)
		for k := range v.Groups {
			if slices.Contains(i.Groups, v.Groups[k].ID) {
				v.Groups[k].Members = append(v.Groups[k].Members, slices.Concat(i.Addresses, i.IPv6)...)
			}
		}
	}
	if len(peer.Members) > 0 {
		v.Peers = []cloud.HostPeer{peer}
	}
}

// pinged reports whether one of three pings, a fifth of a second apart, is answered.
func pinged(g *nstest.Guest, args ...string) bool {
	_, err := g.Run("ping", append([]string{"-c", "3", "-i", "0.2", "-W", "0.5"}, args...)...)
	return err == nil
}

func TestAVPCOnTwoHosts(t *testing.T) {
	n := machines(t)
	m := start(t, "ova")
	here := []Interface{guestInterface(1, "sg-default"), guestInterface(2, "sg-other")}
	there := []Interface{guestInterface(3, "sg-default"), guestInterface(4, "sg-other")}
	cfgA, cfgB := apart(here, there)
	apply(t, m, cfgA)
	n.apply(cfgB)
	g1, g2, g3, g4 := configured(t, m, 1), configured(t, m, 2), n.configured(3), n.configured(4)

	t.Run("a group that refers to itself reaches across hosts, both ways", func(t *testing.T) {
		if !pinged(g1, "172.31.0.13") || !pinged(g3, "172.31.0.11") {
			t.Errorf("members do not reach each other: %v", m.Counters())
		}
		listen(t, g3.Namespace, "172.31.0.13:80")
		if !reaches(t, g1.Namespace, "172.31.0.13:80") {
			t.Error("no connection by TCP")
		}
	})
	t.Run("who is no member gets no answer from one, and answers come back", func(t *testing.T) {
		if pinged(g2, "172.31.0.13") || pinged(g4, "172.31.0.11") {
			t.Error("a stranger to the group has reached a member on another host")
		}
		if pinged(g1, "172.31.0.14") || pinged(g3, "172.31.0.12") {
			t.Error("a guest whose group lets nobody in was reached from another host")
		}
	})
	t.Run("a packet as large as the underlay has room for arrives whole", func(t *testing.T) {
		for _, g := range []*nstest.Guest{g1, g3} {
			g.IP("link set eth0 mtu 9001")
		}
		if !pinged(g1, "-M", "do", "-s", "8973", "172.31.0.13") {
			t.Error("9,001 bytes do not pass an underlay of 9,100")
		}
	})
	t.Run("nobody answers for an address that no guest has, on any host", func(t *testing.T) {
		if pinged(g1, "172.31.0.99") {
			t.Error("172.31.0.99 has answered")
		}
	})
	t.Run("a second Apply changes nothing, and an agent that starts anew neither", func(t *testing.T) {
		changes := nstest.Changes(t, "ova-vpc-1")
		apply(t, m, cfgA)
		next, err := New("ova", discard)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		apply(t, next, cfgA)
		if got := changes(); got != "" {
			t.Errorf("it changed %s", got)
		}
	})
	t.Run("a stranger's hand on the way to the other host is undone", func(t *testing.T) {
		nstest.IP(t, "-n ova-vpc-1 route del 172.31.0.13")
		nstest.IP(t, "-n ova-vpc-1 link set vx0 down")
		apply(t, m, cfgA)
		if !pinged(g1, "172.31.0.13") {
			t.Errorf("not repaired: %s", nstest.IP(t, "-n ova-vpc-1 route"))
		}
	})
	t.Run("a guest that ends elsewhere is gone here, with its connections", func(t *testing.T) {
		less, _ := apart(here, there[1:])
		apply(t, m, less)
		if routes := nstest.IP(t, "-n ova-vpc-1 route"); strings.Contains(routes, "172.31.0.13") || !strings.Contains(routes, "172.31.0.14 via 192.0.2.2 dev vx0 onlink") {
			t.Errorf("got routes\n%s", routes)
		}
		if tracked, _ := exec.Command("ip", "netns", "exec", "ova-vpc-1", "cat", "/proc/net/nf_conntrack").CombinedOutput(); strings.Contains(string(tracked), "172.31.0.13") {
			t.Errorf("its connections are still tracked:\n%s", tracked)
		}
		apply(t, m, cfgA)
		if !pinged(g1, "172.31.0.13") {
			t.Error("it came back and is not reached")
		}
	})
	t.Run("an interface that moves to this host is reached here", func(t *testing.T) {
		a, b := apart(append(slices.Clone(here), there[0]), there[1:])
		n.apply(b)
		apply(t, m, a)
		moved := configured(t, m, 3)
		if !pinged(g1, "172.31.0.13") || !pinged(moved, "172.31.0.11") {
			t.Errorf("not reached: %s", nstest.IP(t, "-n ova-vpc-1 route"))
		}
		if pinged(moved, "172.31.0.14") {
			t.Error("a guest of the other host that lets nobody in was reached")
		}
	})
	t.Run("nothing is left when the VPC goes", func(t *testing.T) {
		apply(t, m, Config{Prefix: "ova", Underlay: underlayA})
		if out := nstest.Run(t, "ip", "netns"); strings.Contains(out, "ova-vpc-1") {
			t.Errorf("namespaces: %s", out)
		}
		cfg, _ := apart(here, there)
		cfg.VPCs[0].VPC.ID = "vpc-2" // the number must be free again
		for k := range cfg.Interfaces {
			cfg.Interfaces[k].VPC = "vpc-2"
		}
		cfg.VPCs[0].Subnets[0].VPC = "vpc-2"
		for k := range cfg.VPCs[0].Groups {
			cfg.VPCs[0].Groups[k].VPC = "vpc-2"
		}
		apply(t, m, cfg)
	})
}

// A machine that has lost its address on the underlay, or has none yet, serves its own guests, and the others as soon as it can.
func TestWithoutTheUnderlayGuestsOfOneHostMeet(t *testing.T) {
	n := machines(t)
	m := start(t, "ova")
	a, b := apart([]Interface{guestInterface(1, "sg-default"), guestInterface(2, "sg-default")}, []Interface{guestInterface(3, "sg-default")})
	nstest.IP(t, "addr del 192.0.2.1/24 dev wire")
	if err := m.Apply(context.Background(), a); err == nil || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("got %v, want the address that is missing", err)
	}
	n.apply(b)
	g1 := configured(t, m, 1)
	configured(t, m, 2)
	g3 := n.configured(3)
	if !pinged(g1, "172.31.0.12") {
		t.Errorf("guests of this host do not meet: %v", m.Counters())
	}
	nstest.IP(t, "addr add 192.0.2.1/24 dev wire")
	apply(t, m, a)
	if !pinged(g1, "172.31.0.13") || !pinged(g3, "172.31.0.11") {
		t.Error("with the address back, guests of the other host are not reached")
	}
	changes := nstest.Changes(t, "ova-vpc-1")
	apply(t, m, a)
	if got := changes(); got != "" {
		t.Errorf("a second Apply changed %s", got)
	}
}

func TestAVPCOnTwoHostsByIPv6(t *testing.T) {
	n := machines(t)
	m := start(t, "ova")
	here, there := []Interface{guest6(1, "sg-default")}, []Interface{guest6(3, "sg-default"), guest6(4, "sg-other")}
	a, b := config6("ova", here...), config6("ovb", there...)
	a.Underlay, b.Underlay = underlayA, underlayB
	spread(&a, there, "h-b", underlayB)
	spread(&b, here, "h-a", underlayA)
	a.VPCs[0].Peers[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1:7::/80")}
	apply(t, m, a)
	n.apply(b)
	g1 := configured6(t, m, here[0])
	var far []*nstest.Guest
	for _, i := range there {
		g := n.guest(i)
		enable6(g)
		g.IP("addr add %s/128 dev eth0 nodad", i.IPv6[0])
		g.IP("-6 route replace default via %s dev eth0", ownRouter)
		far = append(far, g)
	}
	if !pinged(g1, guestAddr6(3).String()) || !pinged(far[0], guestAddr6(1).String()) {
		t.Errorf("members of a group do not reach each other: %s\n%v", nstest.IP(t, "-n ova-vpc-1 -6 route"), m.Counters())
	}
	if pinged(g1, guestAddr6(4).String()) || pinged(far[1], guestAddr6(1).String()) {
		t.Error("what a group does not allow passes from host to host")
	}
	if routes := nstest.IP(t, "-n ova-vpc-1 -6 route"); !strings.Contains(routes, "2001:db8:0:1:7::/80 via fe80::c000:202 dev vx0") {
		t.Errorf("a delegated prefix has no way: %s", routes)
	}
	changes := nstest.Changes(t, "ova-vpc-1")
	apply(t, m, a)
	if got := changes(); got != "" {
		t.Errorf("a second Apply changed %s", got)
	}
}

// The second subnet is on the other host, and its way out is here: an instance, then a NAT gateway.
func TestARouteLeadsToAnotherHost(t *testing.T) {
	world := outside(t)
	n := machines(t)
	m := start(t, "ova")
	hop := publicly(1, "sg-open")
	hop.SourceDestCheck = false
	here, there := []Interface{hop, guestInterface(2, "sg-open")}, []Interface{second(1, "sg-open")}
	routes := []cloud.HostRoute{to("0.0.0.0/0", internet)}
	both := func(lead cloud.HostRoute) (a, b Config) {
		a, b = two("ova", routes, []cloud.HostRoute{lead}, here...), two("ovb", routes, []cloud.HostRoute{lead}, there...)
		a.Underlay, b.Underlay = underlayA, underlayB
		spread(&a, there, "h-b", underlayB)
		spread(&b, here, "h-a", underlayA)
		return a, b
	}
	a, b := both(to("0.0.0.0/0", func(r *cloud.HostRoute) { r.Interface, r.Via = hop.ID, guestAddr(1) }))
	apply(t, m, a)
	n.apply(b)
	nat, guest := configured(t, m, 1), n.guest(there[0])
	configured(t, m, 2)
	nat.Sysctl("ipv4/ip_forward", "1")
	if out, err := nat.Run("nft", "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p ip saddr 172.31.16.0/20 masquerade"); err != nil {
		t.Fatalf("nft: %s", out)
	}
	if got := seen(t, guest.Namespace, world, "203.0.113.1:443"); got != publicAddr(1).String() {
		t.Errorf("the world sees the guest as %q, want the instance's %s: %v", got, publicAddr(1), m.Counters())
	}
	gateway := publicAddr(60)
	a, b = both(to("0.0.0.0/0", func(r *cloud.HostRoute) { r.NAT = gateway }))
	b.VPCs[0].Subnets[1].Routes[0].Home = underlayA
	apply(t, m, a)
	n.apply(b)
	if got := seen(t, guest.Namespace, world, "203.0.113.1:444"); got != gateway.String() {
		t.Errorf("the world sees the guest as %q, want the gateway's %s: %v", got, gateway, m.Counters())
	}
	if !pinged(guest, "172.31.0.12") {
		t.Error("the VPC is not local any more")
	}
	a, b = both(to("0.0.0.0/0", internet)) // whose way out is its own host's: what comes here all the same goes nowhere
	b.VPCs[0].Subnets[1].Routes[0] = to("0.0.0.0/0", func(r *cloud.HostRoute) { r.NAT, r.Home = gateway, underlayA })
	apply(t, m, a)
	n.apply(b)
	before := m.Counters()["vpc-1/noroute"]
	if got := seen(t, guest.Namespace, world, "203.0.113.1:445"); got != "" {
		t.Errorf("a packet from another host has left under %s", got)
	}
	if m.Counters()["vpc-1/noroute"] == before {
		t.Errorf("it is not counted: %v", m.Counters())
	}
}

// encapsulated is a packet as another host would send it: VXLAN with an Ethernet frame.
func encapsulated(vni uint32, to net.HardwareAddr, packet []byte) []byte {
	header := make([]byte, 8)
	header[0] = 0x08
	binary.BigEndian.PutUint32(header[4:], vni<<8)
	return append(header, nstest.Ethernet(to, net.HardwareAddr{2, 'v', 192, 0, 2, 9}, 0x0800, packet)...)
}

// Who is not a host of the cloud cannot put packets into a VPC, nor can a guest; and a host cannot put in what would be in
// the name of a guest here, or is for the host itself.
func TestOnlyHostsOfTheCloudSpeakForTheirGuests(t *testing.T) {
	n := machines(t)
	m := start(t, "ova")
	all := func(c Config) Config {
		for k := range c.VPCs[0].Groups {
			c.VPCs[0].Groups[k].Ingress = []cloud.GroupRule{{ID: "sgr-9", Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
		}
		return c
	}
	cfg, _ := apart([]Interface{guestInterface(1, "sg-default"), guestInterface(2, "sg-default")}, []Interface{guestInterface(3, "sg-default")})
	apply(t, m, all(cfg))
	victim, inside := configured(t, m, 1), configured(t, m, 2)
	mac := net.HardwareAddr{2, 'v', 192, 0, 2, 1}
	inner := func(src string) []byte {
		return nstest.IPv4(netip.MustParseAddr(src), guestAddr(1), 17, nstest.UDP(7, 7, []byte("injected")))
	}
	send := func(from *nstest.Namespace, local string, vni uint32, packet []byte) {
		t.Helper()
		err := from.Do(func() error {
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}).Dial("udp4", "192.0.2.1:4789")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(encapsulated(vni, mac, packet))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	n.at.IP("addr add 192.0.2.9/24 dev wire")
	mark := func() { // what was sent before it has been judged when this arrives
		t.Helper()
		send(n.at, "192.0.2.2", 0xabcdef, inner("172.31.0.13"))
		victim.Await(func(frame []byte) bool { return strings.Contains(string(frame), "injected") })
	}
	mark()
	cases := map[string]func(){
		"a stranger on the underlay":                     func() { send(n.at, "192.0.2.9", 0xabcdef, inner("172.31.0.13")) },
		"a host in the name of a guest of this host":     func() { send(n.at, "192.0.2.2", 0xabcdef, inner("172.31.0.12")) },
		"a host in the name of nobody of the VPC":        func() { send(n.at, "192.0.2.2", 0xabcdef, inner("172.31.0.200")) },
		"another VPC's number":                           func() { send(n.at, "192.0.2.2", 0xabcdee, inner("172.31.0.13")) },
		"a guest that wraps a packet for its own host":   func() { send(inside.Namespace, "172.31.0.12", 0xabcdef, inner("172.31.0.13")) },
		"a guest that wraps a packet of its own for all": func() { send(inside.Namespace, "172.31.0.12", 0xabcdef, inner("172.31.0.12")) },
	}
	for name, attack := range cases {
		t.Run(name, func(t *testing.T) {
			victim.Forget()
			attack()
			pinged(inside, "172.31.0.11") // behind what a guest has sent
			send(n.at, "192.0.2.2", 0xabcdef, nstest.IPv4(netip.MustParseAddr("172.31.0.13"), guestAddr(1), 17, nstest.UDP(7, 7, []byte("the mark"))))
			victim.Await(func(frame []byte) bool { return strings.Contains(string(frame), "the mark") })
			for _, frame := range victim.Received() {
				if strings.Contains(string(frame), "injected") {
					t.Error("it has arrived")
				}
			}
		})
	}
	counters := m.Counters()
	for _, want := range []string{"host/stranger", "vpc-1/spoof", "host/isolated"} {
		if counters[want] == 0 {
			t.Errorf("nothing is counted as %s: %v", want, counters)
		}
	}
	t.Run("a guest that wraps a packet for another host", func(t *testing.T) {
		before := m.Counters()["host/isolated"]
		err := inside.Do(func() error {
			c, err := net.Dial("udp4", "192.0.2.2:4789")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(encapsulated(0xabcdef, mac, inner("172.31.0.12")))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		pinged(inside, "172.31.0.11") // behind it
		if after := m.Counters()["host/isolated"]; after == before {
			t.Errorf("it has left this host: isolated is still %d", after)
		}
	})
	t.Run("what is for the host itself", func(t *testing.T) {
		before := m.Counters()["vpc-1/isolated"]
		for _, at := range []string{"169.254.169.254", "172.31.0.1", "172.31.0.2"} {
			send(n.at, "192.0.2.2", 0xabcdef, nstest.IPv4(netip.MustParseAddr("172.31.0.13"), netip.MustParseAddr(at), 17, nstest.UDP(7, 53, []byte("hello"))))
		}
		mark()
		if got := m.Counters()["vpc-1/isolated"] - before; got != 3 {
			t.Errorf("%d of 3 packets were dropped as isolated: %v", got, m.Counters())
		}
	})
}
