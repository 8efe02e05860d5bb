package cluster_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const account = cloud.AccountID("000000000000")

var start = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

// notary signs by counting: a document names the generation of nothing, as a real one does.
type notary struct {
	signed atomic.Int64
	key    string
}

func (n *notary) document(a cloud.Assignment) string {
	return string(a.Instance.ID) + " is a " + a.Instance.Type
}

func (n *notary) Current(a cloud.Assignment, had cloud.IdentityDocument) bool {
	return had.Document == n.document(a) && had.Key == n.key
}

func (n *notary) Sign(a cloud.Assignment) (cloud.IdentityDocument, error) {
	return cloud.IdentityDocument{Key: n.key, Document: n.document(a), Signature: strconv.FormatInt(n.signed.Add(1), 10)}, nil
}

// world is a store with a planner over it.
type world struct {
	testing.TB
	c      *store.Client
	m      *store.Mirror
	name   cluster.Cloud
	now    time.Time
	notary notary
	ended  []cloud.Invocation // that the audit was told of
	deaf   bool               // it can not be
	types  []cloud.InstanceType
	// elastic are the operator's public addresses.
	elastic []netip.Prefix
}

func mirror(t testing.TB, c *store.Client) *store.Mirror {
	m := storetest.Mirror(t, c, store.All("spec"), store.All("wish"), store.All("status"), store.All("host"))
	return m
}

func newWorld(t testing.TB) *world {
	c := storetest.New(t)
	name, err := cluster.Name(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return &world{TB: t, c: c, m: mirror(t, c), name: name, now: start, types: []cloud.InstanceType{{Name: "t", VCPUs: 1, MemoryMiB: 512}, {Name: "big", VCPUs: 1, MemoryMiB: 2048}}}
}

func (w *world) planner(m *store.Mirror) *cluster.Cluster {
	return cluster.New(w.config(m))
}

func (w *world) config(m *store.Mirror) cluster.Config {
	return cluster.Config{Store: w.c, Mirror: m, Cloud: w.name, Signer: &w.notary, Region: "ichiro-1", Account: account, Types: w.types, Elastic: w.elastic,
		Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler), Ended: func(_ cloud.Command, i []cloud.Invocation) error {
			if w.deaf {
				return errors.New("the disk is full")
			}
			w.ended = append(w.ended, i...)
			return nil
		}}
}

// write commits what f puts into a transaction and waits until the mirror shows it.
func (w *world) write(f func(t *store.Txn)) {
	w.Helper()
	t := store.NewTxn()
	f(t)
	rev, err := w.c.Commit(w.Context(), t)
	if err == nil {
		err = w.m.WaitRev(w.Context(), rev)
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) head() int64 {
	w.Helper()
	rev, err := w.c.Head(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return rev
}

// settle reconciles until nothing is written any more.
func (w *world) settle() {
	w.Helper()
	p := w.planner(w.m)
	for range 20 {
		was := w.head()
		if err := w.m.WaitRev(w.Context(), was); err != nil {
			w.Fatal(err)
		}
		if err := p.Reconcile(w.Context()); err != nil {
			w.Fatal(err)
		}
		if w.head() == was {
			return
		}
	}
	w.Fatal("it is never content")
}

func (w *world) host(id cloud.HostID, mib int) {
	w.write(func(t *store.Txn) {
		store.Put(t, store.Hosts, id, cloud.Host{ID: id, Zone: "z", VCPUs: 4, MemoryMiB: mib})
	})
}

// launch writes what RunInstances would.
func (w *world) launch(id cloud.InstanceID, typ string, change ...func(*cloud.Instance)) {
	i := cloud.Instance{ID: id, Generation: 1, Account: account, Type: typ, Zone: "z", Power: cloud.PowerRunning, Boot: 1, RootDeviceType: "ebs",
		Interfaces: []cloud.InterfaceID{cloud.InterfaceID("eni-" + id)}, Launched: start, HasUserData: true}
	for _, f := range change {
		f(&i)
	}
	n := cloud.NetworkInterface{ID: i.Interfaces[0], Account: account, VPC: "vpc-1", Subnet: "subnet-1", Groups: []cloud.GroupID{"sg-1"}, Instance: id,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + len(id))})}, DeleteOnTermination: true}
	w.write(func(t *store.Txn) {
		store.Create(t, store.Instances, id, i)
		store.Create(t, store.Interfaces, n.ID, n)
		store.Create(t, store.NewKind[cloud.InterfaceID](store.IPAMPrefix(n.Subnet)), n.Addresses[0].String(), n.ID)
		store.Create(t, store.UserData, id, []byte("x"))
	})
}

func (w *world) instance(id cloud.InstanceID) store.Object[cloud.Instance] {
	w.Helper()
	o, err := store.Get(w.Context(), w.c, store.Instances, id)
	if err != nil {
		w.Fatal(err)
	}
	return o
}

// says has the instance's host report.
func (w *world) says(id cloud.InstanceID, f func(*cloud.InstanceStatus)) {
	w.Helper()
	i := w.instance(id).Value
	st := cloud.InstanceStatus{ID: id, Host: i.Host, Generation: i.Generation, Boot: i.Boot}
	f(&st)
	w.write(func(t *store.Txn) { store.Put(t, store.InstanceStatuses(i.Host), id, st) })
}

func (w *world) edit(id cloud.InstanceID, f func(*cloud.Instance)) {
	w.Helper()
	o := w.instance(id)
	next := o.Value
	f(&next)
	next.Generation++
	w.write(func(t *store.Txn) { store.Update(t, store.Instances, o, next) })
}

// keys returns how many keys are below prefixes.
func (w *world) keys(prefixes ...store.Prefix) (n int) {
	w.Helper()
	for _, p := range prefixes {
		l, err := store.List(w.Context(), w.c, store.NewKind[any](p), store.Range{})
		if err != nil {
			w.Fatal(err)
		}
		n += len(l.Objects)
	}
	return n
}

func TestAnInstanceIsPlacedAndAssignedOnce(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.settle()
	i := w.instance("i-1").Value
	a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1")
	if err != nil || i.Host != "h-1" || a.Value.Instance.Generation != i.Generation || string(a.Value.UserData) != "x" || len(a.Value.Interfaces) != 1 {
		t.Fatalf("got %+v, %v", a.Value, err)
	}
	was := w.head()
	if err := w.planner(w.m).Reconcile(t.Context()); err != nil || w.head() != was {
		t.Errorf("a second run moved the store from %d to %d, %v", was, w.head(), err)
	}
	w.edit("i-1", func(i *cloud.Instance) { i.Tags = cloud.Tags{"Name": "x"} })
	w.settle()
	if n := w.notary.signed.Load(); n != 1 {
		t.Errorf("signed %d times, want once: tags are not in the document", n)
	}
	w.edit("i-1", func(i *cloud.Instance) { i.Type = "big" })
	w.settle()
	if n := w.notary.signed.Load(); n != 2 {
		t.Errorf("signed %d times, want once more: the type is in the document", n)
	}
	w.notary.key = "the next one"
	w.settle()
	if n := w.notary.signed.Load(); n != 3 {
		t.Errorf("signed %d times, want once more: the key is another", n)
	}
	if a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1"); err != nil || a.Value.Identity.Key != w.notary.key {
		t.Errorf("the host has a document signed by %q, %v", a.Value.Identity.Key, err)
	}
}

// Two planners on one store place all that fits and never more.
func TestRacingPlannersDoNotOvercommit(t *testing.T) {
	w := newWorld(t)
	other := mirror(t, w.c)
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		if round++; round > 12 { // each takes some 50 ms of real etcd
			return
		}
		zone := fmt.Sprintf("z%d", round)
		room := map[cloud.HostID]int{}
		w.write(func(t *store.Txn) {
			for k := range rapid.IntRange(1, 3).Draw(r, "hosts") {
				id := cloud.HostID(fmt.Sprintf("h-%d-%d", round, k))
				room[id] = rapid.IntRange(0, 3000).Draw(r, "MiB")
				store.Create(t, store.Hosts, id, cloud.Host{ID: id, Zone: zone, VCPUs: 1, MemoryMiB: room[id]})
			}
		})
		var ids []cloud.InstanceID
		for k := range rapid.IntRange(1, 8).Draw(r, "instances") {
			id := cloud.InstanceID(fmt.Sprintf("i-%d-%d", round, k))
			ids = append(ids, id)
			typ := rapid.SampledFrom([]string{"t", "big"}).Draw(r, "type")
			w.write(func(t *store.Txn) {
				store.Create(t, store.Instances, id, cloud.Instance{ID: id, Generation: 1, Type: typ, Zone: zone, Power: cloud.PowerRunning, Boot: 1})
			})
		}
		if err := other.WaitRev(t.Context(), w.head()); err != nil {
			r.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, m := range []*store.Mirror{w.m, other} {
			wg.Go(func() {
				if err := w.planner(m).Reconcile(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		w.settle()
		for _, id := range ids {
			i := w.instance(id).Value
			typ, _ := cloud.TypeNamed(w.types, i.Type)
			switch {
			case i.Power == cloud.PowerRunning && i.Host == "":
				r.Fatalf("%s was forgotten", id)
			case i.Power == cloud.PowerRunning:
				room[i.Host] -= typ.MemoryMiB
			case i.Reason.Code != "Server.InsufficientInstanceCapacity":
				r.Fatalf("%s ended with %q", id, i.Reason.Code)
			}
		}
		for id, left := range room {
			if left < 0 {
				r.Fatalf("%s has given away %d MiB more than it has", id, -left)
			}
		}
	})
}

func TestNoRoom(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 512)
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.launch("i-333", "t", func(i *cloud.Instance) { i.Boot = 2 })
	w.settle()
	for id, want := range map[cloud.InstanceID]cloud.Power{"i-1": cloud.PowerRunning, "i-22": cloud.PowerTerminated, "i-333": cloud.PowerStopped} {
		if got := w.instance(id).Value; got.Power != want {
			t.Errorf("%s: got %s (%s), want %s", id, got.Power, got.Reason.Code, want)
		}
	}
}

func TestReleaseGivesBackExactlyWhatWasHeld(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.settle()
	before := w.keys(store.All("ipam"), store.All("wish"), store.SpecPrefix("interface"), store.SpecPrefix("userdata"))
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.settle()
	w.edit("i-1", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.settle()
	if i := w.instance("i-1").Value; i.Host == "" || w.keys(store.All("ipam")) != 2 {
		t.Fatal("its address was given back before its host said that it is gone")
	}
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	if i := w.instance("i-1").Value; i.Host != "" || len(i.Interfaces) != 0 || i.HasUserData || i.State(nil) != cloud.StateTerminated {
		t.Errorf("got %+v", i)
	}
	o, err := store.Get(t.Context(), w.c, store.Interfaces, "eni-i-22")
	if err != nil || w.keys(store.All("ipam")) != 1 || w.keys(store.WishPrefix("h-1", "instance")) != 1 {
		t.Errorf("the other instance has lost something: %+v, %v", o, err)
	}
	kept := o.Value
	kept.DeleteOnTermination = false
	w.write(func(t *store.Txn) { store.Update(t, store.Interfaces, o, kept) })
	w.edit("i-22", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.settle()
	w.says("i-22", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	o, err = store.Get(t.Context(), w.c, store.Interfaces, "eni-i-22")
	if err != nil || o.Value.Instance != "" || o.Value.Attachment != "" || w.keys(store.All("ipam")) != 1 {
		t.Errorf("want the interface free and its address its own: %+v, %v", o.Value, err)
	}
	if got, want := w.keys(store.All("ipam"), store.All("wish"), store.SpecPrefix("interface"), store.SpecPrefix("userdata")), before+2; got != want {
		t.Errorf("%d keys are left, want %d", got, want)
	}
	w.now = start.Add(59 * time.Minute)
	w.settle()
	w.instance("i-1")
	w.now = start.Add(61 * time.Minute)
	w.settle()
	if n := w.keys(store.SpecPrefix("instance")); n != 0 {
		t.Errorf("%d terminated instances are still shown after an hour", n)
	}
}

func TestAGuestsEndIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t", func(i *cloud.Instance) { i.ShutdownBehavior = "stop" })
	w.launch("i-22", "t", func(i *cloud.Instance) { i.ShutdownBehavior = "terminate" })
	w.settle()
	for _, id := range []cloud.InstanceID{"i-1", "i-22"} {
		w.says(id, func(st *cloud.InstanceStatus) { st.State, st.GuestEnded = cloud.StateStopped, true })
	}
	w.settle()
	for id, want := range map[cloud.InstanceID]cloud.Power{"i-1": cloud.PowerStopped, "i-22": cloud.PowerTerminated} {
		a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), id)
		if i := w.instance(id).Value; err != nil || i.Power != want || a.Value.Instance.Power != want {
			t.Errorf("%s: got %s, and its host knows %s, %v, want %s", id, i.Power, a.Value.Instance.Power, err, want)
		}
	}
}

// A type that the operator removes from the configuration leaves its instances as they are: they can be
// stopped and terminated, and the memory that they have is not given away.
func TestARemovedTypeStaysGoodForItsInstances(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 2560)
	w.launch("i-1", "big")
	w.settle()
	w.types = w.types[:1]
	w.launch("i-22", "t")
	w.launch("i-333", "t")
	w.edit("i-1", func(i *cloud.Instance) { i.Power = cloud.PowerStopped })
	w.settle()
	a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1")
	if err != nil || a.Value.Instance.Power != cloud.PowerStopped || a.Value.Type.MemoryMiB != 2048 {
		t.Errorf("got %s, %+v, %v", a.Value.Instance.Power, a.Value.Type, err)
	}
	if i := w.instance("i-22").Value; i.Host != "h-1" {
		t.Errorf("i-22 has no host: %s", i.Reason.Message)
	}
	if i := w.instance("i-333").Value; i.Power != cloud.PowerTerminated {
		t.Error("memory was given away twice")
	}
}

func TestHostsKnowTheMembersOfGroups(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 512)
	w.host("h-2", 512)
	w.write(func(t *store.Txn) {
		store.Create(t, store.VPCs, "vpc-1", cloud.VPC{ID: "vpc-1"})
		store.Create(t, store.Groups, "sg-1", cloud.SecurityGroup{ID: "sg-1", VPC: "vpc-1", Ingress: []cloud.GroupRule{{ID: "sgr-1", Protocol: "-1", Group: "sg-2"}}})
		store.Create(t, store.Groups, "sg-2", cloud.SecurityGroup{ID: "sg-2", VPC: "vpc-1"})
		store.Create(t, store.Groups, "sg-3", cloud.SecurityGroup{ID: "sg-3", VPC: "vpc-1"})
	})
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.settle()
	for _, h := range []cloud.HostID{"h-1", "h-2"} {
		n, err := store.Get(t.Context(), w.c, store.Networks(h), "vpc-1")
		if err != nil || len(n.Value.Groups) != 2 || len(n.Value.Groups[0].Members) != 2 || n.Value.Groups[1].ID != "sg-2" || len(n.Value.Groups[1].Members) != 0 {
			t.Errorf("%s: got %+v, %v; want both members of sg-1, and sg-2 which its rule names", h, n.Value, err)
		}
	}
	w.edit("i-22", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.settle()
	n, _ := store.Get(t.Context(), w.c, store.Networks("h-1"), "vpc-1")
	if len(n.Value.Groups[0].Members) != 1 {
		t.Errorf("got members %v: a terminated instance's address may soon be somebody else's", n.Value.Groups[0].Members)
	}
}

func TestOldCommandsAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 512)
	for id, age := range map[cloud.CommandID]time.Duration{"old": 31 * 24 * time.Hour, "new": 29 * 24 * time.Hour} {
		w.write(func(t *store.Txn) {
			store.Create(t, store.Commands, id, cloud.Command{ID: id, Requested: start.Add(-age), Hosts: map[cloud.InstanceID]cloud.HostID{"i-1": "h-1"}})
			store.Create(t, store.CommandWishes("h-1"), store.InvocationID(id, "i-1"), cloud.CommandWish{Command: id})
		})
	}
	w.commands()
	var left []string
	l, _ := store.List(t.Context(), w.c, store.Commands, store.Range{})
	for _, o := range l.Objects {
		left = append(left, o.ID)
	}
	if !slices.Equal(left, []string{"new"}) || w.keys(store.WishPrefix("h-1", "command")) != 1 {
		t.Errorf("got %v and %d wishes, want new and one", left, w.keys(store.WishPrefix("h-1", "command")))
	}
}

// commands settles and forgets commands once, on all that is there.
func (w *world) commands() {
	w.Helper()
	if err := w.m.WaitRev(w.Context(), w.head()); err != nil {
		w.Fatal(err)
	}
	if err := w.planner(w.m).ReconcileCommands(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func TestAnEndThatWasToldStays(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 2048)
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.settle()
	hosts := map[cloud.InstanceID]cloud.HostID{"i-1": "h-1", "i-22": "h-1", "i-333": "h-1"}
	c := cloud.Command{ID: "c", Requested: start, Expires: start.Add(time.Hour), Instances: []cloud.InstanceID{"i-1", "i-22", "i-333"}, Hosts: hosts}
	done := func(id cloud.InstanceID) cloud.Invocation {
		return cloud.Invocation{Command: "c", Instance: id, Status: cloud.InvocationSuccess, Details: "Success"}
	}
	w.write(func(t *store.Txn) {
		store.Create(t, store.Commands, c.ID, c)
		store.Create(t, store.Invocations("h-1"), store.InvocationID("c", "i-22"), done("i-22"))
	})
	w.commands() // i-333 does not exist: no host will ever tell its end
	got, _ := store.Get(t.Context(), w.c, store.Commands, "c")
	if len(got.Value.Settled) != 1 || got.Value.Settled["i-333"].Details != "Undeliverable" || got.Value.Over {
		t.Errorf("got %+v, over %t; want i-333 alone settled as Undeliverable, and not over", got.Value.Settled, got.Value.Over)
	}
	w.now = start.Add(2 * time.Hour) // the host of i-1 has been silent for too long
	w.commands()
	w.write(func(t *store.Txn) { // and comes back
		store.Put(t, store.Invocations("h-1"), store.InvocationID("c", "i-1"), done("i-1"))
	})
	got, _ = store.Get(t.Context(), w.c, store.Commands, "c")
	one := w.instance("i-1").Value
	if v := got.Value.Show(done("i-1"), &one, w.now); v.Status != cloud.InvocationTimedOut || !got.Value.Over {
		t.Errorf("got %s, over %t; want the TimedOut that was told, and over", v.Status, got.Value.Over)
	}
	two := w.instance("i-22").Value
	if v := got.Value.Show(done("i-22"), &two, w.now); v.Status != cloud.InvocationSuccess {
		t.Errorf("got %s, want the Success that the host told in time", v.Status)
	}
	was := w.head()
	w.commands()
	if w.head() != was {
		t.Error("a command that is over was written again")
	}
	var told []string // once, and as clients were told
	for _, i := range w.ended {
		told = append(told, string(i.Instance)+" "+i.Details)
	}
	if want := []string{"i-1 DeliveryTimedOut", "i-22 Success", "i-333 Undeliverable"}; !slices.Equal(told, want) {
		t.Errorf("the audit was told %v, want %v", told, want)
	}
}

// An end that the audit could not be told of, or whose teller was killed, it is told of later: by whoever is there.
func TestTheAuditIsToldOfEachEnd(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 2048)
	w.launch("i-1", "t")
	w.settle()
	c := cloud.Command{ID: "c", Requested: start, Expires: start.Add(time.Hour), Instances: []cloud.InstanceID{"i-1"}, Hosts: map[cloud.InstanceID]cloud.HostID{"i-1": "h-1"}}
	w.write(func(t *store.Txn) {
		store.Create(t, store.Commands, c.ID, c)
		store.Create(t, store.Invocations("h-1"), store.InvocationID("c", "i-1"), cloud.Invocation{Command: "c", Instance: "i-1", Status: cloud.InvocationSuccess, Details: "Success"})
	})
	again := func() error {
		t.Helper()
		if err := w.m.WaitRev(t.Context(), w.head()); err != nil {
			t.Fatal(err)
		}
		return w.planner(w.m).ReconcileCommands(t.Context())
	}
	w.deaf = true
	if err := again(); err == nil {
		t.Error("nobody said that the audit could not be told")
	}
	w.deaf = false
	if again(); len(w.ended) > 0 {
		t.Error("another control plane told the audit at once: the one that wrote the end does")
	}
	w.now = start.Add(2 * time.Minute)
	for range 2 {
		if err := again(); err != nil || len(w.ended) != 1 || w.ended[0].Details != "Success" {
			t.Fatalf("the audit was told %+v, %v; want one Success", w.ended, err)
		}
	}
}

func TestBootstrapHappensOnceWhoeverCalls(t *testing.T) {
	c := storetest.New(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := cluster.Bootstrap(t.Context(), c, cluster.Default{Account: account, Zones: []string{"z"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l, err := store.List(t.Context(), c, store.VPCs, store.Range{})
	if err != nil || len(l.Objects) != 1 {
		t.Fatalf("got %d VPCs, %v", len(l.Objects), err)
	}
	del := store.NewTxn()
	store.Delete(del, store.VPCs, l.Objects[0])
	if _, err := c.Commit(t.Context(), del); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Bootstrap(t.Context(), c, cluster.Default{Account: account, Zones: []string{"z"}}); err != nil {
		t.Fatal(err)
	}
	if l, _ = store.List(t.Context(), c, store.VPCs, store.Range{}); len(l.Objects) != 0 {
		t.Error("what its owner deleted came back")
	}
}

// Each host is told whose wishes it has, a host of another cloud is given nothing to run, and a process under which the
// store was emptied does not say in the new one that nothing is wished for.
func TestADefaultSubnetGivesPublicAddressesWhereThereAreSome(t *testing.T) {
	for _, public := range []bool{false, true} {
		c := storetest.New(t)
		if err := cluster.Bootstrap(t.Context(), c, cluster.Default{Account: account, Zones: []string{"z", "y"}, Public: public}); err != nil {
			t.Fatal(err)
		}
		l, err := store.List(t.Context(), c, store.Subnets, store.Range{})
		if err != nil || len(l.Objects) != 2 || l.Objects[0].Value.MapPublicAddress != public || l.Objects[1].Value.MapPublicAddress != public {
			t.Errorf("got %+v, %v, want two with %t", l.Objects, err, public)
		}
	}
}

func TestHostsAreToldTheirCloud(t *testing.T) {
	w := newWorld(t)
	w.write(func(t *store.Txn) {
		store.Create(t, store.Hosts, cloud.HostID("h-1"), cloud.Host{ID: "h-1", Zone: "ichiro-1a", MemoryMiB: 600})
		store.Create(t, store.Hosts, cloud.HostID("h-2"), cloud.Host{ID: "h-2", Zone: "ichiro-1a", MemoryMiB: 6000, Cloud: "c-other"})
	})
	w.settle()
	for _, h := range []cloud.HostID{"h-1", "h-2"} {
		if o, err := store.MirroredGet(w.m, store.Memberships(h), store.MembershipID); err != nil || o.Value != w.name.Value {
			t.Errorf("%s: got %q, %v, want %s", h, o.Value, err, w.name.Value)
		}
	}
	w.write(func(t *store.Txn) {
		store.Create(t, store.Instances, cloud.InstanceID("i-1"), cloud.Instance{ID: "i-1", Type: "big", Zone: "ichiro-1a", Power: cloud.PowerRunning, Boot: 1})
	})
	w.settle()
	if o, err := store.MirroredGet(w.m, store.Instances, cloud.InstanceID("i-1")); err != nil || o.Value.Host != "" {
		t.Errorf("placed on %q, %v: only a host of another cloud has room for it", o.Value.Host, err)
	}

	emptied := newWorld(t)
	emptied.name = w.name // of a process that has not noticed
	emptied.write(func(t *store.Txn) {
		store.Create(t, store.Hosts, cloud.HostID("h-1"), cloud.Host{ID: "h-1", Zone: "ichiro-1a", MemoryMiB: 600, Cloud: w.name.Value})
	})
	if err := emptied.planner(emptied.m).Reconcile(t.Context()); err == nil || !strings.Contains(err.Error(), "lost its content") {
		t.Errorf("got %v, want an error that says what has become of the store", err)
	}
	if _, err := store.Get(t.Context(), emptied.c, store.Memberships("h-1"), store.MembershipID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want no membership", err)
	}
}
