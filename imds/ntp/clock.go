package ntp

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The address that guests ask, which is also what we name as our reference: a guest that serves others is not us, and
// sees no loop. What the host itself follows is unknown here.
var self = netip.MustParseAddr("169.254.169.123").As4()

// The strata we claim. A host that follows servers of the Internet has 2 to 4 and the kernel does not know which; 5 is
// behind all of them. One whose clock is only said to be right is where chrony and ntpd put such clocks.
const (
	stratumFollowing = 5
	stratumTrusted   = 10
)

// trustedDispersion is what is claimed of a clock that is only said to be right. Clients take up to 5 s
// (systemd-timesyncd's RootDistanceMaxSec) or 3 s (chrony's maxdistance).
const trustedDispersion = time.Second

// read asks the kernel how good its clock is (adjtimex(2), which anybody may). Whatever keeps the time of the host, chrony,
// ntpd, timesyncd or a PTP daemon, tells the kernel; so there is nothing to configure here and nobody to ask.
func read(trusted bool, now time.Time) (clock, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return clock{}, fmt.Errorf("ask for the state of the clock: %w", err)
	}
	return judge(state, t.Status, time.Duration(t.Maxerror)*time.Microsecond, trusted, now), nil
}

// judge says what to tell of a clock in a state of adjtimex(2).
//
// A clock that nothing keeps is said to be just that: leap indicator 3, stratum 0, INIT. chronyd, systemd-timesyncd and
// busybox ntpd all refuse such a server and go on with what they have, the time that the machine gave them at its boot;
// one that asks other servers too is not outvoted by us. Who knows better than the kernel says so with --trust-clock.
func judge(state int, status int32, maxError time.Duration, trusted bool, now time.Time) clock {
	c := clock{precision: -20, reference: self} // a microsecond, about what a datagram's time is good for
	switch {
	case state != unix.TIME_ERROR && status&unix.STA_UNSYNC == 0:
		c.leap, c.stratum, c.dispersion = leapNone, stratumFollowing, maxError
		// The kernel adds 500 ppm to the error since the clock was last looked after; that much is the time since then, at most.
		c.set = now.Add(-min(time.Hour, maxError*2000))
		switch {
		case status&unix.STA_INS != 0:
			c.leap = leapAdd
		case status&unix.STA_DEL != 0:
			c.leap = leapDelete
		}
	case trusted:
		c.leap, c.stratum, c.dispersion, c.set = leapNone, stratumTrusted, trustedDispersion, now
	default:
		c.leap, c.stratum, c.reference, c.dispersion = leapUnknown, 0, [4]byte{'I', 'N', 'I', 'T'}, maxError
	}
	return c
}
