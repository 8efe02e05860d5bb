package host

import (
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// A shim that was started and has not said anything yet may have a machine: to call it gone would give its
// address to another.
func TestWhatMayStillStartIsNotGone(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	for _, c := range []struct {
		power        cloud.Power
		alive, ended cloud.State
	}{
		{cloud.PowerRunning, cloud.StatePending, cloud.StatePending},
		{cloud.PowerStopped, cloud.StateStopping, cloud.StateStopped},
		{cloud.PowerTerminated, cloud.StateShuttingDown, cloud.StateTerminated},
	} {
		t.Run(string(c.power), func(t *testing.T) {
			root, log := bundle.Root(t.TempDir()), slog.New(slog.NewTextHandler(io.Discard, nil))
			dir := root.Instance(id)
			if err := os.MkdirAll(string(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			h := New(Config{Root: root, Units: unit.New(root, "/bin/false", log), Now: time.Now, Log: log})
			var a cloud.Assignment
			a.Instance.ID, a.Instance.Power, a.Instance.Boot = id, c.power, 1
			see := func(want cloud.State) {
				t.Helper()
				if got, err := h.observe(id, a); err != nil || got.State != want {
					t.Errorf("got %s, %v, want %s", got.State, err, want)
				}
			}
			see(c.ended)
			// A unit that is kept, and then no status: the manager does not run, so it starts nothing.
			if err := bundle.Write(dir.Path("status.json"), shim.Status{State: shim.StateRunning, Boot: 1}, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Units.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(dir.Path("status.json")); err != nil {
				t.Fatal(err)
			}
			see(c.alive)
		})
	}
}

// Who is told that the host has seen a wish may believe that the guest's metadata obeys it: that tokens are required, say.
func TestAWishIsNotSeenBeforeItsMetadataIsWritten(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	root, log := bundle.Root(t.TempDir()), slog.New(slog.DiscardHandler)
	dir := root.Instance(id)
	h := New(Config{Root: root, Units: unit.New(root, "/bin/false", log), Now: time.Now, Log: log, Group: os.Getgid(), GatewayGID: os.Getgid()})
	h.reported[id] = cloud.InstanceStatus{Generation: 6}
	var a cloud.Assignment
	a.Instance.ID, a.Instance.Power, a.Instance.Boot, a.Instance.Generation = id, cloud.PowerRunning, 1, 7
	see := func(when string, want int64) {
		t.Helper()
		if got, err := h.observe(id, a); err != nil || got.Generation != want {
			t.Errorf("%s: got generation %d, %v, want %d", when, got.Generation, err, want)
		}
	}
	blocked := dir.Path("metadata.json", "x") // a directory stands where the file should be
	if err := os.MkdirAll(blocked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.prepare(dir, a); err == nil {
		t.Fatal("the metadata was written over a directory")
	}
	see("it cannot be written", 6)
	if err := os.RemoveAll(dir.Path("metadata.json")); err != nil {
		t.Fatal(err)
	}
	if err := h.prepare(dir, a); err != nil {
		t.Fatal(err)
	}
	see("it is written", 7)
}
