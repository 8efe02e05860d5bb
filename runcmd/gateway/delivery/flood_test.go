package delivery

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// A guest that sends as much as it can, of what it may send, takes no more memory of the host than one that does not, and keeps
// no other waiting.
func TestAFloodIsItsGuestsOwn(t *testing.T) {
	s := newSite(t)
	id := s.put(mine)
	c := s.guest()
	until[*wire.Request](t, c)
	go func() { // what it is answered
		for {
			if _, err := c.Receive(); err != nil {
				return
			}
		}
	}()
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan int, 1)
	go func() {
		n := 0
		defer func() { sent <- n }()
		for ; ctx.Err() == nil; n++ {
			c.Probe()
			if c.Send(&wire.Output{ID: id, Offset: int64(n), Data: []byte{'x'}}) != nil || c.Send(&wire.Accepted{ID: id}) != nil {
				return
			}
		}
	}()
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other, err := wire.Dialer(from.DialContext).Dial(t.Context(), s.url)
	check(t, err)
	defer other.Close()
	check(t, other.Send(&wire.Hello{Version: wire.Version, Boot: "boot"}))
	until[*wire.Welcome](t, other)
	var slowest time.Duration
	for range 8 {
		begun := time.Now()
		theirs := s.put(neighbor)
		until[*wire.Request](t, other)
		check(t, other.Send(result(theirs, 0)))
		until[*wire.Done](t, other)
		slowest = max(slowest, time.Since(begun))
	}
	held := heap() - before
	cancel()
	t.Logf("%d outputs were sent meanwhile; the slowest command took %v, and %d KB were held", <-sent, slowest.Round(time.Millisecond), held>>10)
	if slowest > 2*time.Second {
		t.Errorf("another guest's command took %v", slowest)
	}
	if held > 4<<20 {
		t.Errorf("%d KB are held for a flood", held>>10)
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
