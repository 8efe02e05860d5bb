package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/ichiro-metal/ichiro/internal/delta"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// memory is what a namespace is known to have: what our last complete Attach has left in it. It is good while
// the kernel has told of nothing else, our own calls succeed, and it is not older than memoryHolds.
type memory struct {
	network  Network // its taps are those that are there, in the order of the wish
	up       Range
	at       map[string]int // index of each tap
	expected map[int]Tap
	shapes   *shapes
	since    time.Time
	parted   map[int]bool // indexes of taps that we have deleted: what comes of them is late
}

// memoryHolds bounds how long we go without reading the kernel, should a change ever escape us. Reading costs some
// 20 microseconds a tap.
const memoryHolds = 5 * time.Minute

// sameTap is quick for what was compiled once and kept.
func sameTap(a, b **Tap) bool { return *a == *b || (*a).equal(*b) }

func (t *Tap) equal(o *Tap) bool {
	return t.Name == o.Name && t.Alias == o.Alias && t.MTU == o.MTU && t.Owner == o.Owner && t.Guest == o.Guest && t.Shaper == o.Shaper &&
		slices.Equal(t.Addresses, o.Addresses) && slices.Equal(t.Prefixes, o.Prefixes) &&
		slices.Equal(t.Addresses6, o.Addresses6) && slices.Equal(t.Prefixes6, o.Prefixes6)
}

// apart is a network without its taps and what other hosts have of it.
func apart(n Network) Network {
	n.Taps, n.Peers = nil, nil
	return n
}

// simple reports whether only taps differ, and among those none that more hangs on than its own addresses.
func (m *memory) simple(want Network) bool {
	if !reflect.DeepEqual(apart(m.network), apart(want)) {
		return false
	}
	from, endOld, endNew := delta.Middle(m.network.Taps, want.Taps, sameTap)
	for _, t := range slices.Concat(m.network.Taps[from:endOld], want.Taps[from:endNew]) {
		if len(t.Prefixes)+len(t.Prefixes6) > 0 || slices.ContainsFunc(want.Via, func(v Via) bool { return v.Tap == t.Name }) {
			return false
		}
	}
	owners := make(map[string]uint32, endOld-from)
	for _, t := range m.network.Taps[from:endOld] {
		owners[t.Name] = t.Owner
	}
	return !slices.ContainsFunc(want.Taps[from:endNew], func(t *Tap) bool { // its tap is made anew
		o, ok := owners[t.Name]
		return ok && o != t.Owner
	})
}

// doubt drops the memory. The next call reads the kernel.
func (s *Space) doubt(why string) {
	s.memory, s.far = nil, nil
	if why != "" {
		s.blame = append(s.blame, why)
		s.stale, s.unsure = true, true
	}
}

// trusted returns the memory if it is good.
func (s *Space) trusted() *memory {
	s.listen(false)
	if s.memory == nil {
		return nil
	}
	age := time.Since(s.memory.since)
	if age < 0 || age > memoryHolds || !s.there() {
		s.doubt("")
	}
	return s.memory
}

// there reports whether the namespace still has its name.
func (s *Space) there() bool {
	var st unix.Stat_t
	return unix.Stat(filepath.Join(spaceDir, s.name), &st) == nil && st.Ino == s.id
}

// listen takes in what the kernel has told; inside tells that we have made changes ourselves since the last time.
//
// Whose a change is that came inside cannot always be told: the kernel does not say who made it (of IPv6 addresses and of
// settings it never does), and a stranger's may lie between our look and our own. Then we are unsure, and the kernel is read
// once more when we have done, which changes nothing and so ends it, if all was ours.
func (s *Space) listen(inside bool) {
	if s.notices == nil {
		s.memory = nil
		err := s.With(func(fd int) (err error) {
			s.notices, err = notice.Open(fd, unix.NETLINK_ROUTE, []int{
				unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
				unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_TC,
			})
			return err
		})
		if err != nil {
			return // nothing is remembered then
		}
	}
	last := map[string]change{} // of each object: what was in between does not matter any more
	lost := s.notices.Drain(func(m notice.Message) {
		if c, ok := parseChange(m); ok {
			s.note(c)
			last[c.key()] = c
		}
	})
	if s.memory == nil {
		s.unsure = s.unsure || lost
		for _, c := range last {
			s.unsure = s.unsure || c.kind != ofNeighbour || c.lasting
		}
		return
	}
	if lost {
		s.doubt("notices were lost")
		return
	}
	for _, c := range last {
		why := s.memory.contradicts(c, inside)
		if why == "" && inside && !s.ours(c) && s.memory.contradicts(c, false) != "" {
			s.unsure = true
		}
		if t, tap := s.memory.expected[c.index]; tap && c.kind == ofSettings && s.amiss(c.index, t) == 0 {
			continue // it is right again, by us or by a stranger
		}
		if why == "" {
			continue
		}
		if by := notice.Sender(c.port); by != "" {
			why += " by " + by
		}
		s.doubt(why)
		if s.memory == nil {
			return
		}
	}
}

// ours reports whether a change is one that we make by memory: of a tap's bounds, of what leads to other hosts, of a tap
// that is gone. Those of what we want are told by themselves.
func (s *Space) ours(c change) bool {
	switch c.kind {
	case ofQueue, ofFilter:
		return true
	case ofSettings: // of a shaper's new link the kernel tells them all
		_, shaper := s.memory.shapes.names[c.index]
		return shaper || s.memory.parted[c.index]
	case ofRoute:
		if s.far != nil && s.far.index != 0 && c.out == s.far.index {
			_, wanted := s.far.routes[c.prefix]
			return wanted != c.gone
		}
		return c.gone && s.memory.parted[c.out]
	}
	return false
}

// lookAgain asks for another look at the kernel if we are unsure of what we know, and reports whether it did.
func (s *Space) lookAgain() bool {
	if !s.unsure || s.memory == nil {
		return false
	}
	s.doubt("")
	s.stale, s.unsure = true, false
	return true
}

// Await blocks until somebody else has changed the namespace's links, routes, neighbours or addresses, or ctx ends,
// which is an error.
func (s *Space) Await(ctx context.Context) error {
	for {
		s.work.Lock()
		s.listen(false)
		doubtful, n := s.stale, s.notices
		s.work.Unlock()
		if doubtful {
			return nil
		}
		if n == nil {
			return fmt.Errorf("await changes in namespace %s: %w", s.name, fs.ErrClosed)
		}
		if err := n.Await(ctx); err != nil {
			return err
		}
	}
}

// Blame returns what others have changed since it was last called, as far as the kernel has told.
func (s *Space) Blame() []string {
	s.work.Lock()
	defer s.work.Unlock()
	b := s.blame
	s.blame = nil
	return b
}

// pruneKnown removes what the memory has and the wish does not name.
func (s *Space) pruneKnown(m *memory, want Network) ([]netip.Addr, error) {
	from, endOld, endNew := delta.Middle(m.network.Taps, want.Taps, sameTap)
	if from == endOld {
		return nil, nil
	}
	wanted := make(map[string]*Tap, endNew-from)
	for i := from; i < endNew; i++ {
		wanted[want.Taps[i].Name] = want.Taps[i]
	}
	var gone []netip.Addr
	var doomed []device
	var left, changed []*Tap
	for _, had := range m.network.Taps[from:endOld] {
		t := *had
		index := m.at[t.Name]
		var keep []netip.Addr
		var will Tap
		if w := wanted[t.Name]; w != nil {
			keep, will = w.Addresses, *w
		} else {
			doomed = append(doomed, device{t.Name, index})
		}
		var stay []netip.Addr
		for _, a := range t.Addresses {
			if slices.Contains(keep, a) {
				stay = append(stay, a)
				continue
			}
			gone = append(gone, a)
			if err := s.withdraw(index, a); err != nil {
				return gone, err
			}
			n := &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, IP: a.AsSlice()}
			if err := s.h.NeighDel(n); err != nil && !errors.Is(err, syscall.ENOENT) {
				return gone, fmt.Errorf("delete neighbour %s: %w", a, err)
			}
		}
		free, err := s.release6(index, t, will)
		gone = append(gone, free...)
		if err != nil {
			return gone, err
		}
		if w := wanted[t.Name]; w == nil || w.Shaper.Name != t.Shaper.Name {
			changed = append(changed, had)
		}
		if wanted[t.Name] != nil {
			t.Addresses = stay
			t.Addresses6 = slices.DeleteFunc(slices.Clone(t.Addresses6), func(a netip.Addr) bool { return !slices.Contains(will.Addresses6, a) })
			left = append(left, &t)
			m.expected[index] = t
		}
	}
	if err := errors.Join(s.deleteTaps(doomed), s.unshapeKnown(m, changed, left, want)); err != nil {
		return gone, err
	}
	for _, d := range doomed {
		delete(m.at, d.name)
		delete(m.expected, d.index)
		m.parted[d.index] = true // the kernel gives no number twice
	}
	m.network.Taps = slices.Concat(m.network.Taps[:from], left, m.network.Taps[endOld:])
	s.listen(true)
	return gone, nil
}

// attachKnown makes the taps that the memory lacks or has otherwise.
func (s *Space) attachKnown(m *memory, want Network) error {
	from, endOld, endNew := delta.Middle(m.network.Taps, want.Taps, sameTap)
	had := make(map[string]*Tap, endOld-from)
	for i := from; i < endOld; i++ {
		had[m.network.Taps[i].Name] = m.network.Taps[i]
	}
	var owed []netip.Addr
	for _, t := range want.Taps[from:endNew] {
		for _, a := range slices.Concat(t.Addresses, t.Addresses6) {
			if s.owed[a] {
				owed = append(owed, a)
			}
		}
	}
	if err := s.forget(owed); err != nil {
		return err
	}
	for _, wanted := range want.Taps[from:endNew] {
		t, old := *wanted, had[wanted.Name]
		if old != nil && old.equal(wanted) {
			continue
		}
		var v view // of this tap alone
		var l netlink.Link
		if old != nil {
			var err error
			if l, err = s.h.LinkByName(t.Name); err != nil {
				return fmt.Errorf("find tap %s: %w", t.Name, err)
			}
			v.hosts = map[int][]netip.Addr{l.Attrs().Index: old.Addresses}
			v.six.hosts = map[int][]netip.Addr{l.Attrs().Index: old.Addresses6}
		}
		index, err := s.attachTap(t, l, v)
		if err != nil {
			return err
		}
		if err := s.shapeKnown(m, t, old, index); err != nil {
			return err
		}
		m.at[t.Name], m.expected[index] = index, t
	}
	m.network.Taps = want.Taps
	s.listen(true)
	return nil
}

// recall begins a memory: the namespace has all that is wanted, with these taps.
func (s *Space) recall(want Network, up Range, at map[string]int, shapes *shapes) {
	m := &memory{network: want, up: up, at: at, expected: make(map[int]Tap, len(at)), shapes: shapes, since: time.Now(), parted: map[int]bool{}}
	for _, t := range want.Taps {
		m.expected[at[t.Name]] = *t
	}
	s.memory, s.stale = m, false
	s.listen(true) // may find that somebody came in between: stale again
	s.lookAgain()
}
