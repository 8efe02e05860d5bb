package cloud

import (
	"slices"
	"strings"
	"time"
)

// EventID names a scheduled event.
type EventID string

// EventState is where an event stands.
//
//	active -> completed | canceled
type EventState string

// The states, with EC2's names.
const (
	EventActive    EventState = "active"
	EventCompleted EventState = "completed"
	EventCanceled  EventState = "canceled"
)

// EventCodes are the kinds of events that EC2 knows.
var EventCodes = []string{"instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop"}

// ScheduledEvent announces what an operator is going to do to an instance's host. It does nothing: a guest reads it in its
// metadata and its owner in the instance's status, so that neither is surprised.
type ScheduledEvent struct {
	ID          EventID
	Code        string
	Description string
	NotBefore   time.Time
	NotAfter    time.Time `json:",omitzero"`
	Deadline    time.Time `json:",omitzero"` // the latest start that the owner may choose; zero: none
	State       EventState
	Announced   time.Time `json:",omitzero"` // zero in what was written before it was kept
	Ended       time.Time `json:",omitzero"` // when it became completed or canceled
}

// Takes says what becomes of an instance for which nothing else is done: "stop", "terminate", or "" when it stays. Our roots are in
// memory, and a retired instance with such a root ends on EC2 too.
func (e ScheduledEvent) Takes() string {
	switch e.Code {
	case "instance-stop":
		return "stop"
	case "instance-retirement":
		return "terminate"
	}
	return ""
}

// How much of the past is kept. EC2 shows what is over for a week; the number keeps a wish small whatever an operator does.
const (
	eventsShown = 7 * 24 * time.Hour
	eventsPast  = 20
)

// leastNotice is how far from now on the start must be that an owner chooses, by EC2's documentation.
const leastNotice = time.Hour

// Told is the description as EC2 shows it: what is over says so.
func (e ScheduledEvent) Told() string {
	switch e.State {
	case EventCompleted:
		return "[Completed] " + e.Description
	case EventCanceled:
		return "[Canceled] " + e.Description
	}
	return e.Description
}

// Check refuses an event that cannot be.
func (e ScheduledEvent) Check() error {
	switch {
	case !slices.Contains(EventCodes, e.Code):
		return Errorf("InvalidParameterValue", "%.40q is no kind of event: it is one of %s", e.Code, strings.Join(EventCodes, ", "))
	case strings.TrimSpace(e.Description) == "":
		return Errorf("MissingParameter", "An event needs a description: it is what the owner reads")
	case e.NotBefore.IsZero():
		return Errorf("MissingParameter", "An event needs the time when it begins")
	case !e.NotAfter.IsZero() && e.NotAfter.Before(e.NotBefore):
		return Errorf("InvalidParameterValue", "The event would end before it begins")
	case !e.Deadline.IsZero() && e.Deadline.Before(e.NotBefore):
		return Errorf("InvalidParameterValue", "The deadline is before the event begins: leave it out when owners may not choose another time")
	}
	return nil
}

// Schedule returns the instance with one more event.
func (i Instance) Schedule(e ScheduledEvent) (Instance, error) {
	if err := e.Check(); err != nil {
		return i, err
	}
	e.State, e.Ended = EventActive, time.Time{}
	i.Events = append(slices.Clone(i.Events), e)
	i.Generation++
	return i, nil
}

// EndEvents returns the instance with its active events ended in the one way or the other, and how many they were.
func (i Instance) EndEvents(as EventState, now time.Time) (Instance, int) {
	events, n := slices.Clone(i.Events), 0
	for k := range events {
		if events[k].State == EventActive {
			events[k].State, events[k].Ended = as, now
			n++
		}
	}
	if n == 0 {
		return i, 0
	}
	i.Events = recent(events, now)
	i.Generation++
	return i, n
}

// recent drops what has been over for long, and what is more than enough.
func recent(events []ScheduledEvent, now time.Time) []ScheduledEvent {
	past := 0
	for k := len(events) - 1; k >= 0; k-- { // the last one ended last, or nearly
		if events[k].State == EventActive {
			continue
		}
		if past++; past > eventsPast || now.Sub(events[k].Ended) > eventsShown {
			events = slices.Delete(events, k, k+1)
		}
	}
	return events
}

// ShownEvents are those that are to come and those that have been over for less than a week.
func (i Instance) ShownEvents(now time.Time) []ScheduledEvent {
	return recent(slices.Clone(i.Events), now)
}

// MoveEvent returns the instance with another beginning of an event, as its owner wishes, and that event. What lies between
// the beginning and the end stays as long as it was.
func (i Instance) MoveEvent(id EventID, to, now time.Time) (Instance, ScheduledEvent, error) {
	k := slices.IndexFunc(i.Events, func(e ScheduledEvent) bool { return e.ID == id && e.State == EventActive })
	if k < 0 {
		return i, ScheduledEvent{}, Errorf("InvalidInstanceEventIDNotFound", "The instance '%s' has no event '%s' that is still to come", i.ID, id)
	}
	e := i.Events[k]
	switch {
	case e.Deadline.IsZero():
		return i, e, Errorf("InstanceEventStartTimeCannotChange", "The event '%s' cannot be rescheduled: it has no deadline", id)
	case to.Sub(now) < leastNotice:
		return i, e, Errorf("InvalidInstanceEventStartTime", "The new start time must be at least 60 minutes from now")
	case to.After(e.Deadline):
		return i, e, Errorf("InvalidInstanceEventStartTime", "The new start time is after the event's deadline, %s", e.Deadline.UTC().Format(time.RFC3339))
	}
	if !e.NotAfter.IsZero() {
		e.NotAfter = to.Add(e.NotAfter.Sub(e.NotBefore))
	}
	e.NotBefore = to
	i.Events = slices.Clone(i.Events)
	i.Events[k] = e
	i.Generation++
	return i, e, nil
}
