package cloud_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// scene is a command to some instances, of which states tells one letter for each that it was sent to: . runs, s
// succeeded, f failed, l was late; and for each that waits: _ waits, x was cancelled.
func scene(states, concurrency, errors string, ramp bool) (cloud.Command, []cloud.Invocation) {
	c := cloud.Command{MaxConcurrency: concurrency, MaxErrors: errors, Ramp: ramp, Expires: now.Add(time.Hour)}
	var seen []cloud.Invocation
	for k, s := range states {
		i := cloud.Invocation{Instance: cloud.InstanceID(fmt.Sprint("i-", k)), Status: cloud.InvocationPending}
		switch s {
		case '.':
			i.Status = cloud.InvocationInProgress
		case 's':
			i.Status = cloud.InvocationSuccess
		case 'f':
			i.Status, i.Details = cloud.InvocationFailed, "Failed"
		case 'l':
			i.Status, i.Details = cloud.InvocationTimedOut, "DeliveryTimedOut"
		case 'x':
			i.Status, i.Details = cloud.InvocationCancelled, "Cancelled"
		}
		if s == '_' || s == 'x' {
			c.Waiting++
		}
		c.Instances, seen = append(c.Instances, i.Instance), append(seen, i)
	}
	return c, seen
}

func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		states, concurrency, errors string
		window                      bool // no ramp
		after                       time.Duration
		send, pass                  int
		halt                        string
	}{
		"one at first":       {states: "__________", concurrency: "5", errors: "0", send: 1, pass: 1},
		"it must end":        {states: "._________", concurrency: "5", errors: "0"},
		"then two":           {states: "s_________", concurrency: "5", errors: "0", send: 2, pass: 2},
		"both must end":      {states: "ss._______", concurrency: "5", errors: "0"},
		"then four":          {states: "sss_______", concurrency: "5", errors: "0", send: 4, pass: 4},
		"which must end too": {states: "sssss..___", concurrency: "5", errors: "0"},
		"then the limit, which is all that are left": {states: "sssssss___", concurrency: "5", errors: "0", send: 3, pass: 3},
		"at the limit the window slides":             {states: "sssss..___", concurrency: "4", errors: "0", send: 2, pass: 2},
		"a full window waits":                        {states: "sss....___", concurrency: "4", errors: "0"},
		"a limit of one":                             {states: "s._", concurrency: "1", errors: "0"},
		"a limit of one goes on":                     {states: "ss_", concurrency: "1", errors: "0", send: 1, pass: 1},
		"without a ramp the window is there at once": {states: "__________", concurrency: "4", errors: "0", window: true, send: 4, pass: 4},
		"a percentage":                               {states: "__________", concurrency: "40%", errors: "0", window: true, send: 4, pass: 4},
		"a percentage is rounded up":                 {states: "__________", concurrency: "31%", errors: "0", window: true, send: 4, pass: 4},
		"a small percentage is one":                  {states: "_____", concurrency: "1%", errors: "0", window: true, send: 1, pass: 1},
		"the first error ends it":                    {states: "f_________", concurrency: "5", errors: "0", halt: "Terminated"},
		"one error is tolerated":                     {states: "f_________", concurrency: "5", errors: "1", send: 2, pass: 2},
		"and the second is not":                      {states: "ff._______", concurrency: "5", errors: "1", halt: "Terminated"},
		"a tenth may fail":                           {states: "f_________", concurrency: "5", errors: "10%", send: 2, pass: 2},
		"a percentage of errors is rounded down":     {states: "f_________", concurrency: "5", errors: "19%", send: 2, pass: 2},
		"to nothing":                                 {states: "f____", concurrency: "5", errors: "19%", halt: "Terminated"},
		"what never came is no error":                {states: "l_________", concurrency: "5", errors: "0", send: 2, pass: 2},
		"the time is over":                           {states: "s_________", concurrency: "5", errors: "0", after: time.Hour, halt: "DeliveryTimedOut"},
		"who was cancelled is passed over":           {states: "sxx_______", concurrency: "5", errors: "0", send: 2, pass: 4},
		"also when nobody may go":                    {states: ".x________", concurrency: "5", errors: "0", pass: 1},
		"nobody waits":                               {states: "s.s", concurrency: "5", errors: "0"},
	} {
		cmd, seen := scene(c.states, c.concurrency, c.errors, !c.window)
		got := cmd.Pace(seen, now.Add(c.after))
		if len(got.Send) != c.send || got.Pass != c.pass || got.Halt != c.halt {
			t.Errorf("%s: got %+v, want %d sent, %d passed, %q", name, got, c.send, c.pass, c.halt)
		}
	}
}

func TestWhoIsPassedOverIsToldSo(t *testing.T) {
	alive := &cloud.Instance{Power: cloud.PowerRunning}
	for halt, want := range map[string]cloud.InvocationStatus{"": "Pending", "Terminated": "Cancelled", "Cancelled": "Cancelled", "DeliveryTimedOut": "TimedOut"} {
		c, seen := scene("._", "1", "0", false)
		c.Halted = halt
		if got := c.Show(seen[1], alive, now); got.Status != want || halt != "" && got.Details != halt {
			t.Errorf("%q: the one that waits is shown as %s (%s), want %s", halt, got.Status, got.Details, want)
		}
		if got := c.Show(seen[0], alive, now); got.Status != cloud.InvocationInProgress {
			t.Errorf("%q: the one under way is shown as %s", halt, got.Status)
		}
	}
}

func TestToleratedTimeoutsDoSo(t *testing.T) {
	slow := cloud.Invocation{Status: cloud.InvocationTimedOut, Details: "ExecutionTimedOut"}
	c, seen := scene("ss", "50", "1", false)
	if got := c.Summarize([]cloud.Invocation{seen[0], slow}); got.Status != "Success" || got.Details != "Incomplete" {
		t.Errorf("got %+v, want it incomplete", got)
	}
}

func TestToleratedErrorsMakeACommandIncomplete(t *testing.T) {
	for errors, want := range map[string]string{"0": "Failed", "1": "Incomplete", "50%": "Incomplete"} {
		c, seen := scene("sf", "50", errors, false)
		if got := c.Summarize(seen); got.Details != want || got.Errors != 1 {
			t.Errorf("MaxErrors %s: got %+v, want %s", errors, got, want)
		}
	}
}
