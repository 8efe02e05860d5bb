package delivery

import "sync"

// crew starts goroutines, and keeps a few of those that have nothing to do any more: the stack of a new one grows step by step,
// and is copied at each, until a file and JSON fit on it. With ten thousand commands at once that was a tenth of all time.
type crew struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	free []chan func()
	over bool
}

// spare is how many goroutines are kept.
const spare = 16

// Go has f done by a goroutine. None waits for another: whoever is not free is not waited for.
func (c *crew) Go(f func()) {
	c.mu.Lock()
	if n := len(c.free); n > 0 {
		next := c.free[n-1]
		c.free = c.free[:n-1]
		c.mu.Unlock()
		next <- f
		return
	}
	c.mu.Unlock()
	c.wg.Go(func() {
		next := make(chan func(), 1)
		for f := f; f != nil; f = <-next {
			f()
			if !c.rest(next) {
				return
			}
		}
	})
}

// rest takes a goroutine among those that are free; false if there are enough.
func (c *crew) rest(next chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || len(c.free) >= spare {
		return false
	}
	c.free = append(c.free, next)
	return true
}

// Wait sends those that are free away, and returns when all are gone.
func (c *crew) Wait() {
	c.mu.Lock()
	c.over = true
	for _, next := range c.free {
		close(next)
	}
	c.free = nil
	c.mu.Unlock()
	c.wg.Wait()
}
