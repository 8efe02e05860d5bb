package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/origin"
)

// open returns the address of a relay to an API whose every connection f serves.
func open(t *testing.T, f func(*net.TCPConn), change ...func(*Relay)) (at string, r *Relay) {
	t.Helper()
	api := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := api.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				if g, err := origin.Read(c); err != nil || g.VPC != "vpc-1" || g.Instance == "" || !g.From.Addr().IsLoopback() {
					t.Errorf("the API hears of %+v, %v", g, err)
				}
				f(c.(*net.TCPConn))
			})
		}
	})
	r = New(bundle.NewIndex(bundle.Root(t.TempDir())), "", slog.New(slog.DiscardHandler))
	r.dial = tcpTo(api.Addr().String())
	r.find = func(cloud.VPCID, netip.Addr) (bundle.Found, error) { return bundle.Found{ID: "i-1"}, nil }
	for _, c := range change {
		c(r)
	}
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	r.Add(ctx, handover.Socket{VPC: "vpc-1", Listener: l})
	t.Cleanup(func() { l.Close(); cancel(); running.Wait(); api.Close(); serving.Wait() })
	return l.Addr().String(), r
}

func tcpTo(addr string) func(context.Context) (stream, error) {
	return func(ctx context.Context) (stream, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t *testing.T, at string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func TestWhatAGuestHasSaidIsAnsweredAfterItsEnd(t *testing.T) {
	at, _ := open(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // to the guest's end
		c.Write(append([]byte("heard "), all...))
	})
	c := dial(t, at)
	said := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than all buffers on the way
	go func() { c.Write(said); c.CloseWrite() }()
	got, err := io.ReadAll(c)
	if want := append([]byte("heard "), said...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestAnAnswerThatEndsFirstReachesTheGuest(t *testing.T) {
	at, _ := open(t, func(c *net.TCPConn) { c.Write([]byte("no")) })
	got, err := io.ReadAll(dial(t, at)) // the guest has said nothing, and is still there
	if string(got) != "no" || err != nil {
		t.Errorf("got %q, %v; want no", got, err)
	}
}

// refused reports what came of a connection that should come to nothing: the reset may be there before dial returns.
func refused(t *testing.T, at string) (string, bool) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		return "", true
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(c)
	return string(got), err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestAStrangerIsRefused(t *testing.T) {
	at, _ := open(t, func(c *net.TCPConn) { c.Write([]byte("come in")) }, func(r *Relay) {
		r.find = func(cloud.VPCID, netip.Addr) (bundle.Found, error) { return bundle.Found{}, errors.New("nobody") }
	})
	if got, ok := refused(t, at); !ok || got != "" {
		t.Errorf("an address that no instance has got %q", got)
	}
}

func TestAnInstanceHasSoManyConnections(t *testing.T) {
	greet := func(c *net.TCPConn) { c.Write([]byte("x")); io.Copy(io.Discard, c) }
	var id atomic.Value
	id.Store("i-1")
	at, _ := open(t, greet, func(r *Relay) {
		r.find = func(cloud.VPCID, netip.Addr) (bundle.Found, error) {
			return bundle.Found{ID: cloud.InstanceID(id.Load().(string))}, nil
		}
	})
	for range perInstance {
		if _, err := io.ReadFull(dial(t, at), make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := refused(t, at); !ok || got != "" {
		t.Errorf("one more was carried: %q", got)
	}
	id.Store("i-2")
	if _, err := io.ReadFull(dial(t, at), make([]byte, 1)); err != nil {
		t.Errorf("another instance is refused: %v", err)
	}
}

func TestWhatMovesNothingIsClosed(t *testing.T) {
	at, _ := open(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) }, func(r *Relay) { r.quiet = 200 * time.Millisecond })
	c, still := dial(t, at), dial(t, at)
	closed := make(chan struct{})
	go func() { still.Read(make([]byte, 1)); close(closed) }()
	tick := time.NewTicker(20 * time.Millisecond) // far more often than quiet
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-closed:
			open = false
		case <-tick.C:
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatalf("one that moves is closed: %v", err)
			}
		}
	}
}

func TestAnAPIThatIsAwayEndsTheConnectionAtOnce(t *testing.T) {
	gone := listen(t)
	gone.Close()
	at, _ := open(t, func(*net.TCPConn) {}, func(r *Relay) { r.dial = tcpTo(gone.Addr().String()) })
	if got, ok := refused(t, at); !ok || got != "" {
		t.Errorf("the guest got %q", got)
	}
}
