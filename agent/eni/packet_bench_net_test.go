//go:build net

package eni

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// BenchmarkPacket measures the processor time of one packet from a guest to another: the sender's system call carries it
// through all rules to the other's queue. It must not grow with the number of interfaces beside.
func BenchmarkPacket(b *testing.B) {
	for _, kind := range []string{"plain", "acl", "steered", "public"} {
		for _, n := range []int{2, 1000} {
			b.Run(fmt.Sprintf("%s/beside=%d", kind, n), func(b *testing.B) { benchmarkPacket(b, kind, n) })
		}
	}
}

func benchmarkPacket(b *testing.B, kind string, n int) {
	all := []Interface{guestInterface(1, "sg-open"), guestInterface(2, "sg-open")}
	for i := range n {
		in := guestInterface(3, "sg-open")
		in.ID, in.MAC = cloud.InterfaceID(fmt.Sprintf("eni-beside%d", i)), fmt.Sprintf("02:00:00:01:%02x:%02x", i>>8, i&255)
		in.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{172, 31, byte(1 + i>>8), byte(i)})}
		if kind == "public" {
			in.Public = []cloud.PublicAddress{{Public: netip.AddrFrom4([4]byte{203, 0, byte(1 + i>>8), byte(i)}), Private: in.Addresses[0]}}
		}
		all = append(all, in)
	}
	c := open(config("ebp", all...))
	switch kind {
	case "acl":
		c.VPCs[0].Subnets[0].ACL = append(cloud.OpenACL(), cloud.ACLEntry{Number: 200, Protocol: 6, CIDR: netip.MustParsePrefix("0.0.0.0/0")})
	case "steered":
		c.Interfaces[2].SourceDestCheck = false
		c.VPCs[0].Subnets[0].Routes = append(c.VPCs[0].Subnets[0].Routes, cloud.HostRoute{
			Destination: netip.MustParsePrefix("192.0.2.0/24"), Interface: c.Interfaces[2].ID, Via: c.Interfaces[2].Primary(),
		})
	}
	m, err := New("ebp", slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	defer func() { _ = Remove(context.Background(), "ebp") }()
	if err := m.Apply(context.Background(), c); err != nil {
		b.Fatal(err)
	}
	from, err := m.Tap(guestInterface(1).ID)
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	to, err := m.Tap(guestInterface(2).ID)
	if err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	mac := []byte{2, 0, 0, 0, 0, 11}
	frame := append(make([]byte, 10), nstest.Ethernet(router, mac, 0x0800, nstest.IPv4(guestAddr(1), guestAddr(2), 17, nstest.UDP(1000, 9, []byte("packet"))))...)
	in, out := int(from.Fd()), int(to.Fd())
	buf := make([]byte, 2048)
	// The first is answered, so that the connection is established as most packets' are.
	back := append(make([]byte, 10), nstest.Ethernet(router, []byte{2, 0, 0, 0, 0, 12}, 0x0800, nstest.IPv4(guestAddr(2), guestAddr(1), 17, nstest.UDP(9, 1000, []byte("packet"))))...)
	for _, way := range [][2]int{{in, out}, {out, in}} { // a tap that was just opened loses its first packets
		for arrived := false; !arrived; {
			_, _ = unix.Write(way[0], map[int][]byte{in: frame, out: back}[way[0]])
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(way[1]), Events: unix.POLLIN}}, 20)
			arrived = n == 1
		}
	}
	best := time.Duration(1 << 62)
	const batch = 400
	for b.Loop() {
		var before, after unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &before)
		for range batch {
			_, _ = unix.Write(in, frame)
		}
		_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &after)
		best = min(best, time.Duration(after.Nano()-before.Nano())/batch)
		got := 0
		for {
			if _, err := unix.Read(out, buf); err != nil {
				break
			}
			got++
		}
		if got == 0 {
			b.Fatal("no packet arrived: the figure would mean nothing")
		}
	}
	b.ReportMetric(float64(best.Nanoseconds()), "cpu-ns/packet")
}
