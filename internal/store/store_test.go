package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

type thing struct {
	Name string
	N    int64
}

var (
	things = store.NewKind[thing](store.SpecPrefix("thing"))
	names  = store.NewKind[string](store.NamePrefix("thing", "000000000000"))
)

// commit commits what fill puts into a transaction, and must succeed.
func commit(t testing.TB, c *store.Client, fill func(*store.Txn)) int64 {
	t.Helper()
	tx := store.NewTxn()
	fill(tx)
	rev, err := c.Commit(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func get(t testing.TB, c *store.Client, id string) store.Object[thing] {
	t.Helper()
	o, err := store.Get(t.Context(), c, things, id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCreateUpdateDelete(t *testing.T) {
	c := storetest.New(t)
	if _, err := store.Get(t.Context(), c, things, "a"); !errors.Is(err, store.ErrNotFound) || err.Error() != "get spec/thing/a: not found" {
		t.Errorf("before: got %v, want not found", err)
	}
	rev := commit(t, c, func(tx *store.Txn) {
		store.Create(tx, things, "a", thing{"x", 1})
		store.Create(tx, names, "x", "a")
	})
	a := get(t, c, "a")
	if want := (store.Object[thing]{Key: "spec/thing/a", ID: "a", Rev: rev, Created: rev, Value: thing{"x", 1}}); a != want {
		t.Errorf("created: got %+v, want %+v", a, want)
	}
	next := commit(t, c, func(tx *store.Txn) { store.Update(tx, things, a, thing{"x", 2}) })
	if got := get(t, c, "a"); got.Rev != next || got.Created != rev || got.Value.N != 2 {
		t.Errorf("updated: got %+v, want revision %d of 2", got, next)
	}
	b := get(t, c, "a")
	commit(t, c, func(tx *store.Txn) {
		store.Delete(tx, things, b)
		store.Remove(tx, names, "x")
	})
	if _, err := store.Get(t.Context(), c, things, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted: got %v, want not found", err)
	}
}

func TestNothingNewIsAboutOneKindAndNotAboutWhatIsGone(t *testing.T) {
	c := storetest.New(t)
	create := func(tx *store.Txn) {
		store.Create(tx, things, "a", thing{"a", 1})
		store.Create(tx, things, "b", thing{"b", 1})
	}
	commit(t, c, func(tx *store.Txn) { store.RequireNothingNew(tx, things, 0); create(tx) })
	rev := get(t, c, "b").Rev
	commit(t, c, func(tx *store.Txn) { store.Put(tx, names, "x", "x") })
	commit(t, c, func(tx *store.Txn) { store.Remove(tx, things, "a") })
	commit(t, c, func(tx *store.Txn) {
		store.RequireNothingNew(tx, things, rev)
		store.Delete(tx, things, get(t, c, "b"))
	})
}

func TestConflictNamesTheKeyAndChangesNothing(t *testing.T) {
	c := storetest.New(t)
	commit(t, c, func(tx *store.Txn) {
		store.Create(tx, things, "a", thing{"a", 1})
		store.Create(tx, things, "b", thing{"b", 1})
	})
	a, b := get(t, c, "a"), get(t, c, "b")
	rev := commit(t, c, func(tx *store.Txn) { store.Update(tx, things, b, thing{"b", 2}) })
	for _, tc := range []struct {
		name string
		fill func(*store.Txn)
		want string
	}{
		{"an update of what has changed", func(tx *store.Txn) {
			store.Update(tx, things, a, thing{"a", 9})
			store.Update(tx, things, b, thing{"b", 9})
		}, fmt.Sprintf("spec/thing/b has changed (revision %d)", rev)},
		{"a delete of what has changed", func(tx *store.Txn) { store.Delete(tx, things, b) },
			fmt.Sprintf("spec/thing/b has changed (revision %d)", rev)},
		{"a second creation", func(tx *store.Txn) {
			store.Put(tx, things, "c", thing{})
			store.Create(tx, things, "a", thing{"a", 9})
		}, fmt.Sprintf("spec/thing/a has changed (revision %d)", a.Rev)},
		{"a requirement of a revision", func(tx *store.Txn) {
			store.Put(tx, things, "c", thing{})
			store.Require(tx, things, "b", b.Rev)
		}, fmt.Sprintf("spec/thing/b has changed (revision %d)", rev)},
		{"a requirement of absence", func(tx *store.Txn) {
			store.Put(tx, things, "c", thing{})
			store.Require(tx, things, "a", 0)
		}, fmt.Sprintf("spec/thing/a has changed (revision %d)", a.Rev)},
		{"a requirement that nothing of the kind is new", func(tx *store.Txn) {
			store.Put(tx, names, "c", "c")
			store.RequireNothingNew(tx, things, rev-1)
		}, fmt.Sprintf("spec/thing/b has changed (revision %d)", rev)},
		{"a requirement that none begins so", func(tx *store.Txn) {
			store.Put(tx, things, "c", thing{})
			store.RequireNone(tx, things, "")
		}, fmt.Sprintf("spec/thing/b has changed (revision %d)", rev)},
		{"a requirement of presence", func(tx *store.Txn) { store.Require(tx, things, "gone", 2) },
			"spec/thing/gone is gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tx := store.NewTxn()
			tc.fill(tx)
			_, err := c.Commit(t.Context(), tx)
			if !errors.Is(err, store.ErrConflict) || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			var conflict *store.Conflict
			if !errors.As(err, &conflict) || !strings.HasPrefix(tc.want, conflict.Key) {
				t.Errorf("conflict: got %+v", conflict)
			}
			if get(t, c, "a").Value.N != 1 || get(t, c, "b").Value.N != 2 {
				t.Error("something has changed")
			}
			if _, err := store.Get(t.Context(), c, things, "c"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("c: got %v, want not found", err)
			}
		})
	}
}

func TestARequirementOfNoneHoldsWhereNoneBeginsSo(t *testing.T) {
	c := storetest.New(t)
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "ab", thing{}) })
	commit(t, c, func(tx *store.Txn) {
		store.RequireNone(tx, things, "aa")
		store.RequireNone(tx, things, "b")
		store.Create(tx, things, "aa:1", thing{})
	})
	tx := store.NewTxn()
	store.RequireNone(tx, things, "aa")
	store.Create(tx, things, "aa:2", thing{})
	if _, err := c.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
		t.Errorf("got %v, want a conflict with aa:1", err)
	}
}

func TestMistakesInATransactionAreErrors(t *testing.T) {
	c := storetest.New(t)
	bad := store.NewKind[func()](store.SpecPrefix("bad"))
	big := store.NewKind[string](store.SpecPrefix("big"))
	for _, tc := range []struct {
		name string
		fill func(*store.Txn)
		want string
	}{
		{"the same key twice", func(tx *store.Txn) {
			store.Put(tx, things, "a", thing{})
			store.Remove(tx, things, "a")
		}, "write spec/thing/a: twice in one transaction"},
		{"one key relied on in two states", func(tx *store.Txn) {
			store.Require(tx, things, "a", 0)
			store.Require(tx, things, "a", 7)
		}, "rely on spec/thing/a: at revision 0 and at 7"},
		{"a value that has no JSON", func(tx *store.Txn) { store.Put(tx, bad, "a", func() {}) },
			"write spec/bad/a: json: unsupported type: func()"},
		{"an empty id", func(tx *store.Txn) { store.Put(tx, things, "", thing{}) },
			"write spec/thing/: the id is empty"},
		{"too many changes", func(tx *store.Txn) {
			for i := range store.MaxTxnOps + 1 {
				store.Put(tx, things, fmt.Sprint(i), thing{})
			}
		}, "commit 1025 changes that rely on 0 keys: the store takes less at once: split it, or run etcd with --max-txn-ops=1024"},
		{"too many bytes", func(tx *store.Txn) { store.Put(tx, big, "a", strings.Repeat("x", 2<<20)) },
			"commit 1 changes of 2097164 bytes together, and 1572864 is the most: the store takes less at once"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tx := store.NewTxn()
			tc.fill(tx)
			if _, err := c.Commit(t.Context(), tx); err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	commit(t, c, func(tx *store.Txn) { // RunInstances of 200 with interfaces and addresses
		for i := range 600 {
			store.Create(tx, things, fmt.Sprint(i), thing{})
		}
	})
}

func TestListPagesShowOneRevision(t *testing.T) {
	c := storetest.New(t)
	const n = 2500 // more than two pages of the server
	for i := 0; i < n; i += 500 {
		commit(t, c, func(tx *store.Txn) {
			for j := range 500 {
				store.Create(tx, things, fmt.Sprintf("i-%04d", i+j), thing{N: int64(i + j)})
			}
		})
	}
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "j-1", thing{N: n}) })
	all, err := store.List(t.Context(), c, things, store.Range{})
	if err != nil || len(all.Objects) != n+1 || all.More {
		t.Fatalf("all: got %d, more %v, %v, want %d", len(all.Objects), all.More, err, n+1)
	}
	for i, o := range all.Objects {
		if o.Value.N != int64(i) {
			t.Fatalf("object %d is %+v: not in order", i, o)
		}
	}
	some, err := store.List(t.Context(), c, things, store.Range{IDs: "j-"})
	if err != nil || len(some.Objects) != 1 || some.Objects[0].ID != "j-1" {
		t.Errorf("below j-: got %+v, %v", some, err)
	}
	// Page by page, while somebody writes: still what the first page's revision shows.
	var got []string
	r := store.Range{IDs: "i-", Limit: 1200}
	for {
		page, err := store.List(t.Context(), c, things, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			got = append(got, o.ID)
		}
		if !page.More {
			break
		}
		r.Rev, r.After = page.Rev, got[len(got)-1]
		commit(t, c, func(tx *store.Txn) {
			store.Put(tx, things, "i-9999", thing{})
			store.Remove(tx, things, "i-2400")
		})
	}
	if len(got) != n || got[2400] != "i-2400" {
		t.Errorf("pages: got %d ids, want the %d of the first revision", len(got), n)
	}
	if l, err := store.List(t.Context(), c, things, store.Range{IDs: "i-", After: "z"}); err != nil || len(l.Objects) != 0 || l.More {
		t.Errorf("behind the end: got %d, %v, want none", len(l.Objects), err)
	}
	if _, err := c.Etcd().Compact(t.Context(), all.Rev+1); err != nil {
		t.Fatal(err)
	}
	if _, err := store.List(t.Context(), c, things, store.Range{Rev: all.Rev}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a compacted revision: got %v, want ErrCompacted", err)
	}
}

func TestAValueThatCannotBeReadNamesItsKey(t *testing.T) {
	c := storetest.New(t)
	for _, tc := range []struct{ raw, want string }{
		{`{"Name":"x","Colour":1}`, `read spec/thing/a: json: unknown field "Colour"`},
		{`{"Name":"x"} 7`, `read spec/thing/a: there is more behind the value`},
		{`{"N":"x"}`, `read spec/thing/a: json: cannot unmarshal string into Go struct field thing.N of type int64`},
		{``, `read spec/thing/a: EOF`},
	} {
		if _, err := c.Etcd().Put(t.Context(), "/ichiro/v1/spec/thing/a", tc.raw); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Get(t.Context(), c, things, "a"); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v, want %s", tc.raw, err, tc.want)
		}
		if _, err := store.List(t.Context(), c, things, store.Range{}); err == nil || err.Error() != tc.want {
			t.Errorf("list with %s: got %v, want %s", tc.raw, err, tc.want)
		}
	}
}

func TestTimeToLive(t *testing.T) {
	c := storetest.New(t)
	commit(t, c, func(tx *store.Txn) {
		store.CreateWithTTL(tx, things, "short", thing{}, 200*time.Millisecond) // etcd knows seconds
		store.Create(tx, things, "long", thing{})
	})
	leases, err := c.Etcd().Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("leases: got %+v, %v, want one", leases, err)
	}
	m := store.NewMirror(c, things.Prefix())
	runMirror(t, m)
	for { // ends when etcd deletes the key; that is the test
		if _, err := store.MirroredGet(m, things, "short"); errors.Is(err, store.ErrNotFound) {
			break
		}
		<-m.Changed()
	}
	if _, err := store.MirroredGet(m, things, "long"); err != nil {
		t.Errorf("without a time to live: %v", err)
	}
	tx := store.NewTxn()
	store.CreateWithTTL(tx, things, "long", thing{}, time.Hour)
	if _, err := c.Commit(t.Context(), tx); !errors.Is(err, store.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	if leases, err := c.Etcd().Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases after a conflict: got %+v, %v, want none", leases, err)
	}
}

// Of many who count at the same time by read, decide, compare-and-swap, none loses a count.
func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	c := storetest.New(t)
	commit(t, c, func(tx *store.Txn) { store.Create(tx, things, "n", thing{}) })
	const writers, each = 8, 25
	done := make(chan error)
	for range writers {
		go func() {
			for range each {
				for {
					o, err := store.Get(t.Context(), c, things, "n")
					if err != nil {
						done <- err
						return
					}
					tx := store.NewTxn()
					store.Update(tx, things, o, thing{N: o.Value.N + 1})
					if _, err = c.Commit(t.Context(), tx); err == nil {
						break
					} else if !errors.Is(err, store.ErrConflict) {
						done <- err
						return
					}
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := get(t, c, "n").Value.N; got != writers*each {
		t.Errorf("count: got %d, want %d", got, writers*each)
	}
}

func TestStatusOfAnOlderGenerationIsRefused(t *testing.T) {
	c := storetest.New(t)
	seen := store.NewKind[thing](store.StatusPrefix("h-1", "instance"))
	generation := func(v thing) int64 { return v.N }
	put := func(v thing) error { return store.PutStatus(t.Context(), c, seen, "i-1", v, generation) }
	for _, v := range []thing{{"pending", 1}, {"running", 1}, {"stopping", 2}} {
		if err := put(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(thing{"running", 1}); !errors.Is(err, store.ErrStale) {
		t.Errorf("an older generation: got %v, want ErrStale", err)
	}
	before, err := store.Get(t.Context(), c, seen, "i-1")
	if err != nil || before.Value.Name != "stopping" {
		t.Errorf("got %+v, %v, want stopping", before, err)
	}
	if err := put(thing{"stopping", 2}); err != nil {
		t.Error(err)
	}
	if after, err := store.Get(t.Context(), c, seen, "i-1"); err != nil || after.Rev != before.Rev {
		t.Errorf("an equal status was written again: %+v, %v", after, err)
	}
}

func TestAHostIsConfinedToItsOwnKeys(t *testing.T) {
	srv := storetest.Start(t)
	admin := srv.Client(t)
	ctx := t.Context()
	for range 2 { // twice changes nothing
		for _, h := range []string{"h-1", "h-2"} {
			if err := store.ConfineHost(ctx, admin, cloudHost(h)); err != nil {
				t.Fatal(err)
			}
		}
	}
	wish := func(h string) store.Kind[thing] {
		return store.NewKind[thing](store.WishPrefix(cloudHost(h), "instance"))
	}
	status := func(h string) store.Kind[thing] {
		return store.NewKind[thing](store.StatusPrefix(cloudHost(h), "instance"))
	}
	commit(t, admin, func(tx *store.Txn) {
		store.Create(tx, wish("h-1"), "i-1", thing{"mine", 1})
		store.Create(tx, wish("h-2"), "i-2", thing{"theirs", 1})
		store.Create(tx, things, "secret", thing{})
	})
	// The test has no certificates: it lets hosts in by password instead.
	etcd := admin.Etcd()
	for _, f := range []func() error{
		func() error { _, err := etcd.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := etcd.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := etcd.UserAdd(ctx, "in", "p"); return err },
		func() error { _, err := etcd.UserGrantRole(ctx, "in", "h-1"); return err },
		func() error { _, err := etcd.AuthEnable(ctx); return err },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := clientv3.New(clientv3.Config{Logger: zap.NewNop(), Endpoints: []string{srv.Endpoint}, Username: "in", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	host := store.New(raw)

	if o, err := store.Get(ctx, host, wish("h-1"), "i-1"); err != nil || o.Value.Name != "mine" {
		t.Errorf("its own wish: got %+v, %v", o, err)
	}
	generation := func(v thing) int64 { return v.N }
	if err := store.PutStatus(ctx, host, status("h-1"), "i-1", thing{"running", 1}, generation); err != nil {
		t.Errorf("its own status: %v", err)
	}
	m := store.NewMirror(host, store.WishPrefix("h-1"), store.StatusPrefix("h-1"))
	runMirror(t, m)
	if objs, err := store.Mirrored(m, wish("h-1")); err != nil || len(objs) != 1 {
		t.Errorf("a mirror of its own: got %v, %v", objs, err)
	}
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", what, err)
		}
	}
	_, err = store.Get(ctx, host, wish("h-2"), "i-2")
	denied("another's wish", err)
	_, err = store.Get(ctx, host, things, "secret")
	denied("a spec", err)
	denied("another's status", store.PutStatus(ctx, host, status("h-2"), "i-2", thing{"running", 1}, generation))
	tx := store.NewTxn()
	store.Put(tx, wish("h-1"), "i-1", thing{"forged", 1})
	_, err = host.Commit(ctx, tx)
	denied("writing its own wish", err)
	denied("a mirror of all", store.NewMirror(host, store.All("wish")).Run(ctx))
}

func TestKeysCannotReachIntoEachOther(t *testing.T) {
	seen := map[string][2]string{}
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[a/%. \x00é-]{1,4}`)
		action, id := part.Draw(t, "action"), part.Draw(t, "id")
		k := store.NewKind[string](store.TokenPrefix("000000000000", action))
		key := k.Key(id)
		if was, ok := seen[key]; ok && was != [2]string{action, id} {
			t.Fatalf("%q is the key of %q and of %q", key, was, [2]string{action, id})
		}
		seen[key] = [2]string{action, id}
		if strings.Count(key, "/") != 3 {
			t.Fatalf("key %q has another depth than its layout", key)
		}
	})
	for key, want := range map[string]string{
		things.Key("i-1"): "spec/thing/i-1",
		store.NewKind[string](store.WishPrefix("h-1", "instance")).Key("i-1"):                                         "wish/h-1/instance/i-1",
		store.NewKind[string](store.StatusPrefix("h-1", "instance")).Key("i-1"):                                       "status/h-1/instance/i-1",
		store.NewKind[string](store.IPAMPrefix("subnet-1")).Key("172.31.0.5"):                                         "ipam/subnet-1/172.31.0.5",
		store.NewKind[string](store.TokenPrefix("000000000000", "RunInstances")).Key("a/b"):                           "token/000000000000/RunInstances/a%2Fb",
		store.NewKind[string](store.NamePrefix("key-pair", "000000000000")).Key("my key"):                             "name/key-pair/000000000000/my%20key",
		store.NewKind[string](store.IAMPrefix("session", "role")).Key("s"):                                            "iam/session/role/s",
		store.NewKind[string](store.HostPrefix()).Key("h-1"):                                                          "host/h-1",
		store.NewKind[string](store.ClusterPrefix("setting")).Key("region"):                                           "cluster/setting/region",
		string(store.WishPrefix("h-1")) + " " + string(store.StatusPrefix("h-1")):                                     "wish/h-1/ status/h-1/",
		string(store.HostOf("wish/h-1/instance/i-1") + store.HostOf("status/h-2/x/y") + store.HostOf("spec/thing/a")): "h-1h-2",
	} {
		if key != want {
			t.Errorf("got %s, want %s", key, want)
		}
	}
}

func TestOpenRefusesWhatIsNotSafe(t *testing.T) {
	for _, e := range []string{"", "http://10.0.0.1:2379", "http://example.com:2379", "10.0.0.1:2379", "ftp://x", "https://10.0.0.1:2379"} {
		if c, err := store.Open(t.Context(), store.Config{Endpoints: []string{e}}); err == nil { // https lacks its CA
			c.Close()
			t.Errorf("%q was accepted", e)
		}
	}
}

func TestWithoutAServerRequestsEnd(t *testing.T) {
	srv := storetest.Start(t)
	c := srv.Client(t)
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := store.Get(ctx, c, things, "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: got %v, want ErrUnavailable", err)
	}
	tx := store.NewTxn()
	store.Put(tx, things, "a", thing{})
	if _, err := c.Commit(ctx, tx); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit: got %v, want ErrUnavailable", err)
	}
}
