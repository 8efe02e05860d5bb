package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MaxTxnOps is how many changes one transaction may have in our own server. An external
// cluster must run with --max-txn-ops of at least this; etcd's default is 128.
const MaxTxnOps = 1024

// MaxBytes is how large a transaction may be: etcd's default of 1.5 MiB.
const MaxBytes = 1.5 * (1 << 20)

// Txn collects changes and what they rely on. All of it happens, or nothing. A mistake,
// such as a value that has no JSON or a key written twice, is kept for Commit to return.
type Txn struct {
	relies  []reliance
	changes []change
	err     error
}

// reliance is a key that must be at a revision; 0 is that it does not exist. Of a whole kind no key may be newer.
type reliance struct {
	key  string
	rev  int64
	kind bool // key is a prefix
}

type change struct {
	key    string
	value  []byte
	delete bool
	ttl    time.Duration // 0: for ever
}

// NewTxn returns an empty transaction.
func NewTxn() *Txn { return &Txn{} }

// Create adds a value that must not exist yet.
func Create[T any, I ~string](t *Txn, k Kind[T], id I, v T) {
	CreateWithTTL(t, k, id, v, 0)
}

// CreateWithTTL adds a value that must not exist yet, and that etcd deletes after ttl,
// rounded up to seconds. For what may be forgotten: client tokens, previews.
func CreateWithTTL[T any, I ~string](t *Txn, k Kind[T], id I, v T, ttl time.Duration) {
	t.rely(k.Key(string(id)), 0)
	put(t, k, string(id), v, ttl)
}

// Update changes a value that must still be as obj was read.
func Update[T any](t *Txn, k Kind[T], obj Object[T], v T) {
	t.rely(obj.Key, obj.Rev)
	put(t, k, obj.ID, v, 0)
}

// Delete removes a value that must still be as obj was read.
func Delete[T any](t *Txn, k Kind[T], obj Object[T]) {
	t.rely(obj.Key, obj.Rev)
	t.change(change{key: obj.Key, delete: true})
}

// Put writes a value whatever was there before: for keys that have one writer in truth.
func Put[T any, I ~string](t *Txn, k Kind[T], id I, v T) {
	put(t, k, string(id), v, 0)
}

// Remove deletes a key whatever it held, or did not hold.
func Remove[T any, I ~string](t *Txn, k Kind[T], id I) {
	t.change(change{key: k.Key(string(id)), delete: true})
}

// Require makes the transaction rely on a key that it does not change: it must be at rev,
// and with rev 0 it must not exist.
func Require[T any, I ~string](t *Txn, k Kind[T], id I, rev int64) {
	t.rely(k.Key(string(id)), rev)
}

// RequireNothingNew makes the transaction rely on a whole kind: nothing of it was created or changed after rev, such
// as the revision of the snapshot in which there was nothing that speaks against it. Whoever deletes what others
// refer to needs it: of two who make references at the same time, neither changes what they refer to. That
// something was deleted since does not count.
func RequireNothingNew[T any](t *Txn, k Kind[T], rev int64) {
	t.relies = append(t.relies, reliance{string(k.prefix), rev, true})
}

// RequireNone makes the transaction rely on there being no key of the kind whose id begins so.
func RequireNone[T any](t *Txn, k Kind[T], ids string) {
	t.relies = append(t.relies, reliance{k.Key(ids), 0, true})
}

// Len returns how many changes the transaction has.
func (t *Txn) Len() int { return len(t.changes) }

func put[T any](t *Txn, k Kind[T], id string, v T, ttl time.Duration) {
	key := k.Key(id)
	if id == "" {
		t.fail(fmt.Errorf("write %s: the id is empty", key))
	}
	value, err := json.Marshal(v)
	if err != nil {
		t.fail(fmt.Errorf("write %s: %v", key, err))
	}
	t.change(change{key: key, value: value, ttl: ttl})
}

func (t *Txn) rely(key string, rev int64) {
	for _, r := range t.relies {
		if r.key == key && !r.kind {
			if r.rev != rev {
				t.fail(fmt.Errorf("rely on %s: at revision %d and at %d", key, r.rev, rev))
			}
			return
		}
	}
	t.relies = append(t.relies, reliance{key: key, rev: rev})
}

func (t *Txn) change(c change) {
	for _, other := range t.changes {
		if other.key == c.key {
			t.fail(fmt.Errorf("write %s: twice in one transaction", c.key))
			return
		}
	}
	t.changes = append(t.changes, c)
}

func (t *Txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Commit does what t says and returns the revision at which it happened, which is the Rev
// of everything it wrote. A *Conflict names the key that was not as relied upon; then
// nothing happened. After ErrUnavailable it may have happened: read again.
// A transaction may be committed again after a conflict only if it is still meant.
func (c *Client) Commit(ctx context.Context, t *Txn) (rev int64, err error) {
	if t.err != nil {
		return 0, t.err
	}
	size := 0
	for _, ch := range t.changes {
		size += len(ch.key) + len(ch.value)
	}
	if size > MaxBytes {
		return 0, fmt.Errorf("commit %d changes of %d bytes together, and %d is the most: %w", len(t.changes), size, int(MaxBytes), ErrTooLarge)
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	leases, err := c.lease(ctx, t)
	if err != nil {
		return 0, err
	}
	resp, err := c.etcd.Txn(ctx).If(t.compares()...).Then(t.ops(leases)...).Else(t.rereads()...).Commit()
	if err != nil || !resp.Succeeded {
		c.release(ctx, leases)
	}
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return 0, fmt.Errorf("commit %d changes that rely on %d keys: %w: split it, or run etcd with --max-txn-ops=%d",
			len(t.changes), len(t.relies), ErrTooLarge, MaxTxnOps)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return 0, fmt.Errorf("commit %d changes of %d bytes together: %w", len(t.changes), size, ErrTooLarge)
	case err != nil:
		return 0, fmt.Errorf("commit: %w", known(err))
	case !resp.Succeeded:
		return 0, t.conflict(resp)
	}
	return resp.Header.Revision, nil
}

func (t *Txn) compares() (cmps []clientv3.Cmp) {
	for _, r := range t.relies {
		if r.kind {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(namespace+r.key), "<", r.rev+1).WithPrefix())
			continue
		}
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(namespace+r.key), "=", r.rev))
	}
	return cmps
}

func (t *Txn) ops(leases map[time.Duration]clientv3.LeaseID) (ops []clientv3.Op) {
	for _, ch := range t.changes {
		switch {
		case ch.delete:
			ops = append(ops, clientv3.OpDelete(namespace+ch.key))
		default:
			ops = append(ops, clientv3.OpPut(namespace+ch.key, string(ch.value), clientv3.WithLease(leases[ch.ttl])))
		}
	}
	return ops
}

// rereads asks for the revision of every key relied on, to name the one that failed; of a kind, for the newest key.
func (t *Txn) rereads() (ops []clientv3.Op) {
	for _, r := range t.relies {
		if r.kind {
			ops = append(ops, clientv3.OpGet(namespace+r.key, append(clientv3.WithLastRev(), clientv3.WithKeysOnly())...))
			continue
		}
		ops = append(ops, clientv3.OpGet(namespace+r.key, clientv3.WithKeysOnly()))
	}
	return ops
}

func (t *Txn) conflict(resp *clientv3.TxnResponse) error {
	for i, r := range t.relies {
		var now int64
		key := r.key
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			now = kvs[0].ModRevision
			key = strings.TrimPrefix(string(kvs[0].Key), namespace)
		}
		if r.kind && now > r.rev || !r.kind && now != r.rev {
			return &Conflict{Key: key, Rev: now}
		}
	}
	panic("store: etcd refused a transaction of which everything is as relied upon")
}

// lease asks for one lease for each time to live that t wants.
func (c *Client) lease(ctx context.Context, t *Txn) (map[time.Duration]clientv3.LeaseID, error) {
	leases := map[time.Duration]clientv3.LeaseID{}
	for _, ch := range t.changes {
		if _, ok := leases[ch.ttl]; ok || ch.ttl == 0 {
			continue
		}
		l, err := c.etcd.Grant(ctx, int64(math.Ceil(ch.ttl.Seconds())))
		if err != nil {
			c.release(ctx, leases)
			return nil, fmt.Errorf("lease for %s: %w", ch.key, known(err))
		}
		leases[ch.ttl] = l.ID
	}
	return leases, nil
}

// release gives leases back that hold nothing. One that stays runs out by itself.
func (c *Client) release(ctx context.Context, leases map[time.Duration]clientv3.LeaseID) {
	for _, id := range leases {
		c.etcd.Revoke(ctx, id)
	}
}
