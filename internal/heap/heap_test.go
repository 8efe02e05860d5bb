package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestShareGoesByWhatIsAlive(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		live, room uint64
		percent    int
		want       int
	}{
		"a heap that is not there yet":     {0, 8 * mib, 25, 200},
		"a small heap has its room":        {4 * mib, 8 * mib, 25, 200},
		"a heap of the size of the room":   {8 * mib, 8 * mib, 25, 100},
		"a large one has its share":        {100 * mib, 8 * mib, 25, 25},
		"a heap below the runtime's least": {mib, 8 * mib, 25, 200},
	} {
		if got := share(c.live, c.room, c.percent); got != c.want {
			t.Errorf("%s: got %d %%, want %d", name, got, c.want)
		}
	}
}

var ballast []byte

func TestTheShareFollowsTheHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	Keep(8<<20, 25)
	current := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	follow := func(what string, ok func(int) bool) {
		for n := 0; !ok(current()); n++ {
			if n == 10000 {
				t.Fatalf("%s: the share stays %d %%", what, current())
			}
			runtime.GC()
			runtime.Gosched()
		}
	}
	follow("a small heap", func(p int) bool { return p > 25 })
	ballast = make([]byte, 64<<20)
	follow("a large heap", func(p int) bool { return p == 25 })
	ballast = nil
	follow("a small heap again", func(p int) bool { return p > 25 })
}

func TestWhatABurstHasLeftIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nobody else collects
	runtime.GC()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() { ended <- Rest(ctx, time.Millisecond) }()
	for range 64 {
		ballast = make([]byte, 1<<20)
	}
	ballast = nil
	left := func() uint64 {
		runtime.ReadMemStats(&now)
		return max(now.HeapAlloc, before.HeapAlloc) - before.HeapAlloc + now.HeapIdle - now.HeapReleased
	}
	for left() > 8<<20 { // as long as it takes: without Rest that is two minutes, until the runtime collects by itself
		runtime.Gosched()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if time.Since(began) > time.Minute {
		t.Errorf("it took %v", time.Since(began))
	}
}
