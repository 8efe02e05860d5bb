package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Commands carries Run Command's wishes to the gateway's files and what the gateway sees back to the store.
// It runs beside Host, so that a slow launch does not hold up a command, nor the other way round.
type Commands struct {
	Config
	asked    map[string]bool // wishes that are in the bundle, and whether cancellation is too
	reported map[string]cloud.Invocation
	pings    map[cloud.InstanceID]heard
	swept    time.Time
}

// NewCommands returns a Commands.
func NewCommands(cfg Config) *Commands {
	cfg.Log = cfg.Log.With("component", "commands", "host", cfg.ID)
	return &Commands{Config: cfg, asked: map[string]bool{}, reported: map[string]cloud.Invocation{}, pings: map[cloud.InstanceID]heard{}}
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

// Reconcile makes bundles and store agree once.
func (c *Commands) Reconcile(ctx context.Context) error {
	view, err := c.Member.Wishes(c.Mirror)
	if err != nil {
		return err
	}
	wishes, err := store.Mirrored(view, store.CommandWishes(c.ID))
	if err != nil {
		return err
	}
	var errs []error
	wanted := make(map[string]bool, len(wishes))
	t := store.NewTxn()
	var done []func() // remembers what the transaction has written
	for _, o := range wishes {
		w := o.Value
		wanted[o.ID] = true
		if c.reported[o.ID].Status.Terminal() {
			continue
		}
		dir := c.Root.Instance(w.Instance)
		if cancelled, ok := c.asked[o.ID]; !ok || w.Cancel && !cancelled {
			err := dir.PutCommand(bundle.CommandRequest{CommandWish: w, Environment: map[string]string{"AWS_SSM_REGION_NAME": c.Region}})
			if errors.Is(err, fs.ErrNotExist) {
				continue // the instance is gone, which the API sees by itself
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c.asked[o.ID] = w.Cancel
		}
		inv, err := dir.Invocation(w.Command)
		if errors.Is(err, fs.ErrNotExist) {
			delete(c.asked, o.ID)
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		had, ok := c.reported[o.ID]
		if ok && (reflect.DeepEqual(had, inv) || !had.Status.MayBecome(inv.Status)) {
			continue
		}
		if !ok && inv.Status == cloud.InvocationPending {
			continue // what the API shows without a word from us
		}
		if t.Len() < batch {
			store.Put(t, store.Invocations(c.ID), o.ID, inv)
			done = append(done, func() { c.reported[o.ID] = inv })
		}
	}
	errs = append(errs, c.heard(t, &done))
	for id, inv := range c.reported {
		if !wanted[id] && t.Len() < batch {
			errs = append(errs, c.Root.Instance(inv.Instance).RemoveCommand(inv.Command))
			store.Remove(t, store.Invocations(c.ID), id)
			done = append(done, func() { delete(c.reported, id); delete(c.asked, id) })
		}
	}
	if now := c.Now(); now.Sub(c.swept) > sweepEvery {
		c.swept = now
		errs = append(errs, c.sweep(wanted))
	}
	if t.Len() > 0 {
		if _, err := c.Store.Commit(ctx, t); err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, f := range done {
			f()
		}
	}
	return errors.Join(errs...)
}

// sweepEvery is how often the bundles are searched for commands that nobody wishes for any more.
const sweepEvery = 30 * time.Second

// sweep removes commands whose wishes were withdrawn before anything was reported of them.
func (c *Commands) sweep(wanted map[string]bool) error {
	ids, err := c.Root.List()
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
			key := store.InvocationID(command, id)
			if _, known := c.reported[key]; kind == bundle.CommandAsked && !wanted[key] && !known {
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
	ids, err := c.Root.List()
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
		had, known := c.pings[id]
		if known && had.in(info) || t.Len() >= batch {
			continue // this runs for every command: a look at each file is enough
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
		if !here[id] {
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
