package iam

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// table is one kind of record. Names are unique whatever their case, as in IAM.
type table[T any] struct{ kind store.Kind[T] }

// entities are what decisions need: all of it is mirrored, and what one change
// did appears at once. Sessions are many and say all in their tokens, so they are not.
const entities = "entity"

func newTable[T any](name string) table[T] {
	return table[T]{store.NewKind[T](store.IAMPrefix(entities, name))}
}

var (
	users    = newTable[User]("user")
	keys     = newTable[AccessKey]("accesskey")
	roles    = newTable[Role]("role")
	policies = newTable[Policy]("policy")
	profiles = newTable[Profile]("profile")
	sessions = table[Session]{store.NewKind[Session](store.IAMPrefix("session"))}
)

func fold(name string) string { return strings.ToLower(name) }

// look returns the record as the mirror has it, nil when there is none or when
// it cannot be read: callers refuse then. What it points to is shared.
func (tb table[T]) look(e *Engine, name string) *T {
	if name == "" {
		return nil
	}
	o, err := store.MirroredGet(e.mirror, tb.kind, fold(name))
	if err != nil {
		return nil
	}
	return &o.Value
}

// list returns the mirror's records which keep wants, by name.
func (tb table[T]) list(e *Engine, keep func(*T) bool) []T {
	all, err := store.Mirrored(e.mirror, tb.kind)
	if err != nil {
		return nil
	}
	// Keys sort by their escaped form, names do not.
	all = slices.SortedFunc(slices.Values(all), func(a, b store.Object[T]) int { return strings.Compare(a.ID, b.ID) })
	var list []T
	for i := range all {
		if keep(&all[i].Value) {
			list = append(list, all[i].Value)
		}
	}
	return list
}

// tx is one try of a change. It relies on every record that it has read, so what
// was decided still holds when it is written.
type tx struct {
	ctx    context.Context
	client *store.Client
	txn    *store.Txn
	read   map[string]any // key to store.Object[T]; a zero Rev means there is none
}

// get reads a record from the store; nil when there is none. The result is the
// caller's own.
func (tb table[T]) get(t *tx, name string) (*T, error) {
	if name == "" {
		return nil, nil
	}
	o, err := tb.fetch(t, fold(name))
	if err != nil || o.Rev == 0 {
		return nil, err
	}
	return &o.Value, nil
}

func (tb table[T]) fetch(t *tx, id string) (store.Object[T], error) {
	if o, ok := t.read[tb.kind.Key(id)]; ok {
		return o.(store.Object[T]), nil
	}
	o, err := store.Get(t.ctx, t.client, tb.kind, id)
	if errors.Is(err, store.ErrNotFound) {
		o, err = store.Object[T]{ID: id}, nil
	}
	if err != nil {
		return o, unavailable(err)
	}
	store.Require(t.txn, tb.kind, id, o.Rev)
	t.read[tb.kind.Key(id)] = o
	return o, nil
}

// put writes a record: over the one that get returned, or a new one.
func (tb table[T]) put(t *tx, name string, v *T) error {
	o, err := tb.fetch(t, fold(name))
	switch {
	case err != nil:
		return err
	case o.Rev == 0:
		store.Create(t.txn, tb.kind, fold(name), *v)
	default:
		store.Update(t.txn, tb.kind, o, *v)
	}
	return nil
}

// drop removes a record; that there is none is no error.
func (tb table[T]) drop(t *tx, name string) error {
	o, err := tb.fetch(t, fold(name))
	if err == nil && o.Rev != 0 {
		store.Delete(t.txn, tb.kind, o)
	}
	return err
}

// tries bounds how often a change begins anew because somebody else was faster;
// of n writers on one record one wins each round.
const tries = 32

// showWithin bounds how long a writer waits to see its own write. The write has
// happened by then, so running out of it is no error.
const showWithin = 2 * time.Second

// change runs f until what it wrote is committed with all that it read unchanged,
// and until this process's own readers see it.
func (e *Engine) change(ctx context.Context, f func(*tx) error) error {
	rev, err := e.commit(ctx, f)
	if err != nil {
		return err
	}
	show, cancel := context.WithTimeout(ctx, showWithin)
	defer cancel()
	_ = e.mirror.WaitRev(show, rev)
	return nil
}

// commit is change for what readers do not see.
func (e *Engine) commit(ctx context.Context, f func(*tx) error) (int64, error) {
	for range tries {
		t := &tx{ctx: ctx, client: e.client, txn: store.NewTxn(), read: map[string]any{}}
		if err := f(t); err != nil {
			return 0, err
		}
		rev, err := e.client.Commit(ctx, t.txn)
		if !errors.Is(err, store.ErrConflict) {
			return rev, unavailable(err)
		}
	}
	return 0, cloud.Errorf("ConcurrentModification", "the request was not processed because others change the same entity all the time: try again")
}

func unavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) {
		return cloud.Errorf("ServiceUnavailable", "the store does not answer: try again")
	}
	return err
}
