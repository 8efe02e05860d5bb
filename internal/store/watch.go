package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Run feeds the mirror until ctx ends. It goes on for ever while the store is away.
func (m *Mirror) Run(ctx context.Context) error {
	if len(m.prefixes) == 0 {
		return errors.New("mirror: no prefix is given")
	}
	const first, longest = 50 * time.Millisecond, 2 * time.Second
	pause := first
	for {
		listed, err := m.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrDenied) {
			return fmt.Errorf("%s: %w", m, err) // waiting does not help
		}
		if listed {
			pause = first
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, longest)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow lists everything once and then watches from there, until that is no longer
// possible. listed tells how far it got.
func (m *Mirror) follow(ctx context.Context) (listed bool, err error) {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel() // ends the watches
	cluster, rev, entries, err := m.list(ctx)
	m.setAway(err)
	if err != nil {
		return false, err
	}
	m.replace(rev, entries)

	type answer struct {
		prefix int
		resp   clientv3.WatchResponse
	}
	answers := make(chan answer)
	for i, p := range m.prefixes {
		helpers.Go(func() { // Watch itself waits while the store is away
			watch := m.c.etcd.Watch(ctx, namespace+string(p), clientv3.WithPrefix(), clientv3.WithRev(rev+1), clientv3.WithProgressNotify())
			for {
				resp, ok := <-watch
				if !ok {
					resp = clientv3.WatchResponse{Canceled: true}
				}
				select {
				case answers <- answer{i, resp}:
				case <-ctx.Done():
					return
				}
				if !ok {
					return
				}
			}
		})
	}
	behind := newBehind(m, cluster)
	helpers.Go(func() { behind.run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case err := <-behind.lost:
			return true, err
		case a := <-answers:
			switch id := a.resp.Header.GetClusterId(); {
			case id != 0 && id != cluster:
				return true, errOther
			case a.resp.CompactRevision > 0:
				return true, ErrCompacted
			case a.resp.Canceled:
				return true, fmt.Errorf("watch %s: %w", m.prefixes[a.prefix], cmp.Or(known(a.resp.Err()), ErrUnavailable))
			}
			m.apply(a.prefix, a.resp.Header.Revision, a.resp.Events)
		}
	}
}

// errOther tells of another store at the same place: its revisions mean nothing beside those of the first.
var errOther = errors.New("it is a different store")

// list reads all prefixes as of one revision.
func (m *Mirror) list(ctx context.Context) (cluster uint64, rev int64, entries []*entry, err error) {
	for _, p := range m.prefixes {
		from := namespace + string(p)
		end := clientv3.GetPrefixRangeEnd(from)
		for more := true; more; {
			resp, err := m.c.page(ctx, from, end, rev, listPage)
			if err != nil {
				return 0, 0, nil, fmt.Errorf("list %s: %w", p, err)
			}
			if rev == 0 {
				rev, cluster = resp.Header.Revision, resp.Header.ClusterId
			}
			for _, kv := range resp.Kvs {
				entries = append(entries, entryOf(kv))
				from = string(kv.Key) + "\x00"
			}
			more = resp.More
		}
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.key, b.key) })
	return cluster, rev, entries, nil
}

// replace makes the mirror show exactly entries. What has not changed keeps its decoded form.
func (m *Mirror) replace(rev int64, entries []*entry) {
	m.mu.Lock()
	first := m.snap == nil
	if !first {
		for i, e := range entries {
			if j, ok := m.snap.find(e.key); ok && m.snap.entries[j].rev == e.rev && string(m.snap.entries[j].raw) == string(e.raw) {
				entries[i] = m.snap.entries[j]
			}
		}
	}
	m.snap, m.given = &Snapshot{rev: rev, entries: entries}, false
	m.seen = make([]int64, len(m.prefixes))
	for i := range m.seen {
		m.seen[i] = rev
	}
	m.settle()
	m.mu.Unlock()
	if first {
		close(m.ready)
	}
	m.tell(nil)
}

// apply makes the changes of one watch answer visible at once. An answer without events
// tells that there are none up to rev.
func (m *Mirror) apply(prefix int, rev int64, events []*clientv3.Event) {
	m.mu.Lock()
	if len(events) > 0 {
		// While a watch catches up, an answer's header may be ahead of its events.
		rev = events[len(events)-1].Kv.ModRevision
	}
	next := m.snap
	if m.given {
		next = &Snapshot{entries: m.snap.entries}
		if len(events) > 0 {
			next.entries, m.given = slices.Clone(next.entries), false
		}
	}
	for _, ev := range events {
		e := entryOf(ev.Kv)
		i, ok := next.find(e.key)
		switch {
		case ok && next.entries[i].rev >= e.rev: // seen already
		case ev.Type == mvccpb.DELETE && ok:
			next.entries = slices.Delete(next.entries, i, i+1)
		case ev.Type == mvccpb.DELETE:
		case ok:
			next.entries[i] = e
		default:
			next.entries = slices.Insert(next.entries, i, e)
		}
	}
	m.seen[prefix] = max(m.seen[prefix], rev)
	next.rev = m.rev()
	m.snap = next
	m.settle()
	m.mu.Unlock()
	if len(events) > 0 {
		m.tell(events)
	}
}

// settle lets those go on who waited for what is now there. Called with m.mu held.
func (m *Mirror) settle() {
	for done, rev := range m.waiters {
		if m.rev() >= rev {
			close(done)
			delete(m.waiters, done)
		}
	}
}

// tell wakes those whom the events concern; without events, all.
func (m *Mirror) tell(events []*clientv3.Event) {
	poke(m.changed)
	for _, w := range m.wake {
		if len(events) == 0 || slices.ContainsFunc(events, func(e *clientv3.Event) bool {
			return w.match(strings.TrimPrefix(string(e.Kv.Key), namespace))
		}) {
			w.f()
		}
	}
}

func (m *Mirror) waiting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiters) > 0
}

// behind finds out when the watch no longer tells what happens: it compares the revision
// of the store with that of the mirror, and asks for progress when the mirror is behind.
// It is what notices a store that was set up anew or put back from a backup, where a watch
// from a revision in the future would wait in silence.
type behind struct {
	m       *Mirror
	cluster uint64
	lost    chan error

	goal  int64 // revision that the mirror must reach
	tries int   // checks since the goal was set
}

// patience is how many checks the mirror may be behind the same revision. At 5 s each:
// longer than an election and a reconnection take together.
const patience = 6

func newBehind(m *Mirror, cluster uint64) *behind {
	return &behind{m: m, cluster: cluster, lost: make(chan error, 1)}
}

func (b *behind) run(ctx context.Context) {
	check := time.NewTicker(b.m.check)
	defer check.Stop()
	for {
		var again <-chan time.Time
		if b.m.waiting() {
			// The server leaves a request unanswered while it is itself behind: ask again.
			b.progress(ctx)
			again = time.After(20 * time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.m.asking:
		case <-again:
		case <-check.C:
			if err := b.ask(ctx); err != nil {
				b.lost <- err
				return
			}
		}
	}
}

// progress asks the store to say up to where the watches have told everything. While the
// connection is lost nobody takes the request, hence the limit.
func (b *behind) progress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b.m.c.etcd.RequestProgress(ctx)
}

// ask makes one check. Its error says why the watch cannot be trusted any more.
func (b *behind) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.m.check)
	defer cancel()
	at := b.m.Rev() // before asking: the store's answer cannot be older than this
	resp, err := b.m.c.etcd.Get(ctx, namespace+string(b.m.prefixes[0]), clientv3.WithKeysOnly())
	if err != nil {
		if err = known(err); !errors.Is(err, context.Canceled) {
			b.m.setAway(err)
		}
		return nil // the watch waits as well
	}
	b.m.setAway(nil)
	switch {
	case resp.Header.ClusterId != b.cluster:
		return errOther
	case resp.Header.Revision < at:
		return errors.New("the store has gone back in time")
	case at >= b.goal:
		b.goal, b.tries = resp.Header.Revision, 0
	}
	if at < b.goal {
		b.tries++
		b.progress(ctx)
	}
	if b.tries > patience {
		return fmt.Errorf("the watch has been silent behind revision %d", b.goal)
	}
	return nil
}
