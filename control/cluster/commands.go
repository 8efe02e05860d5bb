package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// ReconcileCommands settles commands whose end no host can tell any more, and forgets those that Systems
// Manager would no longer show. It runs beside the planner: no launch waits for it.
func (c *Cluster) ReconcileCommands(ctx context.Context) error {
	snap := c.Mirror.Snapshot()
	commands, err := store.Mirrored(snap, store.Commands)
	if err != nil {
		return err
	}
	now := c.Now()
	var errs []error
	for _, o := range commands {
		var err error
		switch {
		case now.Sub(o.Value.Requested) > commandsShown:
			err = c.forget(ctx, o)
		case !o.Value.Over:
			err = c.settle(ctx, snap, o, now)
		case !o.Value.Noted && !o.Value.OverAt.IsZero() && now.Sub(o.Value.OverAt) > noteWait:
			var ends []cloud.Invocation
			for _, id := range o.Value.Instances {
				end, _ := shown(snap, o.Value, id, now)
				ends = append(ends, end)
			}
			err = c.note(ctx, o, ends)
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// noteWait is how long whoever wrote that a command is over has to note it: of several control planes one does.
const noteWait = time.Minute

// note tells the audit how a command has ended, and writes down that it was told.
func (c *Cluster) note(ctx context.Context, o store.Object[cloud.Command], ends []cloud.Invocation) error {
	if c.Ended == nil {
		return nil
	}
	if err := c.Ended(o.Value, ends); err != nil {
		return fmt.Errorf("note the end of command %s: %w", o.Value.ID, err)
	}
	next := o.Value
	next.Noted = true
	t := store.NewTxn()
	store.Update(t, store.Commands, o, next)
	_, err := c.Store.Commit(ctx, t)
	return err
}

// settle keeps the ends that clients are shown although no host has told them, so that they stay.
func (c *Cluster) settle(ctx context.Context, snap *store.Snapshot, o store.Object[cloud.Command], now time.Time) error {
	next, changed := o.Value, false
	next.Settled = maps.Clone(next.Settled)
	next.Over = true
	ends := make([]cloud.Invocation, 0, len(next.Instances))
	for _, id := range next.Instances {
		end, told := shown(snap, o.Value, id, now)
		if end.Status.Terminal() && !told && !o.Value.Kept(id) {
			if next.Settled == nil {
				next.Settled = map[cloud.InstanceID]cloud.Invocation{}
			}
			next.Settled[id], changed = end, true
		}
		next.Over = next.Over && end.Status.Terminal()
		ends = append(ends, end)
	}
	if !changed && !next.Over {
		return nil
	}
	if next.Over {
		next.OverAt = now.UTC()
	}
	t := store.NewTxn()
	store.Update(t, store.Commands, o, next)
	rev, err := c.Store.Commit(ctx, t)
	if err != nil || !next.Over {
		return err
	}
	o.Rev, o.Value = rev, next
	return c.note(ctx, o, ends)
}

// forget removes a command with its wishes; the hosts then remove their part.
func (c *Cluster) forget(ctx context.Context, o store.Object[cloud.Command]) error {
	t := store.NewTxn()
	store.Delete(t, store.Commands, o)
	store.Remove(t, store.Sendings, o.Value.ID)
	store.Remove(t, store.Deliveries, o.Value.ID)
	store.Remove(t, store.Notices, o.Value.ID)
	for i, host := range o.Value.Hosts {
		store.Remove(t, store.CommandWishes(host), store.InvocationID(o.Value.ID, i))
	}
	_, err := c.Store.Commit(ctx, t)
	return err
}
