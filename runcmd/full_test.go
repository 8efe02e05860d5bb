package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// disk is a small file system at a directory.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, dir string) disk {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return disk{t, dir}
}

func (d disk) file() string { return filepath.Join(d.dir, "filler") }

// fill leaves no byte.
func (d disk) fill() {
	f, err := os.OpenFile(d.file(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(d.t, err)
	defer f.Close()
	for _, size := range []int{64 << 10, 1} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = nil
	}
}

func (d disk) free() { check(d.t, os.Remove(d.file())) }

// A guest whose disk is full runs nothing that it could not remember, and goes on when there is room.
func TestDiskOfTheGuestIsFull(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newDisk(t, h.state)
	h.startGateway()
	h.startAgent()
	h.end(h.send("true"))
	side := filepath.Join(t.TempDir(), "side")
	script := "echo run >>" + side
	eventually(t, "the command is forgotten, and the next one's directory there", func() bool {
		left, err := os.ReadDir(filepath.Join(h.state, "commands"))
		return err == nil && len(left) == 1 && strings.HasPrefix(left[0].Name(), ".spare-")
	})
	d.fill()
	inv := h.end(h.send(script))
	if got, _ := os.ReadFile(side); inv.Status != cloud.InvocationFailed || len(got) > 0 {
		t.Errorf("got %s, ran %q: want a failure of what did not run", outcome(inv), got)
	}
	d.free()
	inv = h.end(h.send(script))
	if got, _ := os.ReadFile(side); inv.Status != cloud.InvocationSuccess || string(got) != "run\n" {
		t.Errorf("with room again: got %s, ran %q", outcome(inv), got)
	}
	// It becomes full while a command prints: what is kept is a true beginning, the rest is counted, and the command's end is its own.
	gate := filepath.Join(t.TempDir(), "gate")
	check(t, unix.Mkfifo(gate, 0o600))
	id := h.send(fmt.Sprintf("seq 1 1000; read x <%s; seq 1001 200000; exit 5", gate))
	h.printed(id)
	d.fill()
	check(t, os.WriteFile(gate, []byte("go\n"), 0))
	inv = h.end(id)
	var want strings.Builder
	for n := range 200000 {
		fmt.Fprintln(&want, n+1)
	}
	got := h.output(id, wire.Stdout)
	if inv.ResponseCode != 5 || inv.StdoutBytes != int64(want.Len()) || !strings.HasPrefix(want.String(), got) || len(got) < 3893 {
		t.Errorf("got %s, %d bytes of %d", outcome(inv), len(got), inv.StdoutBytes)
	}
}

// A host whose run directory is full loses no result: the agent has it until it is kept.
func TestDiskOfTheHostIsFull(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newDisk(t, h.dir.Commands())
	h.startGateway()
	h.startAgent()
	side, gate := filepath.Join(t.TempDir(), "side"), filepath.Join(t.TempDir(), "gate")
	check(t, unix.Mkfifo(gate, 0o600))
	id := h.send(fmt.Sprintf("echo run >>%s; read x <%s; exit 6", side, gate))
	eventually(t, "the command runs", func() bool {
		got, _ := os.ReadFile(side)
		return len(got) > 0
	})
	d.fill()
	check(t, os.WriteFile(gate, []byte("go\n"), 0))
	eventually(t, "the gateway has tried to write the result", func() bool { return strings.Contains(h.log.String(), "write the result") })
	d.free()
	var inv cloud.Invocation
	eventually(t, "the result is there", func() (ok bool) {
		got, err := h.dir.Invocation(id)
		inv = got
		return err == nil && got.Status.Terminal()
	})
	if got, _ := os.ReadFile(side); inv.Details != "Failed" || inv.ResponseCode != 6 || string(got) != "run\n" {
		t.Errorf("got %s, ran %q", outcome(inv), got)
	}
}

// eventually waits for what no event tells.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// A command that can not even be noted as sent, because the run directory is full, is sent when there is room again: nobody
// tells the gateway of that.
func TestDiskOfTheHostIsFullAtTheDelivery(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newDisk(t, h.dir.Commands())
	h.startGateway()
	side := filepath.Join(t.TempDir(), "side")
	id := h.send(fmt.Sprintf("echo run >>%s; exit 6", side))
	d.fill()
	h.startAgent()
	eventually(t, "the gateway has tried to send it", func() bool { return strings.Contains(h.log.String(), "record a delivery") })
	d.free()
	var inv cloud.Invocation
	eventually(t, "the result is there", func() (ok bool) {
		got, err := h.dir.Invocation(id)
		inv = got
		return err == nil && got.Status.Terminal()
	})
	if got, _ := os.ReadFile(side); inv.Details != "Failed" || inv.ResponseCode != 6 || string(got) != "run\n" {
		t.Errorf("got %s, ran %q", outcome(inv), got)
	}
}
