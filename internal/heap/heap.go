// Package heap lets a program be small without collecting garbage all the time.
//
// The runtime collects when the heap has grown by a percentage of what is alive (GOGC). A low one keeps a large heap small, and is
// ruinous for a small one: with 25 % of a megabyte, sixteen messages of 64 KiB are a collection, after which the kernel is given the
// pages back that the next sixteen need. A session's bytes cost three times as much processor time that way as they do with room.
// So the percentage goes by what is alive: some room there always is, and more than that in proportion only.
package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Keep has the collector leave room bytes lying about, or percent of what is alive if that is more. It looks again after each
// collection.
func Keep(room uint64, percent int) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	had := 0
	var look func(struct{})
	look = func(struct{}) {
		metrics.Read(live)
		if next := share(live[0].Value.Uint64(), room, percent); next > had+had/10 || next < had-had/10 { // it costs a stop of the world
			had = next
			debug.SetGCPercent(next)
		}
		watch(look)
	}
	look(struct{}{})
}

// watch has f called after the next collection.
func watch(f func(struct{})) {
	runtime.AddCleanup(&struct{ _ *byte }{}, f, struct{}{})
}

// least is what the runtime takes a smaller heap for: it collects first at this size, or as many percent of it.
const least = 4 << 20

// share is room as a percentage of what is alive.
func share(live, room uint64, percent int) int {
	return max(percent, int(room*100/max(live, least)))
}

// RestEvery is how often Rest looks in a daemon: a collection of 50 MB takes some 40 ms of processor time, which is then at most a
// hundredth of one.
const RestEvery = 5 * time.Second

// Rest collects what a burst has left, and gives its memory back to the kernel, when it is over: the runtime would keep both until
// it allocates that much again. It looks every so often until ctx ends. A burst allocates a sixteenth of what is alive between two
// looks; what comes more slowly is collected when it is as much.
func Rest(ctx context.Context, every time.Duration) error {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(every)
	defer tick.Stop()
	burst := false
	for before := uint64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(samples)
		live, used, made := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
		some := max(live, least) / 16
		switch {
		case made-before >= some:
			burst = true
		case burst || used > live+some:
			burst = false
			debug.FreeOSMemory()
		}
		before = made
	}
}
