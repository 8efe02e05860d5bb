// Package serial is the second way between a guest's agent and its host's gateway: a port of a virtio console, for guests
// whose network does not work.
//
// A port is two streams of bytes that never end: neither side is told when the other was started anew, and what was under
// way for its predecessor still comes. So the ends greet each other first, and then many connections share the port:
//
//	agent                              gateway
//	syn, nonce ... every half second ->           what comes before it is passed over
//	   <- ack, nonce                              what comes before it is passed over
//	go, nonce ->                                  the agent's repeated syn is passed over
//	streams (smux version 2) <->                  each is what a TCP connection to the gateway would be
//
// Whatever is not understood, and a silence, ends a line; both sides then begin again. Who the guest is, the port tells: it
// is the socket in the instance's own directory.
package serial

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/mux"
)

// Name is the port's name, by which a guest finds it.
const Name = bundle.PortName

const (
	// greeting is how often an agent says that it is there.
	greeting = 500 * time.Millisecond
	// flood is how many bytes that are no greeting a guest may send before they are read slowly.
	flood = 1 << 20
	// streams bounds the connections of a guest: its agent's, and one for each session.
	streams = 80
)

// The kinds of greetings.
const (
	syn = 's'
	ack = 'a'
	run = 'g'
)

const (
	magic  = "\x00\xffichiro serial "
	length = len(magic) + 1 + len(nonce{})
)

type nonce [16]byte

// greet returns a greeting.
func greet(kind byte, n nonce) []byte { return append(append([]byte(magic), kind), n[:]...) }

// await passes over what comes until a greeting that is wanted.
func await(r *bufio.Reader, flooded func(), want func(kind byte, n nonce) bool) error {
	var last [length]byte // the newest bytes, oldest first
	for n := 1; ; n++ {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		copy(last[:], last[1:])
		last[length-1] = b
		if string(last[:len(magic)]) == magic && want(last[len(magic)], nonce(last[len(magic)+1:])) {
			return nil
		}
		if n%flood == 0 && flooded != nil {
			flooded()
		}
	}
}

// Line is a port whose ends have greeted each other.
type Line struct {
	session *mux.Session
	mu      sync.Mutex
	open    int
}

// port is the port with what was read of it ahead.
type port struct {
	io.ReadWriteCloser
	r *bufio.Reader
}

// The addresses of a port's connections are all the same; those of a server are asked for them.
func (p port) LocalAddr() net.Addr  { return addr{} }
func (p port) RemoteAddr() net.Addr { return addr{} }

func (p port) Read(b []byte) (int, error) { return p.r.Read(b) }

// Agent greets the gateway at the other end of a port, which is closed when ctx ends before that. The line owns it.
func Agent(ctx context.Context, rw io.ReadWriteCloser) (*Line, error) {
	defer context.AfterFunc(ctx, func() { rw.Close() })()
	var own nonce
	rand.Read(own[:])
	greeted := make(chan struct{})
	said := make(chan error, 1)
	go func() {
		t := time.NewTicker(greeting)
		defer t.Stop()
		for {
			if _, err := rw.Write(greet(syn, own)); err != nil {
				said <- err
				rw.Close()
				return
			}
			select {
			case <-greeted:
				said <- nil
				return
			case <-t.C:
			}
		}
	}()
	r := bufio.NewReader(rw)
	err := await(r, nil, func(kind byte, n nonce) bool { return kind == ack && n == own })
	close(greeted)
	if err = errors.Join(err, <-said); err == nil {
		_, err = rw.Write(greet(run, own))
	}
	if err != nil {
		rw.Close()
		return nil, fmt.Errorf("greet the gateway: %w", errors.Join(ctx.Err(), err))
	}
	session, err := mux.GuardedClient(port{rw, r})
	if err != nil {
		rw.Close()
		return nil, err
	}
	go func() {
		session.AcceptStream() // the gateway opens none: it returns when the line is broken, or should be
		session.Close()
	}()
	return &Line{session: session}, nil
}

// Gateway waits until an agent greets at the other end of a port, which is closed when ctx ends before that. The line owns it.
func Gateway(ctx context.Context, rw io.ReadWriteCloser) (*Line, error) {
	defer context.AfterFunc(ctx, func() { rw.Close() })()
	slow := func() {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	r := bufio.NewReaderSize(rw, 512) // held as long as no agent greets
	var of nonce
	var failed error
	err := await(r, slow, func(kind byte, n nonce) bool {
		switch {
		case kind == syn && n != of:
			of = n
			_, failed = rw.Write(greet(ack, n))
		case kind == run && n == of && of != nonce{}:
			return true
		}
		return failed != nil
	})
	if err = errors.Join(err, failed); err != nil {
		rw.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	session, err := mux.GuardedServer(port{rw, r})
	if err != nil {
		rw.Close()
		return nil, err
	}
	return &Line{session: session}, nil
}

// Dial opens a connection.
func (l *Line) Dial() (net.Conn, error) { return l.session.OpenStream() }

// Accept returns the next connection, and closes those that are too many. It makes a line a net.Listener.
func (l *Line) Accept() (net.Conn, error) {
	for {
		s, err := l.session.AcceptStream()
		if err != nil {
			l.Close()
			return nil, err
		}
		l.mu.Lock()
		l.open++
		most := l.open > streams
		l.mu.Unlock()
		c := &counted{Stream: s, line: l}
		if !most {
			return c, nil
		}
		c.Close()
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	*mux.Stream
	line *Line
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.line.mu.Lock()
		c.line.open--
		c.line.mu.Unlock()
	})
	return c.Stream.Close()
}

// Addr names the port.
func (l *Line) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "virtio" }
func (addr) String() string  { return Name }

// Done is closed when the line has ended.
func (l *Line) Done() <-chan struct{} { return l.session.CloseChan() }

// Close ends the line with all its connections.
func (l *Line) Close() error { return l.session.Close() }
