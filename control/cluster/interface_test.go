package cluster_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// eni returns an interface as it is in the store.
func (w *world) eni(id cloud.InterfaceID) (store.Object[cloud.NetworkInterface], bool) {
	w.Helper()
	o, err := store.Get(w.Context(), w.c, store.Interfaces, id)
	return o, err == nil
}

// public returns the public addresses that stand for an interface.
func (w *world) public(id cloud.InterfaceID) (out []cloud.Address) {
	w.Helper()
	l, err := store.List(w.Context(), w.c, store.Addresses, store.Range{})
	if err != nil {
		w.Fatal(err)
	}
	for _, o := range l.Objects {
		if o.Value.Interface == id {
			out = append(out, o.Value)
		}
	}
	return out
}

// equip gives an interface of launch what a real one may have.
func (w *world) equip(id cloud.InterfaceID, f func(*cloud.NetworkInterface)) {
	w.Helper()
	o, ok := w.eni(id)
	if !ok {
		w.Fatalf("there is no %s", id)
	}
	n := o.Value
	f(&n)
	held := ledger.All(n)
	held.Addresses = held.Addresses[1:] // launch took the first
	w.write(func(t *store.Txn) {
		store.Update(t, store.Interfaces, o, n)
		ledger.Take(t, n.Subnet, n.ID, held)
	})
}

func (w *world) address(a cloud.Address) {
	w.Helper()
	a.Account = account
	w.write(func(t *store.Txn) { ledger.TakePublic(t, a) })
}

// second attaches another interface to an instance, as AttachNetworkInterface does.
func (w *world) second(id cloud.InstanceID, k int) cloud.InterfaceID {
	w.Helper()
	o := w.instance(id)
	n := cloud.NetworkInterface{ID: cloud.InterfaceID(fmt.Sprintf("eni-%s-%d", id, k)), Account: account, VPC: "vpc-1", Subnet: "subnet-1", Zone: "z", Groups: []cloud.GroupID{"sg-1"},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(k), byte(10 + len(id))})}}
	n, i, err := n.Attach(o.Value, &cloud.InstanceStatus{Boot: o.Value.Boot, State: cloud.StateRunning}, cloud.InstanceType{Interfaces: 99, Addresses: 99}, nil,
		cloud.Attachment{ID: cloud.AttachmentID(fmt.Sprintf("eni-attach-%s-%d", id, k)), DeviceIndex: k})
	if err != nil {
		w.Fatal(err)
	}
	w.write(func(t *store.Txn) {
		store.Create(t, store.Interfaces, n.ID, n)
		ledger.Take(t, n.Subnet, n.ID, ledger.All(n))
		store.Update(t, store.Instances, o, i)
	})
	return n.ID
}

// detach wishes for it as DetachNetworkInterface does.
func (w *world) detach(id cloud.InterfaceID) {
	w.Helper()
	n, _ := w.eni(id)
	o := w.instance(n.Value.Instance)
	next, i, err := n.Value.AskDetach(o.Value, cloud.DetachAsked)
	if err != nil {
		w.Fatal(err)
	}
	w.write(func(t *store.Txn) {
		store.Update(t, store.Interfaces, n, next)
		store.Update(t, store.Instances, o, i)
	})
}

func TestADetachedInterfaceIsFreeWhenItsHostSaysSo(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	eni := w.second("i-1", 1)
	w.settle()
	has := func(st *cloud.InstanceStatus) {
		st.State, st.Attached = cloud.StateRunning, []cloud.AttachmentID{"eni-attach-i-1-1"}
	}
	w.says("i-1", has)
	w.detach(eni)
	w.settle()
	a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1")
	if err != nil || len(a.Value.Interfaces) != 2 || a.Value.Interfaces[1].Detach != cloud.DetachAsked {
		t.Fatalf("its host is not told to unplug it: %+v, %v", a.Value.Interfaces, err)
	}
	w.says("i-1", has)
	w.settle()
	if n, ok := w.eni(eni); !ok || n.Value.Instance != "i-1" {
		t.Fatal("it was set free while its machine had it")
	}
	was := w.instance("i-1").Value.Generation
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateRunning })
	w.settle()
	n, ok := w.eni(eni)
	i := w.instance("i-1").Value
	if !ok || n.Value.Instance != "" || n.Value.Attachment != "" || n.Value.Detach != "" || len(i.Interfaces) != 1 || i.Generation <= was {
		t.Errorf("got %+v of %+v, want it free, and out of the instance with a new generation", n.Value, i)
	}
	if a, _ := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1"); len(a.Value.Interfaces) != 1 {
		t.Errorf("its host still knows %d interfaces", len(a.Value.Interfaces))
	}
	if got := w.keys(store.IPAMPrefix("subnet-1")); got != 2 {
		t.Errorf("%d addresses are held, want both: a free interface keeps its own", got)
	}
}

func TestAStatusFromBeforeTheWishSetsNothingFree(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.settle()
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateRunning }) // has seen no second interface yet
	eni := w.second("i-1", 1)
	w.detach(eni)
	w.settle()
	if n, _ := w.eni(eni); n.Value.Instance != "i-1" {
		t.Error("it was set free by a status that knows nothing of it: the machine may have it by now")
	}
}

func TestADetachOfAStoppedInstanceNeedsNoHost(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	eni := w.second("i-1", 1)
	w.settle()
	w.edit("i-1", func(i *cloud.Instance) { i.Power = cloud.PowerStopped })
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateStopped })
	w.detach(eni)
	w.settle()
	if n, _ := w.eni(eni); n.Value.Instance != "" || len(w.instance("i-1").Value.Interfaces) != 1 {
		t.Errorf("got %+v", n.Value)
	}
}

// Whoever sees a freed interface may attach it elsewhere at once: by then no host may be told any more to have it.
func TestAnInterfaceIsFreeOnlyWhenNoHostIsToldOfIt(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	eni := w.second("i-1", 1)
	w.settle()
	w.edit("i-1", func(i *cloud.Instance) { i.Power = cloud.PowerStopped })
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateStopped })
	w.settle()
	w.detach(eni)
	if err := w.m.WaitRev(t.Context(), w.head()); err != nil {
		t.Fatal(err)
	}
	for n, _ := w.eni(eni); n.Value.Instance != ""; n, _ = w.eni(eni) { // run by run
		if err := w.planner(w.m).Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.m.WaitRev(t.Context(), w.head()); err != nil {
			t.Fatal(err)
		}
	}
	a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1")
	if err != nil || len(a.Value.Interfaces) != 1 {
		t.Errorf("got %+v, %v: want one interface", a.Value.Interfaces, err)
	}
}

func TestReleaseGivesBackAllKindsOfAddresses(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.equip("eni-i-1", func(n *cloud.NetworkInterface) {
		n.AssignPublic = true
		n.Addresses = append(n.Addresses, netip.MustParseAddr("10.0.0.200"))
		n.IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8::9")}
		n.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.32/28"), netip.MustParsePrefix("2001:db8:0:0:7::/80")}
	})
	w.address(cloud.Address{ID: "eipalloc-1", Public: netip.MustParseAddr("198.51.100.1"), Interface: "eni-i-1", Private: netip.MustParseAddr("10.0.0.13"), Association: "eipassoc-1", Launch: true})
	w.address(cloud.Address{ID: "eipalloc-2", Public: netip.MustParseAddr("198.51.100.2"), Interface: "eni-i-1", Private: netip.MustParseAddr("10.0.0.200"), Association: "eipassoc-2"})
	w.address(cloud.Address{ID: "eipalloc-3", Public: netip.MustParseAddr("198.51.100.3"), Interface: "eni-i-22", Private: netip.MustParseAddr("10.0.0.14"), Association: "eipassoc-3"})
	w.settle()
	if got, want := w.keys(store.All("ipam")), 1+1+1+16+1+1+3; got != want {
		t.Fatalf("%d keys are held, want %d", got, want)
	}
	w.edit("i-1", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.settle()
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	if got := w.keys(store.IPAMPrefix("subnet-1")); got != 1 {
		t.Errorf("%d private addresses are held, want that of the other instance", got)
	}
	if got := w.keys(store.IPAMPrefix(store.PublicPool)); got != 2 {
		t.Errorf("%d public addresses are held, want the two Elastic ones", got)
	}
	kept, err := store.Get(t.Context(), w.c, store.Addresses, "eipalloc-2")
	if err != nil || kept.Value.Interface != "" || kept.Value.Association != "" || kept.Value.Private.IsValid() {
		t.Errorf("the Elastic address: got %+v, %v, want it the account's, and standing for nothing", kept.Value, err)
	}
	if got := w.public("eni-i-22"); len(got) != 1 {
		t.Errorf("the other instance has %v", got)
	}
}

func TestWhatAReleaseLeaves(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	stays, leaving := w.second("i-1", 1), w.second("i-1", 2)
	w.equip(leaving, func(n *cloud.NetworkInterface) { n.DeleteOnTermination, n.Detach = true, cloud.DetachAsked })
	w.settle()
	w.edit("i-1", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	if _, ok := w.eni("eni-i-1"); ok {
		t.Error("the interface of its launch is there still")
	}
	for what, id := range map[string]cloud.InterfaceID{"attached later": stays, "being detached": leaving} {
		if n, ok := w.eni(id); !ok || n.Value.Instance != "" || n.Value.Detach != "" {
			t.Errorf("%s: got %+v, %t, want it free", what, n.Value, ok)
		}
	}
}

// What an instance of many interfaces with many prefixes holds is more than one transaction can give back.
func TestALargeReleaseTakesSeveralTransactions(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	for k := range 5 {
		id := w.second("i-1", k+1)
		w.equip(id, func(n *cloud.NetworkInterface) {
			n.DeleteOnTermination = true
			for p := range 20 {
				n.Prefixes = append(n.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(20*(k+1)+p) / 16, byte(20*(k+1)+p) % 16 * 16}), 28))
			}
		})
	}
	w.settle()
	if got := w.keys(store.All("ipam")); got < 5*20*16 {
		t.Fatalf("%d keys are held, want more than a transaction's %d", got, store.MaxTxnOps)
	}
	w.edit("i-1", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	if got := w.keys(store.All("ipam"), store.SpecPrefix("interface"), store.SpecPrefix("userdata")); got != 0 {
		t.Errorf("%d keys are left", got)
	}
	if i := w.instance("i-1").Value; i.Host != "" || len(i.Interfaces) != 0 {
		t.Errorf("got %+v", i)
	}
}

func TestAPublicAddressGoesWithTheMachine(t *testing.T) {
	w := newWorld(t)
	w.elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.equip("eni-i-1", func(n *cloud.NetworkInterface) { n.AssignPublic = true })
	w.settle()
	first := w.public("eni-i-1")
	if len(first) != 1 || !first[0].Launch || first[0].Private.String() != "10.0.0.13" || len(w.public("eni-i-22")) != 0 {
		t.Fatalf("got %+v, and %+v for one that wants none", first, w.public("eni-i-22"))
	}
	a, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-1")
	if want := []cloud.PublicAddress{{Public: first[0].Public, Private: first[0].Private}}; err != nil || !slices.Equal(a.Value.Interfaces[0].Public, want) {
		t.Errorf("its host knows %v, %v, want %v", a.Value.Interfaces[0].Public, err, want)
	}

	w.edit("i-1", func(i *cloud.Instance) { i.Power = cloud.PowerStopped })
	w.settle()
	if len(w.public("eni-i-1")) != 1 {
		t.Error("it was taken from a machine that still runs")
	}
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateStopped })
	w.settle()
	if got := w.public("eni-i-1"); len(got) != 0 || w.keys(store.IPAMPrefix(store.PublicPool)) != 0 {
		t.Errorf("stopped: got %v", got)
	}
	if n, ok := w.eni("eni-i-1"); !ok || n.Value.Primary().String() != "10.0.0.13" {
		t.Errorf("its private address did not outlast the stop: %+v", n.Value)
	}
	w.edit("i-1", func(i *cloud.Instance) { i.Power, i.Boot = cloud.PowerRunning, 2 })
	w.settle()
	again := w.public("eni-i-1")
	if len(again) != 1 || again[0].Public == first[0].Public {
		t.Errorf("started: got %v, want another than %s, which rests", again, first[0].Public)
	}

	// An Elastic address that takes its place and leaves makes room for a new one.
	o, err := store.Get(t.Context(), w.c, store.Addresses, again[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	w.write(func(t *store.Txn) { ledger.GivePublic(t, o, start) })
	w.settle()
	if len(w.public("eni-i-1")) != 1 {
		t.Error("nothing came in the place of an address that left a running instance")
	}
	w.second("i-1", 1)
	o, _ = store.Get(t.Context(), w.c, store.Addresses, w.public("eni-i-1")[0].ID)
	w.write(func(t *store.Txn) { ledger.GivePublic(t, o, start) })
	w.settle()
	if got := w.public("eni-i-1"); len(got) != 0 {
		t.Errorf("with two interfaces: got %v, want none, as at EC2", got)
	}
}

func TestWithoutAPoolThereAreNoPublicAddresses(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.equip("eni-i-1", func(n *cloud.NetworkInterface) { n.AssignPublic = true })
	w.settle()
	if i := w.instance("i-1").Value; i.Host != "h-1" || len(w.public("eni-i-1")) != 0 {
		t.Errorf("got %+v with %v", i, w.public("eni-i-1"))
	}
}

func TestAnAddressRestsForAWhile(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t")
	w.settle()
	w.edit("i-1", func(i *cloud.Instance) { *i, _, _ = i.Terminate(start) })
	w.says("i-1", func(st *cloud.InstanceStatus) { st.State = cloud.StateTerminated })
	w.settle()
	// Of a subnet with two addresses the one that was given back is chosen last.
	s := cloud.Subnet{ID: "subnet-1", CIDR: netip.MustParsePrefix("10.0.0.0/28")}
	chosen := func() map[netip.Addr]bool {
		out := map[netip.Addr]bool{}
		for seed := range uint64(100) {
			space, err := ledger.Space(w.m.Snapshot(), s, seed, w.now)
			if err != nil {
				t.Fatal(err)
			}
			n := cloud.NetworkInterface{Subnet: "subnet-1"}
			for k := 4; k < 12; k++ {
				n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(k)}))
			}
			space.Hold(n)
			g, err := space.Serve(ipam.Ask{Addresses: make([]netip.Addr, 1)})
			if err != nil {
				t.Fatal(err)
			}
			out[g.Addresses[0]] = true
		}
		return out
	}
	given := netip.MustParseAddr("10.0.0.13")
	if got := chosen(); got[given] || len(got) != 2 {
		t.Errorf("at once: got %v, want both others and not %s", got, given)
	}
	w.now = start.Add(ledger.Rest - time.Second)
	w.settle()
	if got := w.keys(store.RestingPrefix("subnet-1")); got != 1 {
		t.Errorf("%d rest, want 1", got)
	}
	w.now = start.Add(ledger.Rest)
	if got := chosen(); !got[given] {
		t.Errorf("rested: got %v, want %s among them", got, given)
	}
	w.settle()
	if got := w.keys(store.RestingPrefix("subnet-1")); got != 0 {
		t.Errorf("%d keys are left of what has rested", got)
	}
}
