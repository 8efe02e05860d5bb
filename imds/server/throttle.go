package server

import (
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// DefaultRate is how many requests an instance may make in a second. A boot of cloud-init makes some 100 in all, an SDK one in an
// hour. The firewall lets 1,024 packets a second of an interface through, as EC2 does, and drops the others, which a guest sees as
// unexplained timeouts; a request on a connection of its own takes up to 6.6 of them (measured). 150 requests have gone through
// before that: who asks too often is told so.
const DefaultRate = 150

// throttle holds each instance to a rate, whichever of its addresses it asks from. An instance may save up for one second,
// and ask that much at once.
type throttle struct {
	mu      sync.Mutex
	rate    float64 // requests a second; 0 for no limit
	buckets map[cloud.InstanceID]bucket
	sweepAt int // so many buckets
}

// bucket holds what an instance may still ask at a time. A full one is as good as none.
type bucket struct {
	level float64
	at    time.Time
}

const fewBuckets = 1024 // below this many it is not worth looking for full ones

func newThrottle(rate int) *throttle {
	return &throttle{rate: float64(rate), buckets: map[cloud.InstanceID]bucket{}, sweepAt: fewBuckets}
}

// take reports whether the instance may make a request now, and counts it.
func (t *throttle) take(id cloud.InstanceID, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate == 0 {
		return true
	}
	b, ok := t.buckets[id]
	if !ok {
		if len(t.buckets) >= t.sweepAt {
			t.sweep(now)
		}
		b = bucket{t.rate, now}
	}
	b.level = t.levelOf(b, now)
	b.at = now
	may := b.level >= 1
	if may {
		b.level--
	}
	t.buckets[id] = b
	return may
}

func (t *throttle) levelOf(b bucket, now time.Time) float64 {
	return min(t.rate, b.level+max(now.Sub(b.at).Seconds(), 0)*t.rate)
}

// sweep forgets the instances that have not asked lately, and those that are gone among them.
func (t *throttle) sweep(now time.Time) {
	for id, b := range t.buckets {
		if t.levelOf(b, now) >= t.rate {
			delete(t.buckets, id)
		}
	}
	t.sweepAt = max(fewBuckets, 2*len(t.buckets))
}
