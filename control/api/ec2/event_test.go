package ec2

import (
	"testing"
	"time"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// announce schedules events of an instance, as the operator's command does.
func (r *rig) announce(id string, events ...cloud.ScheduledEvent) {
	r.Helper()
	o, err := store.Get(r.Context(), r.Store, store.Instances, id)
	if err != nil {
		r.Fatal(err)
	}
	i := o.Value
	for _, e := range events {
		if i, err = i.Schedule(e); err != nil {
			r.Fatal(err)
		}
	}
	r.write(func(t *store.Txn) { store.Update(t, store.Instances, o, i) })
}

func TestTheStatusShowsEventsAndTheirOwnerMovesThem(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	other := r.run(small()).Instances[0].InstanceId
	r.says(id, cloud.StateRunning)
	r.says(other, cloud.StateRunning)
	r.announce(id,
		cloud.ScheduledEvent{ID: "instance-event-1", Code: "system-reboot", Description: "new kernel", NotBefore: start.Add(24 * time.Hour), NotAfter: start.Add(25 * time.Hour), Deadline: start.Add(48 * time.Hour)},
		cloud.ScheduledEvent{ID: "instance-event-2", Code: "instance-stop", Description: "the host goes", NotBefore: start.Add(72 * time.Hour)})

	to := start.Add(30 * time.Hour)
	move := shape.ModifyInstanceEventStartTimeInput{InstanceId: id, InstanceEventId: "instance-event-1", NotBefore: &to}
	if e := do(r, r.ModifyInstanceEventStartTime, move).Event; !e.NotBefore.Equal(to) || !e.NotAfter.Equal(to.Add(time.Hour)) || e.Code != "system-reboot" {
		t.Errorf("got %+v", e)
	}
	for _, c := range []struct {
		name, filter, value string
		want                int
	}{
		{"by code", "event.code", "system-reboot", 1},
		{"by another code", "event.code", "instance-reboot", 0},
		{"by what the description holds", "event.description", "*goes", 1},
		{"by id", "event.instance-event-id", "instance-event-2", 1},
		{"by the time that it was moved to", "event.not-before", "2026-11-25T00:00:00.000Z", 1},
		{"by the time that it was moved from", "event.not-before", "2026-11-24T18:00:00.000Z", 0},
		{"by deadline", "event.not-before-deadline", "2026-11-25T18:00:00.000Z", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := do(r, r.DescribeInstanceStatus, shape.DescribeInstanceStatusInput{Filters: []shape.Filter{{Name: c.filter, Values: []string{c.value}}}}).InstanceStatuses
			if len(list) != c.want {
				t.Fatalf("got %d instances, want %d", len(list), c.want)
			}
			if c.want == 1 && (list[0].InstanceId != id || len(list[0].Events) != 2 || list[0].Events[1].NotAfter != nil) {
				t.Errorf("got %+v", list[0])
			}
		})
	}
	for _, c := range []struct {
		name, id, event, want string
		at                    time.Time
	}{
		{"behind the deadline", id, "instance-event-1", "InvalidInstanceEventStartTime", start.Add(49 * time.Hour)},
		{"an event that may not be moved", id, "instance-event-2", "InstanceEventStartTimeCannotChange", to},
		{"an event of another instance", other, "instance-event-1", "InvalidInstanceEventIDNotFound", to},
		{"an instance that is not there", "i-0123456789abcdef0", "instance-event-1", "InvalidInstanceID.NotFound", to},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.ModifyInstanceEventStartTime(r.ctx, &shape.ModifyInstanceEventStartTimeInput{InstanceId: c.id, InstanceEventId: c.event, NotBefore: &c.at})
			if cloud.Code(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
