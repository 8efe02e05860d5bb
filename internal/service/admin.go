package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin is the task that serves what an operator asks a daemon, on the unix socket path
// (mode 0660): /metrics (the default Prometheus registry and build information),
// /healthz (503 and a sentence for every task whose Health is not nil), /readyz (503
// and the names of the tasks that are not ready) and /debug/pprof.
// A socket left by a process that is gone is taken over; one that answers is not.
func Admin(path string) Task {
	return &admin{path: path, ready: make(chan struct{})}
}

type admin struct {
	path  string
	ready chan struct{}
	group atomic.Pointer[group]
}

func (a *admin) Ready() <-chan struct{} { return a.ready }
func (a *admin) String() string         { return "admin" }
func (a *admin) watch(g *group)         { a.group.Store(g) }

func (a *admin) Run(ctx context.Context) error {
	l, err := Listen(a.path, 0o660)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { srv.Close() })
	close(a.ready)
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", a.path, err)
	}
	return nil
}

func (a *admin) handler() http.Handler {
	build := prometheus.NewRegistry()
	build.MustRegister(collectors.NewBuildInfoCollector())
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(
		prometheus.Gatherers{prometheus.DefaultGatherer, build}, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", a.health)
	mux.HandleFunc("/readyz", a.readiness)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func (a *admin) health(w http.ResponseWriter, _ *http.Request) {
	a.answer(w, func(m *member) string {
		if h, ok := m.Task.(interface{ Health() error }); ok {
			if err := h.Health(); err != nil {
				return err.Error()
			}
		}
		return ""
	})
}

func (a *admin) readiness(w http.ResponseWriter, _ *http.Request) {
	a.answer(w, func(m *member) string {
		if !m.ready() {
			return "not ready"
		}
		return ""
	})
}

// answer asks each task for its complaint and says "ok" if there is none.
func (a *admin) answer(w http.ResponseWriter, complaint func(*member) string) {
	text := ""
	if g := a.group.Load(); g != nil {
		for _, m := range g.members {
			if c := complaint(m); c != "" {
				text += fmt.Sprintf("%s: %s\n", m, c)
			}
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if text != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
	} else {
		text = "ok\n"
	}
	fmt.Fprint(w, text)
}

// Listen opens the unix socket path with the given mode. A socket left there by a process
// that is gone is removed; if somebody answers on it, Listen refuses.
func Listen(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of a socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("socket %s is served by another process: stop it first", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket of a dead process: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("open socket %s to its group: %w", path, err)
	}
	return l, nil
}
