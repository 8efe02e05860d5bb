package cloud

import (
	"slices"
	"time"
)

// Notification says whom to tell how a command goes.
type Notification struct {
	URL       string
	Events    []InvocationStatus `json:",omitempty"` // all if empty
	Instances bool               `json:",omitempty"` // of each instance, and not of the command as a whole
}

// Notice is what has been told of a command, by instance; under "" of the command as a whole. It is gone when all is.
type Notice struct {
	Command CommandID
	Told    map[InstanceID]InvocationStatus `json:",omitempty"`
}

// NoticeEvent is a change that somebody is told of.
type NoticeEvent struct {
	Instance InstanceID // "": the command as a whole
	Status   InvocationStatus
	Details  string
	At       time.Time
}

// Due returns what is to be told now, in order, and whether nothing follows it. A beginning that nobody saw, because the end came
// before a look, is told all the same.
func (n Notification) Due(c Command, told map[InstanceID]InvocationStatus, seen []Invocation, now time.Time) (due []NoticeEvent, last bool) {
	last = true
	one := func(id InstanceID, status InvocationStatus, details string, started, ended time.Time) {
		begun := status == InvocationInProgress || !started.IsZero()
		last = last && status.Terminal()
		add := func(s InvocationStatus, details string, at time.Time) {
			if at.IsZero() {
				at = now
			}
			if len(n.Events) == 0 || slices.Contains(n.Events, s) {
				due = append(due, NoticeEvent{id, s, details, at})
			}
		}
		if begun && told[id] == "" {
			add(InvocationInProgress, string(InvocationInProgress), started)
		}
		if status.Terminal() && !told[id].Terminal() {
			add(status, details, ended)
		}
	}
	if n.Instances {
		for _, i := range seen {
			one(i.Instance, i.Status, i.Details, i.Started, i.Ended)
		}
		return due, last
	}
	sum := c.Summarize(seen)
	status := InvocationStatus(sum.Status)
	if sum.Completed < sum.Targets && status.Terminal() {
		status = InvocationInProgress
	}
	var started, ended time.Time
	for _, i := range seen {
		if !i.Started.IsZero() && (started.IsZero() || i.Started.Before(started)) {
			started = i.Started
		}
		if i.Ended.After(ended) {
			ended = i.Ended
		}
	}
	one("", status, sum.Details, started, ended)
	return due, last
}
