package presence

import (
	"net/netip"
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
	open   bool    // a round is: it ends at due
	due    time.Time
	pause  time.Duration
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
	return c
}

// step opens a round, for which it returns what is to be asked, or ends one. changed tells that an address was found to be
// missing.
func (c *card) step(now time.Time) (ask []netip.Addr, changed bool) {
	if now.Before(c.due) {
		return nil, false
	}
	if !c.open {
		for n := range c.claims {
			c.claims[n].answered = false
		}
		c.open, c.due = true, now.Add(patience)
		return c.host.Addresses, false
	}
	c.open = false
	limit := seldom
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

// hear takes in that the guest has used one of its addresses. changed tells that it was missing.
func (c *card) hear(now time.Time, a netip.Addr) (changed bool) {
	for n := range c.claims {
		k := &c.claims[n]
		if c.host.Addresses[n] != a {
			continue
		}
		if n == 0 && !c.open && !c.settled() {
			c.due = min2(c.due, now) // it is there: ask for the others
		}
		changed = k.missing
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
