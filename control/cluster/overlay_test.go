package cluster_test

import (
	"net/netip"
	"reflect"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// reachable is a host that others can reach.
func (w *world) reachable(id cloud.HostID, underlay string) {
	w.Helper()
	w.write(func(t *store.Txn) {
		store.Put(t, store.Hosts, id, cloud.Host{ID: id, Zone: "z", VCPUs: 4, MemoryMiB: 8192, Underlay: netip.MustParseAddr(underlay)})
	})
}

func (w *world) network(h cloud.HostID) cloud.HostNetwork {
	w.Helper()
	o, err := store.Get(w.Context(), w.c, store.Networks(h), "vpc-1")
	if err != nil {
		w.Fatal(err)
	}
	return o.Value
}

// spread is a VPC with an instance on each of the hosts h-1 and h-2.
func spread(t *testing.T) *world {
	w := newWorld(t)
	w.reachable("h-1", "192.0.2.1")
	w.reachable("h-2", "192.0.2.2")
	w.write(func(t *store.Txn) { store.Create(t, store.VPCs, "vpc-1", cloud.VPC{ID: "vpc-1"}) })
	w.launch("i-1", "t", func(i *cloud.Instance) { i.Host = "h-1" })
	w.launch("i-22", "t", func(i *cloud.Instance) { i.Host = "h-2" })
	return w
}

func TestHostsOfAVPCAreToldOfEachOther(t *testing.T) {
	w := spread(t)
	w.settle()
	one, two := w.network("h-1"), w.network("h-2")
	if one.Overlay == 0 || one.Overlay != two.Overlay {
		t.Fatalf("the hosts have the numbers %d and %d, want the same one", one.Overlay, two.Overlay)
	}
	want := []cloud.HostPeer{{Host: "h-2", Underlay: netip.MustParseAddr("192.0.2.2"), Members: cloud.Members{netip.MustParseAddr("10.0.0.14")}}}
	if !reflect.DeepEqual(one.Peers, want) {
		t.Errorf("h-1 is told of %+v, want %+v", one.Peers, want)
	}
	w.edit("i-22", func(i *cloud.Instance) { i.Host = "h-1" })
	w.settle()
	if peers := w.network("h-1").Peers; len(peers) > 0 {
		t.Errorf("the instance has moved here, and h-1 is still told of %+v", peers)
	}
	if n := w.network("h-1").Overlay; n != one.Overlay {
		t.Errorf("the number has become %d: a VPC that has one keeps it", n)
	}
}

func TestWhoCannotBeReachedIsNoPeer(t *testing.T) {
	for name, underlay := range map[string]string{"a host without an underlay": "", "one that calls itself as the other": "192.0.2.1"} {
		t.Run(name, func(t *testing.T) {
			w := spread(t)
			if underlay == "" {
				w.host("h-2", 8192)
			} else {
				w.reachable("h-2", underlay)
			}
			w.settle()
			if n := w.network("h-1"); len(n.Peers) > 0 {
				t.Errorf("h-1 is told of %+v", n.Peers)
			}
		})
	}
}

// Two processes that draw at the same time agree on one number, and a VPC that is gone gives it back.
func TestAVPCHasOneNumber(t *testing.T) {
	w := spread(t)
	planners := []*store.Mirror{mirror(t, w.c), mirror(t, w.c), mirror(t, w.c)}
	var wg sync.WaitGroup
	for _, m := range planners {
		wg.Go(func() {
			if err := w.planner(m).Reconcile(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.settle()
	if a, b := w.network("h-1").Overlay, w.network("h-2").Overlay; a == 0 || a != b {
		t.Errorf("the hosts have the numbers %d and %d", a, b)
	}
	kinds := []store.Prefix{store.SpecPrefix("overlay"), store.SpecPrefix("vni")}
	if n := w.keys(kinds...); n != 2 {
		t.Errorf("%d keys are kept of one VPC's number, want 2", n)
	}
	w.write(func(t *store.Txn) { store.Remove(t, store.VPCs, "vpc-1") })
	w.settle()
	if n := w.keys(kinds...); n != 0 {
		t.Errorf("%d keys are left of a VPC that is gone", n)
	}
}
