package delivery

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Things are done one after the other, each once, in the order in which one goroutine has asked for them; before the goroutine
// goes it is idle, and what is asked for after the end is refused.
func TestTurns(t *testing.T) {
	var wg sync.WaitGroup
	var inside, idle atomic.Int64
	turns := turns{start: wg.Go, idle: func() { idle.Add(1) }}
	const askers, each = 8, 1000
	var done [askers][]int
	var asking sync.WaitGroup
	for a := range askers {
		asking.Go(func() {
			for n := range each {
				if !turns.do(func() {
					if inside.Add(1) != 1 {
						t.Error("two at once")
					}
					done[a] = append(done[a], n)
					inside.Add(-1)
				}) {
					t.Error("refused")
				}
			}
		})
	}
	asking.Wait()
	wg.Wait()
	if idle.Load() == 0 {
		t.Error("it was never idle")
	}
	last := false
	turns.end(func() { last = true })
	if turns.do(func() { t.Error("done after the end") }) {
		t.Error("not refused")
	}
	wg.Wait()
	if !last {
		t.Error("the last thing was not done")
	}
	for a := range done {
		for n, got := range done[a] {
			if got != n {
				t.Fatalf("asker %d: got %d, want %d", a, got, n)
			}
		}
		if len(done[a]) != each {
			t.Errorf("asker %d: %d were done", a, len(done[a]))
		}
	}
}
