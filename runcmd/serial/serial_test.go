package serial

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ends returns the two ends of what a port is to its host: a socket.
func ends(t testing.TB) (guest, host net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if guest, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if host, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close(); host.Close() })
	return guest, host
}

// met returns the two lines of a port.
func met(t testing.TB, guest, host io.ReadWriteCloser) (agent, gateway *Line) {
	t.Helper()
	var wg sync.WaitGroup
	var err1, err2 error
	wg.Go(func() { agent, err1 = Agent(t.Context(), guest) })
	wg.Go(func() { gateway, err2 = Gateway(t.Context(), host) })
	wg.Wait()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close(); gateway.Close() })
	return agent, gateway
}

// echo answers each connection with what it sends.
func echo(l *Line) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

func TestManyConnectionsShareAPortWhateverWasUnderWay(t *testing.T) {
	guest, host := ends(t)
	// Of agents and gateways from before: halves of greetings, whole ones, and noise.
	guest.Write(append(greet(syn, nonce{1})[:20], greet(run, nonce{})...))
	guest.Write([]byte(magic + magic))
	host.Write(append(greet(ack, nonce{9}), bytes.Repeat([]byte(magic[:3]), 1000)...))
	agent, gateway := met(t, guest, host)
	go echo(gateway)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			c, err := agent.Dial()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent := bytes.Repeat([]byte{byte(n)}, 300_000)
			go c.Write(sent)
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: %v, equal %v", n, err, bytes.Equal(got, sent))
			}
		})
	}
	wg.Wait()
}

func TestAnAgentThatBeginsAnewEndsTheLine(t *testing.T) {
	guest, host := ends(t)
	_, gateway := met(t, guest, host)
	guest.Write(greet(syn, nonce{7})) // the one before was killed, and the port knows nothing of it
	if _, err := gateway.Accept(); err == nil {
		t.Error("the line goes on")
	}
	<-gateway.Done()
}

func TestAGatewayThatIsGoneEndsTheLine(t *testing.T) {
	guest, host := ends(t)
	agent, _ := met(t, guest, host)
	c, err := agent.Dial()
	if err != nil {
		t.Fatal(err)
	}
	host.Write([]byte("noise of another"))
	<-agent.Done()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its line")
	}
}

func TestAGuestHasSoManyConnections(t *testing.T) {
	guest, host := ends(t)
	agent, gateway := met(t, guest, host)
	taken := make(chan net.Conn)
	go func() {
		for {
			c, err := gateway.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	var first net.Conn
	for range streams {
		if _, err := agent.Dial(); err != nil {
			t.Fatal(err)
		}
		first = <-taken
	}
	over, err := agent.Dial()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := over.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one too many: got %v, want its end", err)
	}
	first.Close()
	if _, err := agent.Dial(); err != nil {
		t.Fatal(err)
	}
	<-taken
}

func TestAPortIsUsedWhileTheNetworkDoesNotWork(t *testing.T) {
	guest, host := ends(t)
	var works atomic.Bool
	w := NewWay(nil, slog.New(slog.DiscardHandler))
	w.patience, w.lookAgain = time.Hour, time.Millisecond
	w.network = func(context.Context, string, string) (net.Conn, error) {
		if works.Load() {
			c, _ := net.Pipe()
			return c, nil
		}
		return nil, errors.New("no route")
	}
	w.port = func() (io.ReadWriteCloser, error) { return guest, nil }
	dial := func() (net.Conn, error) { return w.DialContext(t.Context(), "tcp", "169.254.169.254:8774") }
	if _, err := dial(); err == nil {
		t.Fatal("the port was used at once")
	}
	w.patience = 0
	go func() {
		if l, err := Gateway(t.Context(), host); err == nil {
			echo(l)
		}
	}()
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	works.Store(true)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the port is still used, though the network works")
	}
	c, err = dial()
	for err != nil { // the line ends a moment before it is forgotten
		runtime.Gosched()
		c, err = dial()
	}
	if _, ok := c.(interface{ ID() uint32 }); ok {
		t.Error("what is dialled now goes by the port")
	}
}

// Whatever a guest sends: a greeting behind it is found, and nothing else is taken for one.
func FuzzAwait(f *testing.F) {
	f.Add([]byte(magic))
	f.Add(greet(syn, nonce{1})[:30])
	f.Add([]byte{0, 0xff, 0, 0xff, 'i'})
	f.Fuzz(func(t *testing.T, junk []byte) {
		own := nonce{3, 1, 4, 1, 5}
		data := append(bytes.Clone(junk), greet(run, own)...)
		seen := 0
		err := await(bufio.NewReader(bytes.NewReader(data)), nil, func(kind byte, n nonce) bool {
			seen++
			return kind == run && n == own
		})
		if err != nil && !bytes.Contains(data[:len(junk)+len(magic)-1], []byte(magic)) {
			t.Errorf("the greeting behind %q was not found: %v", junk, err)
		}
		if err == nil && seen == 0 {
			t.Error("found without being asked for")
		}
	})
}
