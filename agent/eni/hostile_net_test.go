//go:build net

package eni

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/nstest"
	"golang.org/x/sys/unix"
)

var router = net.HardwareAddr(link.RouterMAC[:])

// datagram is a frame as the guest's own kernel would send it, to port 9.
func datagram(g *nstest.Guest, src, dst netip.Addr, text string) []byte {
	return nstest.Ethernet(router, g.MAC, 0x0800, nstest.IPv4(src, dst, 17, nstest.UDP(1000, 9, []byte(text))))
}

func contains(text string) func([]byte) bool {
	return func(f []byte) bool { return bytes.Contains(f, []byte(text)) }
}

// routerAdvertisement is an IPv6 packet from fe80::1 to all nodes.
func routerAdvertisement() []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, 16, 58, 255}, net.ParseIP("fe80::1")...)
	return append(append(b, net.ParseIP("ff02::1")...), make([]byte, 16)...)
}

func TestAHostileGuestLeaksNoFrame(t *testing.T) {
	m := start(t, "eha")
	apply(t, m, config("eha", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"), guestInterface(3, "sg-default")))
	evil, victim := configured(t, m, 1), configured(t, m, 2)
	own, its, third := guestAddr(1), guestAddr(2), guestAddr(3)
	gateway := netip.MustParseAddr("172.31.0.1")
	everyone := netip.MustParseAddr("255.255.255.255")
	udp := func(src, dst netip.Addr) []byte {
		return nstest.IPv4(src, dst, 17, nstest.UDP(1000, 9, []byte("attack")))
	}
	offer := nstest.UDP(67, 68, append([]byte("attack"), make([]byte, 250)...))
	frame := nstest.Ethernet
	attacks := []struct {
		name    string
		frame   []byte
		counter string // "": the kernel drops it before any rule
	}{
		{"a free address as source", frame(router, evil.MAC, 0x0800, udp(netip.MustParseAddr("172.31.0.99"), its)), "vpc-1/spoof"},
		{"another guest's address as source", frame(router, evil.MAC, 0x0800, udp(third, its)), "vpc-1/spoof"},
		{"the gateway's address as source", frame(router, evil.MAC, 0x0800, udp(gateway, its)), "vpc-1/spoof"},
		{"the metadata address as source", frame(router, evil.MAC, 0x0800, udp(Metadata.Addr(), its)), "vpc-1/spoof"},
		{"another MAC as source", frame(router, victim.MAC, 0x0800, udp(own, its)), "vpc-1/spoof"},
		{"another guest's MAC and address", frame(router, victim.MAC, 0x0800, udp(its, third)), "vpc-1/spoof"},
		{"straight to the other's MAC", frame(victim.MAC, evil.MAC, 0x0800, udp(own, its)), ""},
		{"Ethernet broadcast of a unicast packet", frame(nstest.Broadcast, evil.MAC, 0x0800, udp(third, its)), "vpc-1/spoof"},
		{"gratuitous ARP for another guest", frame(nstest.Broadcast, evil.MAC, 0x0806, nstest.ARP(2, evil.MAC, its, nstest.Broadcast, its)), "vpc-1/arp_spoof"},
		{"ARP as the gateway", frame(nstest.Broadcast, evil.MAC, 0x0806, nstest.ARP(1, evil.MAC, gateway, make([]byte, 6), its)), "vpc-1/arp_spoof"},
		{"ARP answer to the other's MAC", frame(victim.MAC, evil.MAC, 0x0806, nstest.ARP(2, evil.MAC, gateway, victim.MAC, its)), ""},
		{"DHCP offer to all", frame(nstest.Broadcast, evil.MAC, 0x0800, nstest.IPv4(own, everyone, 17, offer)), "vpc-1/isolated"},
		{"DHCP offer in the gateway's name", frame(nstest.Broadcast, evil.MAC, 0x0800, nstest.IPv4(gateway, its, 17, offer)), "vpc-1/spoof"},
		{"a VLAN tag", nstest.VLAN(datagram(evil, own, its, "attack"), 100), ""},
		{"a spoofed source under VLAN tag 0", nstest.VLAN(datagram(evil, third, its, "attack"), 0), "vpc-1/spoof"},
		{"link-local addresses", datagram(evil, own, netip.MustParseAddr("169.254.7.7"), "attack"), "vpc-1/linklocal"},
		{"another port of the metadata address", datagram(evil, own, Metadata.Addr(), "attack"), "vpc-1/isolated"},
		{"the host's DHCP server as a client of another network", datagram(evil, own, gateway, "attack"), "vpc-1/isolated"},
		{"IPv6", frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, evil.MAC, 0x86dd, routerAdvertisement()), ""},
		{"multicast", frame(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, evil.MAC, 0x0800, udp(own, netip.MustParseAddr("224.0.0.1"))), "vpc-1/isolated"},
		{"the first fragment of a spoofed datagram", frame(router, evil.MAC, 0x0800, nstest.Fragment(udp(third, its), 0, true)), "vpc-1/spoof"},
		{"a later fragment of a spoofed datagram", frame(router, evil.MAC, 0x0800, nstest.Fragment(udp(third, its), 185, false)), "vpc-1/spoof"},
		{"a fragment too small for a header", frame(router, evil.MAC, 0x0800, nstest.Fragment(nstest.IPv4(third, its, 6, []byte("attack!!")), 0, true)), "vpc-1/spoof"},
		{"a fragment that would overwrite the header", frame(router, evil.MAC, 0x0800, nstest.Fragment(nstest.IPv4(third, its, 6, []byte("attack")), 1, false)), "vpc-1/spoof"},
		{"a source route through another guest", frame(router, evil.MAC, 0x0800, sourceRoute(third, its)), "vpc-1/spoof"},
		{"IPv4 in IPv6", frame(router, evil.MAC, 0x86dd, ipv6(4, udp(third, its))), ""},
		{"IPv6 with extension headers", frame(router, evil.MAC, 0x86dd, ipv6(0, append([]byte{60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0}, nstest.UDP(1000, 9, []byte("attack"))...))), ""},
		{"an IPv6 router advertisement with a prefix", frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, evil.MAC, 0x86dd, ipv6(58, append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, []byte("attack")...))), ""},
		{"an IPv6 packet in an IPv4 frame", frame(router, evil.MAC, 0x0800, ipv6(17, nstest.UDP(1000, 9, []byte("attack")))), ""},
		{"two VLAN tags", nstest.VLAN(nstest.VLAN(datagram(evil, own, its, "attack"), 100), 200), ""},
		{"two VLAN tags, the outer one 0", nstest.VLAN(nstest.VLAN(datagram(evil, third, its, "attack"), 100), 0), ""},
		{"link-local addresses of another guest", datagram(evil, netip.MustParseAddr("169.254.7.7"), its, "attack"), "vpc-1/spoof"},
		{"to another guest's link-local address", datagram(evil, own, netip.MustParseAddr("169.254.12.12"), "attack"), "vpc-1/linklocal"},
		{"the public address of another guest as source", datagram(evil, publicAddr(2), its, "attack"), "vpc-1/spoof"},
		{"the broadcast address as source", datagram(evil, everyone, its, "attack"), "vpc-1/spoof"},
		{"loopback as source", datagram(evil, netip.MustParseAddr("127.0.0.1"), its, "attack"), "vpc-1/spoof"},
		{"no address as source", datagram(evil, netip.MustParseAddr("0.0.0.0"), its, "attack"), "vpc-1/spoof"},
		{"an ARP claim as a question", frame(nstest.Broadcast, evil.MAC, 0x0806, nstest.ARP(1, evil.MAC, its, make([]byte, 6), its)), "vpc-1/arp_spoof"},
		{"an ARP answer without an address", frame(nstest.Broadcast, evil.MAC, 0x0806, nstest.ARP(2, evil.MAC, netip.MustParseAddr("0.0.0.0"), router, its)), "vpc-1/arp_spoof"},
		{"DHCP answer to a neighbour by unicast", frame(router, evil.MAC, 0x0800, nstest.IPv4(gateway, its, 17, offer)), "vpc-1/spoof"},
		{"DHCP server's port to the host", frame(router, evil.MAC, 0x0800, nstest.IPv4(own, gateway, 17, offer)), "vpc-1/isolated"},
		{"the host's own port 22", frame(router, evil.MAC, 0x0800, nstest.IPv4(own, gateway, 6, syn(22))), "vpc-1/isolated"},
		{"an ICMP redirect to the other guest", frame(router, evil.MAC, 0x0800, nstest.IPv4(gateway, its, 1, append([]byte{5, 1, 0, 0, 172, 31, 0, 11}, udp(its, third)...))), "vpc-1/spoof"},
		{"an ICMP redirect in its own name", frame(router, evil.MAC, 0x0800, nstest.IPv4(own, its, 1, icmp(5, 1, udp(its, netip.MustParseAddr("192.0.2.1"))))), "vpc-1/invalid"},
		{"a segment with flags that exclude each other", frame(router, evil.MAC, 0x0800, nstest.IPv4(own, its, 6, append(flags(3), []byte("attack")...))), "vpc-1/invalid"},
		{"an unknown EtherType", frame(nstest.Broadcast, evil.MAC, 0x88b5, []byte("attack")), ""},
	}
	neighbours := nstest.IP(t, "-n eha-vpc-1 neigh")
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			before := m.Counters()[a.counter]
			victim.Forget()
			evil.Inject(a.frame)
			// One tap has one queue: when the honest packet is through, the other has been judged.
			honest := "honest" + strconv.Itoa(i)
			evil.Inject(datagram(evil, own, its, honest))
			victim.Await(contains(honest))
			for _, f := range victim.Received() {
				if fromRouter := bytes.Equal(f[6:12], router) && f[12] == 0x08 && f[13] == 0x06; !contains(honest)(f) && !fromRouter {
					t.Errorf("the other guest received % x", f)
				}
			}
			if after := m.Counters()[a.counter]; a.counter != "" && after == before {
				t.Errorf("%s did not move from %d", a.counter, before)
			}
		})
	}
	if now := nstest.IP(t, "-n eha-vpc-1 neigh"); now != neighbours {
		t.Errorf("neighbours of the router:\n%s\nbefore:\n%s", now, neighbours)
	}
}

// ipv6 is a packet from fe80::1 to all nodes.
func ipv6(next byte, payload []byte) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, byte(len(payload)), next, 255}, net.ParseIP("fe80::1")...)
	return append(append(b, net.ParseIP("ff02::1")...), payload...)
}

// syn is the first segment of a TCP connection.
func syn(port uint16) []byte {
	return []byte{4, 0, byte(port >> 8), byte(port), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0}
}

// flags is a segment with these flags.
func flags(f byte) []byte {
	s := syn(80)
	s[13] = f
	return s
}

// icmp is a message about a packet.
func icmp(kind, code byte, about []byte) []byte {
	b := append([]byte{kind, code, 0, 0, 172, 31, 0, 11}, about...)
	binary.BigEndian.PutUint16(b[2:], ^nstest.Sum(0, b))
	return b
}

// sourceRoute is a datagram whose options ask routers to pass it through its destination and on.
func sourceRoute(src, dst netip.Addr) []byte {
	p := nstest.IPv4(src, dst, 17, append(append([]byte{131, 7, 4}, dst.AsSlice()...), append([]byte{0}, nstest.UDP(1000, 9, []byte("attack"))...)...))
	p[0] = 0x47
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^nstest.Sum(0, p[:28]))
	return p
}

// What a flood may cost is bounded, and the guest beside it has its network meanwhile.
func TestFloodsOfQuestionsAreLimited(t *testing.T) {
	m := start(t, "ehd")
	apply(t, m, config("ehd", guestInterface(1, "sg-default"), guestInterface(2, "sg-default")))
	evil, other := configured(t, m, 1), configured(t, m, 2)
	probe := nstest.Ethernet(nstest.Broadcast, evil.MAC, 0x0806, nstest.ARP(1, evil.MAC, netip.MustParseAddr("0.0.0.0"), make([]byte, 6), guestAddr(2)))
	for m.Counters()["vpc-1/arp_rate"] == 0 { // ends when the limit bites
		for range 1000 {
			evil.Inject(probe)
		}
	}
	settled(t, other)
	if n := metered(t, m)["ichiro_network_dropped_packets_total "+string(guestInterface(2).ID)+" arp_rate"]; n != 0 {
		t.Errorf("%v packets of the other guest were dropped", n)
	}
}

// Two VPCs have the same addresses. Whatever a guest sends, in its own name or in another's, stays in its own.
func TestAVPCIsAloneWithItsAddresses(t *testing.T) {
	outside(t)
	m := start(t, "ehe")
	c := open(config("ehe", publicly(1, "sg-open"), publicly(2, "sg-open")))
	other := open(config("ehe", publicly(3, "sg-open"), guestInterface(4, "sg-open")))
	v := other.VPCs[0]
	v.VPC.ID = "vpc-2"
	for i := range v.Groups {
		v.Groups[i].VPC = "vpc-2"
	}
	for i := range v.Subnets {
		v.Subnets[i].VPC = "vpc-2"
	}
	nat, stranger := other.Interfaces[0], other.Interfaces[1]
	nat.VPC, stranger.VPC = "vpc-2", "vpc-2"
	nat.SourceDestCheck = false
	c.VPCs, c.Interfaces = append(c.VPCs, v), append(c.Interfaces, nat, stranger)
	apply(t, m, c)
	metadata(t, m)
	evil, a, b := configured(t, m, 3), configured(t, m, 1), configured(t, m, 2)
	listen(t, b.Namespace, "172.31.0.12:8080")
	if !reaches(t, a.Namespace, "172.31.0.12:8080") || !reaches(t, a.Namespace, publicAddr(2).String()+":8080") {
		t.Fatal("the guests of the first VPC do not reach each other: the test proves nothing")
	}
	if reaches(t, evil.Namespace, "172.31.0.12:8080") {
		t.Error("a guest reaches the private address of another VPC")
	}
	b.Forget()
	for name, frame := range map[string][]byte{
		"vpc-2/foreign": datagram(evil, publicAddr(1), publicAddr(2), "forged"),  // another's public address
		"vpc-2/spoof":   datagram(evil, guestAddr(4), Metadata.Addr(), "forged"), // metadata in another's name
	} {
		before := m.Counters()[name]
		evil.Inject(frame)
		settled(t, evil)
		if after := m.Counters()[name]; after != before+1 {
			t.Errorf("%s: got %d more, want 1", name, after-before)
		}
	}
	settled(t, b)
	for _, f := range b.Received() {
		if contains("forged")(f) {
			t.Errorf("a forged packet reached another VPC: % x", f)
		}
	}
}

func TestDHCPIsSilentToStrangers(t *testing.T) {
	m := start(t, "ehb")
	apply(t, m, config("ehb", guestInterface(1, "sg-default"), guestInterface(2, "sg-default")))
	g := boot(t, m, 1)
	g.IP("link set eth0 address 02:00:00:00:00:0c") // the other guest's
	out, err := g.Run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "1", "-T", "1", "-s", script(t))
	if err == nil {
		t.Errorf("a stranger's MAC got a lease:\n%s", out)
	}
	if c := m.Counters(); c["dhcp_unknown"] == 0 || c["dhcp_offers"] != 0 {
		t.Errorf("counters %v, want unknown and no offers", c)
	}
}

func TestLinkLocalTrafficIsLimited(t *testing.T) {
	m := start(t, "ehc")
	apply(t, m, config("ehc", guestInterface(1, "sg-default")))
	g := configured(t, m, 1)
	frame := datagram(g, guestAddr(1), Metadata.Addr(), "flood")
	for m.Counters()["vpc-1/llrate"] == 0 { // ends when the limit bites
		for range 2000 {
			g.Inject(frame)
		}
	}
}

// ICMP that answers nothing has no connection, hence no translation: none may come in or get out untranslated.
func TestICMPWithoutAConnectionDoesNotPassTheUplink(t *testing.T) {
	world := nstest.Internet(t, "203.0.113.1")
	m := start(t, "ehf")
	apply(t, m, open(config("ehf", ofInstance(1, "i-1"))))
	g := configured(t, m, 1)
	if out, ok := answered(t, world, publicAddr(1)); !ok {
		t.Fatalf("the guest is not reachable, which proves nothing: %s", out)
	}
	for name, send := range map[string]func(reply []byte){
		"to the public address": func(reply []byte) {
			err := world.Do(func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Sendto(fd, reply, 0, &unix.SockaddrInet4{Addr: publicAddr(1).As4()})
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"to the world": func(reply []byte) {
			g.Inject(nstest.Ethernet(router, g.MAC, 0x0800, nstest.IPv4(guestAddr(1), netip.MustParseAddr("203.0.113.1"), 1, reply)))
		},
	} {
		before := m.Counters()["vpc-1/invalid"]
		g.Forget()
		reply := nstest.Echo(7, []byte("attack"))
		reply[0] = 0
		binary.BigEndian.PutUint16(reply[2:], 0)
		binary.BigEndian.PutUint16(reply[2:], ^nstest.Sum(0, reply))
		send(reply)
		if out, ok := answered(t, world, publicAddr(1)); !ok {
			t.Fatalf("ping: %s", out)
		}
		settled(t, g)
		if after := m.Counters()["vpc-1/invalid"]; after != before+1 {
			t.Errorf("%s: %d more invalid packets, want 1", name, after-before)
		}
		for _, f := range g.Received() {
			if contains("attack")(f) {
				t.Errorf("%s: received % x", name, f)
			}
		}
	}
}
