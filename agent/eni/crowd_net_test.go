//go:build net

package eni

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// The root namespace tracks the connections of all VPCs to the outside in one table. One VPC that opens as many as it can
// must leave room for the others.
func TestAVPCMayHaveItsShareOfTheHostsConnections(t *testing.T) {
	world := outside(t)
	m := start(t, "ecx")
	m.connections = 8
	c := open(config("ecx", publicly(1, "sg-open"), guestInterface(2, "sg-open")))
	other := open(config("ecx", guestInterface(3, "sg-open")))
	v := other.VPCs[0]
	v.VPC.ID = "vpc-2"
	for i := range v.Groups {
		v.Groups[i].VPC = "vpc-2"
	}
	for i := range v.Subnets {
		v.Subnets[i].VPC = "vpc-2"
	}
	stranger := other.Interfaces[0]
	stranger.VPC = "vpc-2"
	c.VPCs, c.Interfaces = append(c.VPCs, v), append(c.Interfaces, stranger)
	apply(t, m, c)
	published, plain, quiet := configured(t, m, 1), configured(t, m, 2), configured(t, m, 3)
	var l net.PacketConn
	if err := world.Do(func() (err error) { l, err = net.ListenPacket("udp4", "203.0.113.1:7"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	send := func(g *nstest.Guest, n int, port uint16, text string) {
		g.Inject(nstest.Ethernet(router, g.MAC, 0x0800, nstest.IPv4(guestAddr(n), netip.MustParseAddr("203.0.113.1"), 17, nstest.UDP(port, 7, []byte(text)))))
	}
	crowded := func() uint64 { return m.Counters()["host/crowded"] }
	arrives := func() string {
		t.Helper()
		b := make([]byte, 64)
		_ = l.SetReadDeadline(time.Now().Add(20 * soon))
		n, from, err := l.ReadFrom(b)
		if err != nil {
			t.Fatalf("%v\n%v\n%s", err, m.Counters(), nstest.Run(t, "nft", "list", "table", "inet", "ecx"))
		}
		if _, err := l.WriteTo([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	for i := range 20 {
		send(plain, 2, uint16(4000+i), fmt.Sprint("crowd", i))
		if i >= 8 {
			continue
		}
		if got := arrives(); got != fmt.Sprint("crowd", i) {
			t.Errorf("got %q", got)
		}
		plain.Await(func(f []byte) bool {
			return contains("answer")(f) && f[37] == byte(4000+i) && f[36] == byte((4000+i)>>8)
		})
	}
	settled(t, plain)
	send(plain, 2, 4003, "again") // of a connection that has been answered
	if got := arrives(); got != "again" {
		t.Errorf("got %q: more than 8 new ones, or not the one that is there", got)
	}
	if n := crowded(); n != 12 {
		t.Errorf("%d packets were counted as crowded out, want 12", n)
	}
	send(published, 1, 5000, "too many of the VPC, whoever it is")
	send(quiet, 3, 6000, "another VPC")
	if got := arrives(); got != "another VPC" {
		t.Errorf("got %q", got)
	}
	before := crowded()
	if reaches(t, world, publicAddr(1).String()+":8080") { // from outside it is the same table
		t.Error("a connection from outside was let in beyond the share")
	}
	if crowded() == before {
		t.Error("what comes from outside beyond the share is not counted")
	}
	if got := metered(t, m)["ichiro_network_events_total host/crowded"]; got == 0 {
		t.Error("the metrics do not have it")
	}
}
