package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNotReady is what a Mirror answers before it has seen the store once. It is an error
// because an empty answer would read as "all is deleted".
var ErrNotReady = errors.New("the mirror has not seen the store yet")

// Mirror is a copy in memory of all keys below some prefixes, fed by a watch.
//
// What one transaction changed below one prefix appears at once and in order; below
// different prefixes, one may be ahead of the other for a moment. After a lost connection
// the watch goes on where it was. If that is impossible (the history is compacted away, or
// it is a different store now) the mirror lists anew and appears to jump. While the store
// is away it shows what it saw last.
type Mirror struct {
	c        *Client
	prefixes []Prefix
	check    time.Duration // how often the store is asked whether the watch is behind

	ready   chan struct{}
	changed chan struct{}
	wake    []waker

	mu      sync.Mutex
	snap    *Snapshot // what readers have; never changes once given away
	given   bool      // snap was given to a reader
	seen    []int64   // per prefix: everything up to this revision is in snap
	waiters map[chan struct{}]int64
	away    error         // why the store could not be asked the last time
	asking  chan struct{} // somebody waits: ask for progress now
}

// NewMirror returns a mirror of what lies below prefixes, none of which lies below another.
func NewMirror(c *Client, prefixes ...Prefix) *Mirror {
	return &Mirror{
		c: c, prefixes: prefixes, check: 5 * time.Second,
		ready: make(chan struct{}), changed: make(chan struct{}, 1),
		waiters: map[chan struct{}]int64{}, asking: make(chan struct{}, 1),
	}
}

// Ready is closed when the mirror has seen the store.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// String names the mirror as a task.
func (m *Mirror) String() string {
	var names []string
	for _, p := range m.prefixes {
		names = append(names, string(p))
	}
	return "mirror of " + strings.Join(names, " ")
}

// Health says that the store is away, and that the mirror therefore shows the past.
func (m *Mirror) Health() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.away
}

func (m *Mirror) setAway(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = err
}

// Changed receives when the mirror has changed since the last receive. It has one reader;
// see OnChange for more.
func (m *Mirror) Changed() <-chan struct{} { return m.changed }

// OnChange has f called after every change; f must not block. Call it before Run:
// mirror.OnChange(loop.Wake).
func (m *Mirror) OnChange(f func()) { m.OnChangeOf(func(string) bool { return true }, f) }

// OnChangeOf is OnChange for changes of keys that match, below the name space; it is called too when the mirror has
// listed anew and cannot tell what has changed.
func (m *Mirror) OnChangeOf(match func(key string) bool, f func()) {
	m.wake = append(m.wake, waker{match, f})
}

type waker struct {
	match func(key string) bool
	f     func()
}

// Rev returns the revision up to which everything is in the mirror; 0 before Ready.
func (m *Mirror) Rev() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev()
}

func (m *Mirror) rev() int64 {
	if m.snap == nil {
		return 0
	}
	return slices.Min(m.seen)
}

// WaitRev returns when the mirror shows everything up to rev, such as the one that Commit
// returned: so a writer can read its own write.
func (m *Mirror) WaitRev(ctx context.Context, rev int64) error {
	m.mu.Lock()
	if m.snap != nil && m.rev() >= rev {
		m.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	m.waiters[done] = rev
	m.mu.Unlock()
	poke(m.asking)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.waiters, done)
		m.mu.Unlock()
		return fmt.Errorf("wait until the mirror shows revision %d: %w", rev, context.Cause(ctx))
	}
}

// Snapshot returns all that the mirror has now. It never changes; reading several kinds
// from one snapshot sees them together. Nil before Ready.
func (m *Mirror) Snapshot() *Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.given = true
	return m.snap
}

// View is a *Mirror or a *Snapshot of one.
type View interface{ Snapshot() *Snapshot }

// Snapshot is what a mirror showed at a moment.
type Snapshot struct {
	rev     int64
	entries []*entry // sorted by key
}

// Snapshot returns s.
func (s *Snapshot) Snapshot() *Snapshot { return s }

// Rev returns the revision up to which everything is in the snapshot.
func (s *Snapshot) Rev() int64 { return s.rev }

func (s *Snapshot) find(key string) (int, bool) {
	return slices.BinarySearchFunc(s.entries, key, func(e *entry, key string) int { return strings.Compare(e.key, key) })
}

// below returns the entries whose keys begin with prefix.
func (s *Snapshot) below(prefix string) []*entry {
	from, _ := s.find(prefix)
	n, _ := slices.BinarySearchFunc(s.entries[from:], prefix, func(e *entry, prefix string) int {
		if strings.HasPrefix(e.key, prefix) {
			return -1
		}
		return 1
	})
	return s.entries[from : from+n]
}

// Mirrored returns all objects of a kind, sorted by key. Values are decoded once per change
// and shared: readers must not modify what their pointers, maps and slices lead to. A value
// that cannot be read is an error, as leaving it out would read as "deleted".
func Mirrored[T any](v View, k Kind[T]) ([]Object[T], error) {
	s := v.Snapshot()
	if s == nil {
		return nil, ErrNotReady
	}
	entries := s.below(string(k.prefix))
	objs := make([]Object[T], 0, len(entries))
	for _, e := range entries {
		o, err := cached(k, e)
		if err != nil {
			return nil, err
		}
		objs = append(objs, o)
	}
	return objs, nil
}

// Difference returns what is new or different in a kind since an earlier snapshot of the same mirror, sorted by key, and the
// IDs of what is gone. Before the first snapshot, nil, there was nothing. It costs a comparison of pointers for what is
// the same, whatever that holds.
func Difference[T any](before, now *Snapshot, k Kind[T]) (changed []Object[T], gone []string, err error) {
	if now == nil {
		return nil, nil, ErrNotReady
	}
	var old []*entry
	if before != nil {
		old = before.below(string(k.prefix))
	}
	for _, e := range now.below(string(k.prefix)) {
		for len(old) > 0 && old[0].key < e.key {
			if gone, err = appendID(gone, k, old[0]); err != nil {
				return nil, nil, err
			}
			old = old[1:]
		}
		if len(old) > 0 && old[0].key == e.key {
			same := old[0] == e
			old = old[1:]
			if same {
				continue
			}
		}
		o, err := cached(k, e)
		if err != nil {
			return nil, nil, err
		}
		changed = append(changed, o)
	}
	for _, e := range old {
		if gone, err = appendID(gone, k, e); err != nil {
			return nil, nil, err
		}
	}
	return changed, gone, nil
}

func appendID[T any](ids []string, k Kind[T], e *entry) ([]string, error) {
	id, err := k.idOf(e.key)
	return append(ids, id), err
}

// MirroredGet returns one object, or ErrNotFound.
func MirroredGet[T any, I ~string](v View, k Kind[T], id I) (Object[T], error) {
	s := v.Snapshot()
	if s == nil {
		return Object[T]{}, ErrNotReady
	}
	key := k.Key(string(id))
	i, ok := s.find(key)
	if !ok {
		return Object[T]{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return cached(k, s.entries[i])
}

// Change carries out a change that decide makes of what the mirror holds, again if somebody else was faster, and returns when the
// mirror has it. Without a transaction nothing is changed.
func Change(ctx context.Context, c *Client, m *Mirror, decide func(snap *Snapshot) (*Txn, error)) error {
	for {
		t, err := decide(m.Snapshot())
		if err != nil || t == nil {
			return err
		}
		rev, err := c.Commit(ctx, t)
		if errors.Is(err, ErrConflict) {
			if rev, err = c.Head(ctx); err == nil {
				err = m.WaitRev(ctx, rev)
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		return m.WaitRev(ctx, rev)
	}
}

// cache holds an entry's decoded object.
type cache = atomic.Pointer[any]

func cached[T any](k Kind[T], e *entry) (Object[T], error) {
	if p := e.decoded.Load(); p != nil {
		if o, ok := (*p).(Object[T]); ok {
			return o, nil
		}
	}
	o, err := decode(k, e)
	if err == nil {
		var boxed any = o
		e.decoded.Store(&boxed)
	}
	return o, err
}

// poke sends to a channel of one without waiting.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
