// Package idle keeps connections of which nothing is heard, without a goroutine for each.
//
// A goroutine that waits in Read costs four kilobytes of stack; a gateway has ten thousand agents, and most say nothing most of
// the time. Whoever has read all that has come lays the connection down with Await, and returns; a Set waits for all of
// them with one epoll set (epoll(7), EPOLLONESHOT) and calls back when one has something, is closed, or was silent for too long.
//
//	Try    reads what has come already, and nothing if nothing has
//	Await  lays it down, until resume is called, once
package idle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errNothing is the error of Read within Try when nothing has come. It is temporary, so that a TLS connection that got it goes on
// where it was.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has come yet" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// sweepEvery is how often those that were silent for too long are looked for.
const sweepEvery = 5 * time.Second

// Set is the connections that are laid down.
type Set struct {
	start func(func()) // begins a goroutine
	every time.Duration
	epoll *os.File // nil: there is none, and nothing is laid down

	mu   sync.Mutex
	down []*Conn // by file descriptor
}

// New returns a Set. Start begins the goroutines in which it calls back. It can be used before Run, and nothing is woken before.
func New(start func(func())) (*Set, error) {
	s := &Set{start: start, every: sweepEvery}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return s, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that waiting for it is no thread's
		unix.Close(fd)
		return s, fmt.Errorf("set an epoll set to non-blocking: %w", err)
	}
	s.epoll = os.NewFile(uintptr(fd), "epoll")
	return s, nil
}

// Run wakes connections until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	if s.epoll == nil {
		<-ctx.Done()
		return nil
	}
	defer context.AfterFunc(ctx, func() { s.epoll.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := s.epoll.SyscallConn()
	if err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	sweep := time.Now().Add(s.every)
	for {
		if err := s.epoll.SetReadDeadline(sweep); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // looked at after the deadline was set, which the end of ctx sets, too
		}
		n, failed := 0, error(nil)
		err := raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n != 0
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case failed != nil && failed != unix.EINTR:
			return fmt.Errorf("epoll_wait: %w", failed)
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		}
		for _, e := range events[:max(n, 0)] {
			s.wake(int(e.Fd))
		}
		if now := time.Now(); !now.Before(sweep) {
			s.sweep(now)
			sweep = now.Add(s.every)
		}
	}
}

// wake takes the connection of a descriptor up. One that is not there was closed while its event was on the way; if another has
// its number by now, that one finds that nothing has come, and is laid down again.
func (s *Set) wake(fd int) {
	s.mu.Lock()
	var resume func()
	if fd < len(s.down) && s.down[fd] != nil {
		resume = s.up(s.down[fd])
	}
	s.mu.Unlock()
	if resume != nil {
		s.start(resume)
	}
}

// up takes a connection out, under mu.
func (s *Set) up(c *Conn) (resume func()) {
	resume, c.resume = c.resume, nil
	s.down[c.fd] = nil
	return resume
}

// sweep takes up those that have been silent for too long: a Read tells them so.
func (s *Set) sweep(now time.Time) {
	var silent []func()
	s.mu.Lock()
	for _, c := range s.down {
		if c != nil && !now.Before(c.until) {
			silent = append(silent, s.up(c))
		}
	}
	s.mu.Unlock()
	for _, resume := range silent {
		s.start(resume)
	}
}

// Close frees the set, after Run.
func (s *Set) Close() error {
	if s.epoll == nil {
		return nil
	}
	return s.epoll.Close()
}

// Listener returns a listener whose connections can be laid down in the set.
func (s *Set) Listener(l net.Listener) net.Listener { return listener{l, s} }

type listener struct {
	net.Listener
	set *Set
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.set.conn(c), nil
}

// conn returns a connection that can be laid down; the same one if it has no descriptor.
func (s *Set) conn(c net.Conn) net.Conn {
	sys, ok := c.(syscall.Conn)
	if !ok || s.epoll == nil {
		return c
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return c
	}
	idle := &Conn{Conn: c, set: s, fd: -1}
	if raw.Control(func(fd uintptr) { idle.fd = int(fd) }) != nil {
		return c
	}
	return idle
}

// Conn is a connection that can be laid down. One goroutine reads, tries and awaits; any may write or close.
type Conn struct {
	net.Conn
	set    *Set
	fd     int
	trying bool // Read must not wait

	// Of the set's mu.
	known  bool // to epoll
	closed bool
	until  time.Time
	resume func() // not nil while it is down
}

// Read is Conn's, but that it does not wait within Try.
func (c *Conn) Read(p []byte) (int, error) {
	if !c.trying || len(p) == 0 {
		return c.Conn.Read(p)
	}
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	n, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, failed = unix.Read(int(fd), p); failed != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed == unix.EAGAIN:
		return 0, errNothing
	case failed != nil:
		return 0, os.NewSyscallError("read", failed)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Try has read read what has come: Read does not wait meanwhile, whatever lies between the two. It returns 0 and no error when
// nothing has.
func (c *Conn) Try(read func() (int, error)) (int, error) {
	c.trying = true
	defer func() { c.trying = false }()
	n, err := read()
	if err == errNothing {
		err = nil
	}
	return n, err
}

// Await lays the connection down. Resume is called, once, in a goroutine of its own, when there is something to read, when it
// was closed, or a while after until: Read then tells which. It is false if that can not be, and resume never called.
func (c *Conn) Await(resume func(), until time.Time) bool {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed {
		return false
	}
	op := unix.EPOLL_CTL_MOD
	if !c.known {
		op = unix.EPOLL_CTL_ADD
	}
	if n := c.fd + 1 - len(s.down); n > 0 {
		s.down = append(s.down, make([]*Conn, n)...)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(c.fd)}
	if err := s.control(op, c.fd, &event); err != nil {
		return false
	}
	c.known = true
	c.resume, c.until = resume, until
	s.down[c.fd] = c
	return true
}

func (s *Set) control(op, fd int, event *unix.EpollEvent) (err error) {
	raw, err := s.epoll.SyscallConn()
	if err != nil {
		return err
	}
	if failed := raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) }); failed != nil {
		return failed
	}
	return err
}

// Close closes the connection, and takes it up if it is down.
func (c *Conn) Close() error {
	s := c.set
	s.mu.Lock()
	var resume func()
	if !c.closed {
		c.closed = true
		if c.known { // before its number can be another's
			s.control(unix.EPOLL_CTL_DEL, c.fd, nil)
		}
		if c.resume != nil {
			resume = s.up(c)
		}
	}
	s.mu.Unlock()
	err := c.Conn.Close()
	if resume != nil {
		s.start(resume)
	}
	return err
}
