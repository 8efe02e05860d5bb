package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}` + "\n"

// peer is QEMU's end of a connection, played by a test.
type peer struct {
	t    *testing.T
	conn *net.UnixConn
	in   *json.Decoder
}

type asked struct {
	Execute   string
	Arguments json.RawMessage
	ID        uint64
}

func (p *peer) next() asked {
	var a asked
	if err := p.in.Decode(&a); err != nil {
		p.t.Error(err)
	}
	return a
}

func (p *peer) send(format string, a ...any) {
	if _, err := fmt.Fprintf(p.conn, format+"\n", a...); err != nil {
		p.t.Error(err)
	}
}

// open returns a client in command mode and its peer.
func open(t *testing.T) (*Client, *peer) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends []*net.UnixConn
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, c.(*net.UnixConn))
		t.Cleanup(func() { c.Close() })
	}
	p := &peer{t, ends[1], json.NewDecoder(ends[1])}
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		p.send("%s", strings.TrimSpace(greeting))
		p.send(`{"return":{},"id":%d}`, p.next().ID)
	}()
	c, err := Open(t.Context(), ends[0])
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	t.Cleanup(func() { c.Close() })
	return c, p
}

func TestAnswersFindWhoAsked(t *testing.T) {
	c, p := open(t)
	if v := c.Version(); v.Major != 7 || v.Package != "Debian" {
		t.Errorf("version: %+v", v)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var got int
			if err := c.Do(t.Context(), "echo", map[string]int{"n": i}, &got); err != nil || got != i {
				t.Errorf("asked %d: got %d, %v", i, got, err)
			}
		})
	}
	var all []asked
	for range 20 {
		all = append(all, p.next())
	}
	for i := len(all) - 1; i >= 0; i-- { // the last asked is answered first, with an event between
		var n struct{ N int }
		json.Unmarshal(all[i].Arguments, &n)
		p.send(`{"event":"RESET","data":{"guest":true,"reason":"guest-reset"},"timestamp":{"seconds":1,"microseconds":%d}}`, i)
		p.send(`{"return":%d,"id":%d}`, n.N, all[i].ID)
	}
	wg.Wait()
	for i := 19; i >= 0; i-- {
		e := <-c.Events()
		if e.Name != "RESET" || e.Time.Nanosecond() != i*1000 {
			t.Errorf("event %+v, want that of %d µs: order is kept", e, i)
		}
	}
}

func TestRefusalsAndEnds(t *testing.T) {
	t.Run("QEMU refuses", func(t *testing.T) {
		c, p := open(t)
		go func() { p.send(`{"error":{"class":"GenericError","desc":"no such thing"},"id":%d}`, p.next().ID) }()
		var refused *Error
		if err := c.Do(t.Context(), "device_del", nil, nil); !errors.As(err, &refused) || refused.Desc != "no such thing" || refused.Command != "device_del" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("who gives up does not disturb the next", func(t *testing.T) {
		c, p := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		late := make(chan asked, 1)
		go func() { late <- p.next(); cancel() }()
		if err := c.Do(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's", err)
		}
		p.send(`{"return":{"late":true},"id":%d}`, (<-late).ID)
		go func() { p.send(`{"return":{"running":true,"status":"running"},"id":%d}`, p.next().ID) }()
		if s, err := c.QueryStatus(t.Context()); err != nil || s.Status != "running" || !s.Running {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("who has given up before does not disturb anybody", func(t *testing.T) {
		c, p := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 { // whether it may write and whether it has given up are asked at once
			if err := c.Do(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the context's", err)
			}
		}
		go func() { p.send(`{"return":{"running":true,"status":"running"},"id":%d}`, p.next().ID) }()
		if s, err := c.QueryStatus(t.Context()); err != nil || !s.Running {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("the connection ends", func(t *testing.T) {
		c, p := open(t)
		go func() { p.next(); p.conn.Close() }()
		if err := c.Do(t.Context(), "stop", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		<-c.Done()
		if err := c.Do(t.Context(), "cont", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
	t.Run("quit ends the connection, and that is well", func(t *testing.T) {
		c, p := open(t)
		go func() { p.next(); p.conn.Close() }()
		if err := c.Quit(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a reader of events that sleeps costs the connection, not an event", func(t *testing.T) {
		c, p := open(t)
		go func() {
			for range eventBuffer + 1 {
				fmt.Fprintln(p.conn, `{"event":"X"}`)
			}
		}()
		<-c.Done()
		if err := c.Do(t.Context(), "cont", nil, nil); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "not read") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody greets", func(t *testing.T) {
		fds, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		defer unix.Close(fds[1])
		f := os.NewFile(uintptr(fds[0]), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Open(ctx, conn.(*net.UnixConn)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's", err)
		}
	})
}

func TestFilesTravel(t *testing.T) {
	c, p := open(t)
	f, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("content")
	got := make(chan string, 1)
	go func() {
		line, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := p.conn.ReadMsgUnix(line, oob)
		if err != nil {
			t.Error(err)
		}
		var a asked
		json.Unmarshal(line[:n], &a)
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		if len(messages) == 1 {
			if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
				b := make([]byte, 7)
				unix.Pread(fds[0], b, 0)
				unix.Close(fds[0])
				got <- string(b)
			}
		}
		close(got)
		p.send(`{"return":{"fdset-id":7,"fd":12},"id":%d}`, a.ID)
	}()
	name, err := c.AddFile(t.Context(), 7, f)
	if err != nil || name != "/dev/fdset/7" {
		t.Errorf("got %q, %v", name, err)
	}
	if content := <-got; content != "content" {
		t.Errorf("QEMU got %q", content)
	}
}

// FuzzReader: whatever comes, the reader ends in an error and holds no more than one line.
func FuzzReader(f *testing.F) {
	for _, s := range []string{greeting, `{"return":{},"id":1}` + "\n", `{"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}`,
		"\n\n{}\n", `{"id":-1}`, `{"id":18446744073709551616}`, `{"return":`, "\x00", `{"error":{"class":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newReader(bytes.NewReader(data))
		for n := 0; ; n++ {
			if _, err := r.next(); err != nil {
				return
			}
			if n > len(data) {
				t.Fatal("more messages than bytes")
			}
		}
	})
}

func TestLongLineIsRefused(t *testing.T) {
	r := newReader(strings.NewReader(`{"return":"` + strings.Repeat("x", maxLine) + `"}` + "\n"))
	if _, err := r.next(); err == nil {
		t.Error("a line beyond the bound was taken")
	}
}
