package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"path/filepath"

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
}

func newServing(o options, f *api.Front, l net.Listener, endpoint string, on ...<-chan struct{}) *serving {
	return &serving{f, l, filepath.Join(string(o.root), "control", "endpoint"), endpoint, on, make(chan struct{})}
}

func (s *serving) Ready() <-chan struct{} { return s.ready }
func (s *serving) String() string         { return "api" }

func (s *serving) Run(ctx context.Context) error {
	if !all(ctx, s.on) {
		return s.listener.Close()
	}
	if err := bundle.WriteBytes(s.path, []byte(s.endpoint+"\n"), 0o644); err != nil {
		return err
	}
	close(s.ready)
	return s.front.Serve(ctx, s.listener)
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
