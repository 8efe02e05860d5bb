//go:build net

package eni

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// datagram6 is an IPv6 frame as the guest's own kernel would send it, to port 9.
func datagram6(g *nstest.Guest, src, dst netip.Addr, text string) []byte {
	return nstest.Ethernet(router, g.MAC, 0x86dd, nstest.IPv6(src, dst, 17, udp6(src, dst, text)))
}

func udp6(src, dst netip.Addr, text string) []byte {
	return nstest.UDP6(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 9), []byte(text))
}

var (
	allNodes6   = netip.MustParseAddr("ff02::1")
	dhcpServers = netip.MustParseAddr("ff02::1:2")
	nobody6     = netip.IPv6Unspecified()
)

// advert is a neighbour advertisement that overrides what is known, with a link-layer address.
func advert(src, dst, target netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{0x20, 0, 0, 0}, target.AsSlice()...)
	body = append(append(body, 2, 1), mac...)
	return nstest.OnLink(nstest.IPv6(src, dst, 58, nstest.ICMPv6(src, dst, 136, 0, body)))
}

func solicit(src, dst, target netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{0, 0, 0, 0}, target.AsSlice()...)
	body = append(append(body, 1, 1), mac...)
	return nstest.OnLink(nstest.IPv6(src, dst, 58, nstest.ICMPv6(src, dst, 135, 0, body)))
}

// routerAdvert is an advertisement of a default router with a prefix to make addresses of.
func routerAdvert(src, dst netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, mac...)
	body = append(body, 3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0)
	body = append(body, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
	return nstest.OnLink(nstest.IPv6(src, dst, 58, nstest.ICMPv6(src, dst, 134, 0, body)))
}

// routing is a routing header with one more stage behind its packet's destination.
func routing(kind, next byte, then netip.Addr, following []byte) []byte {
	b := append([]byte{next, 2, kind, 1, 0, 0, 0, 0}, then.AsSlice()...)
	return append(b, following...)
}

func TestAHostileGuestLeaksNoFrameOfIPv6(t *testing.T) {
	m := start(t, "e6h")
	all := []Interface{guest6(1, "sg-default"), guest6(2, "sg-default"), guest6(3, "sg-default")}
	behind := netip.MustParsePrefix("2001:db8:0:1:7::/80")
	all[2].Prefixes = []netip.Prefix{behind}
	apply(t, m, config6("e6h", all...))
	evil, victim := configured6(t, m, all[0]), configured6(t, m, all[1])
	own, its, third := guestAddr6(1), guestAddr6(2), guestAddr6(3)
	link := netip.AddrFrom16(wire.LinkLocal([6]byte(evil.MAC)))
	itsLink := netip.AddrFrom16(wire.LinkLocal([6]byte(victim.MAC)))
	frame := func(packet []byte) []byte { return nstest.Ethernet(router, evil.MAC, 0x86dd, packet) }
	toAll := func(packet []byte) []byte {
		return nstest.Ethernet(nstest.Multicast6(netip.AddrFrom16([16]byte(packet[24:]))), evil.MAC, 0x86dd, packet)
	}
	udp := func(src, dst netip.Addr) []byte { return udp6(src, dst, "attack") }
	plain := func(src, dst netip.Addr) []byte { return nstest.IPv6(src, dst, 17, udp(src, dst)) }
	bare := func(next byte, payload []byte) []byte { return frame(nstest.IPv6(own, its, next, payload)) }
	echo := func(kind byte) []byte { return nstest.ICMPv6(own, its, kind, 0, []byte("attack!!")) }
	redirected := append(append([]byte{0, 0, 0, 0}, link.AsSlice()...), third.AsSlice()...)
	const silent = "" // dropped without a count: what guests say, or what the kernel drops before any rule
	attacks := []struct {
		name    string
		frames  [][]byte
		counter string
	}{
		{"another guest's address as source", [][]byte{frame(plain(third, its))}, "vpc-1/spoof"},
		{"a free address as source", [][]byte{frame(plain(sixIn(1, 99), its))}, "vpc-1/spoof"},
		{"an address of the prefix of another", [][]byte{frame(plain(behind.Addr().Next(), its))}, "vpc-1/spoof"},
		{"the router's address as source", [][]byte{frame(plain(gateway6, its))}, "vpc-1/spoof"},
		{"the router's link-local address as source", [][]byte{frame(plain(ownRouter, its))}, "vpc-1/isolated"},
		{"an address of the world as source", [][]byte{frame(plain(netip.MustParseAddr("2001:db8:ffff::1"), its))}, "vpc-1/spoof"},
		{"loopback as source", [][]byte{frame(plain(netip.IPv6Loopback(), its))}, silent},
		{"multicast as source", [][]byte{frame(plain(allNodes6, its))}, silent},
		{"an address of IPv4 as source", [][]byte{frame(plain(netip.MustParseAddr("::ffff:172.31.0.11"), its))}, "vpc-1/spoof"},
		{"no address as source", [][]byte{frame(plain(nobody6, its))}, "vpc-1/isolated"},
		{"its own link-local address as source", [][]byte{frame(plain(link, its))}, "vpc-1/isolated"},
		{"another MAC as source", [][]byte{nstest.Ethernet(router, victim.MAC, 0x86dd, plain(own, its))}, "vpc-1/spoof"},
		{"another MAC and its link-local address", [][]byte{nstest.Ethernet(router, victim.MAC, 0x86dd, solicit(itsLink, ownRouter, ownRouter, victim.MAC))}, "vpc-1/spoof"},
		{"straight to the other's MAC", [][]byte{nstest.Ethernet(victim.MAC, evil.MAC, 0x86dd, plain(own, its))}, silent},
		{"another's address under VLAN tag 0", [][]byte{nstest.VLAN(frame(plain(third, its)), 0)}, "vpc-1/spoof"},
		{"under a VLAN tag", [][]byte{nstest.VLAN(frame(plain(own, its)), 100)}, silent},
		{"a packet of IPv4 in a frame of IPv6", [][]byte{nstest.Ethernet(router, evil.MAC, 0x86dd, nstest.IPv4(guestAddr(1), guestAddr(2), 17, nstest.UDP(1000, 9, []byte("attack"))))}, silent},
		{"to the other's link-local address", [][]byte{frame(plain(own, itsLink))}, silent},
		{"what no service is for, at the link-local services", [][]byte{frame(plain(own, netip.MustParseAddr("fd00:ec2::254")))}, "vpc-1/isolated"},
		{"to all nodes", [][]byte{toAll(plain(own, allNodes6))}, silent},
		{"to the VPC's anycast routers", [][]byte{frame(plain(own, netip.MustParseAddr("2001:db8:0:1::")))}, silent},
		{"a port of the host's", [][]byte{frame(plain(own, gateway6))}, "vpc-1/isolated"},

		{"a router advertisement to all", [][]byte{toAll(routerAdvert(link, allNodes6, evil.MAC))}, "vpc-1/nd"},
		{"a router advertisement to the other", [][]byte{frame(routerAdvert(link, its, evil.MAC))}, "vpc-1/nd"},
		{"a router advertisement from its own address", [][]byte{frame(routerAdvert(own, its, evil.MAC))}, "vpc-1/nd"},
		{"a router advertisement in the router's name", [][]byte{toAll(routerAdvert(ownRouter, allNodes6, evil.MAC))}, "vpc-1/nd"},
		{"an advertisement of the other's address", [][]byte{frame(advert(link, its, third, evil.MAC))}, "vpc-1/nd"},
		{"an advertisement of the router", [][]byte{toAll(advert(own, allNodes6, ownRouter, evil.MAC))}, "vpc-1/nd"},
		{"an advertisement in another's name", [][]byte{toAll(advert(third, allNodes6, third, evil.MAC))}, "vpc-1/spoof"},
		{"a redirect", [][]byte{frame(nstest.OnLink(nstest.IPv6(link, its, 58, nstest.ICMPv6(link, its, 137, 0, redirected))))}, "vpc-1/nd"},
		{"a solicitation of the other, from nobody", [][]byte{toAll(solicit(nobody6, allNodes6, its, evil.MAC))}, silent},
		{"a solicitation with the router's MAC", [][]byte{frame(solicit(own, its, its, router))}, silent},
		{"an answer of a DHCPv6 server", [][]byte{toAll(nstest.IPv6(link, allNodes6, 17, nstest.UDP6(netip.AddrPortFrom(link, 547), netip.AddrPortFrom(allNodes6, 546), []byte("\x02attack"))))}, "vpc-1/isolated"},
		{"a question for DHCPv6 with the other's MAC", [][]byte{nstest.Ethernet(nstest.Multicast6(dhcpServers), victim.MAC, 0x86dd, nstest.IPv6(itsLink, dhcpServers, 17, nstest.UDP6(netip.AddrPortFrom(itsLink, 546), netip.AddrPortFrom(dhcpServers, 547), []byte("\x01abc"))))}, "vpc-1/spoof"},
		{"a question of who listens", [][]byte{toAll(nstest.IPv6(link, allNodes6, 58, nstest.ICMPv6(link, allNodes6, 130, 0, make([]byte, 20))))}, "vpc-1/isolated"},
		{"a name to all (mDNS)", [][]byte{toAll(plain(link, netip.MustParseAddr("ff02::fb")))}, "vpc-1/isolated"},

		{"a router advertisement behind padding", [][]byte{frame(nstest.OnLink(nstest.IPv6(own, its, 60, nstest.Extension(58, 1, nstest.ICMPv6(own, its, 134, 0, make([]byte, 12))))))}, "vpc-1/nd"},
		{"a router advertisement in small fragments", [][]byte{
			bare(44, nstest.Fragment6(58, 0, true, 7, nstest.ICMPv6(own, its, 134, 0, []byte("attack!!attack!!"))[:8])),
			bare(44, nstest.Fragment6(58, 1, false, 7, nstest.ICMPv6(own, its, 134, 0, []byte("attack!!attack!!"))[8:])),
		}, "vpc-1/nd"},
		{"a router advertisement whose fragments hide it", hidden(own, its, nstest.ICMPv6(own, its, 134, 0, []byte("attack!!attack!!")), frame), "vpc-1/invalid"},
		{"hop-by-hop options", [][]byte{bare(0, nstest.Extension(17, 1, udp(own, its)))}, "vpc-1/headers"},
		{"a jumbogram", [][]byte{bare(0, append([]byte{17, 0, 0xc2, 4, 0, 1, 0, 0}, udp(own, its)...))}, silent},
		{"hop-by-hop options in second place", [][]byte{bare(60, nstest.Extension(0, 1, nstest.Extension(17, 1, udp(own, its))))}, "vpc-1/headers"},
		{"a route of type 0 through the other", [][]byte{bare(43, routing(0, 17, third, udp(own, third)))}, "vpc-1/headers"},
		{"a route of type 4 through the other", [][]byte{bare(43, routing(4, 17, third, udp(own, third)))}, "vpc-1/headers"},
		{"a route behind padding", [][]byte{bare(60, nstest.Extension(43, 1, routing(0, 17, third, udp(own, third))))}, "vpc-1/headers"},
		{"headers that end in the air", [][]byte{bare(60, []byte{60, 7, 1, 4, 0, 0, 0, 0})}, "vpc-1/headers"},
		{"headers that never end", [][]byte{bare(60, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 100))}, "vpc-1/headers"},
		{"a first fragment without the protocol's header", [][]byte{bare(44, nstest.Fragment6(60, 0, true, 8, []byte{6, 7, 1, 4, 0, 0, 0, 0}))}, "vpc-1/invalid"},
		{"the first fragment of a spoofed datagram", [][]byte{frame(nstest.IPv6(third, its, 44, nstest.Fragment6(17, 0, true, 9, udp(third, its)[:8])))}, "vpc-1/spoof"},
		{"a later fragment of a spoofed datagram", [][]byte{frame(nstest.IPv6(third, its, 44, nstest.Fragment6(17, 1, false, 9, []byte("attack"))))}, "vpc-1/spoof"},
		{"fragments that overlap", [][]byte{
			bare(44, nstest.Fragment6(17, 0, true, 10, udp6(own, its, "attack!!attack!!attack!!")[:24])),
			bare(44, nstest.Fragment6(17, 1, false, 10, []byte("attack!!attack!!attack!!"))),
		}, silent},
		{"IPv6 in IPv6 in another's name", [][]byte{frame(nstest.IPv6(third, its, 41, plain(third, its)))}, "vpc-1/spoof"},
		{"an echo of type 133", [][]byte{bare(58, echo(133))}, silent},
	}
	neighbours := nstest.IP(t, "-n e6h-vpc-1 -6 neigh")
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			before := m.Counters()[a.counter]
			victim.Forget()
			for _, f := range a.frames {
				evil.Inject(f)
			}
			// One tap has one queue: when the honest packet is through, the other has been judged.
			honest := "honest" + strconv.Itoa(i)
			evil.Inject(datagram6(evil, own, its, honest))
			victim.Await(contains(honest))
			for _, f := range victim.Received() {
				if !contains(honest)(f) && !fromRouter(f) {
					t.Errorf("the other guest received % x", f)
				}
			}
			if after := m.Counters()[a.counter]; a.counter != silent && after == before {
				t.Errorf("%s did not move from %d", a.counter, before)
			}
		})
	}
	if now := nstest.IP(t, "-n e6h-vpc-1 -6 neigh"); now != neighbours {
		t.Errorf("neighbours of the router:\n%s\nbefore:\n%s", now, neighbours)
	}
}

// hidden are fragments of which the first has only an extension header that ends where it ends.
func hidden(src, dst netip.Addr, message []byte, frame func([]byte) []byte) [][]byte {
	whole := nstest.Extension(58, 1, message)
	return [][]byte{
		frame(nstest.IPv6(src, dst, 44, nstest.Fragment6(60, 0, true, 11, whole[:8]))),
		frame(nstest.IPv6(src, dst, 44, nstest.Fragment6(60, 1, false, 11, whole[8:]))),
	}
}

// fromRouter reports whether a frame is the router's own word: neighbour discovery from its link-local address, or its
// kernel's report of the groups that it listens to.
func fromRouter(f []byte) bool {
	if bytes.Equal(f[6:12], router) && bytes.Equal(f[:6], net.HardwareAddr{0x33, 0x33, 0, 0, 0, 0x16}) {
		return true
	}
	return bytes.Equal(f[6:12], router) && len(f) > 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58 && f[54] >= 134 && f[54] <= 136 &&
		slices.Equal(f[22:38], ownRouter.AsSlice())
}

// An interface without source/destination check speaks for others, but of the link it speaks as little as anybody.
func TestWhoForwardsForOthersTellsNobodyOfRouters(t *testing.T) {
	m := start(t, "e6f")
	all := []Interface{guest6(1, "sg-default"), guest6(2, "sg-default")}
	all[0].SourceDestCheck = false
	c := config6("e6f", all...)
	g := &c.VPCs[0].Groups[0]
	g.Ingress = append(g.Ingress, cloud.GroupRule{ID: "sgr-9", Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "::/0"})
	apply(t, m, c)
	nat, victim := configured6(t, m, all[0]), configured6(t, m, all[1])
	world, its := netip.MustParseAddr("2001:db8:ffff::1"), guestAddr6(2)
	nat.Inject(datagram6(nat, world, its, "forwarded"))
	victim.Await(contains("forwarded"))
	victim.Forget()
	for name, frame := range map[string][]byte{
		"vpc-1/nd":    nstest.Ethernet(router, nat.MAC, 0x86dd, routerAdvert(world, its, nat.MAC)),
		"vpc-1/spoof": nstest.Ethernet(router, nat.MAC, 0x86dd, nstest.IPv6(ownRouter, its, 17, udp6(ownRouter, its, "attack"))),
	} {
		before := m.Counters()[name]
		nat.Inject(frame)
		nat.Inject(datagram6(nat, world, its, "again "+name))
		victim.Await(contains("again " + name))
		if after := m.Counters()[name]; after == before && name != "vpc-1/spoof" {
			t.Errorf("%s did not move from %d", name, before)
		}
	}
	for _, f := range victim.Received() {
		if !contains("again")(f) && !fromRouter(f) {
			t.Errorf("the other guest received % x", f)
		}
	}
}
