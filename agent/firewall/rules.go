package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/ichiro-metal/ichiro/internal/delta"
	"golang.org/x/sys/unix"
)

// Rules are the tables of one namespace with a memory of what the kernel has, so that a change of one interface
// costs one small transaction however many there are. The memory is what our last transaction has left. It is
// good while that one succeeded and the kernel has told of no other: the subscription is older than the reading
// that the memory began with. Anything doubtful (an error, a stranger's transaction, a lost notice) drops
// the memory, and the next Apply reads the kernel in full.
type Rules struct {
	with func(func(fd int) error) error // as link.Space.With; nil: the process's own namespace

	mu     sync.Mutex // one Apply at a time: held over I/O, it guards the kernel's tables
	link   *connection
	watch  *Watch
	known  wish   // nil: not known
	blame  string // who made the memory doubtful, until told
	closed bool
}

// NewRules returns the rules of the namespace that with enters, or of our own if it is nil. Nothing is read yet.
func NewRules(with func(func(fd int) error) error) *Rules {
	if with == nil {
		with = func(f func(int) error) error { return f(0) }
	}
	return &Rules{with: with}
}

// Close lets go of the sockets; the kernel keeps the rules.
func (r *Rules) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.doubt("")
	if r.watch != nil {
		r.watch.Close()
		r.watch = nil
	}
}

// Apply makes the rules what cfg wants, and reports whether anything was changed. The lists of cfg are ours from then on.
func (r *Rules) Apply(cfg Config) (Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.apply(&vpc{Config: cfg})
}

// ApplyHost does the same with the table of a host.
func (r *Rules) ApplyHost(h Host) (Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.apply(h)
}

// Change is what an Apply has done.
type Change struct {
	Changed bool   // there was a transaction
	By      string // who had made the kernel's state doubtful; "" if nobody had, or it is not known
	Foreign bool   // the kernel was not as our last transaction had left it
}

// apply brings all tables to what is wanted. A transaction that fails is not to be trusted either way, so it
// reads the kernel again and tries once more on a new connection.
func (r *Rules) apply(want wish) (c Change, err error) {
	if r.closed {
		return c, errors.New("apply rules: they are closed")
	}
	r.listen()
	trusted := r.known != nil
	for try := range 3 {
		if try == 0 && !trusted {
			continue
		}
		var did, drift bool
		if try == 0 {
			did, err = r.step(want)
		} else {
			did, err = r.full(want)
			drift = did && r.blame != ""
		}
		c.Changed = c.Changed || did
		c.Foreign = c.Foreign || drift
		if err == nil {
			c.By, r.blame = r.blame, ""
			r.known = want
			r.listen() // our own transaction's notice, and those of whoever came in between
			return c, nil
		}
		r.doubt("")
	}
	return c, err
}

// doubt drops the memory, and the connection, on which an error sticks (v0.3.0 of the library).
func (r *Rules) doubt(who string) {
	r.known = nil
	if who != "" {
		r.blame = who
	}
	if r.link != nil {
		r.link.close()
		r.link = nil
	}
}

// listen takes in what the kernel has told. Without a subscription nothing is remembered.
func (r *Rules) listen() {
	if r.watch == nil {
		var err error
		if r.watch, err = r.follow(); err != nil {
			r.watch, r.known = nil, nil
			return
		}
		r.known = nil
	}
	var own uint32
	if r.link != nil {
		own = r.link.port
	}
	for _, e := range r.watch.foreign(own) {
		r.doubt(e)
	}
}

func (r *Rules) follow() (w *Watch, err error) {
	err = r.with(func(fd int) (err error) { w, err = NewWatch(fd); return err })
	return w, err
}

// Await blocks until somebody else has changed the rules since the last Apply, or ctx ends, which is an error.
func (r *Rules) Await(ctx context.Context) error {
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return errors.New("await changes of rules: they are closed")
		}
		had := r.known != nil
		r.listen()
		doubtful := had && r.known == nil || r.blame != ""
		w := r.watch
		r.mu.Unlock()
		if doubtful {
			return nil
		}
		if w == nil {
			return errors.New("await changes of rules: no notices")
		}
		if err := w.s.Await(ctx); err != nil {
			return err
		}
	}
}

// step changes the known tables to the wanted ones.
func (r *Rules) step(want wish) (bool, error) {
	had, wanted := want.beside(r.known)
	if len(wanted) == 0 {
		return false, nil
	}
	return r.commit(func(b *batch) error {
		for i, t := range wanted {
			have := remembered(had[i], t)
			if err := b.table(have, t); err != nil {
				return fmt.Errorf("change table %s: %w", t.name, err)
			}
		}
		return nil
	})
}

// full reads the kernel and changes what it has to the wanted tables.
func (r *Rules) full(want wish) (bool, error) {
	return r.commit(func(b *batch) error {
		for _, t := range want.tables() {
			have, err := look(b.c, t)
			if err != nil {
				return fmt.Errorf("read table %s: %w", t.name, err)
			}
			if err := b.table(have, t); err != nil {
				return fmt.Errorf("change table %s: %w", t.name, err)
			}
		}
		return nil
	})
}

// commit collects a transaction and sends it, if there is anything in it.
func (r *Rules) commit(fill func(*batch) error) (bool, error) {
	if r.link == nil {
		err := r.with(func(fd int) (err error) { r.link, err = connect(fd); return err })
		if err != nil {
			r.link = nil
			return false, err
		}
	}
	b := &batch{c: r.link.c}
	if err := fill(b); err != nil {
		return false, err
	}
	if !b.dirty {
		return false, nil
	}
	if err := b.c.Flush(); err != nil {
		return true, fmt.Errorf("commit rules: %w", err)
	}
	return true, nil
}

// remembered is what the kernel has of a table that we wrote. Base chains do not change while the program is the same; if
// they did, the table would be replaced, which needs no memory.
func remembered(known, want table) kernelTable {
	have := kernelTable{exists: true, chains: make(map[string]bool, len(known.chains)+1), sets: make(map[string]contents, len(known.sets))}
	have.intact = known.name == want.name && known.family == want.family && sameSkeleton(known, want)
	have.chains[known.layout()] = true
	for _, c := range known.chains {
		have.chains[c.name] = true
	}
	for _, s := range known.sets {
		have.sets[s.name] = s.contents()
	}
	return have
}

func sameSkeleton(a, b table) bool { return a.layout() == b.layout() }

// contents are what a set has: elements, or the addresses that are to be elements, each there once.
type contents struct {
	elements  []element
	addresses []netip.Addr
}

func (s set) contents() contents { return contents{s.elements, s.addresses} }

// beside leaves out what both begin and end with, and makes elements of the rest.
func (want contents) beside(have contents) (had, wanted []element) {
	from, endHad, endWanted := delta.Middle(have.addresses, want.addresses, func(x, y *netip.Addr) bool { return *x == *y })
	if from == endHad && from == endWanted {
		return have.elements, want.elements
	}
	return slices.Concat(have.elements, ofAddresses(have.addresses[from:endHad])), slices.Concat(want.elements, ofAddresses(want.addresses[from:endWanted]))
}

// difference returns which elements a set gets and which it loses. Both lists may name an element twice.
func difference(have, want []element) (add, remove []element) {
	from, endHave, endWant := delta.Middle(have, want, sameElement)
	had, wanted := have[from:endHave], want[from:endWant]
	if len(had) == 0 && len(wanted) == 0 {
		return nil, nil
	}
	was := make(map[string]bool, len(had))
	for _, e := range had {
		was[e.id()] = true
	}
	will := make(map[string]bool, len(wanted))
	for _, e := range wanted {
		id := e.id()
		if will[id] {
			continue
		}
		will[id] = true
		if !was[id] {
			add = append(add, e)
		}
	}
	gone := map[string]bool{}
	for _, e := range had {
		if id := e.id(); !will[id] && !gone[id] {
			gone[id] = true
			remove = append(remove, e)
		}
	}
	if len(remove) == 0 || from == 0 && endWant == len(want) {
		return add, remove
	}
	// What both lists have in common may name again what the middle has lost.
	keep := map[string]bool{}
	for _, part := range [][]element{want[:from], want[endWant:]} {
		for i := range part {
			if gone[part[i].id()] {
				keep[part[i].id()] = true
			}
		}
	}
	return add, slices.DeleteFunc(remove, func(e element) bool { return keep[e.id()] })
}

func sameElement(a, b *element) bool {
	return sameBytes(a.key, b.key) && sameBytes(a.end, b.end) && sameBytes(a.value, b.value) && a.chain == b.chain
}

// sameBytes is quick for what was compiled once and kept.
func sameBytes(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b))
}

// connection is one to the kernel that we keep, with the number by which notices name it.
type connection struct {
	c    *nftables.Conn
	port uint32
}

func (l *connection) close() { _ = l.c.CloseLasting() }

func connect(fd int) (*connection, error) {
	l := &connection{}
	c, err := dialWith(fd, func(raw syscallConn) error {
		rc, err := raw.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(rc.Control(func(s uintptr) {
			var sa unix.Sockaddr
			if sa, err = unix.Getsockname(int(s)); err == nil {
				l.port = sa.(*unix.SockaddrNetlink).Pid
			}
		}), err)
	})
	l.c = c
	return l, err
}

// describe names who made a transaction.
func describe(who string, pid int) string {
	if who == "" && pid == 0 {
		return "somebody: notices were lost"
	}
	return strings.TrimSpace(fmt.Sprintf("%s (%d)", who, pid))
}
