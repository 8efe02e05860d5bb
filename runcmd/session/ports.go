package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/mux"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// perSession bounds the connections of one session.
	perSession = 128
	// dialPatience is how long a port may take to answer.
	dialPatience = 10 * time.Second
)

// ports forwards the connections that the client multiplexes (smux version 1, as the stock plugin does) to a port of
// this guest or of another host.
func ports(ctx context.Context, s *session) (int, error) {
	reach, err := target(s.plan.Host, s.plan.Port)
	if err != nil {
		return 1, err
	}
	all, err := mux.Server(&carrier{s: s})
	if err != nil {
		return 1, err
	}
	defer all.Close()
	defer context.AfterFunc(ctx, func() { all.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer all.Close()
	seats := make(chan struct{}, perSession)
	for {
		in, err := all.AcceptStream()
		if err != nil {
			return 0, nil // the client or the session has ended
		}
		select {
		case seats <- struct{}{}:
		default:
			in.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-seats }()
			defer in.Close()
			out, err := reach(ctx)
			if err != nil {
				s.m.cfg.Log.Debug("port is not reached", "session", s.id, "err", err)
				return
			}
			defer out.Close()
			join(in, out)
		})
	}
}

// join copies both ways. smux knows no half of a connection: when either side has said its last, the other may still
// say what is on its way for a moment.
func join(in *mux.Stream, out net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 64<<10))
		if half, ok := out.(*net.TCPConn); ok {
			half.CloseWrite()
		}
		out.SetReadDeadline(time.Now().Add(grace))
	})
	wg.Go(func() {
		io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{out}, make([]byte, mux.FrameSize))
		in.Close()
	})
	wg.Wait()
}

// carrier is the session's stream as smux wants to see it.
type carrier struct {
	s    *session
	rest []byte
	one  sync.Mutex
}

func (c *carrier) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		r, err := c.s.stream.Read()
		if err != nil {
			return 0, io.EOF
		}
		c.s.touch()
		c.rest = r.Data
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	c.s.stream.Done(n)
	return n, nil
}

func (c *carrier) Write(p []byte) (int, error) {
	c.one.Lock()
	defer c.one.Unlock()
	c.s.touch()
	if err := c.s.stream.Write(wire.SessionStdout, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *carrier) Close() error { return nil } // the session closes its stream

// own reaches a port of this guest, by either family. It asks nobody what localhost is: there may be no file that says so.
func own(ctx context.Context, d net.Dialer, port int) (net.Conn, error) {
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		return conn, nil
	}
	if conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(port))); err == nil {
		return conn, nil
	}
	return nil, err
}

// target returns what reaches a port. A remote host is resolved here, and each of its addresses is checked: a name may
// lead anywhere, and to another place at the next question.
func target(host string, port int) (func(context.Context) (net.Conn, error), error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port %d is none", port)
	}
	d := net.Dialer{Timeout: dialPatience}
	if host == "" {
		return func(ctx context.Context) (net.Conn, error) { return own(ctx, d, port) }, nil
	}
	d.Control = func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if cloud.ForwardDenied(a.Addr()) {
			return fmt.Errorf("%s may not be reached through a session", a.Addr())
		}
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && cloud.ForwardDenied(a) {
		return nil, fmt.Errorf("%s may not be reached through a session", a)
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }, nil
}
