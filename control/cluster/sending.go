package cluster

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// ReconcileSending sends commands to the instances that wait for them, as fast as cloud.Command.Pace allows. Each step
// is one transaction that makes the wishes and counts them in the command, so that whoever dies, or decides the same
// at the same time, sends nothing twice. It is woken by every word about commands and has nothing to do but while
// there are such that wait.
func (c *Cluster) ReconcileSending(ctx context.Context) error {
	snap := c.Mirror.Snapshot()
	waiting, err := store.Mirrored(snap, store.Sendings)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range waiting {
		if err := c.send(ctx, snap, o); err != nil && !errors.Is(err, store.ErrConflict) { // of a conflict we hear by the mirror
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// send takes one step with one command.
func (c *Cluster) send(ctx context.Context, snap *store.Snapshot, waiting store.Object[cloud.Sending]) error {
	o, err := store.MirroredGet(snap, store.Commands, waiting.Value.Command)
	if errors.Is(err, store.ErrNotFound) {
		t := store.NewTxn()
		store.Delete(t, store.Sendings, waiting)
		_, err := c.Store.Commit(ctx, t)
		return err
	}
	if err != nil {
		return err
	}
	now := c.Now().UTC()
	seen := make([]cloud.Invocation, len(o.Value.Instances))
	for k, id := range o.Value.Instances {
		seen[k], _ = shown(snap, o.Value, id, now)
	}
	next, plan := o.Value, o.Value.Pace(seen, now).First(o.Value, cloud.Batch(waiting.Value.Steps))
	t := store.NewTxn()
	next.Hosts = maps.Clone(next.Hosts)
	for _, id := range plan.Send {
		if i, err := store.Target(snap, id); err == nil && i.Host != "" {
			next.Hosts[id] = i.Host // it may have been started anew, elsewhere
		}
		store.Create(t, store.CommandWishes(next.Hosts[id]), store.InvocationID(next.ID, id), next.Wish(id, waiting.Value.Steps, now))
	}
	next.Waiting -= plan.Pass
	if plan.Halt != "" {
		next.Halted = plan.Halt
	}
	over := next.Waiting == 0 || next.Halted != ""
	if plan.Pass == 0 && !over {
		return nil
	}
	store.Update(t, store.Commands, o, next)
	if over {
		store.Delete(t, store.Sendings, waiting)
	}
	_, err = c.Store.Commit(ctx, t)
	return err
}

// shown is what clients see of a command on an instance, and whether its host has told as much.
func shown(snap *store.Snapshot, c cloud.Command, id cloud.InstanceID, now time.Time) (cloud.Invocation, bool) {
	seen := cloud.Invocation{Command: c.ID, Instance: id, Status: cloud.InvocationPending, ResponseCode: -1}
	if s, err := store.MirroredGet(snap, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id)); err == nil {
		seen = s.Value
	}
	var instance *cloud.Instance
	if i, err := store.Target(snap, id); err == nil {
		instance = &i
	}
	return c.Show(seen, instance, now), seen.Status.Terminal()
}
