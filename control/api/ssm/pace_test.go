package ssm

import (
	"fmt"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// sentTo are the instances that a command has been sent to.
func (r *rig) sentTo(c *shape.Command) map[string]bool {
	r.Helper()
	l, err := store.List(r.Context(), r.Store, store.CommandWishes("h-1"), store.Range{IDs: c.CommandId})
	if err != nil {
		r.Fatal(err)
	}
	out := map[string]bool{}
	for _, o := range l.Objects {
		out[string(o.Value.Instance)] = o.Value.Cancel
	}
	return out
}

func TestRateControlSendsOneAtFirst(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		concurrency, errors string
		sent                int
		code                string
	}{
		"none is asked for":       {"", "", 2, ""},
		"a number":                {"2", "", 1, ""},
		"a percentage":            {"100%", "0%", 1, ""},
		"errors alone":            {"", "1", 1, ""},
		"none at a time":          {"0", "", 0, "ValidationException"},
		"more than all":           {"101%", "", 0, "ValidationException"},
		"fewer than no errors":    {"", "-1", 0, "ValidationException"},
		"something else entirely": {"many", "", 0, "ValidationException"},
	} {
		in := script(one, two)
		in.MaxConcurrency, in.MaxErrors = c.concurrency, c.errors
		out, err := r.SendCommand(r.ctx, in)
		if cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %q", name, err, c.code)
		}
		if err != nil {
			continue
		}
		if got := len(r.sentTo(out.Command)); got != c.sent || *out.Command.TargetCount != 2 {
			t.Errorf("%s: sent to %d of %d, want %d", name, got, *out.Command.TargetCount, c.sent)
		}
	}
}

func TestACancelledCommandIsNotSentToTheRest(t *testing.T) {
	r := newRig(t)
	in := script(one, two)
	in.MaxConcurrency = "1"
	all, some := r.send(in), r.send(in)
	if _, err := r.CancelCommand(r.ctx, &shape.CancelCommandInput{CommandId: all.CommandId}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CancelCommand(r.ctx, &shape.CancelCommandInput{CommandId: some.CommandId, InstanceIds: []string{two}}); err != nil {
		t.Fatal(err)
	}
	if a, b := r.get(all, one).Status, r.get(all, two).Status; a != "Cancelling" || b != "Cancelled" || !r.sentTo(all)[one] {
		t.Errorf("all: got %s, %s and %v", a, b, r.sentTo(all))
	}
	if a, b := r.get(some, one).Status, r.get(some, two).Status; a != "Pending" || b != "Cancelled" || r.sentTo(some)[one] {
		t.Errorf("one of two: got %s, %s and %v", a, b, r.sentTo(some))
	}
	if _, err := store.Get(t.Context(), r.Store, store.Sendings, all.CommandId); err == nil {
		t.Error("what is cancelled is still to be sent")
	}
}

// A command to many with a long script is cancelled everywhere, in as many transactions as it takes.
func TestManyAreCancelled(t *testing.T) {
	r := newRig(t)
	r.write(func(t *store.Txn) {
		for k := range 40 {
			id := cloud.InstanceID(fmt.Sprintf("i-0000000000000%04d", 1000+k))
			store.Create(t, store.Instances, id, cloud.Instance{ID: id, Account: "000000000000", Host: "h-1", Power: cloud.PowerRunning, Tags: cloud.Tags{"Name": "many"}})
			store.Create(t, store.Pings("h-1"), id, cloud.AgentPing{Instance: id, Connected: true})
		}
	})
	in := script()
	in.Targets = []shape.Target{{Key: "tag:Name", Values: []string{"many"}}}
	in.Parameters["commands"] = []string{fmt.Sprintf("%060000d", 0)}
	c := r.send(in)
	sent := len(r.sentTo(c))
	if sent == 0 || sent == 40 {
		t.Fatalf("%d fit into one transaction: the test proves nothing", sent)
	}
	if _, err := r.CancelCommand(r.ctx, &shape.CancelCommandInput{CommandId: c.CommandId}); err != nil {
		t.Fatal(err)
	}
	for id, cancel := range r.sentTo(c) {
		if !cancel {
			t.Errorf("%s is not told", id)
		}
	}
}
