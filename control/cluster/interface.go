package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// What the planner does for the interfaces of an instance that is not terminated:
//
//	detached by its host, or no machine  -> it is free, and out of the instance
//	the machine has stopped              -> the public address of its launch is given back
//	it runs, with one interface that is to have a public address and has none -> it is given one
//
// EC2 does the last not only at a start: also when an Elastic address has left.

// interfaces does the next thing for the instance's interfaces. It reports true when it has changed the store.
func (c *Cluster) interfaces(ctx context.Context, v *view, o store.Object[cloud.Instance], now time.Time) (bool, error) {
	i, st := o.Value, v.status(o.Value)
	t := store.NewTxn()
	kept := slices.Clone(i.Interfaces)
	for _, id := range i.Interfaces {
		n, ok := v.interfaces[id]
		if !ok {
			continue
		}
		if n.Value.Leaves(i, st) {
			store.Update(t, store.Interfaces, n, n.Value.Free(now))
			v.launchAddress(t, id, now)
			kept = slices.DeleteFunc(kept, func(k cloud.InterfaceID) bool { return k == id })
			c.Log.Info("interface detached", "instance", i.ID, "eni", id)
		}
	}
	if len(kept) < len(i.Interfaces) {
		i.Interfaces = kept
		i.Generation++
		store.Update(t, store.Instances, o, i)
		if err := forgo(t, v, i); err != nil {
			return false, err
		}
	} else if err := c.public(t, v, i, st, now); err != nil {
		return false, err
	}
	if t.Len() == 0 {
		return false, nil
	}
	_, err := c.Store.Commit(ctx, t)
	return true, err
}

// forgo takes the interfaces that an instance does not have any more out of what its host is told, in the transaction
// that frees them: when somebody else may get one, nobody may be told any more to have it.
func forgo(t *store.Txn, v *view, i cloud.Instance) error {
	if i.Host == "" {
		return nil
	}
	kind := store.Assignments(i.Host)
	had, err := store.MirroredGet(v.snap, kind, i.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	next := had.Value
	next.Instance = i
	next.Interfaces = slices.DeleteFunc(slices.Clone(next.Interfaces), func(n cloud.AssignedInterface) bool { return !slices.Contains(i.Interfaces, n.ID) })
	store.Update(t, kind, had, next)
	return nil
}

// public adds to t the change of an instance's public address of the launch, if there is one to make.
func (c *Cluster) public(t *store.Txn, v *view, i cloud.Instance, st *cloud.InstanceStatus, now time.Time) error {
	for _, id := range i.Interfaces {
		n, ok := v.interfaces[id]
		if !ok {
			continue
		}
		stopped := i.Power == cloud.PowerStopped && i.State(st) == cloud.StateStopped
		if (stopped || !n.Value.AssignPublic) && v.launchAddress(t, id, now) {
			touch(t, n)
			continue
		}
		if i.Power != cloud.PowerRunning || len(i.Interfaces) != 1 || !n.Value.AssignPublic || len(c.Elastic) == 0 || len(v.addresses[id]) > 0 {
			continue
		}
		public, err := c.choose(v, now)
		if err != nil {
			return err
		}
		if !public.IsValid() {
			continue // nobody asked for it by name: it comes when one is free
		}
		made := ids{r: rand.Reader}
		a := cloud.Address{ID: newID[cloud.AllocationID](&made, "eipalloc"), Account: i.Account, Public: public, Launch: true,
			Association: newID[cloud.AssociationID](&made, "eipassoc"), Interface: id, Private: n.Value.Primary()}
		if made.err != nil {
			return made.err
		}
		ledger.TakePublic(t, a)
		touch(t, n)
	}
	return nil
}

// choose takes a public address of the view's pool, the zero one if there is none. The pool is made once for all
// instances that wait: it is as large as what is given out, and a dry one is searched to its end.
func (c *Cluster) choose(v *view, now time.Time) (netip.Addr, error) {
	if v.pool == nil {
		var err error
		if v.pool, err = ledger.Pool(v.snap, c.Elastic, mathrand.Uint64(), now); err != nil {
			return netip.Addr{}, err
		}
	}
	if v.dry {
		return netip.Addr{}, nil
	}
	public, err := v.pool.Choose()
	v.dry = err != nil
	return public, nil
}

// touch makes whoever has decided on the interface look again: the address that stands for it is not in it.
func touch(t *store.Txn, n store.Object[cloud.NetworkInterface]) {
	next := n.Value
	next.Generation++
	store.Update(t, store.Interfaces, n, next)
}

// launchAddress adds to t that an interface's public address of the launch is given back. It reports false if there is
// none.
func (v *view) launchAddress(t *store.Txn, id cloud.InterfaceID, now time.Time) bool {
	had := false
	for _, a := range v.addresses[id] {
		if a.Value.Launch {
			ledger.GivePublic(t, a, now)
			had = true
		}
	}
	return had
}

// releaseAtOnce bounds the changes of one release: what else it changes, and how many Elastic addresses an interface
// may have, fit in what is left to store.MaxTxnOps.
const releaseAtOnce = 800

// part adds to t that an ended instance's interfaces leave it: those that live as long as it does are deleted, with
// all that they hold; the others, and those whose owner had them detached, are free. It returns the interfaces that t
// has no room for.
func (c *Cluster) part(t *store.Txn, v *view, i cloud.Instance, now time.Time) ([]cloud.InterfaceID, error) {
	for k, id := range i.Interfaces {
		n, ok := v.interfaces[id]
		if !ok || n.Value.Instance != i.ID {
			continue
		}
		ends := n.Value.DeleteOnTermination && n.Value.Detach == cloud.DetachNot
		if ends && t.Len() > 0 && t.Len()+ledger.Cost(n.Value) > releaseAtOnce {
			return i.Interfaces[k:], nil
		}
		if !ends {
			store.Update(t, store.Interfaces, n, n.Value.Free(now))
			v.launchAddress(t, id, now)
			continue
		}
		store.Delete(t, store.Interfaces, n)
		ledger.Give(t, n.Value.Subnet, ledger.All(n.Value), now)
		if err := ledger.Part(t, v.snap, id, now, nil); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// rested lets addresses be chosen like any other that have rested.
func (c *Cluster) rested(ctx context.Context, v *view, now time.Time) error {
	t := store.NewTxn()
	if err := ledger.Forget(t, v.snap, now); err != nil || t.Len() == 0 {
		return err
	}
	_, err := c.Store.Commit(ctx, t)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}
