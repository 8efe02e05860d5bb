package cluster_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// queue makes a command that n instances wait for, on two hosts.
func (w *world) queue(n int, concurrency, errors string, steps []cloud.Step) cloud.Command {
	w.Helper()
	c := cloud.Command{ID: "c", Requested: start, Expires: start.Add(time.Hour), TimeoutSeconds: 600, MaxConcurrency: concurrency, MaxErrors: errors,
		Ramp: true, Waiting: n, Hosts: map[cloud.InstanceID]cloud.HostID{}}
	w.write(func(t *store.Txn) {
		for k := range n {
			id := cloud.InstanceID(fmt.Sprintf("i-%03d", k))
			c.Instances = append(c.Instances, id)
			c.Hosts[id] = cloud.HostID(fmt.Sprint("h-", k%2))
			store.Create(t, store.Instances, id, cloud.Instance{ID: id, Host: c.Hosts[id], Power: cloud.PowerRunning})
		}
		store.Create(t, store.Commands, c.ID, c)
		store.Create(t, store.Sendings, c.ID, cloud.Sending{Command: c.ID, Steps: steps})
	})
	return c
}

// told are the wishes for the instances of a command, and how often each was written.
func (w *world) told(c cloud.Command) map[cloud.InstanceID]store.Object[cloud.CommandWish] {
	w.Helper()
	out := map[cloud.InstanceID]store.Object[cloud.CommandWish]{}
	for _, h := range []cloud.HostID{"h-0", "h-1"} {
		l, err := store.List(w.Context(), w.c, store.CommandWishes(h), store.Range{})
		if err != nil {
			w.Fatal(err)
		}
		for _, o := range l.Objects {
			if _, twice := out[o.Value.Instance]; twice {
				w.Errorf("%s was sent to two hosts", o.Value.Instance)
			}
			if o.Created != o.Rev {
				w.Errorf("%s was sent twice", o.Value.Instance)
			}
			out[o.Value.Instance] = o
		}
	}
	return out
}

func (w *world) ends(c cloud.Command, id cloud.InstanceID, status cloud.InvocationStatus) {
	w.Helper()
	w.write(func(t *store.Txn) {
		store.Create(t, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id), cloud.Invocation{Command: c.ID, Instance: id, Status: status, Details: string(status)})
	})
}

// Two control processes, whose mirrors are as late as they happen to be, decide at the same time while instances end
// one after the other. Either may lose its step to the other, or die before it: the next round is the same.
func TestTwoWhoSendAtTheSameTimeSendEachOnce(t *testing.T) {
	w := newWorld(t)
	c := w.queue(30, "4", "0", []cloud.Step{{Name: "s", Script: "true"}})
	second := mirror(t, w.c)
	random := rand.New(rand.NewPCG(1, 2))
	ended := map[cloud.InstanceID]bool{}
	most := 0
	for range 400 {
		var wg sync.WaitGroup
		for _, m := range []*store.Mirror{w.m, second} {
			wg.Go(func() {
				if err := w.planner(m).ReconcileSending(t.Context()); err != nil && !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		running := []cloud.InstanceID{}
		for _, id := range c.Instances {
			if _, ok := w.told(c)[id]; ok && !ended[id] {
				running = append(running, id)
			}
		}
		if most = max(most, len(running)); len(running) > 4 {
			t.Fatalf("%d are under way at the same time", len(running))
		}
		if len(ended) == 0 && len(running) > 1 {
			t.Fatal("more than one is sent at first")
		}
		if len(running) > 0 {
			id := running[random.IntN(len(running))]
			ended[id] = true
			w.ends(c, id, cloud.InvocationSuccess)
		}
		if len(ended) == len(c.Instances) {
			break
		}
	}
	if len(ended) != len(c.Instances) || most != 4 {
		t.Errorf("%d of %d were sent, at most %d at the same time", len(ended), len(c.Instances), most)
	}
	if got, _ := store.Get(t.Context(), w.c, store.Commands, "c"); got.Value.Waiting != 0 {
		t.Errorf("%d still wait", got.Value.Waiting)
	}
	if _, err := store.Get(t.Context(), w.c, store.Sendings, "c"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the sending is left behind: %v", err)
	}
}

// send takes steps until there is nothing to do.
func (w *world) send() {
	w.Helper()
	for {
		was := w.head()
		if err := w.m.WaitRev(w.Context(), was); err != nil {
			w.Fatal(err)
		}
		if err := w.planner(w.m).ReconcileSending(w.Context()); err != nil {
			w.Fatal(err)
		}
		if w.head() == was {
			return
		}
	}
}

func TestTheErrorThatIsTooManyEndsTheSending(t *testing.T) {
	w := newWorld(t)
	c := w.queue(10, "50%", "1", nil)
	w.send()
	w.ends(c, "i-000", cloud.InvocationFailed)
	w.send()
	w.ends(c, "i-001", cloud.InvocationFailed)
	w.send()
	w.ends(c, "i-002", cloud.InvocationSuccess) // it was under way
	w.send()
	if got := len(w.told(c)); got != 3 {
		t.Errorf("it was sent to %d, want 3: one, and two more", got)
	}
	o, _ := store.Get(t.Context(), w.c, store.Commands, "c")
	if o.Value.Halted != cloud.HaltTerminated || o.Value.Waiting != 7 || len(o.Value.Settled) != 0 {
		t.Errorf("got %+v", o.Value)
	}
	w.commands()
	if o, _ = store.Get(t.Context(), w.c, store.Commands, "c"); !o.Value.Over {
		t.Error("it is not over")
	}
}

func TestWhatWaitsTooLongIsNotSent(t *testing.T) {
	w := newWorld(t)
	c := w.queue(3, "1", "0", nil)
	w.send()
	if by := w.told(c)["i-000"].Value.DeliverBy; !by.Equal(start.Add(10 * time.Minute)) {
		t.Errorf("it is to be delivered by %v", by)
	}
	w.now = start.Add(2 * time.Hour)
	w.ends(c, "i-000", cloud.InvocationSuccess)
	w.send()
	if o, _ := store.Get(t.Context(), w.c, store.Commands, "c"); o.Value.Halted != cloud.HaltTimedOut || len(w.told(c)) != 1 {
		t.Errorf("got %+v", o.Value)
	}
}

// Scripts of 60 KB for 300 instances are 18 MB, and etcd takes 1.5 at once.
func TestALargeCommandIsSentInBatches(t *testing.T) {
	w := newWorld(t)
	c := w.queue(300, "300", "0", []cloud.Step{{Name: "s", Script: string(make([]byte, 10<<10))}}) // a NUL is six bytes in JSON
	w.ends(c, "i-000", cloud.InvocationSuccess)                                                    // so that the ramp is short: all others end as they come
	for range 300 {
		w.send()
		told := w.told(c)
		if len(told) >= 299 {
			break
		}
		w.write(func(t *store.Txn) {
			for id := range told {
				store.Put(t, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id), cloud.Invocation{Command: c.ID, Instance: id, Status: cloud.InvocationSuccess})
			}
		})
	}
	if got := len(w.told(c)); got != 299 {
		t.Errorf("it was sent to %d, want 299", got)
	}
}

// An instance that was started anew meanwhile is on another host.
func TestWhoHasMovedIsSentToWhereItIs(t *testing.T) {
	w := newWorld(t)
	c := w.queue(2, "1", "0", nil)
	w.send()
	o := w.instance("i-001")
	moved := o.Value
	moved.Host = "h-0"
	w.write(func(t *store.Txn) { store.Update(t, store.Instances, o, moved) })
	w.ends(c, "i-000", cloud.InvocationSuccess)
	w.send()
	if got := w.told(c)["i-001"]; got.Key != store.CommandWishes("h-0").Key("c.i-001") {
		t.Errorf("it was sent by %q", got.Key)
	}
	if o, _ := store.Get(t.Context(), w.c, store.Commands, "c"); o.Value.Hosts["i-001"] != "h-0" {
		t.Errorf("the command says %s", o.Value.Hosts["i-001"])
	}
}
