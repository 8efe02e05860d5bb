package presence

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	first  = netip.MustParseAddr("10.0.0.5")
	second = netip.MustParseAddr("10.0.0.6")
	third  = netip.MustParseAddr("10.0.0.7")
)

// guest answers for what it has, at once.
type guest struct {
	has  []netip.Addr
	now  time.Time
	asks int                  // rounds
	by   map[netip.Addr][]int // of a guest with several interfaces: where it answers whom
}

// takes reports whether the guest answers a question.
func (g *guest) takes(q ask) bool {
	if g.by == nil {
		return q.place == 0 && slices.Contains(g.has, q.to)
	}
	return slices.Contains(g.by[q.from], q.place)
}

// live steps the card through so much time, and returns how often it said that something has changed.
func (g *guest) live(c *card, d time.Duration) (changes int) {
	for end := g.now.Add(d); !g.now.After(end); {
		ask, changed := c.step(g.now)
		if changed {
			changes++
		}
		if ask != nil {
			g.asks++
		}
		for _, q := range ask {
			if g.takes(q) && c.hear(g.now, q.to, q.from, q.place) {
				changes++
			}
		}
		g.now = g.now.Add(10 * time.Millisecond)
	}
	return changes
}

func TestWhatIsMissing(t *testing.T) {
	all := []netip.Addr{first, second, third}
	for _, c := range []struct {
		name    string
		before  []netip.Addr // known to be missing by an earlier agent
		has     []netip.Addr
		missing []netip.Addr
	}{
		{"nothing of a guest that has all", nil, all, nil},
		{"all but the first of a guest that knows DHCP", nil, all[:1], all[1:]},
		{"the one that it lacks", nil, []netip.Addr{first, third}, all[1:2]},
		{"nothing of a guest that is off", nil, nil, nil},
		{"nothing of a guest that does not answer for its first", nil, all[1:], nil},
		{"what was missing, while the guest is off", all[1:2], nil, all[1:2]},
		{"nothing that was missing and is there", all[1:], all, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := guest{has: c.has, now: time.Unix(1000, 0)}
			k := newCard(g.now, Host{Addresses: all}, c.before)
			g.live(k, 3*time.Second)
			if got := k.missing(); !slices.Equal(got, c.missing) {
				t.Errorf("got %v, want %v", got, c.missing)
			}
			if n := g.live(k, time.Hour); n != 0 {
				t.Errorf("%d changes in an hour in which nothing changed", n)
			}
		})
	}
}

func TestOneLostAnswerIsNotBelieved(t *testing.T) {
	all := []netip.Addr{first, second}
	g := guest{has: all, now: time.Unix(1000, 0)}
	c := newCard(g.now, Host{Addresses: all}, nil)
	g.live(c, time.Minute)
	g.has = all[:1]
	for rounds := g.asks; g.asks == rounds; {
		if g.live(c, 0) > 0 {
			t.Fatal("believed before it was asked")
		}
	}
	g.has = all // the next round is answered
	if n := g.live(c, time.Minute); n != 0 || c.missing() != nil {
		t.Errorf("one answer was lost, and %v is missing", c.missing())
	}
}

func TestWhereAGuestTakesWhatItIsSent(t *testing.T) {
	router, world := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.1")
	h := Host{Addresses: []netip.Addr{first}, Router: router, Others: []netip.Addr{world}, Siblings: []Sibling{{7, second}, {8, third}}}
	for _, c := range []struct {
		name       string
		by         map[netip.Addr][]int
		near, away int
	}{
		{"everything here", map[netip.Addr][]int{router: {0, 1, 2}, world: {0, 1, 2}}, 0, 0},
		{"nothing here, as the filter has it that looks where it would answer", map[netip.Addr][]int{router: {1}, world: {1}}, 1, 1},
		{"neighbours by one and the world by another", map[netip.Addr][]int{router: {1}, world: {2}}, 1, 2},
		{"neighbours here and the world elsewhere", map[netip.Addr][]int{router: {0}, world: {2}}, 0, 2},
		{"nothing, it is off", map[netip.Addr][]int{}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := guest{by: c.by, now: time.Unix(1000, 0)}
			k := newCard(g.now, h, nil)
			g.live(k, 3*time.Second)
			if k.ways[0].place != c.near || k.ways[1].place != c.away {
				t.Errorf("got %d and %d, want %d and %d", k.ways[0].place, k.ways[1].place, c.near, c.away)
			}
			if n := g.live(k, time.Hour); n != 0 {
				t.Errorf("%d changes in an hour in which nothing changed", n)
			}
			g.by = map[netip.Addr][]int{router: {0, 1}, world: {0, 1}} // it is configured now
			g.live(k, seldom+2*patience)
			if k.strays(first) {
				t.Error("the guest takes everything here, and it is led elsewhere")
			}
		})
	}
}

func TestAnAddressThatIsUsedIsThereAtOnce(t *testing.T) {
	all := []netip.Addr{first, second}
	g := guest{has: all[:1], now: time.Unix(1000, 0)}
	c := newCard(g.now, Host{Addresses: all}, nil)
	g.live(c, time.Minute)
	if !c.hear(g.now, second, netip.Addr{}, 0) || c.missing() != nil {
		t.Errorf("the guest has used its address, and it is missing")
	}
	if c.hear(g.now, second, netip.Addr{}, 0) {
		t.Error("it has changed twice")
	}
}

func TestAGuestIsSeldomAskedAndSoonWhenItAppears(t *testing.T) {
	all := []netip.Addr{first, second}
	g := guest{now: time.Unix(1000, 0)}
	c := newCard(g.now, Host{Addresses: all}, nil)
	g.live(c, time.Minute)
	g.asks = 0
	g.live(c, time.Hour)
	if g.asks > 130 {
		t.Errorf("a guest that is off was asked %d times in an hour", g.asks)
	}
	g.has = all[:1]
	c.hear(g.now, first, netip.Addr{}, 0) // it boots
	g.live(c, 2*patience+100*time.Millisecond)
	if !slices.Equal(c.missing(), all[1:]) {
		t.Errorf("%v after the guest has appeared, the missing are %v", 2*patience, c.missing())
	}
	g.asks = 0
	g.live(c, time.Hour)
	if g.asks > 800 {
		t.Errorf("a guest that lacks an address was asked %d times in an hour", g.asks)
	}
	g.has = all
	if g.live(c, often+patience) != 1 || c.missing() != nil {
		t.Errorf("the guest has had its address for %v, and it is missing", often+patience)
	}
}

func FuzzRead(f *testing.F) {
	h := Host{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Source: [6]byte{2, 0, 0, 0, 0, 2}, Router: netip.MustParseAddr("10.0.0.1")}
	f.Add(question(h.Source, h.Router, first))
	f.Add([]byte{})
	f.Add(make([]byte, arpSize-1))
	f.Fuzz(func(t *testing.T, frame []byte) {
		mac, a, _, ok := read(frame)
		if ok && (string(mac[:]) != string(frame[6:12]) || !a.Is4() || a.As4() != [4]byte(frame[28:32])) {
			t.Errorf("read %x, %s of % x", mac, a, frame)
		}
	})
}

func TestAQuestionIsRead(t *testing.T) {
	h := Host{Source: [6]byte{2, 0, 0, 0, 0, 2}, Router: netip.MustParseAddr("10.0.0.1")}
	if mac, a, _, ok := read(question(h.Source, h.Router, first)); !ok || mac != h.Source || a != h.Router {
		t.Errorf("got %x, %s, %v", mac, a, ok)
	}
}
