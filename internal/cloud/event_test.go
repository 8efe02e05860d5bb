package cloud

import (
	"fmt"
	"testing"
	"time"
)

func TestAnEventIsMovedWithinItsLimits(t *testing.T) {
	now := time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC)
	i, err := Instance{ID: "i-1"}.Schedule(ScheduledEvent{ID: "instance-event-1", Code: "system-reboot", Description: "new kernel",
		NotBefore: now.Add(24 * time.Hour), NotAfter: now.Add(26 * time.Hour), Deadline: now.Add(72 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if i, err = i.Schedule(ScheduledEvent{ID: "instance-event-2", Code: "instance-stop", Description: "the host goes", NotBefore: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		id   EventID
		in   time.Duration
		want string
	}{
		{"earlier, an hour from now", "instance-event-1", time.Hour, ""},
		{"as late as it may be", "instance-event-1", 72 * time.Hour, ""},
		{"too soon", "instance-event-1", 59 * time.Minute, "InvalidInstanceEventStartTime"},
		{"too late", "instance-event-1", 73 * time.Hour, "InvalidInstanceEventStartTime"},
		{"one that has no deadline", "instance-event-2", 2 * time.Hour, "InstanceEventStartTimeCannotChange"},
		{"one that is not there", "instance-event-3", 2 * time.Hour, "InvalidInstanceEventIDNotFound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			moved, e, err := i.MoveEvent(c.id, now.Add(c.in), now)
			if Code(err) != c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if i.Events[0].NotBefore != now.Add(24*time.Hour) {
				t.Error("the instance that was given has changed")
			}
			if err == nil && (moved.Events[0] != e || e.NotBefore != now.Add(c.in) || e.NotAfter.Sub(e.NotBefore) != 2*time.Hour || moved.Generation != i.Generation+1) {
				t.Errorf("got %+v", moved.Events[0])
			}
		})
	}
	ended, n := i.EndEvents(EventCanceled, now)
	if _, _, err := ended.MoveEvent("instance-event-1", now.Add(2*time.Hour), now); n != 2 || Code(err) != "InvalidInstanceEventIDNotFound" {
		t.Errorf("%d ended, and moving one that is over: %v", n, err)
	}
	if again, n := ended.EndEvents(EventCompleted, now); n != 0 || again.Generation != ended.Generation {
		t.Errorf("what is over ended again: %d", n)
	}
}

func TestThePastOfEventsIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC)
	i := Instance{ID: "i-1"}
	for k := range 50 {
		var err error
		i, err = i.Schedule(ScheduledEvent{ID: EventID(fmt.Sprint(k)), Code: "system-reboot", Description: "new kernel", NotBefore: now})
		if err != nil {
			t.Fatal(err)
		}
		i, _ = i.EndEvents(EventCompleted, now.Add(time.Duration(k)*time.Minute))
	}
	if n := len(i.Events); n != 20 || i.Events[0].ID != "30" || i.Events[19].Told() != "[Completed] new kernel" {
		t.Errorf("%d are kept, from %v", n, i.Events)
	}
	if shown := i.ShownEvents(now.Add(8 * 24 * time.Hour)); len(shown) != 0 || len(i.Events) != 20 {
		t.Errorf("after a week %d are shown, and %d left", len(shown), len(i.Events))
	}
}

func TestEventsThatCannotBe(t *testing.T) {
	now := time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		e    ScheduledEvent
		want string
	}{
		{"of no known kind", ScheduledEvent{Code: "lunch", Description: "d", NotBefore: now}, "InvalidParameterValue"},
		{"without a reason", ScheduledEvent{Code: "system-reboot", Description: " ", NotBefore: now}, "MissingParameter"},
		{"without a time", ScheduledEvent{Code: "system-reboot", Description: "d"}, "MissingParameter"},
		{"over before it begins", ScheduledEvent{Code: "system-reboot", Description: "d", NotBefore: now, NotAfter: now.Add(-1)}, "InvalidParameterValue"},
		{"due before it begins", ScheduledEvent{Code: "system-reboot", Description: "d", NotBefore: now, Deadline: now.Add(-1)}, "InvalidParameterValue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i, err := (Instance{}).Schedule(c.e); Code(err) != c.want || len(i.Events) != 0 {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
