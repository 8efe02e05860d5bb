package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// What a host says of a machine that its shim has written of, and of which no unit is left.
func TestWhatTheHostSaysOfAMachine(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	const run, stop, end = cloud.PowerRunning, cloud.PowerStopped, cloud.PowerTerminated
	for name, c := range map[string]struct {
		power cloud.Power
		seen  shim.Status
		state cloud.State
		boot  int
		code  string
		guest bool
	}{
		"created":                      {run, shim.Status{State: shim.StateCreated, Boot: 2}, cloud.StatePending, 2, "", false},
		"starting":                     {run, shim.Status{State: shim.StateStarting, Boot: 2}, cloud.StatePending, 2, "", false},
		"running":                      {run, shim.Status{State: shim.StateRunning, Boot: 2}, cloud.StateRunning, 2, "", false},
		"rebooting":                    {run, shim.Status{State: shim.StateRebooting, Boot: 2}, cloud.StateRunning, 2, "", false},
		"panicked":                     {run, shim.Status{State: shim.StatePanicked, Boot: 2}, cloud.StateRunning, 2, "", false},
		"stopping, unasked":            {run, shim.Status{State: shim.StateStopping, Boot: 2}, cloud.StateRunning, 2, "", false},
		"the guest ended it":           {run, shim.Status{State: shim.StateStopped, Boot: 2, Cause: shim.CauseGuest}, cloud.StateStopped, 2, "Client.InstanceInitiatedShutdown", true},
		"it crashed":                   {run, shim.Status{State: shim.StateFailed, Boot: 2, Cause: shim.CauseCrash}, cloud.StateStopped, 2, "Server.InternalError", false},
		"the earlier boot":             {run, shim.Status{State: shim.StateStopped, Boot: 1, Cause: shim.CauseHost}, cloud.StateStopped, 1, "Client.UserInitiatedShutdown", false},
		"running, to be stopped":       {stop, shim.Status{State: shim.StateRunning, Boot: 2}, cloud.StateStopping, 2, "", false},
		"stopped":                      {stop, shim.Status{State: shim.StateStopped, Boot: 2, Cause: shim.CauseForce}, cloud.StateStopped, 2, "Client.UserInitiatedShutdown", false},
		"the next boot was taken back": {stop, shim.Status{State: shim.StateStopped, Boot: 1, Cause: shim.CauseHost}, cloud.StateStopped, 2, "Client.UserInitiatedShutdown", false},
		"stopped, to be terminated":    {end, shim.Status{State: shim.StateStopped, Boot: 2, Cause: shim.CauseHost}, cloud.StateShuttingDown, 2, "Client.UserInitiatedShutdown", false},
	} {
		log := slog.New(slog.DiscardHandler)
		root := bundle.Root(t.TempDir())
		if err := os.MkdirAll(string(root.Instance(id)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := bundle.Write(root.Instance(id).Path("status.json"), c.seen, 0o600); err != nil {
			t.Fatal(err)
		}
		h := New(Config{Root: root, Units: unit.New(root, "/bin/false", log), Now: time.Now, Log: log})
		a := cloud.Assignment{Instance: cloud.Instance{ID: id, Power: c.power, Boot: 2, Generation: 5, Host: "h-1"}}
		got, err := h.observe(id, a)
		if err != nil || got.State != c.state || got.Boot != c.boot || got.Reason.Code != c.code || got.GuestEnded != c.guest || got.Generation != 5 {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if c.power == stop && got.State == cloud.StateStopped && a.Instance.State(&got) != cloud.StateStopped {
			t.Errorf("%s: a client is shown %s for ever", name, a.Instance.State(&got))
		}
	}
}

func TestOnlyRefusedIsNotFooledByJoins(t *testing.T) {
	refused, broken := eni.Refused{Interface: "eni-1", Err: errors.New("two want one address")}, errors.New("no netlink")
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"no error", nil, true},
		{"a refused wish", refused, true},
		{"a refused wish, wrapped", fmt.Errorf("apply: %w", refused), true},
		{"two refused wishes", fmt.Errorf("apply: %w", errors.Join(refused, refused)), true},
		{"a broken engine", broken, false},
		{"a broken engine beside a refused wish", fmt.Errorf("apply: %w", errors.Join(refused, broken)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := onlyRefused(c.err); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestABootThatCannotStartIsOver(t *testing.T) {
	root := bundle.Root(t.TempDir())
	h := New(Config{ID: "h-1", Root: root, Units: unit.New(root, "/nowhere", slog.New(slog.DiscardHandler)), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	id := cloud.InstanceID("i-0123456789abcdef0")
	if err := os.MkdirAll(string(root.Instance(id)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := bundle.Write(root.Instance(id).Path("machine.json"), bundle.Machine{ID: id, Boot: 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Failed(unit.Exit{ID: id, Err: errors.New("no shim program")})
	a := cloud.Assignment{Instance: cloud.Instance{ID: id, Power: cloud.PowerRunning, Boot: 1}}
	st, err := h.observe(id, a)
	if err != nil || st.State != cloud.StateStopped || st.Reason.Code != "Server.InternalError" {
		t.Errorf("got %+v, %v; want stopped with Server.InternalError", st, err)
	}
	a.Instance.Boot = 2
	if st, err = h.observe(id, a); err != nil || st.State != cloud.StatePending {
		t.Errorf("got %+v, %v; want the next boot pending", st, err)
	}
}
