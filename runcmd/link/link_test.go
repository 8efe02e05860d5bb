package link

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/runner"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const command = cloud.CommandID("00000000-0000-4000-8000-000000000001")

// gateway is the host's side of one agent: the test welcomes each connection and says what it is sent.
type gateway struct {
	url   string
	conns chan *wire.Conn
}

// serve starts an agent with a runner and a gateway that the test plays.
func serve(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{conns: make(chan *wire.Conn)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r)
		if err != nil {
			return
		}
		select {
		case g.conns <- conn:
		case <-t.Context().Done():
			conn.Close()
		}
	}))
	t.Cleanup(srv.Close)
	g.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	j, err := journal.Open(filepath.Join(t.TempDir(), "commands"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	l := New(g.url, wire.Hello{Version: wire.Version, Boot: "boot"}, log)
	r := runner.New(runner.Config{Journal: j, Boot: "boot", Grace: time.Second, Changed: l.Changed, Log: log})
	l.Attach(r)
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(t.Context()) })
	t.Cleanup(func() { wg.Wait(); r.Close() })
	return g
}

// welcome returns the agent's next connection. It breaks by itself when the test takes too long.
func (g *gateway) welcome(t *testing.T) *wire.Conn {
	t.Helper()
	select {
	case conn := <-g.conns:
		guard := time.AfterFunc(10*time.Second, func() { conn.Close() })
		t.Cleanup(func() { guard.Stop(); conn.Close() })
		if _, err := conn.Receive(); err != nil {
			t.Fatal(err)
		}
		if err := conn.Send(&wire.Welcome{Version: wire.Version, Epoch: 1, Instance: "i-1"}); err != nil {
			t.Fatal(err)
		}
		return conn
	case <-time.After(10 * time.Second):
		t.Fatal("the agent does not connect")
		return nil
	}
}

// What the gateway says that it has opens the window, also when the acknowledgements of it were lost with a connection: or
// the command would wait for room for ever.
func TestALostAcknowledgementDoesNotHoldUpACommand(t *testing.T) {
	const size, window = 6 << 20, 4 << 20
	g := serve(t)
	req := wire.Request{ID: command, Limit: size, Steps: []wire.Step{{Name: "a", Script: "head -c 6291456 /dev/zero", Timeout: time.Minute}}}
	for have := int64(0); ; {
		conn := g.welcome(t)
		req.Offsets[wire.Stdout] = have
		if err := conn.Send(&req); err != nil {
			t.Fatal(err)
		}
		for stop := have + window; have < min(stop, size); {
			f, err := conn.Receive()
			if err != nil {
				t.Fatalf("with %d bytes: %v", have, err)
			}
			if o, ok := f.(*wire.Output); ok {
				have = o.Offset + int64(len(o.Data))
			}
		}
		if have < size {
			conn.Close()
			continue
		}
		for {
			f, err := conn.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := f.(*wire.Result); ok {
				if r.Outputs[wire.Stdout] != size {
					t.Errorf("got a result of %d bytes, want %d", r.Outputs[wire.Stdout], int64(size))
				}
				return
			}
		}
	}
}
