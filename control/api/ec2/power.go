package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// change decides the next wish of one instance. It reports false when nothing changes.
type change func(i cloud.Instance, st *cloud.InstanceStatus) (cloud.Instance, bool, error)

// changeAll applies a change to all named instances or to none, and returns how each state moved.
func (s *Service) changeAll(ctx context.Context, ids []string, dryRun *bool, decide change) ([]shape.InstanceStateChange, error) {
	if len(ids) == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter InstanceId")
	}
	var out []shape.InstanceStateChange
	err := s.commit(ctx, dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		out = out[:0]
		seen := map[string]bool{}
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			o, err := find(snap, store.Instances, cloud.InstanceID(id), caller(ctx), anInstance)
			if err != nil {
				return err
			}
			st := status(snap, o.Value)
			next, changed, err := decide(o.Value, st)
			if err != nil {
				return err
			}
			if changed {
				store.Update(t, store.Instances, o, next)
			}
			out = append(out, shape.InstanceStateChange{InstanceId: id, PreviousState: state(o.Value.State(st)), CurrentState: state(next.State(st))})
		}
		return nil
	})
	return out, err
}

// StartInstances wishes for a further boot of stopped instances.
func (s *Service) StartInstances(ctx context.Context, in *shape.StartInstancesInput) (*shape.StartInstancesOutput, error) {
	out, err := s.changeAll(ctx, in.InstanceIds, in.DryRun, func(i cloud.Instance, st *cloud.InstanceStatus) (cloud.Instance, bool, error) {
		return i.Start(st, s.Now().UTC())
	})
	return &shape.StartInstancesOutput{StartingInstances: out}, err
}

// StopInstances wishes for instances to be stopped: by their power button, or at once with Force.
func (s *Service) StopInstances(ctx context.Context, in *shape.StopInstancesInput) (*shape.StopInstancesOutput, error) {
	if yes(in.Hibernate) {
		return nil, cloud.Errorf("UnsupportedHibernationConfiguration", "Hibernation is not there yet: leave Hibernate out")
	}
	out, err := s.changeAll(ctx, in.InstanceIds, in.DryRun, func(i cloud.Instance, st *cloud.InstanceStatus) (cloud.Instance, bool, error) {
		return i.Stop(st, yes(in.Force) || yes(in.SkipOsShutdown), s.Now())
	})
	return &shape.StopInstancesOutput{StoppingInstances: out}, err
}

// RebootInstances wishes for a reset of running instances.
func (s *Service) RebootInstances(ctx context.Context, in *shape.RebootInstancesInput) (*shape.RebootInstancesOutput, error) {
	_, err := s.changeAll(ctx, in.InstanceIds, in.DryRun, func(i cloud.Instance, st *cloud.InstanceStatus) (cloud.Instance, bool, error) {
		next, err := i.Reboot(st)
		return next, err == nil, err
	})
	return &shape.RebootInstancesOutput{}, err
}

// TerminateInstances wishes for instances to be gone.
func (s *Service) TerminateInstances(ctx context.Context, in *shape.TerminateInstancesInput) (*shape.TerminateInstancesOutput, error) {
	out, err := s.changeAll(ctx, in.InstanceIds, in.DryRun, func(i cloud.Instance, _ *cloud.InstanceStatus) (cloud.Instance, bool, error) {
		return i.Terminate(s.Now().UTC())
	})
	return &shape.TerminateInstancesOutput{TerminatingInstances: out}, err
}
