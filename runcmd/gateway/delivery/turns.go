package delivery

import "sync"

// turns does one thing after the other, on a goroutine that is there only while there is something to do: ten thousand
// instances of which nothing is heard have none, and the stack that files and JSON need is given back.
type turns struct {
	start func(func()) // begins a goroutine that somebody waits for
	idle  func()       // done before the goroutine goes

	mu    sync.Mutex
	queue []func()
	busy  bool
	over  bool
}

// do has f done when all before it is, and returns at once; false if the last thing was done, or is to be.
func (t *turns) do(f func()) bool { return t.add(f, false) }

// end has f done as the last thing.
func (t *turns) end(f func()) { t.add(f, true) }

func (t *turns) add(f func(), last bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.over = last
	t.queue = append(t.queue, f)
	if !t.busy {
		t.busy = true
		t.start(t.work)
	}
	return true
}

// work does what there is to do.
func (t *turns) work() {
	for idle := false; ; {
		f, over := t.next(idle)
		switch {
		case f != nil:
			f()
			idle = false
		case idle || over:
			return
		default:
			t.idle()
			idle = true
		}
	}
}

// next returns what is to be done; nil when there is nothing, and then the goroutine is to go if it has been idle, or it is over.
func (t *turns) next(idle bool) (f func(), over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		f, t.queue = t.queue[0], t.queue[1:]
		return f, false
	}
	t.queue = nil
	if idle || t.over {
		t.busy = false
	}
	return nil, t.over
}
