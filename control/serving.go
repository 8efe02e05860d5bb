package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/ichiro-metal/ichiro/control/api"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/reconcile"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// waiting is a task that begins when others are ready.
type waiting struct {
	*reconcile.Loop
	on []<-chan struct{}
}

func after(l *reconcile.Loop, on ...<-chan struct{}) service.Task { return waiting{l, on} }

func (w waiting) Run(ctx context.Context) error {
	if !all(ctx, w.on) {
		return nil
	}
	return w.Loop.Run(ctx)
}

func all(ctx context.Context, on []<-chan struct{}) bool {
	for _, c := range on {
		select {
		case <-c:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// serving is the API as a task: it answers when there is something true to answer with.
type serving struct {
	front    *api.Front
	listener net.Listener
	path     string
	endpoint string
	on       []<-chan struct{}
	ready    chan struct{}
	guests   string // the socket of those whose requests are carried
	carriers []uint32
	log      *slog.Logger
}

func newServing(o options, log *slog.Logger, f *api.Front, l net.Listener, endpoint string, on ...<-chan struct{}) *serving {
	return &serving{
		front: f, listener: l, path: filepath.Join(string(o.root), "control", "endpoint"), endpoint: endpoint, on: on, ready: make(chan struct{}),
		guests: o.root.GuestAPI(), carriers: []uint32{uint32(o.imdsUser), uint32(o.gatewayUser)}, log: log,
	}
}

func (s *serving) Ready() <-chan struct{} { return s.ready }
func (s *serving) String() string         { return "api" }

func (s *serving) Run(ctx context.Context) error {
	if !all(ctx, s.on) {
		return s.listener.Close()
	}
	guests, err := service.Listen(s.guests, 0o666) // who connects is what protects it
	if err != nil {
		return errors.Join(err, s.listener.Close())
	}
	if err := bundle.WriteBytes(s.path, []byte(s.endpoint+"\n"), 0o644); err != nil {
		return err
	}
	close(s.ready)
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return s.front.Serve(ctx, s.listener) })
	both.Go(func() error { return s.front.Serve(ctx, api.Guests(guests.(*net.UnixListener), s.log, s.carriers...)) })
	return both.Wait()
}

// keyFile returns n random bytes that are made once and kept in a file of mode 0600.
func keyFile(path string, n int) ([]byte, error) {
	key := make([]byte, n)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	key, err := bundle.Keep(path, key)
	if err == nil && len(key) != n {
		return nil, fmt.Errorf("key file %s has %d bytes, want %d", path, len(key), n)
	}
	return key, err
}
