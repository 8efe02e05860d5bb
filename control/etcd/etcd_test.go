package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/store"
)

var things = store.NewKind[string](store.SpecPrefix("thing"))

// buffer is where a test's server logs.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func open(t *testing.T, cfg Config) (*Server, *buffer) {
	t.Helper()
	out := &buffer{}
	s, err := Open(t.Context(), cfg, slog.New(slog.NewTextHandler(out, nil)))
	if err != nil {
		t.Fatalf("open: %v\n%s", err, out)
	}
	t.Cleanup(s.Close)
	return s, out
}

func config(t *testing.T) Config {
	dir, err := os.MkdirTemp("", "ichiro-etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{Dir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "run", "etcd.sock")}
}

func create(t *testing.T, c *store.Client, id, v string) error {
	t.Helper()
	tx := store.NewTxn()
	store.Put(tx, things, id, v)
	_, err := c.Commit(t.Context(), tx)
	return err
}

// Whatever level the operator asks for: user data, outputs and session tokens go through here.
func TestNoValueIsLogged(t *testing.T) {
	out := &buffer{}
	s, err := Open(t.Context(), config(t), slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatalf("open: %v\n%s", err, out)
	}
	defer s.Close()
	const secret = "said-in-confidence"
	if err := create(t, s.Client(), "a", secret); err != nil {
		t.Fatal(err)
	}
	if err := create(t, s.Client(), "b", strings.Repeat(secret, 1<<16)); err != nil { // slow enough to be complained of
		t.Fatal(err)
	}
	s.Close()
	if text := out.String(); strings.Contains(text, secret) || !strings.Contains(text, "DEBUG") {
		at := max(strings.Index(text, secret)-200, 0)
		t.Errorf("a value is in the log, or nothing is: %q", text[at:min(at+400, len(text))])
	}
}

func TestServesItsProcessAndTheSocketAndKeepsItsData(t *testing.T) {
	cfg := config(t)
	begin := time.Now()
	s, _ := open(t, cfg)
	t.Logf("start on an empty directory: %v", time.Since(begin).Round(time.Millisecond))
	if st, err := os.Stat(cfg.Socket); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket: got %v, %v, want mode 0660", st.Mode(), err)
	}
	if err := create(t, s.Client(), "a", "here"); err != nil {
		t.Fatal(err)
	}
	outside, err := store.Open(t.Context(), store.Config{Endpoints: []string{"unix://" + cfg.Socket}})
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	if o, err := store.Get(t.Context(), outside, things, "a"); err != nil || o.Value != "here" {
		t.Errorf("over the socket: got %q, %v", o.Value, err)
	}

	// A watcher that never leaves must not hold up the end.
	m := store.NewMirror(outside, store.All("spec"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	<-m.Ready()
	begin = time.Now()
	s.Close()
	t.Logf("close with a watcher: %v", time.Since(begin).Round(time.Millisecond))
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("close with a watcher took %v, want it not to wait for the watcher", d)
	}

	begin = time.Now()
	s, _ = open(t, cfg)
	t.Logf("start on its data: %v", time.Since(begin).Round(time.Millisecond))
	if o, err := store.Get(t.Context(), s.Client(), things, "a"); err != nil || o.Value != "here" {
		t.Errorf("after a restart: got %q, %v", o.Value, err)
	}
	if err := create(t, s.Client(), "b", "more"); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitRev(t.Context(), mustRev(t, s.Client(), "b")); err != nil {
		t.Errorf("the watcher did not find the server again: %v", err)
	}
	cancel()
	<-ended
}

func mustRev(t *testing.T, c *store.Client, id string) int64 {
	o, err := store.Get(t.Context(), c, things, id)
	if err != nil {
		t.Fatal(err)
	}
	return o.Rev
}

func TestRefusesADirectoryInUse(t *testing.T) {
	cfg := config(t)
	open(t, cfg)
	_, err := Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	want := fmt.Sprintf("start etcd in %s: process %d uses this directory: stop it first, or give --state another directory", cfg.Dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestAnOrderlyLifeIsQuiet(t *testing.T) {
	cfg := config(t)
	for range 2 {
		s, out := open(t, cfg)
		if err := create(t, s.Client(), "a", "x"); err != nil {
			t.Fatal(err)
		}
		s.Close()
		for line := range strings.Lines(out.String()) {
			if !strings.Contains(line, "level=INFO msg=\"store is ready\"") {
				t.Errorf("said: %s", line)
			}
		}
	}
}

func TestAFullStoreSaysSoAndRecovers(t *testing.T) {
	cfg := config(t)
	cfg.Quota = 8 << 20
	s, _ := open(t, cfg)
	if err := s.look(t.Context()); err != nil {
		t.Errorf("an empty store: got %v, want healthy", err)
	}
	// Fill with live data past the warning, then with history up to the quota.
	block := strings.Repeat("x", 256<<10)
	for i := range 20 { // 5 of 8 MiB
		if err := create(t, s.Client(), fmt.Sprint(i), block); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.flush(t); err == nil || !strings.Contains(err.Error(), "% full") {
		t.Errorf("at 5 of 8 MiB: got %v, want a warning", err)
	}
	var err error
	for range 40 {
		s.embedded.Server.KV().Commit() // the quota is compared with the file
		if err = create(t, s.Client(), "0", block); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("over the quota: got %v, want ErrFull", err)
	}
	if err := s.look(t.Context()); err != nil {
		t.Logf("first look: %v", err)
	}
	if err := create(t, s.Client(), "0", "small"); err != nil {
		t.Errorf("after making room: %v", err)
	}
	if o, err := store.Get(t.Context(), s.Client(), things, "7"); err != nil || o.Value != block {
		t.Errorf("live data after making room: %v", err)
	}
}

// flush waits until the file shows what was written, and looks.
func (s *Server) flush(t *testing.T) error {
	s.embedded.Server.KV().Commit()
	return s.look(t.Context())
}

func TestRunEndsCleanlyAndReportsADeadServer(t *testing.T) {
	s, _ := open(t, config(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: got %v, want canceled", err)
	}
	s, _ = open(t, config(t))
	go s.embedded.Server.HardStop()
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "stopped by itself") {
		t.Errorf("died: got %v, want its death", err)
	}
}

func TestExternalClusterIsOnlyAClient(t *testing.T) {
	cfg := config(t)
	open(t, cfg)
	s, _ := open(t, Config{External: store.Config{Endpoints: []string{"unix://" + cfg.Socket}}})
	if err := create(t, s.Client(), "a", "x"); err != nil {
		t.Error(err)
	}
	if err := s.look(t.Context()); err != nil {
		t.Errorf("health: %v", err)
	}
}
