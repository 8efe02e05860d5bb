package unit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

const id = cloud.InstanceID("i-0123456789abcdef0")

// TestMain is also the shim that the tests start: real processes, sockets and files, no QEMU.
func TestMain(m *testing.M) {
	switch os.Getenv("ICHIRO_UNIT_SHIM") {
	case "":
		os.Exit(m.Run())
	case "keep":
		keepShim()
	case "fail":
		os.Exit(1)
	}
}

// keepShim says that its machine runs until it is told to end it. It notes each of its lives, and
// the taps that it got.
func keepShim() {
	dir := bundle.Root(os.Args[2]).Instance(cloud.InstanceID(os.Args[5]))
	m, err := bundle.Read[bundle.Machine](dir.Path("machine.json"))
	if err != nil {
		panic(err)
	}
	taps, _ := strconv.Atoi(os.Args[4])
	note := fmt.Sprintf("%d taps", taps)
	for i := range taps {
		if _, err := unix.FcntlInt(uintptr(3+i), unix.F_GETFD, 0); err != nil {
			note += " closed"
		}
	}
	lives, _ := os.OpenFile(dir.Path("lives"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	fmt.Fprintln(lives, note)
	l, err := shim.Listen(string(dir), "shim.sock")
	if err != nil {
		panic(err)
	}
	self, _ := shim.FindProcess(os.Getpid())
	st := shim.Status{State: shim.StateRunning, Boot: m.Boot, QEMU: self}
	bundle.Write(dir.Path("status.json"), st, 0o600)
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/kill" {
			st.State = shim.StateStopped
			bundle.Write(dir.Path("status.json"), st, 0o600)
			os.Exit(0)
		}
		http.Error(w, "not now", http.StatusConflict)
	}))
}

// manager returns a running Manager whose shims behave as mode says, and a function that ends it.
func manager(t *testing.T, root bundle.Root, mode string) (*Manager, func()) {
	t.Helper()
	t.Setenv("ICHIRO_UNIT_SHIM", mode)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := New(root, self, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return m, begin(t, m)
}

func begin(t *testing.T, m *Manager) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func place(t *testing.T, root bundle.Root, boot int) bundle.Dir {
	t.Helper()
	dir := root.Instance(id)
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	m := bundle.Machine{ID: id, Boot: boot, VCPUs: 1, MemoryMiB: 64, Kernel: "/k"}
	if err := bundle.Write(dir.Path("machine.json"), m, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p, err := shim.Keeper(context.Background(), string(dir)); err == nil {
			unix.Kill(p.PID, unix.SIGKILL)
		}
	})
	return dir
}

// keeper waits for a shim other than the given one.
func keeper(t *testing.T, dir bundle.Dir, not shim.Process) shim.Process {
	t.Helper()
	for {
		p, err := shim.Keeper(t.Context(), string(dir))
		if err == nil && p != not {
			return p
		}
		breathe(t)
	}
}

func breathe(t *testing.T) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(5 * time.Millisecond):
	}
}

func TestLifeOfAUnit(t *testing.T) {
	root := bundle.Root(t.TempDir())
	dir := place(t, root, 1)
	m, stop := manager(t, root, "keep")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := m.Start(t.Context(), id, []*os.File{w}); err != nil {
		t.Fatal(err)
	}
	first := keeper(t, dir, shim.Process{})
	// A second start changes nothing.
	if err := m.Start(t.Context(), id, nil); err != nil || !m.Alive(id) {
		t.Errorf("second start: %v", err)
	}
	if sid, err := unix.Getsid(first.PID); err != nil || sid != first.PID {
		t.Errorf("the shim is in session %d (%v), want its own", sid, err)
	}
	// A refusal is told as such.
	if err := m.Reboot(t.Context(), id); !errors.Is(err, shim.ErrState) {
		t.Errorf("reboot: %v, want ErrState", err)
	}

	// Killed, it is back within 250 ms, and no zombie stays.
	killed := time.Now()
	unix.Kill(first.PID, unix.SIGKILL)
	second := keeper(t, dir, first)
	t.Logf("back after %v", time.Since(killed))
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(first.PID))); err == nil {
		t.Errorf("shim %d is a zombie", first.PID)
	}

	// The agent ends, the shim does not; the next agent finds it, without starting another.
	stop()
	if !second.Alive() {
		t.Fatal("the shim ended with its agent")
	}
	m = New(root, m.start.(*fork).program, m.log)
	if ids, err := m.Adopt(t.Context()); err != nil || len(ids) != 1 || ids[0] != id || !m.Alive(id) {
		t.Errorf("adopted %v, %v", ids, err)
	}
	begin(t, m)
	if got := keeper(t, dir, shim.Process{}); got != second {
		t.Errorf("the shim is %v, want %v still", got, second)
	}
	// One that is not our child is brought back as well.
	unix.Kill(second.PID, unix.SIGKILL)
	keeper(t, dir, second)

	if err := m.Kill(t.Context(), id); err != nil && !errors.Is(err, shim.ErrGone) {
		t.Fatal(err)
	}
	if e := <-m.Exited(); e.ID != id || e.Err != nil {
		t.Errorf("exit: %+v", e)
	}
	if m.Alive(id) {
		t.Error("unit is kept after its machine ended")
	}
	// What has ended needs no stop, and cannot be rebooted.
	if err := errors.Join(m.Stop(t.Context(), id, 0), m.Kill(t.Context(), id)); err != nil {
		t.Error(err)
	}
	if err := m.Reboot(t.Context(), id); !errors.Is(err, ErrNotRunning) {
		t.Errorf("reboot: %v, want ErrNotRunning", err)
	}
	if ids, err := m.Adopt(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("adopted %v, %v, want none", ids, err)
	}

	// The next boot.
	place(t, root, 2)
	if err := m.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	keeper(t, dir, shim.Process{})
	if err := m.Kill(t.Context(), id); err != nil && !errors.Is(err, shim.ErrGone) {
		t.Fatal(err)
	}
	<-m.Exited()
	b, err := os.ReadFile(dir.Path("lives"))
	lives := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err != nil || len(lives) != 4 || lives[0] != "1 taps" || lives[2] != "0 taps" || lives[3] != "0 taps" {
		t.Errorf("lives: %q, %v", lives, err)
	}
}

func TestHopelessShimIsGivenUp(t *testing.T) {
	root := bundle.Root(t.TempDir())
	place(t, root, 1)
	m, _ := manager(t, root, "fail")
	if err := m.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	if e := <-m.Exited(); e.ID != id || !errors.Is(e.Err, ErrNotRunning) {
		t.Errorf("exit: %+v", e)
	}
	if m.Alive(id) {
		t.Error("unit is kept")
	}
}

func TestOneBrokenStatusKeepsNobodyElseFromBeingAdopted(t *testing.T) {
	const broken = cloud.InstanceID("i-00000000000000000") // comes first
	root := bundle.Root(t.TempDir())
	dir := place(t, root, 1)
	if err := bundle.Write(dir.Path("status.json"), shim.Status{State: shim.StateRunning, Boot: 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(string(root.Instance(broken)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root.Instance(broken).Path("status.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := New(root, "/bin/false", slog.New(slog.DiscardHandler))
	ids, err := m.Adopt(t.Context())
	if err != nil || len(ids) != 2 || !m.Alive(id) || !m.Alive(broken) {
		t.Fatalf("adopted %v, %v, want both", ids, err)
	}
	begin(t, m)
	for range ids { // neither has a shim that lives: both are given up, and the manager goes on
		if e := <-m.Exited(); !errors.Is(e.Err, ErrNotRunning) {
			t.Errorf("exit: %+v", e)
		}
	}
}
