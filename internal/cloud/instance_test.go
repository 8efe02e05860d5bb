package cloud_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var now = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

var states = []cloud.State{cloud.StatePending, cloud.StateRunning, cloud.StateStopping, cloud.StateStopped, cloud.StateShuttingDown, cloud.StateTerminated}

// TestStateIsAFunctionOfWishAndReport reads as a table: a row is a wish, a column what the host last said.
func TestStateIsAFunctionOfWishAndReport(t *testing.T) {
	type row [8]cloud.State
	const p, r, g, s, d, e = cloud.StatePending, cloud.StateRunning, cloud.StateStopping, cloud.StateStopped, cloud.StateShuttingDown, cloud.StateTerminated
	//                 nothing, of the earlier boot, pending, running, stopping, stopped, shutting-down, terminated
	for power, want := range map[cloud.Power]row{
		cloud.PowerRunning:    {p, p, p, r, g, s, d, e},
		cloud.PowerStopped:    {g, g, g, g, g, s, g, g},
		cloud.PowerTerminated: {d, d, d, d, d, d, d, e},
	} {
		i := cloud.Instance{Host: "h-1", Power: power, Boot: 2}
		got := row{i.State(nil), i.State(&cloud.InstanceStatus{Boot: 1, State: s})}
		for k, seen := range states {
			got[2+k] = i.State(&cloud.InstanceStatus{Boot: 2, State: seen})
		}
		if got != want {
			t.Errorf("%s: got %v, want %v", power, got, want)
		}
	}
	for power, want := range map[cloud.Power]cloud.State{cloud.PowerRunning: p, cloud.PowerStopped: s, cloud.PowerTerminated: e} {
		if got := (cloud.Instance{Power: power, Boot: 1}).State(nil); got != want {
			t.Errorf("%s, without a host: got %s, want %s", power, got, want)
		}
	}
}

// A guest that ends its own boot and is to be terminated then is never shown as one that can be started.
func TestAGuestThatEndsItsLifeIsNotShownStopped(t *testing.T) {
	i := cloud.Instance{Host: "h-1", Power: cloud.PowerRunning, Boot: 1, ShutdownBehavior: "terminate"}
	st := &cloud.InstanceStatus{Boot: 1, State: cloud.StateStopped, GuestEnded: true}
	if got := i.State(st); got != cloud.StateShuttingDown {
		t.Errorf("got %s, want %s", got, cloud.StateShuttingDown)
	}
	if _, _, err := i.Start(st, now); cloud.Code(err) != "IncorrectInstanceState" {
		t.Errorf("start: got %v", err)
	}
	st.GuestEnded = false // its machine crashed: that is no wish to be terminated
	if got := i.State(st); got != cloud.StateStopped {
		t.Errorf("crashed: got %s, want %s", got, cloud.StateStopped)
	}
}

func TestStatesHaveEC2sNumbers(t *testing.T) {
	for s, want := range map[cloud.State]int64{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80, "other": -1} {
		if got := s.Code(); got != want {
			t.Errorf("%s: got %d, want %d", s, got, want)
		}
	}
}

// TestTransitions asks for every change in every state.
func TestTransitions(t *testing.T) {
	in := map[cloud.State]struct {
		power cloud.Power
		seen  cloud.State
	}{
		cloud.StatePending:      {cloud.PowerRunning, cloud.StatePending},
		cloud.StateRunning:      {cloud.PowerRunning, cloud.StateRunning},
		cloud.StateStopping:     {cloud.PowerStopped, cloud.StateRunning},
		cloud.StateStopped:      {cloud.PowerStopped, cloud.StateStopped},
		cloud.StateShuttingDown: {cloud.PowerTerminated, cloud.StateRunning},
		cloud.StateTerminated:   {cloud.PowerTerminated, cloud.StateTerminated},
	}
	const bad = "IncorrectInstanceState"
	for s, want := range map[cloud.State][5]string{ // start, stop, stop by force, reboot, terminate
		cloud.StatePending:      {"same", "stopping", "stopping", "pending", "shutting-down"},
		cloud.StateRunning:      {"same", "stopping", "stopping", "running", "shutting-down"},
		cloud.StateStopping:     {bad, "same", "stopping", bad, "shutting-down"},
		cloud.StateStopped:      {"pending", "same", "same", bad, "terminated"},
		cloud.StateShuttingDown: {bad, bad, bad, bad, "same"},
		cloud.StateTerminated:   {bad, bad, bad, bad, "same"},
	} {
		i := cloud.Instance{ID: "i-1", Generation: 7, Host: "h-1", Power: in[s].power, Boot: 1, RootDeviceType: "ebs"}
		st := &cloud.InstanceStatus{Boot: 1, State: in[s].seen}
		if got := i.State(st); got != s {
			t.Fatalf("the table is wrong: got %s, want %s", got, s)
		}
		say := func(next cloud.Instance, changed bool, err error) string {
			switch {
			case err != nil && (next.Generation != 7 || changed):
				return "changed in spite of " + err.Error()
			case err != nil:
				return cloud.Code(err)
			case !changed && fmt.Sprint(next) == fmt.Sprint(i):
				return "same"
			case next.Generation != 8:
				return fmt.Sprintf("changed to generation %d", next.Generation)
			}
			if next.Power == cloud.PowerTerminated && s == cloud.StateStopped {
				return string(cloud.StateTerminated) // as soon as its host says so
			}
			return string(next.State(st))
		}
		reboot, err := i.Reboot(st)
		got := [5]string{
			say(i.Start(st, now)), say(i.Stop(st, false, now)), say(i.Stop(st, true, now)), say(reboot, err == nil, err), say(i.Terminate(now)),
		}
		if got != want {
			t.Errorf("%s: got %v, want %v", s, got, want)
		}
	}
}

func TestProtection(t *testing.T) {
	running := &cloud.InstanceStatus{Boot: 1, State: cloud.StateRunning}
	i := cloud.Instance{Host: "h-1", Power: cloud.PowerRunning, Boot: 1, Protected: true, StopProtected: true, RootDeviceType: "ebs"}
	if _, _, err := i.Terminate(now); cloud.Code(err) != "OperationNotPermitted" {
		t.Errorf("terminate: got %v", err)
	}
	if _, _, err := i.Stop(running, true, now); cloud.Code(err) != "OperationNotPermitted" {
		t.Errorf("stop: got %v", err)
	}
	i.StopProtected, i.RootDeviceType = false, "instance-store"
	if _, _, err := i.Stop(running, false, now); cloud.Code(err) != "UnsupportedOperation" {
		t.Errorf("stop without a disk to keep: got %v", err)
	}
}

func TestFollow(t *testing.T) {
	ended := cloud.InstanceStatus{Boot: 1, State: cloud.StateStopped, GuestEnded: true, Reason: cloud.Reason{Code: "Client.InstanceInitiatedShutdown", Message: "m"}}
	for name, c := range map[string]struct {
		i    cloud.Instance
		st   *cloud.InstanceStatus
		want cloud.Power // empty: nothing to follow
	}{
		"guest shut down":                {cloud.Instance{Power: cloud.PowerRunning, Boot: 1, ShutdownBehavior: "stop"}, &ended, cloud.PowerStopped},
		"guest shut down for good":       {cloud.Instance{Power: cloud.PowerRunning, Boot: 1, ShutdownBehavior: "terminate"}, &ended, cloud.PowerTerminated},
		"protection does not hold it":    {cloud.Instance{Power: cloud.PowerRunning, Boot: 1, ShutdownBehavior: "terminate", Protected: true}, &ended, cloud.PowerTerminated},
		"machine crashed":                {cloud.Instance{Power: cloud.PowerRunning, Boot: 1, ShutdownBehavior: "terminate"}, &cloud.InstanceStatus{Boot: 1, State: cloud.StateStopped}, cloud.PowerStopped},
		"the earlier boot ended":         {cloud.Instance{Power: cloud.PowerRunning, Boot: 2}, &ended, ""},
		"nothing is known":               {cloud.Instance{Power: cloud.PowerRunning, Boot: 1}, nil, ""},
		"it runs":                        {cloud.Instance{Power: cloud.PowerRunning, Boot: 1}, &cloud.InstanceStatus{Boot: 1, State: cloud.StateRunning}, ""},
		"it was to stop anyway":          {cloud.Instance{Power: cloud.PowerStopped, Boot: 1}, &ended, ""},
		"terminated does not come alive": {cloud.Instance{Power: cloud.PowerTerminated, Boot: 1}, &ended, ""},
	} {
		next, ok := c.i.Follow(c.st, now)
		if ok != (c.want != "") || ok && next.Power != c.want || ok && next.Generation != c.i.Generation+1 {
			t.Errorf("%s: got %s, %v, want %q", name, next.Power, ok, c.want)
		}
		if ok && next.Power == cloud.PowerTerminated && !next.Ended.Equal(now) {
			t.Errorf("%s: it ended at %v, want %v", name, next.Ended, now)
		}
	}
}

// TestTerminatedIsForEver does whatever owners, planner and host may do, in any order: what was once shown
// as terminated stays so, and generation and boot never go back.
func TestTerminatedIsForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := cloud.Instance{ID: "i-1", Generation: 1, Power: cloud.PowerRunning, Boot: 1, RootDeviceType: "ebs",
			ShutdownBehavior: rapid.SampledFrom([]string{"stop", "terminate"}).Draw(t, "behavior")}
		var st *cloud.InstanceStatus
		gone := false
		for _, step := range rapid.SliceOfN(rapid.SampledFrom([]string{"start", "stop", "force", "reboot", "terminate", "follow", "place", "host", "release"}), 1, 30).Draw(t, "steps") {
			was := i
			switch step {
			case "start":
				i, _, _ = i.Start(st, now)
			case "stop", "force":
				i, _, _ = i.Stop(st, step == "force", now)
			case "reboot":
				i, _ = i.Reboot(st)
			case "terminate":
				i, _, _ = i.Terminate(now)
			case "follow":
				i, _ = i.Follow(st, now)
			case "place":
				if i.Host == "" && i.Power == cloud.PowerRunning {
					i.Host = "h-1"
				}
			case "release":
				if i.State(st) == cloud.StateTerminated {
					i.Host, st = "", nil
				}
			case "host": // says what it may say of this wish; late words of an older generation are fenced off
				if i.Host != "" && !gone {
					seen := map[cloud.Power][]cloud.State{
						cloud.PowerRunning:    {cloud.StatePending, cloud.StateRunning, cloud.StateStopped},
						cloud.PowerStopped:    {cloud.StateStopping, cloud.StateStopped},
						cloud.PowerTerminated: {cloud.StateShuttingDown, cloud.StateTerminated},
					}[i.Power]
					st = &cloud.InstanceStatus{Boot: i.Boot, State: rapid.SampledFrom(seen).Draw(t, "seen"), GuestEnded: rapid.Bool().Draw(t, "guest")}
				}
			}
			if i.Generation < was.Generation || i.Boot < was.Boot {
				t.Fatalf("%s: generation %d -> %d, boot %d -> %d", step, was.Generation, i.Generation, was.Boot, i.Boot)
			}
			now := i.State(st)
			if gone && now != cloud.StateTerminated {
				t.Fatalf("%s: terminated became %s", step, now)
			}
			gone = now == cloud.StateTerminated
		}
	})
}
