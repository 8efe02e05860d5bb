package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Client is the worker's side.
type Client struct {
	sock *os.File

	mu     sync.Mutex
	waits  map[Process][]chan end
	closed bool
}

type end struct {
	code  int
	known bool
}

// Connect returns the keeper of this process, or nil if it has none.
func Connect() *Client {
	if os.Getenv(Worker) == "" {
		return nil
	}
	os.Unsetenv(Worker) // commands are not workers
	syscall.CloseOnExec(3)
	syscall.SetNonblock(3, true)
	return &Client{sock: os.NewFile(3, "keeper"), waits: map[Process][]chan end{}}
}

// Run receives the keeper's answers until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { c.sock.Close() })()
	defer c.giveUp()
	buf := make([]byte, 256)
	for {
		n, err := c.sock.Read(buf)
		if err != nil || n == 0 {
			return nil
		}
		var p Process
		var e end
		if _, err := fmt.Sscan(string(buf[:n]), &p.PID, &p.Start, &e.code, &e.known); err != nil {
			continue
		}
		c.mu.Lock()
		for _, w := range c.waits[p] {
			w <- e // has room for one
		}
		delete(c.waits, p)
		c.mu.Unlock()
	}
}

func (c *Client) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, ws := range c.waits {
		for _, w := range ws {
			w <- end{}
		}
	}
	c.waits = nil
}

// Keep makes the keeper hold pipes open, under a name for Release.
func (c *Client) Keep(name string, pipes []*os.File) {
	sock, err := c.sock.SyscallConn()
	if err != nil {
		return
	}
	var fds []int
	var send func(rest []*os.File)
	send = func(rest []*os.File) { // a descriptor is good only inside of its Control
		if len(rest) == 0 {
			sock.Write(func(fd uintptr) bool {
				err := unix.Sendmsg(int(fd), []byte("keep "+name), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
				return !errors.Is(err, unix.EAGAIN)
			})
			return
		}
		if raw, err := rest[0].SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				fds = append(fds, int(fd))
				send(rest[1:])
			})
		}
	}
	send(pipes)
}

// Release undoes Keep.
func (c *Client) Release(name string) { c.say("release " + name) }

// Settled tells the keeper that this worker has said Keep for all that an earlier one left.
func (c *Client) Settled() { c.say("settled") }

func (c *Client) say(msg string) { c.sock.Write([]byte(msg)) }

// Exit returns how a process ended that an earlier worker started; it waits while that runs. Not known is
// the end of a process that is not the keeper's child.
func (c *Client) Exit(pid int, start uint64) (code int, known bool) {
	p, w := Process{pid, start}, make(chan end, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, false
	}
	c.waits[p] = append(c.waits[p], w)
	c.mu.Unlock()
	c.say(fmt.Sprintf("exit %d %d", pid, start))
	e := <-w
	return e.code, e.known
}
