package wire

import "time"

// Bucket lets a number of packets through per second, and after a silence as many at once. The zero Bucket is full.
type Bucket struct {
	last time.Time
	left float64
}

// Take reports whether a packet may pass now, at perSecond packets a second.
func (b *Bucket) Take(now time.Time, perSecond int) bool {
	limit := float64(perSecond)
	if b.last.IsZero() {
		b.left = limit
	} else if gone := now.Sub(b.last); gone > 0 {
		b.left = min(limit, b.left+gone.Seconds()*limit)
	}
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
