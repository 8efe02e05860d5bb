package cloud

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Why a command is not sent to those that still wait for it. Each is the StatusDetails of their invocations.
const (
	HaltTerminated = "Terminated"       // more errors than MaxErrors
	HaltCancelled  = "Cancelled"        // by CancelCommand
	HaltTimedOut   = "DeliveryTimedOut" // the command has expired
)

// Sending is what is kept of a command as long as there are instances that it was not sent to yet.
type Sending struct {
	Command CommandID
	Steps   []Step
}

// SendPlan is what is to be done next for the instances that wait for a command.
type SendPlan struct {
	Pass int          // so many of them wait no longer, from the front
	Send []InstanceID // those of them that it is sent to; the others have ended without it
	Halt string       // if not empty: none of them gets it, for this reason
}

// How much one transaction sends: the store takes 1.5 MiB, and the command itself is in it with about 75 bytes for
// each of its instances.
const (
	batchWishes = 200
	batchBytes  = 1 << 20
)

// Batch is how many wishes with these steps are made at once; at least one is.
func Batch(steps []Step) int {
	raw, _ := json.Marshal(steps) // strings and numbers always have JSON
	return max(1, min(batchWishes, batchBytes/(len(raw)+512)))
}

// First returns the plan for no more than most of those that the command c is to be sent to.
func (p SendPlan) First(c Command, most int) SendPlan {
	if len(p.Send) > most {
		p.Pass = slices.Index(c.Unsent(), p.Send[most])
		p.Send = p.Send[:most]
	}
	return p
}

// Sent are the instances that the command was sent to, or that had ended when their turn came.
func (c Command) Sent() []InstanceID { return c.Instances[:len(c.Instances)-c.Waiting] }

// Unsent are the instances whose turn has not come.
func (c Command) Unsent() []InstanceID { return c.Instances[len(c.Instances)-c.Waiting:] }

// passedOver reports whether the command will never be sent to the instance.
func (c Command) passedOver(id InstanceID) bool {
	return c.Halted != "" && slices.Contains(c.Unsent(), id)
}

// Kept reports whether the end of an invocation is told by the command itself, for good: it is settled, or passed over.
func (c Command) Kept(id InstanceID) bool {
	_, told := c.Settled[id]
	return told || c.passedOver(id)
}

// Pace decides what to send next; seen is what is shown of every instance, in their order.
//
//	ramp:   1, then 2 when it has ended, then 4 when both have ... while that is less than MaxConcurrency
//	window: then always as many as MaxConcurrency are under way
//	stop:   the error after MaxErrors ends the sending; what is under way goes on
//
// The ramp is for those who ask for rate control; others get the window at once.
func (c Command) Pace(seen []Invocation, now time.Time) SendPlan {
	if c.Waiting == 0 || c.Halted != "" {
		return SendPlan{}
	}
	sum := Summarize(seen)
	switch {
	case sum.Errors > c.Tolerated():
		return SendPlan{Halt: HaltTerminated}
	case !now.Before(c.Expires):
		return SendPlan{Halt: HaltTimedOut}
	}
	sent, running := len(c.Sent()), 0
	for _, i := range seen[:sent] {
		if !i.Status.Terminal() {
			running++
		}
	}
	room := c.window(sent-running) - running
	if c.window(sent-running) < c.limit() && running > 0 {
		room = 0
	}
	var p SendPlan
	for _, i := range seen[sent:] {
		switch {
		case i.Status.Terminal(): // cancelled, or gone, before its turn
		case len(p.Send) >= room:
			return p
		default:
			p.Send = append(p.Send, i.Instance)
		}
		p.Pass++
	}
	return p
}

// window is how many may be under way when so many have ended.
func (c Command) window(ended int) int {
	w, limit := 1, c.limit()
	if !c.Ramp {
		return limit
	}
	for w < limit && 2*w-1 <= ended {
		w *= 2
	}
	return min(w, limit)
}

func (c Command) limit() int { return max(1, share(c.MaxConcurrency, len(c.Instances), 99)) }

// Tolerated is how many errors the command goes on with.
func (c Command) Tolerated() int { return share(c.MaxErrors, len(c.Instances), 0) }

// share reads a number, or a percentage of n of which the part below one counts if up is 99, and not if it is 0:
// how Systems Manager rounds is not documented.
func share(s string, n, up int) int {
	percent, isPercent := strings.CutSuffix(s, "%")
	v, err := strconv.Atoi(percent)
	if err != nil { // of a command that was stored before there was rate control
		return 0
	}
	if isPercent {
		return (v*n + up) / 100
	}
	return v
}

// Wish is what the host of an instance is asked to do for the command, from now on.
func (c Command) Wish(id InstanceID, steps []Step, now time.Time) CommandWish {
	by := now.Add(time.Duration(c.TimeoutSeconds) * time.Second)
	if by.After(c.Expires) {
		by = c.Expires
	}
	return CommandWish{
		Command: c.ID, Instance: id, DocumentName: c.DocumentName, DocumentVersion: c.DocumentVersion, Steps: steps, Requested: now, DeliverBy: by,
	}
}

// Summarize returns the state of the command from its invocations. No more errors than it tolerates make it
// incomplete, and not failed.
func (c Command) Summarize(invocations []Invocation) CommandSummary {
	s := Summarize(invocations)
	if s.Completed == s.Targets && s.Errors > 0 && s.Errors <= c.Tolerated() && s.Errors < s.Targets {
		s.Status, s.Details = string(InvocationSuccess), "Incomplete"
	}
	return s
}
