package wire

import (
	"math/rand/v2"
	"testing"
	"time"
)

// slow is the checksum as RFC 1071 explains it.
func slow(start uint32, b []byte) uint16 {
	s := uint64(start)
	for i, v := range b {
		s += uint64(v) << (8 * ((i + 1) % 2))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestSumIsTheInternetChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32() | uint32(0xff*(n%2)))
		}
		start := r.Uint32N(1 << 20)
		if got, want := Sum(start, b), slow(start, b); got != want {
			t.Fatalf("%d bytes from %x: got %x, want %x", n, start, got, want)
		}
	}
}

func TestABucketLetsItsRateThrough(t *testing.T) {
	now := time.Unix(1000, 0)
	var b Bucket
	passed := func(n int) (passed int) {
		for range n {
			if b.Take(now, 10) {
				passed++
			}
		}
		return passed
	}
	for _, c := range []struct {
		name        string
		after       time.Duration
		asked, want int
	}{
		{"a burst at first", 0, 20, 10},
		{"nothing at once after it", 0, 5, 0},
		{"a tenth of a second is worth one", 100 * time.Millisecond, 5, 1},
		{"an hour is not worth more than a second", time.Hour, 20, 10},
		{"a clock that goes back gives nothing", -time.Minute, 5, 0},
	} {
		now = now.Add(c.after)
		if got := passed(c.asked); got != c.want {
			t.Errorf("%s: %d of %d passed, want %d", c.name, got, c.asked, c.want)
		}
	}
}
