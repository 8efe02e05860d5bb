package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

func cloudHost(h string) cloud.HostID { return cloud.HostID(h) }

// runMirror runs m until the test ends, and waits until it is ready.
func runMirror(t testing.TB, m *store.Mirror) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("mirror: got %v, want canceled", err)
		}
	})
	<-m.Ready()
}

func wait(t testing.TB, m *store.Mirror, rev int64) {
	t.Helper()
	if err := m.WaitRev(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

// shown returns what a mirror shows of things.
func shown(t testing.TB, v store.View) map[string]int64 {
	t.Helper()
	objs, err := store.Mirrored(v, things)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, o := range objs {
		got[o.ID] = o.Value.N
	}
	return got
}

func TestMirrorShowsWhatIsWritten(t *testing.T) {
	c := storetest.New(t)
	m := store.NewMirror(c, store.All("spec"), store.All("name"))
	if _, err := store.Mirrored(m, things); !errors.Is(err, store.ErrNotReady) {
		t.Errorf("before it has seen the store: got %v, want ErrNotReady", err)
	}
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "a", thing{"a", 1}) })
	runMirror(t, m)
	<-m.Changed()
	if got := shown(t, m); !maps.Equal(got, map[string]int64{"a": 1}) {
		t.Errorf("listed: got %v", got)
	}
	old := m.Snapshot()
	rev := commit(t, c, func(tx *store.Txn) {
		store.Create(tx, things, "b", thing{"b", 2})
		store.Create(tx, names, "bee", "b")
		store.Put(tx, things, "a", thing{"a", 3})
	})
	wait(t, m, rev)
	if got := shown(t, m); !maps.Equal(got, map[string]int64{"a": 3, "b": 2}) {
		t.Errorf("watched: got %v", got)
	}
	if o, err := store.MirroredGet(m, names, "bee"); err != nil || o.Value != "b" || o.Rev != rev || o.ID != "bee" {
		t.Errorf("one name: got %+v, %v", o, err)
	}
	if _, err := store.MirroredGet(m, names, "wasp"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no name: got %v, want not found", err)
	}
	if got := shown(t, old); !maps.Equal(got, map[string]int64{"a": 1}) {
		t.Errorf("an old snapshot has changed: %v", got)
	}
	<-m.Changed()
	rev = commit(t, c, func(tx *store.Txn) { store.Remove(tx, things, "a") })
	wait(t, m, rev)
	if got := shown(t, m); !maps.Equal(got, map[string]int64{"b": 2}) {
		t.Errorf("deleted: got %v", got)
	}
}

func TestMirrorWaitsForRevisionsThatDoNotConcernIt(t *testing.T) {
	c := storetest.New(t)
	m := store.NewMirror(c, store.All("spec"))
	runMirror(t, m)
	rev := commit(t, c, func(tx *store.Txn) { store.Put(tx, names, "x", "y") })
	wait(t, m, rev)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.WaitRev(ctx, rev+1000); !errors.Is(err, context.Canceled) {
		t.Errorf("a revision that never comes: got %v, want canceled", err)
	}
}

func TestMirrorDecodesOnceAndSaysWhatItCannotRead(t *testing.T) {
	c := storetest.New(t)
	counted := store.NewKind[counter](store.SpecPrefix("thing"))
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "a", thing{"a", 1}) })
	m := store.NewMirror(c, store.All("spec"))
	runMirror(t, m)
	first, err := store.Mirrored(m, counted)
	if err != nil {
		t.Fatal(err)
	}
	second, err := store.MirroredGet(m, counted, "a")
	if err != nil || second.Value.own != first[0].Value.own {
		t.Errorf("decoded twice: %v", err)
	}
	resp, err := c.Etcd().Put(t.Context(), "/ichiro/v1/spec/thing/b", "{")
	if err != nil {
		t.Fatal(err)
	}
	wait(t, m, resp.Header.Revision)
	if _, err := store.Mirrored(m, things); err == nil || err.Error() != "read spec/thing/b: unexpected EOF" {
		t.Errorf("a value that cannot be read: got %v", err)
	}
}

// counter tells one decoding from another.
type counter struct{ own *int }

func (c *counter) UnmarshalJSON([]byte) error { c.own = new(int); return nil }

// world writes at random and knows what is there.
type world struct {
	c    *store.Client
	rand *rand.Rand
	have map[string]int64
	n    int64
	rev  int64
}

func newWorld(t testing.TB, c *store.Client) *world {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &world{c: c, rand: rand.New(rand.NewPCG(seed, 0)), have: map[string]int64{}}
}

// write makes some changes, each of one to three things.
func (w *world) write(t testing.TB, changes int) {
	t.Helper()
	for range changes {
		w.rev = commit(t, w.c, func(tx *store.Txn) {
			for _, id := range w.rand.Perm(20)[:1+w.rand.IntN(3)] {
				id := fmt.Sprint(id)
				if _, ok := w.have[id]; ok && w.rand.IntN(3) == 0 {
					store.Remove(tx, things, id)
					delete(w.have, id)
					continue
				}
				w.n++
				store.Put(tx, things, id, thing{N: w.n})
				w.have[id] = w.n
			}
		})
	}
}

func (w *world) compare(t testing.TB, m *store.Mirror, when string) {
	t.Helper()
	wait(t, m, w.rev)
	if got := shown(t, m); !maps.Equal(got, w.have) {
		t.Errorf("%s: got %v, want %v", when, got, w.have)
	}
}

func TestMirrorSurvivesRestarts(t *testing.T) {
	srv := storetest.Start(t)
	w := newWorld(t, srv.Client(t))
	m := store.NewMirror(srv.Client(t), store.All("spec"))
	runMirror(t, m)
	for round := range 4 {
		w.write(t, 20)
		w.compare(t, m, fmt.Sprintf("round %d", round))
		srv.Restart(t)
		w.write(t, 20)
		w.compare(t, m, fmt.Sprintf("round %d, after a restart", round))
	}
}

func TestMirrorSaysThatTheStoreIsAwayAndShowsWhatItSaw(t *testing.T) {
	srv := storetest.Start(t)
	c := srv.Client(t)
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "a", thing{N: 1}) })
	m := store.NewMirror(srv.Client(t), store.All("spec"))
	store.SetCheck(m, 20e6)
	runMirror(t, m)
	if err := m.Health(); err != nil {
		t.Errorf("at the beginning: got %v, want healthy", err)
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	srv.Stop()
	for m.Health() == nil { // ends when the mirror notices; that is the test
		<-poll.C
	}
	if err := m.Health(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("away: got %v, want ErrUnavailable", err)
	}
	if got := shown(t, m); !maps.Equal(got, map[string]int64{"a": 1}) {
		t.Errorf("away: got %v, want what it saw", got)
	}
	srv.Restart(t)
	for m.Health() != nil {
		<-poll.C
	}
}

// What happens while the mirror is cut off is compacted away: it must list anew, and must
// show at the end what is there, not what it saw before.
func TestMirrorListsAnewAfterCompaction(t *testing.T) {
	srv := storetest.Start(t)
	w := newWorld(t, srv.Client(t))
	path := strings.TrimPrefix(srv.Endpoint, "unix://")
	line := &line{from: path + "2", to: path}
	line.mend(t)
	c, err := store.Open(t.Context(), store.Config{Endpoints: []string{srv.Endpoint + "2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := store.NewMirror(c, store.All("spec"))
	runMirror(t, m)
	for round := range 3 {
		w.write(t, 20)
		w.compare(t, m, fmt.Sprintf("round %d", round))
		line.cut()
		w.write(t, 20)
		if m.Rev() >= w.rev {
			t.Fatal("the line is not cut")
		}
		if _, err := w.c.Etcd().Compact(t.Context(), w.rev); err != nil {
			t.Fatal(err)
		}
		line.mend(t)
		w.compare(t, m, fmt.Sprintf("round %d, after compaction", round))
	}
	line.cut()
}

// line carries connections from one unix socket to another, until it is cut.
type line struct {
	from, to string
	l        net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func (n *line) mend(t *testing.T) {
	l, err := net.Listen("unix", n.from)
	if err != nil {
		t.Fatal(err)
	}
	n.l = l
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("unix", n.to)
			if err != nil {
				a.Close()
				continue
			}
			n.mu.Lock()
			n.conns = append(n.conns, a, b)
			n.mu.Unlock()
			go io.Copy(a, b)
			go io.Copy(b, a)
		}
	}()
}

func (n *line) cut() {
	n.l.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

func TestMirrorFollowsADifferentStore(t *testing.T) {
	srv := storetest.Start(t)
	w := newWorld(t, srv.Client(t))
	m := store.NewMirror(srv.Client(t), store.All("spec"))
	store.SetCheck(m, 50e6)
	runMirror(t, m)
	w.write(t, 20)
	w.compare(t, m, "before")
	srv.Wipe(t)
	srv.Restart(t)
	commit(t, w.c, func(tx *store.Txn) { store.Create(tx, things, "new", thing{N: 1}) })
	for !maps.Equal(shown(t, m), map[string]int64{"new": 1}) { // ends when the mirror notices; that is the test
		<-m.Changed()
	}
}

// A store that is away for a while, with another in its place, is followed again as it is: also if the other one's
// revisions did not get as far as its own.
func TestMirrorFollowsAStoreThatComesBack(t *testing.T) {
	srv := storetest.Start(t)
	w := newWorld(t, srv.Client(t))
	m := store.NewMirror(srv.Client(t), store.All("spec"))
	store.SetCheck(m, 50e6)
	runMirror(t, m)
	w.write(t, 20)
	w.compare(t, m, "before")
	want := shown(t, m)
	back := srv.Replace(t)
	commit(t, w.c, func(tx *store.Txn) { store.Create(tx, things, "new", thing{N: 1}) })
	for !maps.Equal(shown(t, m), map[string]int64{"new": 1}) {
		<-m.Changed()
	}
	back()
	for !maps.Equal(shown(t, m), want) { // ends when the mirror notices; that is the test
		<-m.Changed()
	}
}

// Whatever happens, a reader sees the numbers of one key only grow, and the three keys that
// are always written together always equal.
func TestMirrorNeverReorders(t *testing.T) {
	srv := storetest.Start(t)
	c := srv.Client(t)
	m := store.NewMirror(srv.Client(t), store.All("spec"))
	runMirror(t, m)
	const last = 600
	wrote := make(chan error, 1)
	go func() {
		for n := int64(1); n <= last; n++ {
			tx := store.NewTxn()
			for _, id := range []string{"a", "b", "c"} {
				store.Put(tx, things, id, thing{N: n})
			}
			if _, err := c.Commit(t.Context(), tx); errors.Is(err, store.ErrUnavailable) {
				n-- // while the server restarts
			} else if err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		for range 3 {
			srv.Restart(t)
		}
	}()
	var seen int64
	for seen < last {
		<-m.Changed()
		got := shown(t, m)
		if len(got) == 0 {
			continue
		}
		if got["a"] != got["b"] || got["b"] != got["c"] {
			t.Fatalf("half a transaction: %v", got)
		}
		if got["a"] < seen {
			t.Fatalf("back in time: %d after %d", got["a"], seen)
		}
		seen = got["a"]
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	<-restarted
}

func BenchmarkMirrored(b *testing.B) {
	c := storetest.New(b)
	for i := 0; i < 10000; i += 500 {
		commit(b, c, func(tx *store.Txn) {
			for j := range 500 {
				store.Create(tx, things, fmt.Sprintf("i-%05d", i+j), thing{N: int64(i + j)})
			}
		})
	}
	m := store.NewMirror(c, store.All("spec"))
	runMirror(b, m)
	for b.Loop() {
		if objs, err := store.Mirrored(m, things); err != nil || len(objs) != 10000 {
			b.Fatal(len(objs), err)
		}
	}
}

// One change, seen by a reader of a mirror of ten thousand objects.
func BenchmarkCommitToMirror(b *testing.B) {
	c := storetest.New(b)
	for i := 0; i < 10000; i += 500 {
		commit(b, c, func(tx *store.Txn) {
			for j := range 500 {
				store.Create(tx, things, fmt.Sprintf("i-%05d", i+j), thing{N: int64(i + j)})
			}
		})
	}
	m := store.NewMirror(c, store.All("spec"))
	runMirror(b, m)
	var n int64
	for b.Loop() {
		n++
		wait(b, m, commit(b, c, func(tx *store.Txn) { store.Put(tx, things, "i-05000", thing{N: n}) }))
		if o, err := store.MirroredGet(m, things, "i-05000"); err != nil || o.Value.N != n {
			b.Fatal(o, err)
		}
	}
}

func TestOnlyThoseWhomAChangeConcernsAreWoken(t *testing.T) {
	c := storetest.New(t)
	m := store.NewMirror(c, store.All("spec"), store.All("wish"))
	commands, others := make(chan struct{}, 8), make(chan struct{}, 8)
	m.OnChangeOf(store.AboutCommands, func() { commands <- struct{}{} })
	m.OnChangeOf(func(key string) bool { return !store.AboutCommands(key) }, func() { others <- struct{}{} })
	go func() { _ = m.Run(t.Context()) }()
	<-m.Ready()
	<-commands // a list concerns everybody
	<-others
	put := func(f func(*store.Txn)) {
		t.Helper()
		txn := store.NewTxn()
		f(txn)
		rev, err := c.Commit(t.Context(), txn)
		if err == nil {
			err = m.WaitRev(t.Context(), rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(func(txn *store.Txn) { store.Put(txn, store.CommandWishes("h-1"), "c.i", cloud.CommandWish{}) })
	<-commands
	put(func(txn *store.Txn) { store.Put(txn, store.Instances, "i-1", cloud.Instance{}) })
	<-others
	if len(commands)+len(others) > 0 {
		t.Errorf("woken too often: %d for commands, %d for others", len(commands), len(others))
	}
}

// Whatever happened between two snapshots, the differences lead from one to the other, and say nothing of what is the same.
func TestDifferencesLeadFromOneSnapshotToTheNext(t *testing.T) {
	c := storetest.New(t)
	m := store.NewMirror(c, things.Prefix())
	runMirror(t, m)
	random := rand.New(rand.NewPCG(1, 2))
	var seen *store.Snapshot
	known := map[string]int64{}
	for round := range 60 {
		touched := map[string]bool{}
		tx := store.NewTxn()
		for range random.IntN(5) {
			id := fmt.Sprintf("a/%d", random.IntN(12)) // an ID that is escaped in its key
			if touched[id] {
				continue
			}
			touched[id] = true
			if random.IntN(3) == 0 {
				store.Remove(tx, things, id)
			} else {
				store.Put(tx, things, id, thing{N: int64(round)})
			}
		}
		if tx.Len() > 0 {
			rev, err := c.Commit(t.Context(), tx)
			if err != nil {
				t.Fatal(err)
			}
			wait(t, m, rev)
		}
		now := m.Snapshot()
		changed, gone, err := store.Difference(seen, now, things)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range changed {
			if !touched[o.ID] {
				t.Errorf("round %d: %s is said to differ", round, o.ID)
			}
			known[o.ID] = o.Value.N
		}
		for _, id := range gone {
			if _, ok := known[id]; !ok {
				t.Errorf("round %d: %s is said to be gone, and was not there", round, id)
			}
			delete(known, id)
		}
		if want := shown(t, now); !maps.Equal(known, want) {
			t.Fatalf("round %d: the differences lead to %v, the store holds %v", round, known, want)
		}
		seen = now
	}
}
