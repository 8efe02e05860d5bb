package control

import (
	"fmt"
	"strings"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/shim"
)

// lockedStatus is the status as the loop last left it.
type lockedStatus struct {
	mu sync.Mutex
	v  shim.Status
}

func (l *lockedStatus) get() shim.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.v
}

func (l *lockedStatus) set(v shim.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.v = v
}

// group waits for the goroutines of one loop.
type group struct{ wg sync.WaitGroup }

func (g *group) run(f func()) { g.wg.Go(f) }
func (g *group) wait()        { g.wg.Wait() }

// reason is the sentence for a machine that has ended.
func reason(st shim.Status) string {
	switch st.Cause {
	case shim.CauseGuest:
		return "the guest shut itself down"
	case shim.CauseHost:
		return "the guest shut down as it was asked to"
	case shim.CauseForce:
		return "the machine was ended by force"
	case shim.CauseStart:
		if st.Reason != "" {
			return st.Reason
		}
		return "QEMU ended before it answered: " + ending(st.Exit)
	}
	return "QEMU ended unasked: " + ending(st.Exit)
}

func ending(e *shim.Exit) string {
	if e == nil {
		return "nobody saw it"
	}
	var s string
	switch {
	case !e.Known:
		s = "nobody saw how"
	case e.Signal != "":
		s = "by " + e.Signal
	default:
		s = fmt.Sprintf("with code %d", e.Code)
	}
	if line := e.Output[strings.LastIndexByte(e.Output, '\n')+1:]; line != "" {
		s += ": " + line
	}
	return s
}
