package wire

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// one is a listener of one connection.
type one struct {
	conn chan net.Conn
	done chan struct{}
}

func (l one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l one) Close() error   { return nil }
func (l one) Addr() net.Addr { return &net.TCPAddr{} }

// A client whose network is another since a moment ago is told of nothing. It need not wait for as long as a host waits for a client,
// whose terminal may be stopped.
func TestAClientMissesAHostThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		l := one{make(chan net.Conn, 1), make(chan struct{})}
		l.conn <- far
		hosts := make(chan *ClientConn, 1)
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := UpgradeClient(w, r); err == nil {
				hosts <- c
			}
		}))
		by := Dialer(func(context.Context, string, string) (net.Conn, error) { return near, nil })
		c, err := by.DialClient(t.Context(), "ws://host/")
		if err != nil {
			t.Fatal(err)
		}
		host := <-hosts
		begun := time.Now()
		if _, err := c.Read(); err == nil || time.Since(begun) > time.Minute {
			t.Errorf("after %v: got %v", time.Since(begun), err)
		}
		c.Close()
		host.Close()
		close(l.done)
	})
}
