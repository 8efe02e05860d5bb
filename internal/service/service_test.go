package service

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestExitCode(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		err  error
		want int
		says string
	}{
		{"success is 0", t.Context(), nil, 0, ""},
		{"help is 0", t.Context(), flag.ErrHelp, 0, ""},
		{"a failure is 1", t.Context(), errors.New("no disk"), 1, "p: no disk\n"},
		{"a usage error is 2 even when wrapped", t.Context(), fmt.Errorf("x: %w", Usagef("what?")), 2, "p: x: what? (see p -help)\n"},
		{"being told to stop is 0", cancelled, fmt.Errorf("task: %w", context.Canceled), 0, ""},
		{"a failure while stopping is 1", cancelled, errors.New("no disk"), 1, "p: no disk\n"},
		{"a cancelled context that nobody cancelled is 1", t.Context(), context.Canceled, 1, "p: context canceled\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := exitCode(c.ctx, &stderr, "p", c.err); got != c.want || stderr.String() != c.says {
				t.Errorf("got %d and %q, want %d and %q", got, stderr.String(), c.want, c.says)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args  []string
		usage bool
		err   error
	}{
		{[]string{"-run", "/x"}, false, nil},
		{[]string{"-nonsense"}, true, nil},
		{[]string{"stray"}, true, nil},
		{[]string{"-h"}, false, flag.ErrHelp},
	} {
		flags := flag.NewFlagSet("p", flag.ExitOnError)
		flags.SetOutput(io.Discard)
		flags.String("run", "", "")
		err := Parse(flags, c.args)
		var u Usage
		if got := errors.As(err, &u); got != c.usage || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("Parse(%q): got %v, want usage error: %v", c.args, err, c.usage)
		}
	}
}

func TestLogHasNoTimeUnderJournald(t *testing.T) {
	var with, without bytes.Buffer
	newLogger(&without, "p", true).Info("done")
	newLogger(&with, "p", false).Info("done")
	if got, want := without.String(), "level=INFO msg=done\n"; got != want {
		t.Errorf("under journald: got %q, want %q", got, want)
	}
	if !strings.HasPrefix(with.String(), "time=") || !strings.Contains(with.String(), "program=p") {
		t.Errorf("elsewhere: got %q, want time and program", with.String())
	}
}

// task is a Task whose every turn the test decides.
type task struct {
	name   string
	ready  chan struct{}
	result chan error // ends Run
	end    func()     // called when Run ends
	health error
}

func newTask(name string) *task {
	return &task{name: name, ready: make(chan struct{}), result: make(chan error, 1), end: func() {}}
}
func (f *task) Ready() <-chan struct{} { return f.ready }
func (f *task) String() string         { return f.name }
func (f *task) Health() error          { return f.health }
func (f *task) Run(ctx context.Context) error {
	defer f.end()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-f.result:
		return err
	}
}

func TestRunStopsInReverseOrder(t *testing.T) {
	var mu sync.Mutex
	var order []string
	var tasks []Task
	for _, name := range []string{"store", "loop", "api"} {
		f := newTask(name)
		close(f.ready)
		f.end = func() { mu.Lock(); defer mu.Unlock(); order = append(order, name) }
		tasks = append(tasks, f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, tasks...); err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	if got, want := strings.Join(order, " "), "api loop store"; got != want {
		t.Errorf("order: got %q, want %q", got, want)
	}
}

func TestRunEndsAllWhenOneFails(t *testing.T) {
	a, b := newTask("a"), newTask("b")
	sick := errors.New("sick")
	b.result <- sick
	err := Run(t.Context(), a, b)
	if !errors.Is(err, sick) || err.Error() != "b: sick" {
		t.Errorf("got %v, want b: sick", err)
	}
}

func TestRunGoesOnWhenATaskIsDone(t *testing.T) {
	a, b := newTask("a"), newTask("b")
	ended := make(chan struct{})
	b.end = func() { close(ended) }
	b.result <- nil
	ran := make(chan error)
	go func() { ran <- Run(t.Context(), a, b) }()
	<-ended
	a.result <- nil
	if err := <-ran; err != nil {
		t.Errorf("got %v, want nil when all are done", err)
	}
}

func TestReadyIsToldOnce(t *testing.T) {
	dir := t.TempDir()
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("ICHIRO_READY_FD", strconv.Itoa(fd))
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))

	a, b := newTask("a"), newTask("b")
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- Run(ctx, a, b) }()
	recv := func() string {
		buf := make([]byte, 100)
		n, err := sock.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	close(a.ready)
	if got, want := recv(), "WATCHDOG=1"; got != want {
		t.Errorf("before b is ready: got %q, want %q", got, want)
	}
	if os.Getenv("ICHIRO_READY_FD") != "" {
		t.Error("ICHIRO_READY_FD is still there for children")
	}
	close(b.ready)
	line, err := io.ReadAll(r) // ends because the descriptor is closed
	if err != nil || string(line) != "READY\n" {
		t.Errorf("ready descriptor: got %q, %v, want READY", line, err)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	got := map[string]int{}
	for {
		s := recv()
		got[s]++
		if s == "STOPPING=1" {
			break
		}
	}
	if got["READY=1"] != 1 {
		t.Errorf("notifications: got %v, want READY=1 once", got)
	}
}

func TestAdmin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin", "p.sock")
	left, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close() // as kill -9 leaves it

	a, adm := newTask("a"), Admin(path)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- Run(ctx, a, adm) }()
	<-adm.Ready()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket: got %v, %v, want mode 0660", st.Mode(), err)
	}
	if _, err := Listen(path, 0o600); err == nil {
		t.Error("a socket in use was taken over")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	get := func(path string) (int, string) {
		resp, err := client.Get("http://admin" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	check := func(path string, wantCode int, want string) {
		t.Helper()
		if code, body := get(path); code != wantCode || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %q, want %d with %q", path, code, body, wantCode, want)
		}
	}
	check("/readyz", 503, "a: not ready\n")
	close(a.ready)
	check("/readyz", 200, "ok\n")
	check("/healthz", 200, "ok\n")
	check("/metrics", 200, "go_build_info")
	check("/metrics", 200, "process_resident_memory_bytes")
	check("/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	a.health = errors.New("disk is full")
	sick := &admin{}
	sick.watch(&group{members: []*member{{Task: a}}})
	w := &recorder{header: http.Header{}}
	sick.health(w, nil)
	if w.code != 503 || w.String() != "a: disk is full\n" {
		t.Errorf("health: got %d %q", w.code, w.String())
	}
}

type recorder struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(c int)   { r.code = c }
