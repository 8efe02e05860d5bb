//go:build net

package eni

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/origin"
)

// inhabited writes down that an instance has the address of guest n.
func (s *services) inhabited(id cloud.InstanceID, n int) {
	s.t.Helper()
	dir := s.root.Instance(id)
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		s.t.Fatal(err)
	}
	m := bundle.Metadata{Instance: id, Interfaces: []bundle.MetadataInterface{{VPC: "vpc-1", Addresses: []netip.Addr{guestAddr(n)}}}}
	if err := bundle.Write(dir.Path("metadata.json"), m, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// A guest reaches the API at its link-local address: as fast as objects need, and nothing else of the host.
func TestGuestsReachTheAPI(t *testing.T) {
	require(t, "curl", "curl")
	const size = 300 << 20
	got := make(chan int64, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /object", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.CopyN(w, zeros{}, size)
	})
	mux.HandleFunc("PUT /object", func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got <- n
	})
	mux.HandleFunc("GET /who", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	t.Cleanup(func() { srv.Close(); api.Close() })

	m := start(t, "api")
	c := config("api", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, c)
	s := newServices(t, m, c.VPCs...)
	s.inhabited("i-0000000000000000a", 1)
	socket := s.root.GuestAPI()
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	carried, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(named{carried, t})
	s.start("--api", api.Addr().String())
	g := configured(t, m, 1)
	const at = "http://169.254.169.254:8773"
	if out, err := g.Run("curl", "-sS", "-m", "10", at+"/who"); err != nil || out != "169.254.169.254:8773" {
		t.Fatalf("got %q, %v; want the host that was asked, which signatures cover\n%v", out, err, m.Counters())
	}
	// 300 MB are 33,000 to 200,000 packets: most of them would be more than 1,024 a second.
	for _, way := range []struct{ name, args string }{{"get", "-o /dev/null"}, {"put", "-T -"}} {
		began := time.Now()
		script := fmt.Sprintf("head -c %d /dev/zero | curl -sS -m 300 -H Expect: %s %s/object", size, way.args, at)
		if out, err := g.Run("sh", "-c", script); err != nil {
			t.Fatalf("%s: %v\n%s\n%v", way.name, err, out, m.Counters())
		}
		if way.name == "put" {
			if n := <-got; n != size {
				t.Errorf("%d bytes arrived, want %d", n, size)
			}
		}
		took := time.Since(began)
		t.Logf("%s of 300 MB: %v, %.0f MB/s", way.name, took.Round(time.Millisecond), size/1e6/took.Seconds())
	}
	if n := m.Counters()["vpc-1/llrate"]; n != 0 {
		t.Errorf("%d packets were dropped as too many", n)
	}
	// The port is the relay's, on that address alone; the API's own is not there.
	_, port, _ := net.SplitHostPort(api.Addr().String())
	for _, other := range []string{"169.254.169.254:" + port, "169.254.169.253:8773", "172.31.0.1:8773", "172.31.0.2:8773", "127.0.0.1:" + port} {
		if out, err := g.Run("curl", "-sS", "-m", "1", "http://"+other+"/who"); err == nil {
			t.Errorf("%s answers: %q", other, out)
		}
	}
	// Who is no instance's is refused, and who takes another's address is not heard.
	stranger := configured(t, m, 2)
	if out, err := stranger.Run("curl", "-sS", "-m", "5", at+"/who"); err == nil {
		t.Errorf("an address without an instance got %q", out)
	}
	stranger.IP("addr add %s/20 dev eth0", guestAddr(1))
	if out, err := stranger.Run("curl", "-sS", "-m", "1", "--interface", guestAddr(1).String(), at+"/who"); err == nil {
		t.Errorf("who takes another's address got %q", out)
	}
}

// named takes off the heads of connections which say whose they are.
type named struct {
	net.Listener
	t *testing.T
}

func (n named) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if who, err := origin.Read(c); err != nil || who.Instance != "i-0000000000000000a" {
		n.t.Errorf("a connection of %+v, %v", who, err)
	}
	return c, nil
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
