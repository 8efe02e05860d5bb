package cloud_test

import (
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestShow(t *testing.T) {
	alive := &cloud.Instance{Power: cloud.PowerRunning}
	for name, c := range map[string]struct {
		seen    cloud.Invocation
		i       *cloud.Instance
		after   time.Duration
		cancel  bool
		status  cloud.InvocationStatus
		details string
	}{
		"nothing is known":                     {cloud.Invocation{Status: cloud.InvocationPending}, alive, 0, false, "Pending", "Pending"},
		"the host's own details stand":         {cloud.Invocation{Status: cloud.InvocationInProgress, Details: "x"}, alive, 0, false, "InProgress", "x"},
		"an end stands, whatever came later":   {cloud.Invocation{Status: cloud.InvocationSuccess, Details: "Success"}, nil, 3 * time.Hour, true, "Success", "Success"},
		"the instance is gone":                 {cloud.Invocation{Status: cloud.InvocationPending}, nil, 0, false, "Failed", "Undeliverable"},
		"the instance is terminated":           {cloud.Invocation{Status: cloud.InvocationPending}, &cloud.Instance{Power: cloud.PowerTerminated}, 0, false, "Failed", "Undeliverable"},
		"a stopped instance may come back":     {cloud.Invocation{Status: cloud.InvocationPending}, &cloud.Instance{Power: cloud.PowerStopped}, 0, false, "Pending", "Pending"},
		"never delivered":                      {cloud.Invocation{Status: cloud.InvocationPending}, alive, 3 * time.Hour, false, "TimedOut", "DeliveryTimedOut"},
		"delayed to its end":                   {cloud.Invocation{Status: cloud.InvocationDelayed}, alive, 3 * time.Hour, false, "TimedOut", "DeliveryTimedOut"},
		"delivered, then the host fell silent": {cloud.Invocation{Status: cloud.InvocationInProgress}, alive, 3 * time.Hour, false, "TimedOut", "DeliveryTimedOut"},
		"cancellation is asked for":            {cloud.Invocation{Status: cloud.InvocationInProgress}, alive, 0, true, "Cancelling", "Cancelling"},
		"cancellation that nobody carried out": {cloud.Invocation{Status: cloud.InvocationCancelling}, alive, 3 * time.Hour, true, "TimedOut", "DeliveryTimedOut"},
	} {
		cmd := cloud.Command{Expires: now.Add(2 * time.Hour), CancelAll: c.cancel}
		got := cmd.Show(c.seen, c.i, now.Add(c.after))
		if got.Status != c.status || got.Details != c.details {
			t.Errorf("%s: got %s (%s), want %s (%s)", name, got.Status, got.Details, c.status, c.details)
		}
	}
}

func TestCancelIsAskedPerInstanceOrForAll(t *testing.T) {
	c := cloud.Command{Cancelled: []cloud.InstanceID{"i-1"}}
	if !c.CancelAsked("i-1") || c.CancelAsked("i-2") {
		t.Error("want i-1 and not i-2")
	}
	c.CancelAll = true
	if !c.CancelAsked("i-2") {
		t.Error("want all")
	}
}

func TestSummarize(t *testing.T) {
	inv := func(s cloud.InvocationStatus, details ...string) cloud.Invocation {
		return cloud.Invocation{Status: s, Details: append(details, string(s))[0]}
	}
	pending, progress, ok := inv("Pending"), inv("InProgress"), inv("Success")
	failed, cancelled, cancelling := inv("Failed"), inv("Cancelled"), inv("Cancelling")
	late, slow, lost := inv("TimedOut", "DeliveryTimedOut"), inv("TimedOut", "ExecutionTimedOut"), inv("Failed", "Undeliverable")
	type all = []cloud.Invocation
	for name, c := range map[string]struct {
		in   all
		want cloud.CommandSummary
	}{
		"no targets":                       {nil, cloud.CommandSummary{Status: "Success", Details: "Success"}},
		"nothing has begun":                {all{pending, pending}, cloud.CommandSummary{Status: "Pending", Details: "Pending", Targets: 2}},
		"one has begun":                    {all{pending, progress}, cloud.CommandSummary{Status: "InProgress", Details: "InProgress", Targets: 2}},
		"delayed is begun":                 {all{inv("Delayed")}, cloud.CommandSummary{Status: "InProgress", Details: "InProgress", Targets: 1}},
		"one has ended":                    {all{pending, ok}, cloud.CommandSummary{Status: "InProgress", Details: "InProgress", Targets: 2, Completed: 1}},
		"cancelling wins while it lasts":   {all{ok, failed, cancelling}, cloud.CommandSummary{Status: "Cancelling", Details: "Cancelling", Targets: 3, Completed: 2, Errors: 1}},
		"all succeeded":                    {all{ok, ok}, cloud.CommandSummary{Status: "Success", Details: "Success", Targets: 2, Completed: 2}},
		"one failed":                       {all{ok, failed}, cloud.CommandSummary{Status: "Failed", Details: "Failed", Targets: 2, Completed: 2, Errors: 1}},
		"too slow is an error":             {all{ok, slow}, cloud.CommandSummary{Status: "TimedOut", Details: "ExecutionTimedOut", Targets: 2, Completed: 2, Errors: 1}},
		"too slow, and failed":             {all{slow, failed}, cloud.CommandSummary{Status: "Failed", Details: "Failed", Targets: 2, Completed: 2, Errors: 2}},
		"an error is worse than a cancel":  {all{failed, cancelled}, cloud.CommandSummary{Status: "Failed", Details: "Failed", Targets: 2, Completed: 2, Errors: 1}},
		"one was cancelled":                {all{ok, cancelled}, cloud.CommandSummary{Status: "Cancelled", Details: "Cancelled", Targets: 2, Completed: 2}},
		"none was delivered":               {all{late, late}, cloud.CommandSummary{Status: "TimedOut", Details: "DeliveryTimedOut", Targets: 2, Completed: 2, TimedOut: 2}},
		"one was not delivered":            {all{ok, late}, cloud.CommandSummary{Status: "Success", Details: "Incomplete", Targets: 2, Completed: 2, TimedOut: 1}},
		"one was gone":                     {all{ok, lost}, cloud.CommandSummary{Status: "Success", Details: "Incomplete", Targets: 2, Completed: 2}},
		"all were gone":                    {all{lost}, cloud.CommandSummary{Status: "Failed", Details: "Failed", Targets: 1, Completed: 1}},
		"gone and never delivered in time": {all{lost, late}, cloud.CommandSummary{Status: "TimedOut", Details: "DeliveryTimedOut", Targets: 2, Completed: 2, TimedOut: 1}},
	} {
		if got := cloud.Summarize(c.in); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestAnInvocationNeverGoesBack(t *testing.T) {
	order := []cloud.InvocationStatus{"Pending", "Delayed", "InProgress", "Cancelling"}
	ends := []cloud.InvocationStatus{"Success", "Cancelled", "TimedOut", "Failed"}
	for k, s := range order {
		for j, next := range order {
			if got, want := s.MayBecome(next), j >= k; got != want {
				t.Errorf("%s -> %s: got %v, want %v", s, next, got, want)
			}
		}
		for _, end := range ends {
			if !s.MayBecome(end) || end.MayBecome(s) || end.MayBecome(end) || !end.Terminal() || s.Terminal() {
				t.Errorf("%s and %s: an end follows and nothing follows an end", s, end)
			}
		}
	}
}
