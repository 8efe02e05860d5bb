package main

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children starts processes and collects the dead, its own and the orphans of others.
// The standard library's Wait cannot be used beside a collector of all, so here is the one
// place that waits.
type children struct {
	mu    sync.Mutex
	alive map[int]chan syscall.WaitStatus
	last  bool // nobody more is started: the machine is going down
}

var errGoingDown = errors.New("the machine is going down")

func newChildren() *children { return &children{alive: map[int]chan syscall.WaitStatus{}} }

// start runs argv and returns its process number and where its end will be told.
func (c *children) start(argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	ended := make(chan syscall.WaitStatus, 1)
	c.mu.Lock() // the child may be dead before ForkExec returns: reap must find it registered
	defer c.mu.Unlock()
	if c.last {
		return 0, nil, errGoingDown
	}
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, &os.PathError{Op: "start", Path: argv[0], Err: err}
	}
	c.alive[pid] = ended
	return pid, ended, nil
}

// stop lets nobody start any more.
func (c *children) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = true
}

// run collects the dead for ever.
func (c *children) run() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		c.collect()
	}
}

// collect takes all who are dead now; it tells whether anybody is left alive.
func (c *children) collect() (left bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // ECHILD: nobody is left
			return false
		case pid == 0:
			return true
		default:
			if ended, ok := c.alive[pid]; ok {
				delete(c.alive, pid)
				ended <- status
			}
		}
	}
}

// exitCode is a status in the shell's numbers.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
