// Package etcd is the store's server: embedded in the control process, or a cluster elsewhere.
//
// Open gives the caller a running store and its client in about a third of a second, and
// refuses a directory that another process uses. The embedded server is a cluster of one:
// it listens on a unix socket (the agent of the same host) and on nothing else; control
// itself talks to it inside the process. The server then looks after itself:
//
//	history   compacted every 10 minutes
//	file      defragmented when more than half of it, and at least 64 MiB, is air
//	quota     Health complains from 60 %; when full, it makes room and takes up work again
//
// With endpoints of an external cluster nothing is started: the same Server is a client
// that watches that cluster's health. What is kept in the store is internal/store's affair.
package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// Config says which store to open.
type Config struct {
	Dir    string // data of the embedded server: STATE/etcd
	Socket string // where it listens: RUN/control/etcd.sock
	Quota  int64  // bytes of its file; 0 is 2 GiB, and 8 GiB is as far as etcd is tested

	External store.Config // with endpoints: use these and embed nothing
}

// Server is an open store. It is a service.Task: Run keeps it in order and closes it.
type Server struct {
	log    *slog.Logger
	client *store.Client
	quota  int64

	embedded *embed.Etcd                 // nil for an external cluster
	grpc     atomic.Pointer[grpc.Server] // set when it begins to serve
	lock     *os.File
	close    sync.Once

	keeper keeper
}

// Open opens the store and waits until it serves. Whoever does not Run it must Close it.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	s := &Server{log: log.With("component", "etcd"), quota: cfg.Quota}
	if s.quota == 0 {
		s.quota = 2 << 30
	}
	if len(cfg.External.Endpoints) > 0 {
		c, err := store.Open(ctx, cfg.External)
		s.client = c
		return s, err
	}
	if err := s.start(ctx, cfg); err != nil {
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, cfg Config) error {
	begin := time.Now()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil {
		return err
	}
	var err error
	if s.lock, err = lock(filepath.Join(cfg.Dir, "lock")); err != nil {
		return err
	}
	if s.embedded, err = embed.StartEtcd(s.config(cfg)); err != nil {
		return err
	}
	if err := os.Chmod(cfg.Socket, 0o660); err != nil {
		return err
	}
	select {
	case <-s.embedded.Server.ReadyNotify():
	case err := <-s.embedded.Err():
		return err
	case <-s.embedded.Server.StopNotify():
		return errors.New("the server stopped by itself")
	case <-ctx.Done():
		return ctx.Err()
	}
	s.client = store.New(v3client.New(s.embedded.Server))
	s.log.Info("store is ready", "dir", cfg.Dir, "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// config is etcd's configuration, where it differs from etcd's defaults, with the reasons.
func (s *Server) config(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = "ichiro"
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.Dir = filepath.Join(cfg.Dir, "data")
	c.InitialClusterToken = rand.Text() // counts when there are no data yet: a store set up anew is another cluster, which watchers see
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(s.log))

	c.ListenPeerUrls = nil // there are no peers
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: cfg.Socket}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Host: "etcd.sock"}} // etcd wants one; nobody asks for it
	c.EnableGRPCGateway = false
	c.ServiceRegister = func(g *grpc.Server) { s.grpc.Store(g) }

	// Alone, a member elects itself after one election timeout. Ticks cost a wake-up each.
	c.TickMs, c.ElectionMs = 50, 250
	c.MaxTxnOps = store.MaxTxnOps
	c.MaxRequestBytes = store.MaxBytes
	c.QuotaBackendBytes = s.quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	// The log's tail is kept in memory for members that lag; there are none.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5000, 100
	c.WatchProgressNotifyInterval = time.Minute
	return c
}

// Client returns the client: inside the process if the server is embedded.
func (s *Server) Client() *store.Client { return s.client }

// Ready is nil: Open returned when the store was ready.
func (s *Server) Ready() <-chan struct{} { return nil }

func (s *Server) String() string { return "etcd" }

// Run keeps the store in order until ctx ends, and closes it.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	var failed <-chan error
	var stopped <-chan struct{}
	if s.embedded != nil {
		failed, stopped = s.embedded.Err(), s.embedded.Server.StopNotify()
	}
	keeping, stop := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	defer keeper.Wait()
	defer stop()
	keeper.Go(func() { s.keep(keeping) })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-stopped:
		return errors.New("the server stopped by itself: its log says why")
	}
}

// Close stops the embedded server, or leaves the cluster alone and hangs up. Closing twice
// is fine.
func (s *Server) Close() {
	s.close.Do(func() {
		if s.client != nil {
			s.client.Close()
		}
		if g := s.grpc.Load(); g != nil {
			g.Stop() // etcd would wait 5 s for watchers to leave; they watch for ever
		}
		if s.embedded != nil {
			s.embedded.Close()
		}
		if s.lock != nil {
			s.lock.Close()
		}
	})
}
