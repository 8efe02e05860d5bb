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
