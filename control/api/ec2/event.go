package ec2

import (
	"context"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// eventActions are those of scheduled events. An operator makes and ends them (`ichiro-control schedule-maintenance`); the
// owner of an instance sees them in its status, and may choose another time.
func (s *Service) eventActions() []api.Action {
	return []api.Action{
		api.Do("ModifyInstanceEventStartTime", s.ModifyInstanceEventStartTime, on(func(in *shape.ModifyInstanceEventStartTimeInput) []string { return []string{in.InstanceId} })),
	}
}

// ModifyInstanceEventStartTime moves an event that has a deadline, to an hour from now at the soonest.
func (s *Service) ModifyInstanceEventStartTime(ctx context.Context, in *shape.ModifyInstanceEventStartTimeInput) (*shape.ModifyInstanceEventStartTimeOutput, error) {
	var moved cloud.ScheduledEvent
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return err
		}
		i, e, err := o.Value.MoveEvent(cloud.EventID(in.InstanceEventId), in.NotBefore.UTC().Truncate(time.Second), s.Now())
		if err != nil {
			return err
		}
		moved = e
		store.Update(t, store.Instances, o, i)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shown := shownEvent(moved)
	return &shape.ModifyInstanceEventStartTimeOutput{Event: &shown}, nil
}

func shownEvent(e cloud.ScheduledEvent) shape.InstanceStatusEvent {
	return shape.InstanceStatusEvent{
		InstanceEventId: string(e.ID), Code: e.Code, Description: e.Told(),
		NotBefore: moment(e.NotBefore), NotAfter: moment(e.NotAfter), NotBeforeDeadline: moment(e.Deadline),
	}
}

// moment is a time that may be missing.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// shownEvents are those to come, and for a week those that are over.
func (s *Service) shownEvents(i cloud.Instance) []shape.InstanceStatusEvent {
	var out []shape.InstanceStatusEvent
	for _, e := range i.ShownEvents(s.Now()) {
		out = append(out, shownEvent(e))
	}
	return out
}

// ofEvents is a filter that one of an instance's events has to match.
func ofEvents(value func(shape.InstanceStatusEvent) string) func(shape.InstanceStatus) []string {
	return func(i shape.InstanceStatus) []string {
		var out []string
		for _, e := range i.Events {
			out = append(out, one(value(e))...)
		}
		return out
	}
}

// filterTime is a time as EC2's filters have it.
func filterTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
