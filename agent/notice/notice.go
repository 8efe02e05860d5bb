// Package notice hears what the kernel tells of changes in a network namespace.
//
// A Socket is subscribed to groups of one netlink family from the moment it is opened, so whoever opens it and then
// reads the kernel misses nothing: what happened later is in the socket. It is asked, not obeyed: Drain hands out
// what has come so far without waiting, and Await only says that there is something. That lets a change that we
// make ourselves be told from a stranger's: the kernel queues its notices before it answers a request, so all that
// our own request caused is there when it returns.
//
// A socket that overflows has lost notices. Drain says so, once, and the reader must look at the kernel anew.
//
// agent/firewall hears transactions by it and agent/link links, routes, neighbours and addresses.
package notice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// room is how much a socket holds before it loses notices. The kernel takes memory only for what is queued: a link
// that is made causes 8 notices of 1.5 to 2 KiB, so this is some 4,000 links at once.
const room = 64 << 20

// Socket is a subscription.
type Socket struct {
	f    *os.File
	raw  syscall.RawConn
	lost atomic.Bool

	mu  sync.Mutex // one reader at a time: it guards buf
	buf []byte
}

// Message is one notice.
type Message struct {
	Type uint16
	Port uint32 // of the socket whose request caused it, if the kernel says
	Data []byte // good until the function that got it returns
}

// Open subscribes to groups (numbers, not bits) of a netlink family in the namespace that the descriptor is of, 0 being
// the caller's. The filter, if any, sees each message first and keeps or drops it.
func Open(space, family int, groups []int, filter ...unix.SockFilter) (*Socket, error) {
	var fd int
	var err error
	if space == 0 {
		fd, err = open(family)
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread is in the namespace and ends here
			if err = unix.Setns(space, unix.CLONE_NEWNET); err == nil {
				fd, err = open(family)
			}
		}()
		<-done
	}
	if err != nil {
		return nil, fmt.Errorf("open notices: %w", err)
	}
	if err := subscribe(fd, groups, filter); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to notices: %w", err)
	}
	s := &Socket{f: os.NewFile(uintptr(fd), "notices"), buf: make([]byte, 1<<16)}
	if s.raw, err = s.f.SyscallConn(); err != nil {
		s.f.Close()
		return nil, fmt.Errorf("use notices: %w", err)
	}
	return s, nil
}

func open(family int) (int, error) {
	return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, family)
}

func subscribe(fd int, groups []int, filter []unix.SockFilter) error {
	if len(filter) > 0 {
		p := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p); err != nil {
			return err
		}
	}
	// Forced beyond the system's limit if we may; what we get instead is only lost sooner.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the subscription, and Await with it.
func (s *Socket) Close() { s.f.Close() }

// Drain calls see for all notices that have come, and reports whether some were lost since the last time.
func (s *Socket) Drain(see func(Message)) (lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	closed := s.raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.ENOBUFS) || err == nil && n > len(s.buf):
				s.lost.Store(true)
				continue
			case err != nil:
				s.lost.Store(true)
				return
			}
			s.split(s.buf[:n], see)
		}
	})
	return s.lost.Swap(false) || closed != nil
}

// split hands out the messages of one datagram. What cannot be read counts as lost.
func (s *Socket) split(b []byte, see func(Message)) {
	for len(b) >= unix.SizeofNlMsghdr {
		m, size, ok := parse(b)
		if !ok {
			break
		}
		see(m)
		b = b[min(size, len(b)):]
	}
	if len(b) > 0 {
		s.lost.Store(true)
	}
}

// Await blocks until there is something to drain, or ctx has ended or the socket is closed, which is an error.
func (s *Socket) Await(ctx context.Context) error {
	for {
		err := s.await(ctx)
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		// The deadline was that of an earlier wait, which has ended otherwise.
	}
}

func (s *Socket) await(ctx context.Context) error {
	_ = s.f.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { _ = s.f.SetReadDeadline(time.Unix(1, 0)) })()
	return s.raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT|unix.MSG_PEEK)
		if errors.Is(err, unix.ENOBUFS) { // told once
			s.lost.Store(true)
		}
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
}

// Sender names the process that a request came from, as well as the kernel lets us know: the first netlink socket of a
// process has the process's number, and who has ended since has no name any more. It is "" if nothing is known.
func Sender(port uint32) string {
	if port == 0 || port > 1<<22 { // further sockets count down from 2^32; numbers of processes end at 2^22
		return ""
	}
	pid := strconv.Itoa(int(port))
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return strings.TrimSpace(string(name)) + " (" + pid + ")"
}
