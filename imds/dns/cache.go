package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// The bounds of what is kept. Guests keep answers themselves; this is for those that do not, and for many that boot
// at once and ask for the same mirrors.
const (
	cacheBytes  = 8 << 20
	maxKept     = 8 << 10         // of one answer
	entryCost   = 256             // of the key and what holds an entry, about
	maxLife     = time.Hour       // a name that moved is found again
	maxNegative = 5 * time.Minute // RFC 2308 allows up to three hours
)

// key is what makes two questions one.
type key struct {
	vpc       cloud.VPCID
	name      string // canonical
	kind      uint16
	dnssec    bool // EDNS's DO
	unchecked bool // CD
	authentic bool // AD
}

// cache keeps answers until the shortest TTL in them has passed, the ones used last if there are too many.
type cache struct {
	limit int

	mu      sync.Mutex
	bytes   int
	recent  *list.List // of *kept, the one used last in front
	entries map[key]*list.Element
}

// kept is an answer as bytes, which are small and belong to nobody else.
type kept struct {
	key     key
	packet  []byte
	since   time.Time
	expires time.Time
}

func (k *kept) cost() int { return len(k.packet) + len(k.key.name) + entryCost }

func newCache(limit int) *cache {
	return &cache{limit: limit, recent: list.New(), entries: map[key]*list.Element{}}
}

// get returns an answer with what is left of its TTLs, which the caller may change; nil if there is none.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	c.mu.Lock()
	e := c.entries[k]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	have := e.Value.(*kept)
	if !now.Before(have.expires) {
		c.remove(e)
		c.mu.Unlock()
		return nil
	}
	c.recent.MoveToFront(e)
	c.mu.Unlock()
	a := new(dns.Msg)
	if a.Unpack(have.packet) != nil {
		return nil
	}
	age := uint32(max(0, now.Sub(have.since)) / time.Second)
	records(a, func(r dns.RR) { r.Header().Ttl -= min(age, r.Header().Ttl) })
	return a
}

// put keeps an answer if it may be kept.
func (c *cache) put(k key, a *dns.Msg, now time.Time) {
	ttl := life(a)
	if ttl <= 0 {
		return
	}
	packet, err := a.Pack()
	if err != nil || len(packet) > maxKept {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[k]; e != nil {
		c.remove(e)
	}
	have := &kept{key: k, packet: packet, since: now, expires: now.Add(ttl)}
	c.entries[k] = c.recent.PushFront(have)
	c.bytes += have.cost()
	for c.bytes > c.limit {
		c.remove(c.recent.Back())
	}
}

// remove takes an entry out; c.mu is held.
func (c *cache) remove(e *list.Element) {
	have := c.recent.Remove(e).(*kept)
	delete(c.entries, have.key)
	c.bytes -= have.cost()
}

func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// life is how long an answer may be kept: by its shortest TTL, and if it says that there is nothing, also by what the SOA record
// allows for that; without one it may not be kept (RFC 2308, 5).
func life(a *dns.Msg) time.Duration {
	if a.Truncated || a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return 0
	}
	shortest := uint32(maxLife / time.Second)
	records(a, func(r dns.RR) { shortest = min(shortest, r.Header().Ttl) })
	if len(a.Answer) > 0 && a.Rcode == dns.RcodeSuccess && answers(a) {
		return time.Duration(shortest) * time.Second
	}
	for _, r := range a.Ns {
		if soa, ok := r.(*dns.SOA); ok {
			return min(time.Duration(min(shortest, soa.Minttl))*time.Second, maxNegative)
		}
	}
	return 0
}

// answers reports whether there is a record of the type that was asked for: a chain of aliases may lead to nothing.
func answers(a *dns.Msg) bool {
	for _, r := range a.Answer {
		if len(a.Question) == 1 && r.Header().Rrtype == a.Question[0].Qtype {
			return true
		}
	}
	return false
}

// records calls f with every record that has a TTL.
func records(a *dns.Msg, f func(dns.RR)) {
	for _, section := range [][]dns.RR{a.Answer, a.Ns, a.Extra} {
		for _, r := range section {
			if r.Header().Rrtype != dns.TypeOPT { // whose TTL is something else
				f(r)
			}
		}
	}
}
