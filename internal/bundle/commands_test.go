package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const aCommand = cloud.CommandID("01234567-89ab-cdef-0123-456789abcdef")

// commandsOf returns an instance directory with commands/ in it, as the agent makes it.
func commandsOf(t *testing.T) Dir {
	t.Helper()
	dir := Root(t.TempDir()).Instance("i-0123456789abcdef0")
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := dir.MakeCommands(os.Getgid()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCommandsAreAskedOnceAndCancelledOnce(t *testing.T) {
	dir := commandsOf(t)
	if _, err := dir.Invocation(aCommand); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is asked for: got %v, want not exist", err)
	}
	req := CommandRequest{CommandWish: cloud.CommandWish{Command: aCommand, Instance: dir.ID()}}
	for range 2 {
		if err := dir.PutCommand(req); err != nil {
			t.Fatal(err)
		}
	}
	inv, err := dir.Invocation(aCommand)
	if err != nil || inv.Status != cloud.InvocationPending || inv.Instance != dir.ID() {
		t.Errorf("asked for: got %+v, %v, want Pending", inv, err)
	}
	req.Cancel = true
	for range 2 {
		if err := dir.PutCommand(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.RemoveCommand(aCommand); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir.Commands()); err != nil || len(left) != 0 {
		t.Errorf("removed: %v, %v are left", left, err)
	}
}

// A gateway that a guest has taken over has its own rights and no more: the agent, which is root, reads
// and removes nothing for it outside of commands/, and does not wait for it.
func TestAgentBelievesNoGateway(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	lie := `{"Command":"../../victim","Instance":"../../../tmp/x","Status":"Success"}`
	if err := os.WriteFile(outside, []byte(lie), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		plant func(path string) error
	}{
		{"a link that leads out", func(p string) error { return os.Symlink(outside, p) }},
		{"a link within", func(p string) error { return os.Symlink("other.json", p) }},
		{"a pipe that nobody writes to", func(p string) error { return syscall.Mkfifo(p, 0o600) }},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }},
		{"a file without end", func(p string) error {
			return errors.Join(os.WriteFile(p, []byte("{}"), 0o600), os.Truncate(p, observedLimit+1))
		}},
		{"a state of another instance's command", func(p string) error { return os.WriteFile(p, []byte(lie), 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := commandsOf(t)
			if err := os.WriteFile(dir.Path("commands", "other.json"), []byte(lie), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.plant(dir.Path("commands", string(aCommand)+".json")); err != nil {
				t.Fatal(err)
			}
			if inv, err := dir.Invocation(aCommand); err == nil {
				t.Errorf("got %+v, want an error", inv)
			}
			if err := c.plant(dir.Path("commands", "agent.json")); err != nil {
				t.Fatal(err)
			}
			if ping, err := dir.Agent(); err == nil {
				t.Errorf("agent.json: got %+v, want an error", ping)
			}
		})
	}
	t.Run("a command whose name is a path", func(t *testing.T) {
		dir := commandsOf(t)
		for _, id := range []cloud.CommandID{"other", "../metadata", ".", ""} {
			if err := dir.RemoveCommand(id); err == nil {
				t.Errorf("RemoveCommand(%q): got nil, want an error", id)
			}
		}
	})
}
