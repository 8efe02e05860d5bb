package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

// Bounds of what is served at a time. More are told to slow down, which clients do.
const (
	maxConnections = 1024
	maxRequests    = 512
	maxParts       = 10000 // of an upload, as at AWS
)

// front serves S3, as a task.
type front struct {
	store  backend.Backend
	door   string // socket of the control plane's answers
	path   string // socket that it serves
	region string
	log    *slog.Logger
	ready  chan struct{}
}

func (f *front) Ready() <-chan struct{} { return f.ready }
func (f *front) String() string         { return "s3" }

// Run serves until ctx ends, and lets requests under way finish for some seconds then.
func (f *front) Run(ctx context.Context) error {
	defer f.store.Shutdown()
	if err := await(ctx, f.door); err != nil {
		return err
	}
	// The owner of all buckets is the store itself, in whose name nobody can sign: the key is known nowhere and never
	// again. The account's root is told by the door, as everybody else.
	owner := auth.Account{Access: "ichiro", Secret: rand.Text(), Role: auth.RoleAdmin}
	who, err := newAuthority(owner, f.door, f.region)
	if err != nil {
		return err
	}
	defer func() { _ = who.Shutdown() }()
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of a dead process: %w", err)
	}
	srv, err := s3api.New(f.store, middlewares.RootUserConfig{Access: owner.Access, Secret: owner.Secret}, f.region, who, nil, nil, nil, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(maxConnections, maxRequests), s3api.WithMpMaxParts(maxParts),
		s3api.WithSocketPerm(0o666), // requests are signed; and its directory is for the host's daemons
		s3api.WithOnListen(func() { close(f.ready) }))
	if err != nil {
		return fmt.Errorf("make the S3 front: %v", err)
	}
	debug.FreeOSMemory() // what the start needed is most of what an idle store has
	stop := context.AfterFunc(ctx, func() {
		if err := srv.ShutDown(); err != nil {
			f.log.Warn("requests were cut off", "err", err)
		}
	})
	defer stop()
	if err := srv.ServeMultiPort([]string{f.path}); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %v", f.path, err)
	}
	return ctx.Err()
}

// await returns when somebody listens at a unix socket: the control plane starts at the same time as we do.
func await(ctx context.Context, path string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", path); err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
