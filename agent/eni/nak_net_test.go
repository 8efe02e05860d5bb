//go:build net

package eni

import (
	"bytes"
	"net/netip"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// renewal is the message of a guest that asks to keep its address, RFC 2131's RENEWING and REBINDING.
func renewal(g *nstest.Guest, address netip.Addr) []byte {
	b := make([]byte, 240, 300)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], "lost")
	copy(b[12:], address.AsSlice())
	copy(b[28:], g.MAC)
	copy(b[236:], []byte{99, 130, 83, 99})
	return append(b, 53, 1, 3, 255)
}

// refusal matches the DHCPNAK to a renewal.
func refusal(f []byte) bool {
	return len(f) > 282 && bytes.Equal(f[23:24], []byte{17}) && bytes.Equal(f[46:50], []byte("lost")) && bytes.Contains(f[282:], []byte{53, 1, 6})
}

// A guest that still has an address which is not its own any more, or never was, must hear so: without a refusal it waits
// until its lease ends.
func TestAGuestWithALostAddressIsRefusedIt(t *testing.T) {
	m := start(t, "ena")
	apply(t, m, config("ena", guestInterface(1, "sg-default"), guestInterface(2, "sg-default")))
	g, other := boot(t, m, 1), configured(t, m, 2)
	everyone, gateway := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("172.31.0.1")
	foreign := netip.MustParseAddr("10.9.9.9")
	datagram := func(from, to netip.Addr) []byte {
		return nstest.IPv4(from, to, 17, nstest.UDP(68, 67, renewal(g, from)))
	}
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		mac      []byte
	}{
		{"renews a lost address", guestAddr(9), gateway, router},
		{"rebinds a lost address", guestAddr(9), everyone, nstest.Broadcast},
		{"renews another's address", guestAddr(2), gateway, router},
		{"rebinds another's address", guestAddr(2), everyone, nstest.Broadcast},
		{"rebinds an address of another network", foreign, everyone, nstest.Broadcast},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.Forget()
			before := m.Counters()
			g.Inject(nstest.Ethernet(c.mac, g.MAC, 0x0800, datagram(c.from, c.to)))
			nak := g.Await(refusal)
			if !bytes.Equal(nak[:6], nstest.Broadcast) || !bytes.Equal(nak[30:34], everyone.AsSlice()) {
				t.Errorf("the refusal goes to % x, % x: the guest does not have that address", nak[:6], nak[30:34])
			}
			after := m.Counters()
			if after["dhcp_naks"] != before["dhcp_naks"]+1 || after["vpc-1/spoof"] != before["vpc-1/spoof"] {
				t.Errorf("counters %v, before %v", after, before)
			}
		})
	}
	g.IP("addr add %s/20 dev eth0", guestAddr(1))
	g.IP("route add default via 172.31.0.1")
	for _, c := range []struct {
		name  string
		frame []byte
		naks  uint64
	}{
		{"to another guest", nstest.Ethernet(router, g.MAC, 0x0800, datagram(guestAddr(9), guestAddr(2))), 0},
		{"to the metadata address", nstest.Ethernet(router, g.MAC, 0x0800, datagram(guestAddr(9), Metadata.Addr())), 0},
		{"to the world", nstest.Ethernet(router, g.MAC, 0x0800, datagram(guestAddr(9), netip.MustParseAddr("203.0.113.1"))), 0},
		{"in fragments", nstest.Ethernet(router, g.MAC, 0x0800, nstest.Fragment(datagram(guestAddr(9), gateway), 0, true)), 0},
		{"a fragment of something else", nstest.Ethernet(router, g.MAC, 0x0800, nstest.Fragment(datagram(guestAddr(9), gateway), 8, false)), 0},
	} {
		t.Run("no way out for what goes "+c.name, func(t *testing.T) {
			other.Forget()
			before := m.Counters()
			g.Inject(c.frame)
			settled(t, g)
			settled(t, other)
			after := m.Counters()
			if after["vpc-1/spoof"] != before["vpc-1/spoof"]+1 || after["dhcp_naks"] != before["dhcp_naks"] {
				t.Errorf("spoof %d, before %d; naks %d, before %d", after["vpc-1/spoof"], before["vpc-1/spoof"], after["dhcp_naks"], before["dhcp_naks"])
			}
			for _, f := range other.Received() {
				if contains("lost")(f) {
					t.Errorf("the other guest received % x", f)
				}
			}
		})
	}
	if out := nstest.Run(t, "ip", "netns", "exec", "ena-vpc-1", "sh", "-c", "cat /proc/net/nf_conntrack || true"); bytes.Contains([]byte(out), []byte("dport=67")) {
		t.Errorf("a connection of the DHCP server is tracked:\n%s", out)
	}
	for m.Counters()["vpc-1/dhcprate"] == 0 { // ends when the limit bites
		for range 200 {
			g.Inject(nstest.Ethernet(router, g.MAC, 0x0800, datagram(guestAddr(9), gateway)))
		}
	}
}

// The whole way with a stock client: it renews the address that it has lost, is refused, and gets the new one.
func TestAClientThatRenewsALostAddressGetsTheNewOne(t *testing.T) {
	m := start(t, "enb")
	apply(t, m, heard("enb"))
	g := boot(t, m, 1)
	c := spawn(t, g, "", "busybox", "udhcpc", "-i", "eth0", "-f", "-s", script(t))
	c.await("set 172.31.0.11")
	settled(t, g) // it knows the router's MAC, as a guest does that has used its network: to ask for it in a lost name is a spoof
	apply(t, m, moved("enb"))
	if err := c.cmd.Process.Signal(syscall.SIGUSR1); err != nil { // renew now
		t.Fatal(err)
	}
	c.await("ip=172.31.0.77")
	if n := m.Counters()["dhcp_naks"]; n == 0 {
		t.Error("it was not refused the old address")
	}
}
