// Package store keeps ichiro's facts in etcd: typed values below one key layout (keys.go).
//
// Every key has one writer. Reading is Get and List, or a Mirror: a copy in memory that a
// watch keeps true. Writing is a Txn, which compares exactly the keys that its author
// relied on:
//
//	read (revision r) --> decide --> Txn: "obj is still at r, name is free" --> Commit
//	       ^                                                                     |
//	       +------------------------- ErrConflict, with the key <----------------+
//
// so that several control processes may decide at the same time and one wins. Values are
// JSON, read strictly: an unknown field is an error that names the key, never a loss.
// The package decides nothing, holds no defaults of the domain, and does not know whether
// the server is embedded in the control process or a cluster far away.
package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What callers may ask of an error with errors.Is. The text names the key.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed by somebody else")                     // a *Conflict
	ErrCompacted   = errors.New("revision is too old, its history is gone")     // list anew
	ErrStale       = errors.New("a newer generation has been reported")         // PutStatus
	ErrUnavailable = errors.New("the store does not answer")                    // a write may have happened nevertheless
	ErrFull        = errors.New("the store is full: delete or raise its quota") // etcd's NOSPACE alarm
	ErrTooLarge    = errors.New("the store takes less at once")                 // split the transaction
	ErrDenied      = errors.New("the store denies access")                      // etcd's access control
)

// Conflict is the ErrConflict of one key: what a transaction relied on is no longer so.
type Conflict struct {
	Key string
	Rev int64 // the key's revision now; 0 if it does not exist
}

func (c *Conflict) Error() string {
	if c.Rev == 0 {
		return c.Key + " is gone"
	}
	return fmt.Sprintf("%s has changed (revision %d)", c.Key, c.Rev)
}

// Is makes errors.Is(err, ErrConflict) true.
func (c *Conflict) Is(target error) bool { return target == ErrConflict }

// Client reads and writes. It is safe for concurrent use.
type Client struct {
	etcd    *clientv3.Client
	timeout time.Duration
}

// requestTimeout bounds a request whose context has no deadline: three elections of etcd's
// default second and as much again for a slow disk. Whoever waits longer waits for nothing.
const requestTimeout = 7 * time.Second

// New returns a Client over an etcd client that the caller keeps and closes.
func New(etcd *clientv3.Client) *Client { return &Client{etcd: etcd, timeout: requestTimeout} }

// Etcd returns the client below, for those who administer the server itself.
func (c *Client) Etcd() *clientv3.Client { return c.etcd }

// Close closes the client below; for a Client made by Open.
func (c *Client) Close() error { return c.etcd.Close() }

// Kind is a sort of value: where its keys begin, and its type.
type Kind[T any] struct{ prefix Prefix }

// NewKind returns the kind of the values of type T whose keys are prefix and an id.
func NewKind[T any](prefix Prefix) Kind[T] { return Kind[T]{prefix} }

// Key returns the key of an id. Any id but the empty one is good: what could be taken for a
// part of the path is escaped.
func (k Kind[T]) Key(id string) string { return string(k.prefix) + url.PathEscape(id) }

// idOf is the inverse of Key.
func (k Kind[T]) idOf(key string) (string, error) {
	id, err := url.PathUnescape(strings.TrimPrefix(key, string(k.prefix)))
	if err != nil {
		return "", fmt.Errorf("read key %s: %v", key, err)
	}
	return id, nil
}

// Prefix returns where the keys of the kind begin.
func (k Kind[T]) Prefix() Prefix { return k.prefix }

// Object is a value with its place in the store.
type Object[T any] struct {
	Key     string // below the name space: spec/instance/i-1
	ID      string
	Rev     int64 // revision of its last change
	Created int64 // revision of its creation
	Value   T
}

// Get reads one value as of now. ErrNotFound if there is none.
func Get[T any, I ~string](ctx context.Context, c *Client, k Kind[T], id I) (Object[T], error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	key := k.Key(string(id))
	resp, err := c.etcd.Get(ctx, namespace+key)
	if err != nil {
		return Object[T]{}, fmt.Errorf("get %s: %w", key, known(err))
	}
	if len(resp.Kvs) == 0 {
		return Object[T]{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return decode(k, entryOf(resp.Kvs[0]))
}

// Range selects what List returns. The zero Range is everything as of now.
type Range struct {
	Rev   int64  // as of this revision; 0 is now. ErrCompacted if its history is gone
	IDs   string // only ids that begin so
	After string // only ids that sort behind this one
	Limit int    // at most so many; 0 is all
}

// Listing is what List returns, sorted by key. Rev is the revision that it shows: with it in
// Range.Rev and the last ID in Range.After, the next call continues the same list.
type Listing[T any] struct {
	Objects []Object[T]
	Rev     int64
	More    bool // there are more behind the last one
}

// listPage bounds one answer of the server: 1000 values of 4 KiB are 4 MiB.
const listPage = 1000

// List reads the values of a kind, all as of one revision.
func List[T any](ctx context.Context, c *Client, k Kind[T], r Range) (Listing[T], error) {
	from := namespace + k.Key(r.IDs)
	end := clientv3.GetPrefixRangeEnd(from)
	if r.After != "" {
		from = max(from, namespace+k.Key(r.After)+"\x00")
	}
	l := Listing[T]{Rev: r.Rev}
	for {
		limit := listPage
		if r.Limit > 0 {
			limit = min(limit, r.Limit-len(l.Objects))
		}
		resp, err := c.page(ctx, from, end, l.Rev, limit)
		if err != nil {
			return Listing[T]{}, fmt.Errorf("list %s: %w", k.prefix, err)
		}
		if l.Rev == 0 {
			l.Rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			o, err := decode(k, entryOf(kv))
			if err != nil {
				return Listing[T]{}, err
			}
			l.Objects = append(l.Objects, o)
		}
		l.More = resp.More
		if !resp.More || r.Limit > 0 && len(l.Objects) >= r.Limit {
			return l, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// page reads up to limit keys of [from, end) as of rev.
func (c *Client) page(ctx context.Context, from, end string, rev int64, limit int) (*clientv3.GetResponse, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	resp, err := c.etcd.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(int64(limit)))
	return resp, known(err)
}

// bound gives a request an end.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, c.timeout, ErrUnavailable)
}

// known turns etcd's errors that callers care about into this package's.
func known(err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, rpctypes.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		return ErrFull
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return ErrDenied
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (%v)", ErrUnavailable, err)
	}
	var e rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.Canceled:
		return context.Canceled
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%w (%v)", ErrUnavailable, err)
	}
	return err
}

// entry is one key with its value as the store has it. It never changes.
type entry struct {
	key          string // below the name space
	raw          []byte
	rev, created int64
	decoded      cache
}

func entryOf(kv *mvccpb.KeyValue) *entry {
	return &entry{key: strings.TrimPrefix(string(kv.Key), namespace), raw: kv.Value, rev: kv.ModRevision, created: kv.CreateRevision}
}

// decode reads an entry as an object of kind k.
func decode[T any](k Kind[T], e *entry) (Object[T], error) {
	id, err := k.idOf(e.key)
	if err != nil {
		return Object[T]{}, err
	}
	o := Object[T]{Key: e.key, ID: id, Rev: e.rev, Created: e.created}
	if err := unmarshal(e.raw, &o.Value); err != nil {
		return Object[T]{}, fmt.Errorf("read %s: %v", e.key, err)
	}
	return o, nil
}

// unmarshal is strict: no unknown fields, nothing behind the value.
func unmarshal(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the value")
	}
	return nil
}
