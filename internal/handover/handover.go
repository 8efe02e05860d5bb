// Package handover gives sockets that guests ask at from the agent to unprivileged daemons, and back.
//
// Only the agent may enter a VPC's network namespace, so it opens the sockets there; the link-local services
// and the Run Command gateway serve them. They meet at one SOCK_SEQPACKET socket: each message
// is a line of JSON, with at most one file descriptor beside it. A service has any number of sockets in a VPC, each
// with a name; they listen for TCP connections or receive UDP datagrams. A daemon that serves several services
// says hello for each, on a connection of its own.
//
//	daemon -> agent   hello {service}, offer {vpc, socket} + fd for each socket it has, held
//	agent -> daemon   offer {vpc, socket} + fd for each socket it has; later offer and withdraw as VPCs come and go
//
// Both sides keep a duplicate. A daemon that is killed leaves the agent's open: connections wait in the
// backlog, and datagrams in the buffer, until its successor is given the socket. An agent that is killed gets its
// sockets back from the daemons, which never stopped serving. Whether a socket that came back is still bound in
// the namespace it is for, the kernel decides: the agent tries to open it anew, and the address is in use.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// message is what travels. Op is hello, offer, held or withdraw.
type message struct {
	Op      string `json:"op"`
	Service string `json:"service"`
	VPC     string `json:"vpc,omitempty"`
	Socket  string `json:"socket,omitempty"` // the name of a service's only socket may be empty
}

// peer is one end of a connection. Messages are queued, so that neither end ever waits to write
// while the other waits to write to it.
type peer struct {
	conn *net.UnixConn

	mu     sync.Mutex
	queue  []outgoing
	closed bool
	wake   chan struct{} // holds one token when the queue is not empty
}

type outgoing struct {
	message
	fd int // a duplicate that the queue owns, or -1
}

func (o outgoing) release() {
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
}

func newPeer(c *net.UnixConn) *peer { return &peer{conn: c, wake: make(chan struct{}, 1)} }

// send queues a message and a duplicate of fd, if that is not -1.
func (p *peer) send(m message, fd int) error {
	out := outgoing{message: m, fd: -1}
	if fd >= 0 {
		dup, err := duplicate(fd)
		if err != nil {
			return err
		}
		out.fd = dup
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		out.release()
		return net.ErrClosed
	}
	p.queue = append(p.queue, out)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// write sends what is queued until the connection ends.
func (p *peer) write() {
	for range p.wake {
		p.mu.Lock()
		queue := p.queue
		p.queue = nil
		p.mu.Unlock()
		for _, out := range queue {
			if err := p.put(out); err != nil {
				p.conn.Close() // the reader sees it, and close ends this loop
			}
			out.release()
		}
	}
}

func (p *peer) put(out outgoing) error {
	data, err := json.Marshal(out.message)
	if err != nil {
		return err
	}
	var oob []byte
	if out.fd >= 0 {
		oob = unix.UnixRights(out.fd)
	}
	_, _, err = p.conn.WriteMsgUnix(data, oob, nil)
	return err
}

// close ends the connection and drops what is still queued.
func (p *peer) close() {
	p.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.wake)
	for _, out := range p.queue {
		out.release()
	}
	p.queue = nil
}

// receive returns the next message, and the descriptor that came with it or -1.
func (p *peer) receive() (message, int, error) {
	var data [4 << 10]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := p.conn.ReadMsgUnix(data[:], oob)
	if err != nil {
		return message{}, -1, err
	}
	fd, err := received(oob[:oobn])
	if err != nil {
		return message{}, -1, err
	}
	var m message
	switch {
	case n == 0:
		err = io.EOF
	case flags&unix.MSG_TRUNC != 0:
		err = errors.New("message of a peer is too long")
	default:
		err = json.Unmarshal(data[:n], &m)
	}
	if err == nil && (m.Op == "offer") != (fd >= 0) {
		err = fmt.Errorf("message %q with the wrong number of descriptors", m.Op)
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return m, fd, err
}

// received takes the descriptor out of a control message; of several, which nobody sends, the first.
func received(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, fmt.Errorf("parse control message: %v", err)
	}
	first := -1
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if first < 0 {
				first = fd
			} else {
				unix.Close(fd)
			}
		}
	}
	return first, nil
}

// Sockets that are only kept are plain numbers: as an os.File each would be known to Go's poller, and wake
// the agent at every connection that a daemon is about to accept.

func duplicate(fd int) (int, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fmt.Errorf("duplicate a socket: %w", err)
	}
	return dup, nil
}

// identify returns the kernel's cookie of a listening stream socket or a bound datagram socket, which is the
// same for all its duplicates in all processes (SO_COOKIE, socket(7)); an error for any other descriptor.
func identify(fd int) (uint64, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, fmt.Errorf("identify a socket: %w", err)
	}
	switch kind {
	case unix.SOCK_STREAM:
		if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening == 0 {
			return 0, errors.New("identify a socket: it does not listen")
		}
	case unix.SOCK_DGRAM:
		if !bound(fd) {
			return 0, errors.New("identify a socket: it has no port that others can send to")
		}
	default:
		return 0, fmt.Errorf("identify a socket: it is of type %d", kind)
	}
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// bound reports whether a datagram socket of the Internet has a port, and nobody in particular at its other end.
func bound(fd int) bool {
	if _, err := unix.Getpeername(fd); err == nil {
		return false
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return a.Port != 0
	case *unix.SockaddrInet6:
		return a.Port != 0
	}
	return false
}

// unwrap takes the descriptor out of a file, and closes the file.
func unwrap(f *os.File) (int, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var inner error
	err = raw.Control(func(p uintptr) { fd, inner = duplicate(int(p)) })
	return fd, errors.Join(err, inner)
}
