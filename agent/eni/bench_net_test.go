//go:build net

package eni

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"golang.org/x/sys/unix"
)

// discard is where logs go that nobody reads.
var discard = slog.New(slog.DiscardHandler)

// crowd is n interfaces of one subnet of 65,536 addresses.
func crowd(n int) []Interface {
	wide := subnet
	wide.CIDR = netip.MustParsePrefix("172.31.0.0/16")
	all := make([]Interface, 0, n)
	for i := range n {
		in := guestInterface(1, "sg-default")
		in.ID = cloud.InterfaceID(fmt.Sprintf("eni-%017x", i))
		in.MAC = fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)
		in.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{172, 31, byte(1 + i>>8), byte(i)})}
		in.Network = wide
		all = append(all, in)
	}
	return all
}

// processorTime is what all threads of this process have used, in the kernel too: other processes do not count.
func processorTime(b testing.TB) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkApply measures one Apply that adds an interface beside many, and takes it away again.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 4000} {
		b.Run(fmt.Sprintf("beside=%d", n), func(b *testing.B) {
			all := crowd(n + 1)
			m, err := New("ebx", discard)
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			defer func() { _ = Remove(context.Background(), "ebx") }()
			ctx := context.Background()
			if err := m.Apply(ctx, config("ebx", all[:n]...)); err != nil {
				b.Fatal(err)
			}
			more, less := config("ebx", all...), config("ebx", all[:n]...)
			var used time.Duration
			for b.Loop() {
				before := processorTime(b)
				if err := m.Apply(ctx, more); err != nil {
					b.Fatal(err)
				}
				used += processorTime(b) - before
				b.StopTimer()
				if err := m.Apply(ctx, less); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
		})
	}
}
