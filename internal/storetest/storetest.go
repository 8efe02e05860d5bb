// Package storetest gives a test a real etcd of its own, in about a third of a second.
//
// The server is embedded in the test's process, keeps its data in a temporary directory,
// listens on a unix socket there and on nothing else, and ends with the test. It can be
// killed and started again under its clients. Only tests import this package; the server
// of production is control/etcd, which adds quota, compaction, logs and metrics.
package storetest

import (
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// New returns a client of a new, empty store.
func New(t testing.TB) *store.Client {
	return Start(t).Client(t)
}

// Server is a store that can be stopped and started.
type Server struct {
	Endpoint string
	dir      string
	etcd     *embed.Etcd
	grpc     atomic.Pointer[grpc.Server] // set when it begins to serve
}

// Start starts a new, empty store.
func Start(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir may be longer than a socket's 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Endpoint: "unix://" + filepath.Join(dir, "sock"), dir: dir}
	t.Cleanup(func() {
		s.Stop()
		os.RemoveAll(dir)
	})
	s.Restart(t)
	return s
}

// Restart starts the server again on the data it had.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(s.dir, "data")
	cfg.InitialClusterToken = rand.Text() // as in production: without its data it is another store
	cfg.LogLevel = "fatal"
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(s.dir, "sock")}}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Host: "sock"}}
	cfg.TickMs, cfg.ElectionMs = 10, 100 // alone, it elects itself
	cfg.UnsafeNoFsync = true             // a test's data need not outlive a power cut
	cfg.MaxTxnOps = store.MaxTxnOps
	cfg.ServiceRegister = func(g *grpc.Server) { s.grpc.Store(g) }
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	s.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatalf("start etcd: %v", err)
	case <-t.Context().Done():
		t.Fatal("start etcd: the test ended first")
	}
}

// Stop stops the server; its data stay. Stopping it twice is fine.
func (s *Server) Stop() {
	if s.etcd != nil {
		if g := s.grpc.Load(); g != nil {
			g.Stop() // etcd would wait 5 s for watchers to leave
		}
		s.etcd.Close()
		s.etcd = nil
	}
}

// Wipe stops the server and deletes its data.
func (s *Server) Wipe(t testing.TB) {
	t.Helper()
	s.Stop()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
}

// Replace starts an empty server in the place of this one, and returns a function that puts it back.
func (s *Server) Replace(t testing.TB) (back func()) {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	move := func(from, to string) {
		t.Helper()
		s.Stop()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(data, data+".away")
	s.Restart(t)
	return func() {
		t.Helper()
		move(data, data+".other")
		move(data+".away", data)
		s.Restart(t)
	}
}

// Client returns a client that is closed with the test.
func (s *Server) Client(t testing.TB) *store.Client {
	t.Helper()
	c, err := store.Open(t.Context(), store.Config{Endpoints: []string{s.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
