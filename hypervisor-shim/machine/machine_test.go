package machine

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	update    = flag.Bool("update", false, "rewrite the golden files")
	allStates = []State{Created, Starting, Running, Rebooting, Panicked, Stopping, Stopped, Failed}
	allEvents = []Event{Start, Ready, Reset, Panic, Shutdown, Exit, Stop, Reboot, Kill, Deadline}
)

func TestLives(t *testing.T) {
	for name, c := range map[string]struct {
		events []Event
		state  State
		cause  Cause
		last   []Action
	}{
		"a guest that obeys the power button": {[]Event{Start, Ready, Stop, Shutdown, Exit}, Stopped, ByHost, nil},
		"a deaf guest is forced":              {[]Event{Start, Ready, Stop, Deadline, Exit}, Stopped, ByForce, nil},
		"a guest powers itself off":           {[]Event{Start, Ready, Shutdown, Exit}, Stopped, ByGuest, nil},
		"a stop that comes after the guest's own shutdown does not take its credit": {
			[]Event{Start, Ready, Shutdown, Stop, Exit}, Stopped, ByGuest, nil},
		"QEMU dies":                            {[]Event{Start, Ready, Exit}, Failed, ByCrash, nil},
		"QEMU never answers":                   {[]Event{Start, Exit}, Failed, ByStart, nil},
		"a panicked guest is reset":            {[]Event{Start, Ready, Panic, Reboot, Reset}, Running, "", []Action{Continue}},
		"a panicked guest does not hear stop":  {[]Event{Start, Ready, Panic, Stop}, Stopping, ByForce, []Action{KillNow}},
		"a stop that reaches a starting guest": {[]Event{Start, Stop, Ready}, Stopping, ByHost, []Action{PressButton, Arm}},
		"a reboot is a reset, not an end":      {[]Event{Start, Ready, Reboot, Reset, Reset}, Running, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, do := New(), []Action(nil)
			for _, e := range c.events {
				var err error
				if m, do, err = m.Step(e); err != nil {
					t.Fatal(err)
				}
			}
			if m.State != c.state || m.Cause != c.cause || !reflect.DeepEqual(do, c.last) {
				t.Errorf("got %s, %q, %v, want %s, %q, %v", m.State, m.Cause, do, c.state, c.cause, c.last)
			}
		})
	}
}

// TestTable prints every state against every event, so that a reviewer judges the whole life.
func TestTable(t *testing.T) {
	var b strings.Builder
	for _, s := range allStates {
		for _, e := range allEvents {
			m, do, err := Machine{State: s}.Step(e)
			if err != nil {
				var illegal Illegal
				if !errors.As(err, &illegal) || m.State != s {
					t.Errorf("%s, %s: got %v in %s, want an Illegal that changes nothing", s, e, err, m.State)
				}
				fmt.Fprintf(&b, "%-10s %-9s refused: %v\n", s, e, err)
				continue
			}
			fmt.Fprintf(&b, "%-10s %-9s -> %-10s %-16s %v\n", s, e, m.State, m.Cause, do)
		}
	}
	if *update {
		if err := os.WriteFile("testdata/table.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestInvariants walks at random: an ended machine stays ended and has a cause; kill and exit
// always lead to an end; only a QEMU that was spawned is acted upon.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New()
		for _, e := range rapid.SliceOf(rapid.SampledFrom(allEvents)).Draw(t, "events") {
			before := m
			next, do, err := m.Step(e)
			if before.State == Stopped || before.State == Failed {
				if err == nil {
					t.Fatalf("%s took %s", before.State, e)
				}
			}
			if before.State == Created && e != Start && err == nil {
				t.Fatalf("created took %s", e)
			}
			for _, a := range do {
				if (a == Spawn) != (before.State == Created) {
					t.Fatalf("%s in %s does %s", e, before.State, a)
				}
			}
			if next.Resets < m.Resets || next.Panics < m.Panics || (m.Cause != "" && next.Cause == "") {
				t.Fatalf("%s in %s forgets: %+v, %+v", e, m.State, m, next)
			}
			m = next
		}
		if m.State == Created {
			m, _, _ = m.Step(Start)
		}
		if m.State != Stopped && m.State != Failed {
			m, _, _ = m.Step(Kill)
			m, _, _ = m.Step(Exit)
			if m.State != Stopped {
				t.Fatalf("kill and exit lead to %s", m.State)
			}
		}
		if m.Cause == "" {
			t.Fatalf("%s without a cause", m.State)
		}
	})
}
