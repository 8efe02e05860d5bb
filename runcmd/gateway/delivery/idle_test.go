package delivery

import (
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// waiting returns how many goroutines receive from agents.
func waiting() int {
	var b strings.Builder
	pprof.Lookup("goroutine").WriteTo(&b, 2)
	return strings.Count(b.String(), "(*instance).receive(")
}

// await waits as long as it takes: what never comes ends with the test's own time.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if ok() {
		return
	}
	t.Log("waits:", what)
	for !ok() {
		runtime.Gosched()
	}
}

// An agent of which nothing is heard has no goroutine here; and pings, commands, results and its end go on as if it had.
func TestASilentAgentHasNoGoroutine(t *testing.T) {
	s := newSite(t)
	c := s.guest()
	ponged := make(chan struct{}, 1)
	c.OnPong(func() { ponged <- struct{}{} })
	for range 3 {
		await(t, "somebody waits for a silent agent", func() bool { return waiting() == 0 })
		check(t, c.Probe())
		id := s.put(mine)
		if r := until[*wire.Request](t, c); r.ID != id {
			t.Fatalf("asked for %s, want %s", r.ID, id)
		}
		check(t, c.Send(result(id, 0)))
		until[*wire.Done](t, c)
		select {
		case <-ponged: // what was asked before the result is answered before Done
		default:
			t.Error("a ping was not answered")
		}
	}
	await(t, "somebody waits for a silent agent", func() bool { return waiting() == 0 })
	c.Close()
	await(t, "the gateway takes an agent that is gone for connected", func() bool {
		p, err := s.root.Instance(mine).Agent()
		return err == nil && !p.Connected && p.Version != ""
	})
}
