package link

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"golang.org/x/sys/unix"
)

// made is an uplink that the root namespace is known to have, and what it was made from.
type made struct {
	outside  string
	pool     netip.Prefix
	underlay netip.Addr
	up       Range
	public   []netip.Addr
	routed   []netip.Prefix
}

// ensured returns the uplink of a network if namespace and uplink are known to be as wanted.
func (l *Links) ensured(want Config, n Network) (Range, bool) {
	l.mu.Lock()
	m, ok := l.made[n.Name]
	s := l.spaces[n.Name]
	l.mu.Unlock()
	if !ok || s == nil || m.outside != want.Outside || m.pool != want.Pool || m.underlay != want.Underlay {
		return Range{}, false
	}
	s.work.Lock()
	defer s.work.Unlock()
	known := s.trusted()
	return m.up, known != nil && reflect.DeepEqual(apart(known.network), apart(n))
}

// publishAll makes the public addresses reachable, unless they are known to be.
func (l *Links) publishAll(want Config, ranges []Range) error {
	l.mu.Lock()
	known := l.published
	l.published = false
	l.mu.Unlock()
	if !known {
		if err := l.publish(want, ranges); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = len(ranges) == len(want.Networks)
	return nil
}

// hear takes in what the kernel tells of the root namespace; inside tells that we have changed it ourselves. Anything of
// ours that a stranger may have touched makes all uplinks doubtful: to look at them again is cheap.
func (l *Links) hear(inside bool) {
	l.ear.Lock()
	defer l.ear.Unlock()
	if l.notices == nil {
		l.forgetUplinks()
		var err error
		if l.notices, err = notice.Open(0, unix.NETLINK_ROUTE, []int{
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_ROUTE,
		}); err != nil {
			return // nothing is remembered then: see below
		}
	}
	var why []string
	lost := l.notices.Drain(func(m notice.Message) {
		c, ok := parseChange(m)
		if !ok || !l.concerns(c) || len(why) > 3 {
			return
		}
		text := c.String()
		if by := notice.Sender(c.port); by != "" {
			text += " by " + by
		}
		why = append(why, text)
	})
	switch {
	case lost:
		why = append(why, "notices were lost")
	case inside && len(why) > 0: // our own changes, most likely, and a stranger's, perhaps
		l.unsure = true
		return
	}
	if len(why) > 0 {
		l.forgetUplinks()
		l.blame = append(l.blame, why...)
	}
}

// concerns reports whether a stranger's change is about an uplink of ours, or the way out.
func (l *Links) concerns(c change) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.kind == ofRoute && c.prefix.Bits() == 0 && c.prefix.Addr().Is4() {
		return true
	}
	for _, m := range l.made {
		switch {
		case c.kind == ofRoute && (slices.Contains(m.public, c.prefix.Addr()) || slices.Contains(m.routed, c.prefix)):
			return true
		case c.kind == ofLink && c.index == m.up.index && (c.gone || !c.up || c.name != m.up.Veth || c.group != GroupUplink):
			return true
		case c.kind == ofLink && c.index == m.up.outside && (c.gone || !c.up): // its proxy entries went with that, unannounced
			return true
		case c.kind == ofAddress && c.index == m.up.index:
			return true
		case c.kind == ofSettings && (c.index == m.up.index || c.index == m.up.outside):
			return true
		}
	}
	return false
}

// lookAgain forgets what of the root namespace we are not sure of.
func (l *Links) lookAgain() {
	l.ear.Lock()
	defer l.ear.Unlock()
	if l.unsure {
		l.forgetUplinks()
	}
	l.unsure = false
}

func (l *Links) forgetUplinks() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.made)
	l.published = false
}

// Await blocks until somebody else has changed what the uplinks stand on in the root namespace, or ctx ends, which is
// an error.
func (l *Links) Await(ctx context.Context) error {
	for {
		l.ear.Lock()
		n, doubtful := l.notices, len(l.blame) > 0 || l.unsure
		l.ear.Unlock()
		if doubtful {
			return nil
		}
		if n == nil {
			return errors.New("await changes of the uplinks: no notices")
		}
		if err := n.Await(ctx); err != nil {
			return err
		}
		l.one.Lock() // what Ensure does meanwhile is no stranger's doing
		l.hear(false)
		l.one.Unlock()
	}
}

// Blame returns what others have changed in the root namespace since it was last called.
func (l *Links) Blame() []string {
	l.ear.Lock()
	defer l.ear.Unlock()
	b := l.blame
	l.blame = nil
	return b
}
