//go:build net

package eni

import (
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/nstest"
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
