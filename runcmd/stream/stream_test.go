package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// connect returns the two ends of a websocket.
func connect(t testing.TB) (guest, host *wire.SessionConn) {
	t.Helper()
	ends := make(chan *wire.SessionConn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := wire.UpgradeSession(w, r)
		if err != nil {
			t.Error(err)
		}
		ends <- c
	}))
	t.Cleanup(srv.Close)
	guest, err := wire.DialSession(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http"))
	if err != nil {
		t.Fatal(err)
	}
	host = <-ends
	t.Cleanup(func() { guest.Close(); host.Close() })
	return guest, host
}

// serve connects two streams, and returns what cuts the connection.
func serve(t testing.TB, guest, host *Stream) (cut func()) {
	t.Helper()
	a, b := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { guest.Serve(ctx, a) })
	wg.Go(func() { host.Serve(ctx, b) })
	cut = func() { cancel(); wg.Wait() }
	t.Cleanup(cut)
	return cut
}

// collect reads until it has n bytes.
func collect(t testing.TB, s *Stream, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	for out.Len() < n {
		r, err := s.Read()
		if err != nil {
			t.Fatalf("after %d bytes: %v", out.Len(), err)
		}
		out.Write(r.Data)
		s.Done(len(r.Data))
	}
	return out.Bytes()
}

func TestNothingIsLostWhenTheConnectionBreaks(t *testing.T) {
	guest, host := New(nil), New(nil)
	want := make([]byte, 5<<20) // more than a window
	for i := range want {
		want[i] = byte(i * i >> 8)
	}
	cut := serve(t, guest, host)
	go func() {
		for part := want; len(part) > 0; {
			n := min(len(part), 10_000)
			guest.Write(wire.SessionStdout, part[:n])
			part = part[n:]
		}
	}()
	got := collect(t, host, 1<<20)
	for range 3 {
		cut()
		cut = serve(t, guest, host)
		got = append(got, collect(t, host, 1<<20)...)
	}
	got = append(got, collect(t, host, len(want)-len(got))...)
	if !bytes.Equal(got, want) {
		t.Error("other bytes came")
	}
}

func TestAHostThatHasForgottenAllSeesTheLastOfIt(t *testing.T) {
	guest, host := New(nil), New(nil)
	cut := serve(t, guest, host)
	if err := guest.Write(wire.SessionStdout, []byte("screen")); err != nil {
		t.Fatal(err)
	}
	collect(t, host, 6)
	host.Write(wire.SessionInput, []byte("typed before"))
	collect(t, guest, 12)
	cut()
	next := New(nil)
	if err := next.Write(wire.SessionInput, []byte("typed after")); err != nil { // before it knows where it is
		t.Fatal(err)
	}
	serve(t, guest, next)
	if got := collect(t, next, 6); string(got) != "screen" {
		t.Errorf("got %q", got)
	}
	if got := collect(t, guest, 11); string(got) != "typed after" {
		t.Errorf("got %q", got)
	}
}

func TestTheEndIsToldBehindTheOutput(t *testing.T) {
	guest, host := New(nil), New(nil)
	a, b := connect(t)
	told := make(chan error, 1)
	go func() { told <- guest.Serve(t.Context(), a) }()
	go host.Serve(t.Context(), b)
	guest.Write(wire.SessionStdout, []byte("last words"))
	guest.End([]byte(`{}`))
	if got := collect(t, host, 10); string(got) != "last words" {
		t.Errorf("got %q", got)
	}
	if _, err := host.Read(); err == nil || string(host.Ended()) != "{}" {
		t.Errorf("got %v and %q", err, host.Ended())
	}
	host.Acknowledge()
	host.Close()
	if err := <-told; err != nil {
		t.Errorf("the guest was not told that its end is known: %v", err)
	}
}

func TestAWriterWaitsForAReaderWhoDoesNot(t *testing.T) {
	guest, host := New(nil), New(nil)
	serve(t, guest, host)
	full := make(chan struct{})
	go func() {
		guest.Write(wire.SessionStdout, make([]byte, wire.SessionWindow))
		close(full)
		guest.Write(wire.SessionStdout, []byte("more"))
		t.Error("a writer went beyond the window")
	}()
	<-full
	if n := guest.Pending(); n != wire.SessionWindow {
		t.Errorf("%d bytes are pending", n)
	}
}

// Who sends byte by byte is not to hold more memory than who sends them together: neither side keeps a record for each.
func TestSmallPiecesHoldLittleMemory(t *testing.T) {
	for name, kinds := range map[string][]wire.SessionFrame{
		"of one kind":  {wire.SessionStdout},
		"of two kinds": {wire.SessionStdout, wire.SessionStderr},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				host := New(nil)
				near, far := Pipe()
				go host.Serve(ctx, far)
				before := heap()
				const n = wire.SessionWindow
				go func() {
					near.Send(wire.SessionMessage{Frame: wire.SessionAttach, Offset: -1})
					for k := range n {
						near.Send(wire.SessionMessage{Frame: kinds[k%len(kinds)], Offset: int64(k), Data: []byte{byte(k * k >> 8)}})
					}
				}()
				go func() { // it reads what it is sent
					for {
						if _, err := near.Receive(); err != nil {
							return
						}
					}
				}()
				synctest.Wait() // the host has taken all that it takes
				if held := heap() - before; held > 4*wire.SessionWindow {
					t.Errorf("%d KB are held for at most %d", held>>10, wire.SessionWindow>>10)
				}
				got := collect(t, host, n)
				for k, b := range got {
					if b != byte(k*k>>8) {
						t.Fatalf("another byte came at %d", k)
					}
				}
			})
		})
	}
	writer := New(nil)
	before := heap()
	for k := range wire.SessionWindow {
		if err := writer.Write(wire.SessionInput, []byte{byte(k)}); err != nil {
			t.Fatal(err)
		}
	}
	if held := heap() - before; held > 4*wire.SessionWindow {
		t.Errorf("%d KB are held for %d that were written", held>>10, wire.SessionWindow>>10)
	}
	runtime.KeepAlive(writer)
}

// Whatever a peer sends, what is held of it is bounded, and what is read is in order and without a gap.
func FuzzReceive(f *testing.F) {
	message := func(m wire.SessionMessage) []byte {
		b := binary.BigEndian.AppendUint64([]byte{byte(len(m.Data)), byte(m.Frame)}, uint64(m.Offset))
		return append(b, m.Data...)
	}
	f.Add(append(message(wire.SessionMessage{Frame: wire.SessionStdout, Data: []byte("ab")}), message(wire.SessionMessage{Frame: wire.SessionStderr, Offset: 1, Data: []byte("bc")})...))
	f.Add(append(message(wire.SessionMessage{Frame: wire.SessionAck, Offset: 3}), message(wire.SessionMessage{Frame: wire.SessionEnded, Data: []byte("{}")})...))
	f.Add(message(wire.SessionMessage{Frame: wire.SessionResize, Offset: 80<<32 | 24}))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing waits for a reader
		s := New(func(columns, rows int) {
			if columns < 0 || columns > 0x7fff || rows < 0 || rows > 0x7fff {
				t.Errorf("a window of %d x %d", columns, rows)
			}
		})
		s.Write(wire.SessionInput, []byte("four"))
		for len(data) > 0 {
			n := min(1+9+int(data[0]), len(data))
			m, err := wire.DecodeSession(data[1:n])
			if data = data[n:]; err != nil {
				continue
			}
			if m.Frame == wire.SessionAttach {
				_, err = s.attached(m.Offset)
			} else {
				err = s.receive(ctx, m)
			}
			if err != nil {
				return // the connection ends
			}
			if s.acked > s.written || s.base > s.written || s.dealt > s.received {
				t.Fatalf("acknowledged %d of %d, kept from %d; dealt with %d of %d", s.acked, s.written, s.base, s.dealt, s.received)
			}
			next := s.dealt
			for _, r := range s.in {
				if r.offset != next {
					t.Fatalf("a record begins at %d, want %d", r.offset, next)
				}
				next += int64(len(r.Data))
			}
			if next != s.received || next-s.dealt > wire.SessionWindow+history {
				t.Fatalf("%d bytes are held, up to %d of %d", next-s.dealt, next, s.received)
			}
		}
	})
}

// heap is how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What a reader has not dealt with still fills the window after the connection was made anew.
func TestAWindowIsNotOpenedByANewConnection(t *testing.T) {
	attached := make(chan struct{}, 1)
	guest, host := New(func(int, int) { attached <- struct{}{} }), New(nil)
	cut := serve(t, guest, host)
	guest.Write(wire.SessionStdout, make([]byte, wire.SessionWindow))
	for host.has() < wire.SessionWindow {
		runtime.Gosched()
	}
	cut()
	serve(t, guest, host)
	host.Resize(80, 24)
	<-attached
	if n := guest.Pending(); n != wire.SessionWindow {
		t.Errorf("%d bytes are pending of a window that nobody has read", n)
	}
	go guest.Write(wire.SessionStdout, make([]byte, wire.SessionWindow))
	collect(t, host, 2*wire.SessionWindow)
}

// has is how much was received.
func (s *Stream) has() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

// A guest may send whatever it likes; here is what each of it comes to.
func TestHostileGuests(t *testing.T) {
	attach := wire.SessionMessage{Frame: wire.SessionAttach}
	flood := []wire.SessionMessage{attach}
	for n := range 100 {
		flood = append(flood, wire.SessionMessage{Frame: wire.SessionStdout, Offset: int64(n) * wire.MaxData, Data: make([]byte, wire.MaxData)})
	}
	for name, c := range map[string]struct {
		sent []wire.SessionMessage
		want error // nil: any
	}{
		"no attach":                       {[]wire.SessionMessage{{Frame: wire.SessionStdout, Data: []byte("x")}}, nil},
		"a flood":                         {flood, ErrWindow},
		"a gap":                           {[]wire.SessionMessage{attach, {Frame: wire.SessionStdout, Data: []byte("x")}, {Frame: wire.SessionStdout, Offset: 9, Data: []byte("x")}}, nil},
		"an acknowledgement of nothing":   {[]wire.SessionMessage{attach, {Frame: wire.SessionAck, Offset: 5}}, nil},
		"an offset out of range":          {[]wire.SessionMessage{attach, {Frame: wire.SessionStdout, Offset: 1 << 62, Data: []byte("x")}, {Frame: wire.SessionStdout, Offset: 1<<62 + 1, Data: []byte("x")}}, nil},
		"an unknown message":              {[]wire.SessionMessage{attach, {Frame: 'X'}}, nil},
		"an attach in the middle":         {[]wire.SessionMessage{attach, attach}, nil},
		"an output that is too large":     {[]wire.SessionMessage{attach, {Frame: wire.SessionStdout, Data: make([]byte, wire.MaxData+100)}}, nil},
		"a message beyond the read limit": {[]wire.SessionMessage{attach, {Frame: wire.SessionStdout, Data: make([]byte, wire.MaxToGateway+1)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			guest, conn := connect(t)
			host := New(nil)
			done := make(chan error, 1)
			go func() { done <- host.Serve(t.Context(), conn) }()
			go func() {
				for { // it reads what it is sent, like a good one
					if _, err := guest.Receive(); err != nil {
						return
					}
				}
			}()
			for _, m := range c.sent {
				if guest.Send(m) != nil {
					break
				}
			}
			select {
			case err := <-done:
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("it is still connected")
			}
		})
	}
}
