//go:build net

package eni

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// BenchmarkApply measures one Apply that adds an interface beside many, and takes it away again.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("beside=%d", n), func(b *testing.B) {
			var all []Interface
			for i := range n + 1 {
				in := guestInterface(1, "sg-default")
				in.ID = cloud.InterfaceID(fmt.Sprintf("eni-%d", i))
				in.MAC = fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)
				in.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{172, 31, byte(1 + i>>8), byte(i)})}
				all = append(all, in)
			}
			m, err := New("ebx", slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			defer func() { _ = Remove(context.Background(), "ebx") }()
			ctx := context.Background()
			if err := m.Apply(ctx, config("ebx", all[:n]...)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := m.Apply(ctx, config("ebx", all...)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := m.Apply(ctx, config("ebx", all[:n]...)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
