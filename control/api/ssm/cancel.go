package ssm

import (
	"context"
	"errors"
	"maps"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// CancelCommand asks for the cancellation of a command where it has not ended. There is no guarantee where it has been
// sent; where it has not, it never will be. What does not fit into one transaction is done in the next, and the
// command already says what is asked: should we end between the two, asking again does the rest.
func (s *Service) CancelCommand(ctx context.Context, in *shape.CancelCommandInput) (*shape.CancelCommandOutput, error) {
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) { return s.cancel(ctx, snap, in) })
	for err == nil { // until no host is left to be told
		var t *store.Txn
		o, found := s.command(ctx, s.Mirror.Snapshot(), in.CommandId)
		if found != nil {
			return &shape.CancelCommandOutput{}, nil // forgotten meanwhile
		}
		t = store.NewTxn()
		if s.tell(t, s.Mirror.Snapshot(), o.Value); t.Len() == 0 {
			return &shape.CancelCommandOutput{}, nil
		}
		var rev int64
		if rev, err = s.Store.Commit(ctx, t); errors.Is(err, store.ErrConflict) {
			rev, err = s.Store.Head(ctx)
		}
		if err == nil {
			err = s.Mirror.WaitRev(ctx, rev)
		}
	}
	return nil, err
}

// cancel notes what is asked for in the command, and tells the hosts as far as it fits.
func (s *Service) cancel(ctx context.Context, snap *store.Snapshot, in *shape.CancelCommandInput) (*store.Txn, error) {
	o, err := s.command(ctx, snap, in.CommandId)
	if err != nil {
		return nil, err
	}
	t, next := store.NewTxn(), o.Value
	if len(in.InstanceIds) == 0 {
		next.CancelAll = true
		if next.Waiting > 0 && next.Halted == "" {
			next.Halted = cloud.HaltCancelled
			store.Remove(t, store.Sendings, next.ID)
		}
	}
	for k, id := range in.InstanceIds {
		if slices.Contains(in.InstanceIds[:k], id) {
			return nil, cloud.Errorf("DuplicateInstanceId", "Instance %.40s is named twice", id)
		}
	}
	next.Cancelled, next.Settled = slices.Clone(next.Cancelled), maps.Clone(next.Settled)
	for _, given := range in.InstanceIds {
		id := cloud.InstanceID(given)
		if _, ok := next.Hosts[id]; !ok {
			return nil, cloud.Errorf("InvalidInstanceId", "Command %s was not sent to %.40s", next.ID, id)
		}
		if !slices.Contains(next.Cancelled, id) {
			next.Cancelled = append(next.Cancelled, id)
		}
		if slices.Contains(next.Unsent(), id) && !s.invocation(snap, o.Value, id).Status.Terminal() {
			if next.Settled == nil {
				next.Settled = map[cloud.InstanceID]cloud.Invocation{}
			}
			next.Settled[id] = cloud.Invocation{Command: next.ID, Instance: id, Status: cloud.InvocationCancelled, Details: cloud.HaltCancelled, ResponseCode: -1}
		}
	}
	note{Command: next.ID, Instances: in.InstanceIds}.on(ctx)
	store.Update(t, store.Commands, o, next)
	s.tell(t, snap, next)
	return t, nil
}

// tell adds to t the word to the hosts of those for which cancellation is asked, as far as it fits.
func (s *Service) tell(t *store.Txn, snap *store.Snapshot, c cloud.Command) {
	left := -1
	for _, id := range c.Sent() {
		if left == 0 {
			return
		}
		if !c.CancelAsked(id) || s.invocation(snap, c, id).Status.Terminal() {
			continue
		}
		wish, err := store.MirroredGet(snap, store.CommandWishes(c.Hosts[id]), store.InvocationID(c.ID, id))
		if err != nil || wish.Value.Cancel {
			continue
		}
		if left < 0 {
			left = cloud.Batch(wish.Value.Steps)
		}
		asked := wish.Value
		asked.Cancel = true
		store.Update(t, store.CommandWishes(c.Hosts[id]), wish, asked)
		left--
	}
}
