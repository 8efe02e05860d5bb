package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Commands carries Run Command's wishes to the gateway's files and what the gateway sees back to the store.
// It runs beside Host, so that a slow launch does not hold up a command, nor the other way round.
//
// A host keeps the commands of a month, and few of them are open. So a run looks at the wishes that differ from those of the
// run before, and at the files of the open ones; every now and then it looks at everything.
type Commands struct {
	Config
	seen      *store.Snapshot              // whose wishes are in open and withdrawn; nil before the first
	open      map[string]cloud.CommandWish // what has not ended, as far as the store knows
	withdrawn map[string]bool              // wishes that are gone, and their ends not yet
	asked     map[string]bool              // open ones that are in the bundle, and whether cancellation is too
	reported  map[string]cloud.Invocation
	pings     map[cloud.InstanceID]heard
	machines  []cloud.InstanceID // that are no guests, and may connect here
	listen    atomic.Bool        // an agent.json may have changed
	swept     time.Time
}

// NewCommands returns a Commands.
func NewCommands(cfg Config) *Commands {
	cfg.Log = cfg.Log.With("component", "commands", "host", cfg.ID)
	return &Commands{
		Config: cfg, open: map[string]cloud.CommandWish{}, withdrawn: map[string]bool{}, asked: map[string]bool{},
		reported: map[string]cloud.Invocation{}, pings: map[cloud.InstanceID]heard{},
	}
}

// Recall reads what an earlier agent of this host reported.
func (c *Commands) Recall(ctx context.Context) error {
	l, err := store.List(ctx, c.Store, store.Invocations(c.ID), store.Range{})
	if err != nil {
		return err
	}
	for _, o := range l.Objects {
		c.reported[o.ID] = o.Value
	}
	return nil
}

// Listen has the next run look at what the gateway says of the agents in the guests.
func (c *Commands) Listen() { c.listen.Store(true) }

// Reconcile makes bundles and store agree once.
func (c *Commands) Reconcile(ctx context.Context) error {
	view, err := c.Member.Wishes(c.Mirror)
	if err != nil {
		return err
	}
	if err := c.follow(view); err != nil {
		return err
	}
	var errs []error
	t := store.NewTxn()
	var done []func() // remembers what the transaction has written
	fresh, err := c.nodes(view, t, &done)
	errs = append(errs, err)
	stuck := map[cloud.InstanceID]bool{}
	for key, w := range c.open {
		inv, err := c.carry(key, w)
		if err != nil {
			stuck[w.Instance] = true
			errs = append(errs, err)
			continue
		}
		if inv != nil && t.Len() < batch {
			store.Put(t, store.Invocations(c.ID), key, *inv)
			done = append(done, func() { c.report(key, *inv) })
		}
	}
	for _, w := range fresh {
		if !stuck[w.Instance] {
			errs = append(errs, c.admit(w))
		}
	}
	sweep := c.Now().Sub(c.swept) > sweepEvery
	if c.listen.Swap(false) || sweep {
		if err := c.heard(t, &done); err != nil {
			c.Listen()
			errs = append(errs, err)
		}
	}
	for key := range c.withdrawn {
		inv, ok := c.reported[key]
		if !ok {
			delete(c.withdrawn, key) // what the gateway was asked for, sweep finds
		} else if t.Len() < batch {
			errs = append(errs, c.Root.Instance(inv.Instance).RemoveCommand(inv.Command))
			store.Remove(t, store.Invocations(c.ID), key)
			done = append(done, func() { delete(c.reported, key); delete(c.withdrawn, key) })
		}
	}
	if sweep {
		c.swept = c.Now()
		errs = append(errs, c.sweep(view))
	}
	if t.Len() > 0 {
		if _, err := c.Store.Commit(ctx, t); err != nil {
			c.Listen()
			return errors.Join(append(errs, err)...)
		}
		for _, f := range done {
			f()
		}
	}
	return errors.Join(errs...)
}

// follow takes over how the wishes differ from those that were seen last.
func (c *Commands) follow(view *store.Snapshot) error {
	kind := store.CommandWishes(c.ID)
	changed, gone, err := store.Difference(c.seen, view, kind)
	if err != nil {
		return err
	}
	for _, o := range changed {
		delete(c.withdrawn, o.ID)
		if !c.reported[o.ID].Status.Terminal() {
			c.open[o.ID] = o.Value
		}
	}
	if c.seen == nil { // what an earlier agent reported may have been withdrawn since
		for key := range c.reported {
			if _, ok := c.open[key]; ok {
				continue
			}
			if _, err := store.MirroredGet(view, kind, key); errors.Is(err, store.ErrNotFound) {
				gone = append(gone, key)
			} else if err != nil {
				return err
			}
		}
	}
	for _, key := range gone {
		delete(c.open, key)
		delete(c.asked, key)
		c.withdrawn[key] = true
	}
	c.seen = view
	return nil
}

// carry asks the gateway for what is wished of a command, and returns what the store is to hear of it; nil if nothing.
func (c *Commands) carry(key string, w cloud.CommandWish) (*cloud.Invocation, error) {
	dir := c.Root.Instance(w.Instance)
	if cancelled, ok := c.asked[key]; !ok || w.Cancel && !cancelled {
		_, begun := c.reported[key] // unless the gateway has it already, the host has been booted since
		err := dir.PutCommand(bundle.CommandRequest{CommandWish: w, Environment: map[string]string{"AWS_SSM_REGION_NAME": c.Region}, Begun: begun})
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the instance is gone, which the API sees by itself
		}
		if err != nil {
			return nil, err
		}
		c.asked[key] = w.Cancel
	}
	inv, err := dir.Invocation(w.Command)
	if errors.Is(err, fs.ErrNotExist) {
		delete(c.asked, key)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	had, ok := c.reported[key]
	switch {
	case ok && (reflect.DeepEqual(had, inv) || !had.Status.MayBecome(inv.Status)):
		return nil, nil
	case !ok && inv.Status == cloud.InvocationPending:
		return nil, nil // what the API shows without a word from us
	}
	return &inv, nil
}

// report remembers what the store has been told of a command.
func (c *Commands) report(key string, inv cloud.Invocation) {
	c.reported[key] = inv
	if inv.Status.Terminal() {
		delete(c.open, key)
		delete(c.asked, key)
	}
}

// sweepEvery is how often everything is looked at: the bundles, for commands that nobody wishes for any more, and what is
// known of the agents.
const sweepEvery = 30 * time.Second

// sweep removes commands whose wishes were withdrawn before anything was reported of them.
func (c *Commands) sweep(view *store.Snapshot) error {
	ids, err := c.agents()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		entries, err := os.ReadDir(c.Root.Instance(id).Commands())
		if err != nil {
			continue // the instance is going, or has no commands yet
		}
		for _, e := range entries {
			command, kind := bundle.ParseCommandFile(e.Name())
			if kind != bundle.CommandAsked {
				continue
			}
			key := store.InvocationID(command, id)
			_, err := store.MirroredGet(view, store.CommandWishes(c.ID), key)
			if _, known := c.reported[key]; errors.Is(err, store.ErrNotFound) && !known {
				errs = append(errs, c.Root.Instance(id).RemoveCommand(command))
			}
		}
	}
	return errors.Join(errs...)
}

// batch bounds one transaction; what is left over is done by the next run, which the write itself wakes.
const batch = 256

// heard reports what the gateway knows of the agents in the guests.
func (c *Commands) heard(t *store.Txn, done *[]func()) error {
	ids, err := c.agents()
	if err != nil {
		return err
	}
	var errs []error
	here := make(map[cloud.InstanceID]bool, len(ids))
	for _, id := range ids {
		here[id] = true
		info, err := os.Lstat(c.Root.Instance(id).Path("commands", "agent.json"))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		if had, known := c.pings[id]; known && had.in(info) {
			continue
		}
		if t.Len() >= batch {
			c.Listen()
			break
		}
		ping, err := c.Root.Instance(id).Agent()
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		ping.Instance = id
		store.Put(t, store.Pings(c.ID), id, ping)
		*done = append(*done, func() { c.pings[id] = heard{info} })
	}
	for id := range c.pings {
		if !here[id] && !c.listen.Load() {
			delete(c.pings, id) // Host removes the key with the instance's status
		}
	}
	return errors.Join(errs...)
}

// heard is the file of a gateway's word that the store has.
type heard struct{ file fs.FileInfo }

func (h heard) in(f fs.FileInfo) bool {
	return os.SameFile(h.file, f) && h.file.ModTime().Equal(f.ModTime()) && h.file.Size() == f.Size()
}

// Machine returns what this host says of itself.
func Machine(id cloud.HostID, zone, door, accel, version string, vcpus int) (cloud.Host, error) {
	mib, err := memory()
	h := cloud.Host{ID: id, Zone: zone, VCPUs: vcpus, MemoryMiB: mib, Door: "unix:" + door, Accel: accel, Version: version}
	return h, err
}

// memory returns how much may be given to instances: all but what the daemons and the system need, in MiB.
func memory() (int, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return memTotal(data)
}
