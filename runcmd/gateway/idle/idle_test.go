package idle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSet returns a set that runs until the test ends.
func newSet(t *testing.T) *Set {
	t.Helper()
	var wg sync.WaitGroup
	s, err := New(wg.Go)
	check(t, err)
	s.every = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		wg.Wait()
		check(t, s.Close())
	})
	return s
}

// pair returns both ends of a connection, the first of which can be laid down in s.
func pair(t *testing.T, s *Set) (*Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	c, err := s.Listener(l).Accept()
	check(t, err)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c.(*Conn), far
}

// down lays c down and returns what is closed when it is taken up.
func down(t *testing.T, c *Conn, until time.Time) <-chan struct{} {
	t.Helper()
	up := make(chan struct{})
	if !c.Await(func() { close(up) }, until) { // a second call would panic
		t.Fatal("it can not be laid down")
	}
	return up
}

func later() time.Time { return time.Now().Add(time.Hour) }

func try(c *Conn) (string, error) {
	buf := make([]byte, 10)
	n, err := c.Try(func() (int, error) { return c.Read(buf) })
	return string(buf[:n]), err
}

func TestWhatComesWakes(t *testing.T) {
	s := newSet(t)
	c, far := pair(t, s)
	for range 3 {
		if got, err := try(c); got != "" || err != nil {
			t.Fatalf("read %q, %v of what has said nothing", got, err)
		}
		up := down(t, c, later())
		far.Write([]byte("hello"))
		<-up
		if got, err := try(c); got != "hello" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	far.Write([]byte("early")) // before it is laid down
	<-down(t, c, later())
	buf := make([]byte, 5)
	if n, err := io.ReadFull(c, buf); err != nil {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
}

func TestTheOtherEndGoes(t *testing.T) {
	c, far := pair(t, newSet(t))
	up := down(t, c, later())
	far.Close()
	<-up
	if got, err := try(c); err != io.EOF {
		t.Errorf("read %q, %v; want EOF", got, err)
	}
}

func TestCloseTakesUp(t *testing.T) {
	c, _ := pair(t, newSet(t))
	up := down(t, c, later())
	check(t, c.Close())
	<-up
	if got, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read %d, %v of a closed connection", got, err)
	}
	if c.Await(func() { t.Error("resumed") }, later()) {
		t.Error("a closed connection was laid down")
	}
}

func TestSilenceTakesUp(t *testing.T) {
	c, _ := pair(t, newSet(t))
	check(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	<-down(t, c, time.Now().Add(20*time.Millisecond))
	if got, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v of one that was silent", got, err)
	}
}

// A number of a closed connection is another's soon: neither wakes the other.
func TestNumbersAreUsedAgain(t *testing.T) {
	s := newSet(t)
	for range 50 {
		c, far := pair(t, s)
		up := down(t, c, later())
		if far.Write([]byte("x")); c.fd%2 == 0 {
			c.Close() // with the event on its way
		}
		<-up
		c.Close()
		far.Close()
	}
	c, far := pair(t, s)
	up := down(t, c, later())
	far.Write([]byte("x"))
	<-up
	if got, err := try(c); got != "x" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A hundred connections speak at random, each is read by one goroutine at a time, and nothing is lost.
func TestManySpeak(t *testing.T) {
	const conns, words = 100, 50
	s := newSet(t)
	var all sync.WaitGroup
	for range conns {
		c, far := pair(t, s)
		all.Add(1)
		got := 0
		buf := make([]byte, 7)
		var next func()
		next = func() {
			for {
				n, err := c.Try(func() (int, error) { return c.Read(buf) })
				switch {
				case err == nil && n == 0:
					if c.Await(next, later()) {
						return
					}
				case err != nil:
					if got != words*5 || err != io.EOF {
						t.Errorf("%d bytes came, then %v", got, err)
					}
					all.Done()
					return
				}
				got += n
			}
		}
		go next()
		go func() {
			for range words {
				far.Write([]byte("12345"))
			}
			far.Close()
		}()
	}
	all.Wait()
}

// A TLS connection goes on in the midst of a record where nothing had come.
func TestTLSGoesOn(t *testing.T) {
	c, far := pair(t, newSet(t))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}})
	slow := &slowly{Conn: far}
	client := tls.Client(slow, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	check(t, server.Handshake())
	check(t, <-done)
	slow.pause = make(chan struct{})
	go client.Write([]byte("hello"))
	buf := make([]byte, 10)
	for waits := 0; ; waits++ {
		n, err := c.Try(func() (int, error) { return server.Read(buf) })
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			if string(buf[:n]) != "hello" || waits < 10 {
				t.Errorf("read %q after %d waits", buf[:n], waits)
			}
			return
		}
		up := down(t, c, later())
		slow.pause <- struct{}{}
		<-up
	}
}

// slowly writes a byte at a time once it has a pause.
type slowly struct {
	net.Conn
	pause chan struct{}
}

func (s *slowly) Write(p []byte) (int, error) {
	if s.pause == nil {
		return s.Conn.Write(p)
	}
	for n := range p {
		<-s.pause
		if _, err := s.Conn.Write(p[n : n+1]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}
