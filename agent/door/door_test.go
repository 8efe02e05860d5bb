package door_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/agent/door"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	wire "github.com/ichiro-metal/ichiro/internal/door"
)

const (
	id      = cloud.InstanceID("i-0123456789abcdef0")
	command = cloud.CommandID("01234567-89ab-cdef-0123-456789abcdef")
)

// open serves a run directory with one instance and returns it with its host.
func open(t *testing.T) (bundle.Root, cloud.Host) {
	t.Helper()
	dir, err := os.MkdirTemp("", "door") // t.TempDir may be longer than a socket's 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	root := bundle.Root(dir)
	if err := os.MkdirAll(root.Instance(id).Path("commands", string(command)), 0o755); err != nil {
		t.Fatal(err)
	}
	d := door.New(root, os.Getuid(), slog.New(slog.DiscardHandler))
	serve(t, d)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return root, cloud.Host{ID: "h-1", Door: "unix:" + root.Door()}
}

// serve runs a door until the test ends.
func serve(t *testing.T, d *door.Door) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-d.Ready()
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheDoorGivesConsoleAndOutput(t *testing.T) {
	root, host := open(t)
	dir := root.Instance(id)
	if text, _, err := (wire.Client{}).Console(t.Context(), host, id); err != nil || len(text) != 0 {
		t.Errorf("before there is a console: got %q, %v", text, err)
	}
	if n, err := (wire.Client{}).Length(t.Context(), host, id, command, "stdout"); err != nil || n != 0 {
		t.Errorf("before there is an output its length is %d, %v", n, err)
	}
	if out, err := (wire.Client{}).Output(t.Context(), host, id, command, "stdout", 10); err != nil || len(out) != 0 {
		t.Errorf("before there is output: got %q, %v", out, err)
	}
	write(t, dir.Path("console.log"), append(bytes.Repeat([]byte("x"), 70<<10), "end"...))
	write(t, dir.CommandOutput(command, "stdout"), []byte("0123456789abc"))
	text, at, err := wire.Client{}.Console(t.Context(), host, id)
	if err != nil || len(text) != 64<<10 || !bytes.HasSuffix(text, []byte("end")) || at.IsZero() {
		t.Errorf("got %d bytes, %v, %v", len(text), at, err)
	}
	if n, err := (wire.Client{}).Length(t.Context(), host, id, command, "stdout"); err != nil || n < 10 {
		t.Errorf("its length is %d, %v", n, err)
	}
	if part, err := (wire.Client{}).Part(t.Context(), host, id, command, "stdout", 4, 3); err != nil || string(part) != "456" {
		t.Errorf("a part of it is %q, %v", part, err)
	}
	if out, err := (wire.Client{}).Output(t.Context(), host, id, command, "stdout", 10); err != nil || string(out) != "0123456789" {
		t.Errorf("got %q, %v", out, err)
	}
	for offset, want := range map[int64]string{3: "3456", 11: "bc", 13: "", 99: "", -1: "0123"} {
		if out, err := (wire.Client{}).Page(t.Context(), host, id, command, "stdout", offset, 4); err != nil || string(out) != want {
			t.Errorf("from %d: got %q, %v, want %q", offset, out, err, want)
		}
	}
	if _, err := (wire.Client{}).Invocation(t.Context(), host, id, "00000000-0000-0000-0000-00000000000f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state of a command that was not asked for: got %v", err)
	}
	write(t, dir.Path("commands", string(command), "request.json"), []byte("{}"))
	write(t, dir.Path("commands", string(command)+".json"), []byte(`{"Command":"`+string(command)+`","Instance":"`+string(id)+`","Status":"Success"}`))
	if inv, err := (wire.Client{}).Invocation(t.Context(), host, id, command); err != nil || inv.Status != cloud.InvocationSuccess {
		t.Errorf("got %+v, %v", inv, err)
	}
	write(t, dir.CommandOutput(command, "stderr"), make([]byte, wire.MaxRead+1))
	for _, n := range []int{wire.MaxRead + 1, -1} {
		if out, err := (wire.Client{}).Output(t.Context(), host, id, command, "stderr", n); err != nil || len(out) != wire.MaxRead {
			t.Errorf("limit %d: got %d bytes, %v", n, len(out), err)
		}
	}
	write(t, dir.Path("commands", string(command), bundle.Trimmed), nil)
	if err := os.Remove(dir.CommandOutput(command, "stdout")); err != nil {
		t.Fatal(err)
	}
	if _, err := (wire.Client{}).Page(t.Context(), host, id, command, "stdout", 0, 10); !errors.Is(err, wire.ErrTrimmed) {
		t.Errorf("an output that was removed: got %v", err)
	}
	if _, err := (wire.Client{}).Length(t.Context(), host, id, command, "stdout"); !errors.Is(err, wire.ErrTrimmed) {
		t.Errorf("the length of one that was removed: %v", err)
	}
	if out, err := (wire.Client{}).Output(t.Context(), host, id, command, "stdout", 10); err != nil || !bytes.Contains(out, []byte("removed")) {
		t.Errorf("an output that was removed: got %q, %v, want a line that says so", out, err)
	}
	if info, err := os.Stat(root.Door()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the door is open to %v, %v", info.Mode(), err)
	}
}

func TestTheDoorLeadsNowhereElse(t *testing.T) {
	root, host := open(t)
	secret := filepath.Join(string(root), "secret")
	write(t, secret, []byte("secret"))
	write(t, root.Instance(id).Path("machine.json"), []byte("secret"))
	for _, name := range []string{"..", ".", "", "../..", "i-0123456789abcdef0/..", "..%2f", "i-0123456789abcdef0\x00", "console", strings.Repeat("a", 5000)} {
		if out, _, _ := (wire.Client{}).Console(t.Context(), host, cloud.InstanceID(name)); bytes.Contains(out, []byte("secret")) {
			t.Errorf("instance %.20q: got %q", name, out)
		}
		if out, _ := (wire.Client{}).Output(t.Context(), host, id, cloud.CommandID(name), "stdout", 99); bytes.Contains(out, []byte("secret")) {
			t.Errorf("command %.20q: got %q", name, out)
		}
		if out, _ := (wire.Client{}).Output(t.Context(), host, id, command, name, 99); bytes.Contains(out, []byte("secret")) {
			t.Errorf("stream %.20q: got %q", name, out)
		}
	}
	for _, stream := range []string{"../../machine.json", "request.json", "sent"} {
		if out, err := (wire.Client{}).Output(t.Context(), host, id, command, stream, 99); err == nil && len(out) > 0 {
			t.Errorf("%s: got %q", stream, out)
		}
	}
}

// The gateway may write below commands/. A link that it was made to plant there leads nowhere, and a pipe
// that nobody writes to holds nobody up.
func TestLinksAndPipesUnderCommands(t *testing.T) {
	root, host := open(t)
	dir := root.Instance(id)
	secret := filepath.Join(string(root), "secret")
	write(t, secret, []byte("secret"))
	path := dir.CommandOutput(command, "stdout")
	for name, plant := range map[string]func() error{
		"absolute link":      func() error { return os.Symlink(secret, path) },
		"relative link":      func() error { return os.Symlink("../../../../secret", path) },
		"pipe":               func() error { return unix.Mkfifo(path, 0o644) },
		"directory":          func() error { return os.Mkdir(path, 0o755) },
		"the instance's own": func() error { return os.Symlink("../../machine.json", path) },
	} {
		os.RemoveAll(path)
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if out, _ := (wire.Client{}).Output(t.Context(), host, id, command, "stdout", 99); len(out) > 0 {
			t.Errorf("%s: got %q", name, out)
		}
		if name == "pipe" { // nothing of the door may be left waiting at it
			if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
				t.Error("pipe: the door still holds it open")
			}
		}
	}
}

// An agent that is killed is there again within a second: who asks in the meantime has its answer then.
func TestADoorThatIsShutForAMoment(t *testing.T) {
	root := bundle.Root(t.TempDir())
	if err := os.MkdirAll(root.Instance(id).Path("commands", string(command)), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, root.Instance(id).CommandOutput(command, "stdout"), []byte("whole"))
	// One that dies while it is asked: it takes the question, and its socket is left with nobody behind it.
	l, err := net.Listen("unix", root.Door())
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		c.Read(make([]byte, 1))
		l.Close()
		c.Close()
	}()
	type answer struct {
		text []byte
		err  error
	}
	got := make(chan answer)
	go func() {
		text, err := (wire.Client{}).Output(t.Context(), cloud.Host{ID: "h-1", Door: "unix:" + root.Door()}, id, command, "stdout", 10)
		got <- answer{text, err}
	}()
	<-asked
	serve(t, door.New(root, os.Getuid(), slog.New(slog.DiscardHandler)))
	if a := <-got; a.err != nil || string(a.text) != "whole" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
}

func TestADoorThatIsNotThere(t *testing.T) {
	t.Parallel()
	for _, door := range []string{"", "tcp:127.0.0.1:1", "unix:/nonexistent"} {
		if _, _, err := (wire.Client{}).Console(t.Context(), cloud.Host{ID: "h-1", Door: door}, id); err == nil {
			t.Errorf("%q: want an error", door)
		}
	}
}
