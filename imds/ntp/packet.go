package ntp

import (
	"encoding/binary"
	"math"
	"time"
)

// size is that of an NTP packet without extensions (RFC 5905, 7.3), and of all answers.
const size = 48

// The modes that matter (RFC 5905, figure 10).
const (
	modeClient = 3
	modeServer = 4
)

// The leap indicator: the last minute of the day will have so many seconds, or nobody knows what time it is.
const (
	leapNone    = 0
	leapAdd     = 1
	leapDelete  = 2
	leapUnknown = 3
)

// clock is what is known of the host's clock.
type clock struct {
	leap       byte
	stratum    byte
	reference  [4]byte
	dispersion time.Duration // the most that it may be wrong
	precision  int8          // log2 of seconds
	set        time.Time     // when it was last compared with something better
}

// request is a client's packet, as far as it matters.
type request struct {
	version  byte
	poll     byte
	transmit [8]byte // is sent back: a client knows its answer by it
}

// parse reads a packet; false if it is not a client's question. Modes 6 and 7, in which monitoring and control make much
// out of little, are not answered, and neither are servers, peers and broadcasts. What follows the first 48 bytes
// (extensions, a signature) is not looked at.
func parse(p []byte) (r request, ok bool) {
	if len(p) < size {
		return r, false
	}
	r = request{version: p[0] >> 3 & 7, poll: p[2], transmit: [8]byte(p[40:48])}
	return r, p[0]&7 == modeClient && r.version >= 1 && r.version <= 4
}

// answer makes the answer to a request that arrived at one time and is answered at another.
func answer(r request, c clock, arrived, now time.Time) [size]byte {
	var p [size]byte
	p[0] = c.leap<<6 | r.version<<3 | modeServer
	p[1] = c.stratum
	p[2] = r.poll
	p[3] = byte(c.precision)
	// The delay to the host's own servers is in the dispersion: the kernel knows their sum alone.
	binary.BigEndian.PutUint32(p[8:], short(c.dispersion))
	copy(p[12:], c.reference[:])
	put := func(at int, t time.Time) { binary.BigEndian.PutUint64(p[at:], stamp(t)) }
	if !c.set.IsZero() {
		put(16, c.set)
	}
	copy(p[24:], r.transmit[:])
	put(32, arrived)
	put(40, now)
	return p
}

// era is the number of seconds from NTP's epoch, 1900, to Unix's: 70 years with 17 leap days.
const era = (70*365 + 17) * 24 * 60 * 60

// stamp is a time in 32 bits of seconds, which begin again in 2036 and are understood all the same, and 32 of fractions.
func stamp(t time.Time) uint64 {
	return uint64(uint32(t.Unix()+era))<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// short is a duration in 16 bits of seconds and 16 of fractions.
func short(d time.Duration) uint32 {
	return uint32(min(max(d.Seconds(), 0)*(1<<16), math.MaxUint32))
}
