// Package cluster carries wishes to the hosts: it runs the deciders over what the store holds and
// writes what they decide, each change as a compare-and-swap on exactly the keys that it relied on.
//
//	snapshot of specs and statuses --> decide --> transaction --> conflict: somebody else was first,
//	        ^                                                     the next run sees what they did
//	        +--- woken by every change, and every 30 s
//
// The same code runs in every control process, without a leader: two of them decide the same, or one
// of them loses. It places instances, writes the assignment that a host reads, follows guests that shut
// themselves down, gives back what a terminated instance held, keeps role credentials fresh, and forgets
// what is long over. It never talks to a host: the store is the only thing between them.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// How long EC2 and Systems Manager show what is over.
const (
	terminatedShown = time.Hour
	commandsShown   = 30 * 24 * time.Hour
)

// signer signs the identity document of an assignment, and knows whether one is what it would sign, by the key that it
// would sign with.
type signer interface {
	Current(a cloud.Assignment, had cloud.IdentityDocument) bool
	Sign(a cloud.Assignment) (cloud.IdentityDocument, error)
}

// Config is what a Cluster works with.
type Config struct {
	Store   *store.Client
	Mirror  *store.Mirror // of spec/, wish/, status/ and host/
	Cloud   Cloud
	Signer  signer
	Region  string
	Account cloud.AccountID
	Types   []cloud.InstanceType
	Elastic []netip.Prefix // the operator's public addresses
	Caller  []byte         // the key by which hosts know the control plane at their doors
	Now     func() time.Time
	Log     *slog.Logger

	// Ended is told of each command that has ended everywhere, with how it did on each instance; nil for nobody. It is told
	// again of one that it had an error for, or of which this process did not live to write down that it was told.
	Ended func(cloud.Command, []cloud.Invocation) error
}

// Cluster is the planner of one control process.
type Cluster struct{ Config }

// New returns a Cluster; reconcile.New(..., c.Reconcile) runs it.
func New(cfg Config) *Cluster {
	cfg.Log = cfg.Log.With("component", "cluster")
	return &Cluster{cfg}
}

// Reconcile looks at everything once and does what is to be done. A change that lost against another
// writer is not an error: what that writer did wakes the next run.
func (c *Cluster) Reconcile(ctx context.Context) error {
	v, err := read(c.Mirror.Snapshot(), c.Region, c.Types)
	if err != nil {
		return err
	}
	now := c.Now()
	var errs []error
	for _, o := range v.instances {
		if err := c.instance(ctx, v, o, now); err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.overlays(ctx, v), c.tell(ctx, v), c.members(ctx, v), c.networks(ctx, v), c.gateways(ctx, v, now), c.rested(ctx, v, now))
	return errors.Join(errs...)
}

// instance does the next thing for one instance. One thing at a time is enough: doing it changes the
// store, and that wakes the next run.
func (c *Cluster) instance(ctx context.Context, v *view, o store.Object[cloud.Instance], now time.Time) error {
	i, st := o.Value, v.status(o.Value)
	switch {
	case i.Power == cloud.PowerTerminated:
		if i.State(st) == cloud.StateTerminated {
			if i.Host != "" || len(i.Interfaces) > 0 {
				return c.release(ctx, v, o, now)
			}
			if now.Sub(i.Ended) > terminatedShown {
				t := store.NewTxn()
				store.Delete(t, store.Instances, o)
				_, err := c.Store.Commit(ctx, t)
				return err
			}
			return nil
		}
	}
	if done, err := c.interfaces(ctx, v, o, now); done || err != nil {
		return err
	}
	switch {
	case i.Host == "" && i.Power == cloud.PowerRunning:
		return c.place(ctx, v, o, now)
	case i.Host == "":
		return nil
	}
	if next, ok := i.Follow(st, now); ok {
		c.Log.Info("guest ended its boot", "instance", i.ID, "power", next.Power)
		t := store.NewTxn()
		store.Update(t, store.Instances, o, next)
		_, err := c.Store.Commit(ctx, t)
		return err
	}
	return c.assign(ctx, v, o)
}

// place gives the instance a host. The plan key of the host is changed with it, so that of two processes
// that fill the same room one has to look again.
func (c *Cluster) place(ctx context.Context, v *view, o store.Object[cloud.Instance], now time.Time) error {
	i := o.Value
	t := store.NewTxn()
	typ, err := cloud.TypeNamed(c.Types, i.Type)
	if err == nil {
		i.Host, err = placement.Choose(v.candidates(c.Cloud.Value), typ, i.Zone)
	}
	i.Generation++
	if err != nil {
		// EC2 ends an instance that it accepted and then has no room for; one that was there before it
		// leaves stopped.
		c.Log.Warn("no host for instance", "instance", i.ID, "err", err)
		i.Power = cloud.PowerStopped
		if i.Boot <= 1 {
			i.Power, i.Ended = cloud.PowerTerminated, now
		}
		i.Reason = cloud.Reason{Code: "Server.InsufficientInstanceCapacity", Message: "Server.InsufficientInstanceCapacity: " + err.Error()}
		i.Transition = i.Reason.Message
		store.Update(t, store.Instances, o, i)
		_, err := c.Store.Commit(ctx, t)
		return err
	}
	p, ok := v.plans[i.Host]
	counted := plan{Placed: p.Value.Placed + 1}
	if ok {
		store.Update(t, plans, p, counted)
	} else {
		store.Create(t, plans, i.Host, counted)
	}
	store.Update(t, store.Instances, o, i)
	rev, err := c.Store.Commit(ctx, t)
	if err != nil {
		return err
	}
	c.Log.Info("instance placed", "instance", i.ID, "host", i.Host)
	// This run goes on with what was just written: the launch is waiting.
	v.used[i.Host] += typ.MemoryMiB
	v.plans[i.Host] = store.Object[plan]{Key: plans.Key(string(i.Host)), ID: string(i.Host), Rev: rev, Value: counted}
	o.Value, o.Rev = i, rev
	if n := slices.IndexFunc(v.specs, func(s cloud.Instance) bool { return s.ID == i.ID }); n >= 0 {
		v.specs[n] = i
	}
	v.placed = append(v.placed, o)
	return nil
}

// tell lets the hosts know of the instances that this run has placed, and before it of their networks: once for each
// host, because a group of thousands is written anew for every change.
func (c *Cluster) tell(ctx context.Context, v *view) error {
	var errs []error
	told := map[cloud.HostID]bool{}
	for _, o := range v.placed {
		if host := o.Value.Host; !told[host] {
			told[host] = true
			errs = append(errs, c.networksOf(ctx, v, host))
		}
	}
	for _, o := range v.placed {
		errs = append(errs, c.assign(ctx, v, o))
	}
	return errors.Join(withoutConflicts(errs)...)
}

// withoutConflicts leaves out that somebody else was first: what they did wakes the next run.
func withoutConflicts(errs []error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, store.ErrConflict) })
}

// assign writes what the host must know of the instance, when that is not what it already says.
func (c *Cluster) assign(ctx context.Context, v *view, o store.Object[cloud.Instance]) error {
	i := o.Value
	next, ok := placement.Assign(v.world, i)
	if !ok {
		return nil
	}
	kind := store.Assignments(i.Host)
	had, err := store.MirroredGet(v.snap, kind, i.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	next = placement.Keep(next, had.Value)
	if next.Type.Name == "" {
		return nil
	}
	next.Identity = had.Value.Identity
	if !c.Signer.Current(next, next.Identity) {
		if next.Identity, err = c.Signer.Sign(next); err != nil {
			return err
		}
	}
	if reflect.DeepEqual(next, had.Value) {
		return nil
	}
	t := store.NewTxn()
	store.Require(t, store.Instances, i.ID, o.Rev)
	if had.Rev == 0 {
		store.Create(t, kind, i.ID, next)
	} else {
		store.Update(t, kind, had, next)
	}
	_, err = c.Store.Commit(ctx, t)
	return err
}

// release gives back what a terminated instance held: its interfaces with their addresses, its place on
// the host, its user data and credentials. Interfaces that are more than one transaction holds are left to the next run.
func (c *Cluster) release(ctx context.Context, v *view, o store.Object[cloud.Instance], now time.Time) error {
	i := o.Value
	t := store.NewTxn()
	left, err := c.part(t, v, i, now)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		i.Interfaces = left
		store.Update(t, store.Instances, o, i)
		_, err := c.Store.Commit(ctx, t)
		return err
	}
	if i.Host != "" {
		store.Remove(t, store.Assignments(i.Host), i.ID)
		store.Remove(t, store.Credentials(i.Host), i.ID)
	}
	store.Remove(t, store.UserData, i.ID)
	i.Host, i.Interfaces, i.HasUserData = "", nil, false
	i.Generation++
	store.Update(t, store.Instances, o, i)
	if _, err := c.Store.Commit(ctx, t); err != nil {
		return err
	}
	c.Log.Info("instance released", "instance", i.ID)
	return nil
}

// members tells each host whose wishes these are. The transaction holds only in the store whose name it is: into
// one that was emptied under a running process, the old name must not come with wishes for nothing.
func (c *Cluster) members(ctx context.Context, v *view) error {
	var errs []error
	for host := range v.hosts {
		if err := c.introduce(ctx, v, host); err != nil {
			errs = append(errs, err)
		}
		kind := store.Memberships(host)
		had, err := store.MirroredGet(v.snap, kind, store.MembershipID)
		if err == nil && had.Value == c.Cloud.Value {
			continue
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		t := store.NewTxn()
		store.Require(t, clouds, c.Cloud.ID, c.Cloud.Rev)
		store.Put(t, kind, store.MembershipID, c.Cloud.Value)
		if _, err := c.Store.Commit(ctx, t); errors.Is(err, store.ErrConflict) {
			errs = append(errs, fmt.Errorf("the store is not %s any more: it has lost its content, or was replaced; restart ichiro-control to begin anew", c.Cloud.Value))
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// introduce tells a host by which key it knows the control plane.
func (c *Cluster) introduce(ctx context.Context, v *view, host cloud.HostID) error {
	kind := store.Callers(host)
	had, err := store.MirroredGet(v.snap, kind, store.CallerID)
	if err == nil && bytes.Equal(had.Value, c.Caller) || len(c.Caller) == 0 {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	t := store.NewTxn()
	store.Require(t, clouds, c.Cloud.ID, c.Cloud.Rev)
	store.Put(t, kind, store.CallerID, c.Caller)
	if _, err := c.Store.Commit(ctx, t); !errors.Is(err, store.ErrConflict) { // members says that one
		return err
	}
	return nil
}

// networks writes what each host must know of its VPCs.
func (c *Cluster) networks(ctx context.Context, v *view) error {
	var errs []error
	for host := range v.hosts {
		errs = append(errs, c.networksOf(ctx, v, host))
	}
	return errors.Join(errs...)
}

// networksOf writes what one host must know of its VPCs, and takes away what it need not know any more: each VPC in a
// transaction of its own, so that one which is too large for the store, or has changed, keeps nothing from the others.
func (c *Cluster) networksOf(ctx context.Context, v *view, host cloud.HostID) error {
	kind := store.Networks(host)
	had, ok := v.networks[host]
	if !ok {
		var err error
		if had, err = objects[cloud.VPCID](v.snap, kind); err != nil {
			return err
		}
		v.networks[host] = had
	}
	var errs []error
	gone := maps.Clone(had)
	for _, next := range placement.Networks(v.world, host, v.specs) {
		id := next.VPC.ID
		o := had[id]
		delete(gone, id)
		next.Generation = o.Value.Generation
		if reflect.DeepEqual(next, o.Value) {
			continue
		}
		next.Generation++
		t := store.NewTxn()
		if o.Rev == 0 {
			store.Create(t, kind, id, next)
		} else {
			store.Update(t, kind, o, next)
		}
		rev, err := c.Store.Commit(ctx, t)
		if err != nil {
			errs = append(errs, untellable(host, next, err))
			continue
		}
		had[id] = store.Object[cloud.HostNetwork]{Key: kind.Key(string(id)), ID: string(id), Rev: rev, Value: next}
	}
	for id, o := range gone {
		t := store.NewTxn()
		store.Delete(t, kind, o)
		if _, err := c.Store.Commit(ctx, t); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(had, id)
	}
	return errors.Join(withoutConflicts(errs)...)
}

// untellable says of a network that is too large for the store what makes it so.
func untellable(host cloud.HostID, n cloud.HostNetwork, err error) error {
	if !errors.Is(err, store.ErrTooLarge) {
		return err
	}
	rules, members := 0, 0
	for _, g := range n.Groups {
		rules += len(g.Ingress) + len(g.Egress)
		members += len(g.Members)
	}
	return fmt.Errorf("tell %s of %s: %w: its interfaces there use %d groups with %d rules and %d members; put them into fewer groups, refer to groups instead of listing CIDRs, or spread them over VPCs",
		host, n.VPC.ID, err, len(n.Groups), rules, members)
}

// plan is the key that placements on one host meet at.
type plan struct{ Placed int64 }

var plans = store.NewKind[plan](store.SpecPrefix("plan"))

// view is one snapshot in the forms that the deciders read.
type view struct {
	snap       *store.Snapshot
	world      placement.World
	instances  []store.Object[cloud.Instance]
	specs      []cloud.Instance
	interfaces map[cloud.InterfaceID]store.Object[cloud.NetworkInterface]
	addresses  map[cloud.InterfaceID][]store.Object[cloud.Address] // that stand for them
	hosts      map[cloud.HostID]cloud.Host
	plans      map[cloud.HostID]store.Object[plan]
	used       map[cloud.HostID]int                                             // MiB
	networks   map[cloud.HostID]map[cloud.VPCID]store.Object[cloud.HostNetwork] // as they are now, of hosts that were looked at
	placed     []store.Object[cloud.Instance]                                   // in this run
	pool       *ipam.Pool                                                       // of public addresses; nil until it is looked at
	dry        bool                                                             // it has no more
}

func read(snap *store.Snapshot, region string, types []cloud.InstanceType) (*view, error) {
	v := &view{snap: snap, used: map[cloud.HostID]int{}, networks: map[cloud.HostID]map[cloud.VPCID]store.Object[cloud.HostNetwork]{}}
	v.world = placement.World{Region: region, Types: types, Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{}, Addresses: map[cloud.AllocationID]cloud.Address{}, Keys: map[string]cloud.KeyPair{}}
	v.world.UserData = func(id cloud.InstanceID) []byte {
		o, _ := store.MirroredGet(snap, store.UserData, id)
		return o.Value
	}
	var err error
	load := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	load(func() (err error) { v.instances, err = store.Mirrored(snap, store.Instances); return })
	load(func() (err error) { v.world.Images, err = values[cloud.ImageID](snap, store.Images); return })
	load(func() (err error) { v.world.VPCs, err = values[cloud.VPCID](snap, store.VPCs); return })
	load(func() (err error) { v.world.Subnets, err = values[cloud.SubnetID](snap, store.Subnets); return })
	load(func() (err error) { v.world.Groups, err = values[cloud.GroupID](snap, store.Groups); return })
	load(func() (err error) { v.world.Tables, err = values[cloud.RouteTableID](snap, store.RouteTables); return })
	load(func() (err error) { v.world.ACLs, err = values[cloud.NetworkACLID](snap, store.NetworkACLs); return })
	load(func() (err error) { v.world.Options, err = values[cloud.DHCPOptionsID](snap, store.Options); return })
	load(func() (err error) { v.world.NATs, err = values[cloud.NATGatewayID](snap, store.NATGateways); return })
	var addresses []store.Object[cloud.Address]
	load(func() (err error) { addresses, err = store.Mirrored(snap, store.Addresses); return })
	load(func() (err error) { v.hosts, err = values[cloud.HostID](snap, store.Hosts); return })
	load(func() (err error) { v.world.Overlays, err = values[cloud.VPCID](snap, store.Overlays); return })
	load(func() (err error) { v.interfaces, err = objects[cloud.InterfaceID](snap, store.Interfaces); return })
	load(func() (err error) { v.plans, err = objects[cloud.HostID](snap, plans); return })
	load(func() error {
		keys, err := store.Mirrored(snap, store.KeyPairs)
		for _, k := range keys {
			v.world.Keys[string(k.Value.Account)+"/"+k.Value.Name] = k.Value
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	v.world.Hosts = v.hosts
	v.addresses = map[cloud.InterfaceID][]store.Object[cloud.Address]{}
	v.world.Standing = map[cloud.InterfaceID][]cloud.Address{}
	for _, a := range addresses {
		v.world.Addresses[cloud.AllocationID(a.ID)] = a.Value
		if on := a.Value.Interface; on != "" {
			v.world.Standing[on] = append(v.world.Standing[on], a.Value)
		}
		v.addresses[a.Value.Interface] = append(v.addresses[a.Value.Interface], a)
	}
	for id, n := range v.interfaces {
		v.world.Interfaces[id] = n.Value
	}
	for _, o := range v.instances {
		v.specs = append(v.specs, o.Value)
		if o.Value.Host != "" && o.Value.Power != cloud.PowerTerminated {
			t, err := cloud.TypeNamed(types, o.Value.Type)
			if err != nil { // the operator has removed the type: what the host was told stays so
				had, _ := store.MirroredGet(snap, store.Assignments(o.Value.Host), o.Value.ID)
				t = had.Value.Type
			}
			v.used[o.Value.Host] += t.MemoryMiB
		}
	}
	// Oldest first: who asked first is placed first.
	slices.SortStableFunc(v.instances, func(a, b store.Object[cloud.Instance]) int { return int(a.Created - b.Created) })
	return v, nil
}

func (v *view) status(i cloud.Instance) *cloud.InstanceStatus {
	if i.Host == "" {
		return nil
	}
	o, err := store.MirroredGet(v.snap, store.InstanceStatuses(i.Host), i.ID)
	if err != nil {
		return nil
	}
	return &o.Value
}

// candidates returns the hosts that follow this cloud's wishes, or will once they have seen them.
func (v *view) candidates(c cloud.CloudID) []placement.Candidate {
	out := make([]placement.Candidate, 0, len(v.hosts))
	for id, h := range v.hosts {
		if h.Cloud != "" && h.Cloud != c {
			continue
		}
		out = append(out, placement.Candidate{Host: h, UsedMiB: v.used[id]})
	}
	return out
}

func values[I ~string, T any](snap *store.Snapshot, k store.Kind[T]) (map[I]T, error) {
	list, err := store.Mirrored(snap, k)
	out := make(map[I]T, len(list))
	for _, o := range list {
		out[I(o.ID)] = o.Value
	}
	return out, err
}

func objects[I ~string, T any](snap *store.Snapshot, k store.Kind[T]) (map[I]store.Object[T], error) {
	list, err := store.Mirrored(snap, k)
	out := make(map[I]store.Object[T], len(list))
	for _, o := range list {
		out[I(o.ID)] = o
	}
	return out, err
}
