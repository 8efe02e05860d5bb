package presence

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// An answer comes within this, also from a guest whose processor is another's for a while.
	patience = 500 * time.Millisecond
	// How often an address must be missed before it is believed, while the guest answers for its first.
	misses = 2
	// Between rounds: at first, then twice as long each time.
	soon = time.Second
	// At most so long when all is known; and when something is missing that the guest may get at any moment.
	seldom, often = 30 * time.Second, 5 * time.Second
)

// card is what is known of one interface of a guest. Its methods are told the time, and do nothing.
//
//	unknown -- answers --> held     <-- answers ------+
//	   |                    |                         |
//	   +-- is missed twice -+--> missing -------------+
//
// Only rounds in which the guest answers for its first address count: a guest that is off says nothing about the others.
type card struct {
	host   Host
	claims []claim // in the order of the host's addresses
	ways   []way
	open   bool // a round is: it ends at due
	due    time.Time
	pause  time.Duration
}

// way is a pair of one of its addresses and somebody who sends to it.
type way struct {
	to, from netip.Addr
	heard    []bool // in this round: here, and by each sibling
	missed   int    // rounds in a row in which it was heard only elsewhere
	place    int    // 0: here; else a sibling's, and one
}

// ask is one question.
type ask struct {
	to, from netip.Addr
	place    int
}

type claim struct {
	answered bool // in this round
	missed   int  // rounds in a row
	held     bool
	missing  bool
}

func newCard(now time.Time, h Host, missing []netip.Addr) *card {
	c := &card{host: h, claims: make([]claim, len(h.Addresses)), due: now, pause: soon}
	for n, a := range h.Addresses[1:] {
		for _, m := range missing {
			c.claims[n+1].missing = c.claims[n+1].missing || m == a
		}
	}
	for _, a := range h.Addresses {
		for _, from := range append([]netip.Addr{h.Router}, h.Others...) {
			c.ways = append(c.ways, way{to: a, from: from, heard: make([]bool, 1+len(h.Siblings))})
		}
	}
	return c
}

// inherit takes over where the ways led, of those that are still there.
func (c *card) inherit(old *card) {
	for n := range c.ways {
		for _, was := range old.ways {
			if was.to != c.ways[n].to || was.from != c.ways[n].from || was.place == 0 {
				continue
			}
			if k := slices.Index(c.host.Siblings, old.host.Siblings[was.place-1]); k >= 0 {
				c.ways[n].place = k + 1
			}
		}
	}
}

// asks are the questions of a round: here, and where somebody was not heard here by the siblings too.
func (c *card) asks() (out []ask) {
	for n := range c.ways {
		w := &c.ways[n]
		elsewhere := !w.heard[0] // in the last round, or there was none
		clear(w.heard)
		out = append(out, ask{w.to, w.from, 0})
		for place := 1; elsewhere && place < len(w.heard); place++ {
			out = append(out, ask{w.to, w.from, place})
		}
	}
	return out
}

// decide ends a round for the ways, and reports whether one leads elsewhere now than before.
func (c *card) decide() (changed bool) {
	for n := range c.ways {
		w := &c.ways[n]
		at := slices.Index(w.heard, true)
		if w.heard[0] || at < 0 {
			w.missed = 0
			continue // here it leads as soon as it is heard; where nobody answers, nothing is known
		}
		if w.missed++; w.missed >= misses && w.place != at {
			w.place, changed = at, true
		} else if w.missed < misses {
			c.pause = 0
		}
	}
	return changed
}

// strays reports whether somebody reaches the address elsewhere.
func (c *card) strays(a netip.Addr) bool {
	return slices.ContainsFunc(c.ways, func(w way) bool { return w.to == a && w.place > 0 })
}

func (c *card) through(w way) netip.Addr {
	if w.place == 0 {
		return netip.Addr{}
	}
	return c.host.Siblings[w.place-1].First
}

// step opens a round, for which it returns what is to be asked, or ends one. changed tells that an address was found to be
// missing.
func (c *card) step(now time.Time) (ask []ask, changed bool) {
	if now.Before(c.due) {
		return nil, false
	}
	if !c.open {
		for n := range c.claims {
			c.claims[n].answered = false
		}
		c.open, c.due = true, now.Add(patience)
		return c.asks(), false
	}
	c.open = false
	limit := seldom
	changed = c.decide()
	if slices.ContainsFunc(c.ways, func(w way) bool { return w.place > 0 }) {
		limit = often
	}
	if c.claims[0].answered {
		for n := range c.claims {
			k := &c.claims[n]
			if n == 0 || k.answered {
				continue
			}
			k.missed++
			if k.missed >= misses && !k.missing {
				k.missing, k.held, changed = true, false, true
			}
			if k.missed < misses {
				c.pause = 0 // ask again at once: the sooner it is known the better
			}
			limit = often
		}
	}
	c.due = now.Add(min(c.pause, limit))
	c.pause = max(soon, min(2*c.pause, limit))
	return nil, changed
}

// hear takes in that the guest has used one of its addresses, maybe to answer somebody, here or by a sibling. changed tells
// that the address was missing, or was led elsewhere.
func (c *card) hear(now time.Time, a, from netip.Addr, place int) (changed bool) {
	for n := range c.ways {
		if w := &c.ways[n]; w.to == a && w.from == from {
			w.heard[place] = true
			if place == 0 && w.place > 0 {
				w.place, w.missed, changed = 0, 0, true
			}
		}
	}
	for n := range c.claims {
		k := &c.claims[n]
		if c.host.Addresses[n] != a {
			continue
		}
		if n == 0 && !c.open && !c.settled() {
			c.due = min2(c.due, now) // it is there: ask for the others
		}
		changed = changed || k.missing
		*k = claim{answered: true, held: true}
	}
	return changed
}

// settled reports whether all is known.
func (c *card) settled() bool {
	for n := range c.claims[1:] {
		if k := c.claims[n+1]; !k.held && !k.missing {
			return false
		}
	}
	return true
}

func min2(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
