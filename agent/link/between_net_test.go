//go:build net

package link

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// apply is what agent/eni does of it, with what comes in between.
func apply(t *testing.T, l *Links, c Config, between ...func()) {
	t.Helper()
	_, err := l.Prune(c)
	if err == nil {
		_, err = l.Ensure(c)
	}
	for _, f := range between {
		f()
	}
	if err == nil {
		_, err = l.Attach(c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// quiet applies until nothing is doubtful any more, and returns how often.
func quiet(t *testing.T, l *Links, c Config) int {
	t.Helper()
	for n := range 10 {
		s, err := l.Space("vpc-1")
		if err != nil {
			t.Fatal(err)
		}
		past, cancel := context.WithCancel(t.Context())
		cancel()
		if s.Await(past) != nil && l.Await(past) != nil {
			return n
		}
		apply(t, l, c)
		s.Blame()
		l.Blame()
	}
	t.Fatal("after ten times it is doubtful still")
	return 0
}

// What a stranger does while we are at work ourselves must not be taken for our own.
func TestAStrangersChangeAmongOurOwnIsSeen(t *testing.T) {
	addr := netip.MustParseAddr
	first := &Tap{Name: "t1", Alias: "eni-1", MTU: 1500, Guest: [6]byte{2, 0, 0, 0, 0, 1}, Addresses: []netip.Addr{addr("10.0.0.5")}, Addresses6: []netip.Addr{addr("2001:db8::5")}}
	second := &Tap{Name: "t2", Alias: "eni-2", MTU: 1500, Guest: [6]byte{2, 0, 0, 0, 0, 2}, Addresses: []netip.Addr{addr("10.0.0.6")}, Addresses6: []netip.Addr{addr("2001:db8::6")}, Shaper: Shaper{Name: "abc", Rate: 1 << 20}}
	with := func(taps ...*Tap) Config {
		return Config{Pool: netip.MustParsePrefix("100.64.0.0/24"), Networks: []Network{{
			Name: "vpc-1", Local: []netip.Addr{addr("10.0.0.1")}, Closed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Taps: taps,
			Local6: []netip.Addr{addr("2001:db8::1")}, Closed6: []netip.Prefix{netip.MustParsePrefix("2001:db8::/56")},
		}}}
	}
	look := func() string {
		return nstest.IP(t, "-n btw-vpc-1 addr show dev lo") + nstest.IP(t, "-n btw-vpc-1 neigh show nud permanent") + nstest.IP(t, "-n btw-vpc-1 route show table all") + nstest.IP(t, "-n btw-vpc-1 -6 route show table all") +
			nstest.IP(t, "route show table all")
	}
	nstest.IP(t, "link set lo up")
	l, err := New("btw", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		l.Close()
		if err := Remove("btw"); err != nil {
			t.Error(err)
		}
	}()
	apply(t, l, with(first))
	t.Logf("a new network is applied %d times more", quiet(t, l, with(first)))
	want := look()
	if apply(t, l, with(first)); quiet(t, l, with(first)) != 0 {
		t.Fatal("an Apply that changes nothing is doubtful")
	}
	for _, attack := range []string{
		"-n btw-vpc-1 addr add 2001:db8::99/128 dev lo nodad",
		"-n btw-vpc-1 addr add 10.0.0.99/32 dev lo",
		"-n btw-vpc-1 addr del 2001:db8::1/128 dev lo",
		"-n btw-vpc-1 addr del 10.0.0.1/32 dev lo",
		"-n btw-vpc-1 route del blackhole 10.0.0.0/16",
		"-n btw-vpc-1 route del default",
		"-n btw-vpc-1 -6 route del blackhole 2001:db8::/56",
		"-n btw-vpc-1 route add 10.0.0.9/32 dev t1",
		"-n btw-vpc-1 neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 nud permanent dev t1",
	} {
		strike := func() { nstest.IP(t, "%s", attack) }
		t.Run(attack, func(t *testing.T) {
			check := func(when string) {
				t.Helper()
				got := ""
				for began := time.Now(); got != want && time.Since(began) < 20*time.Second; got = look() { // routes of addresses of IPv6 come later
					quiet(t, l, with(first))
				}
				if got != want {
					t.Errorf("%s: it stays:\n%s\nwant\n%s", when, got, want)
				}
			}
			s, err := l.Space("vpc-1")
			if err != nil {
				t.Fatal(err)
			}
			s.doubt("")
			apply(t, l, with(first), strike)
			check("while all is read from the kernel")
			apply(t, l, with(first), strike)
			check("while nothing is to be done")
			for _, c := range []Config{with(first, second), with(first)} {
				s.work.Lock()
				m := s.trusted()
				if m == nil {
					t.Fatal("there is no memory: the test proves nothing")
				}
				strike()
				_, err = s.pruneKnown(m, c.Networks[0])
				if err == nil {
					_, err = s.attach(c.Networks[0], m.up)
				}
				s.work.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				check("while a tap comes or goes")
			}
			if n := quiet(t, l, with(first)); n != 0 {
				t.Errorf("doubtful %d times more", n)
			}
		})
	}
	// A tap that comes or goes is no reason to read everything.
	for range 2 {
		apply(t, l, with(first, second))
		if n := quiet(t, l, with(first, second)); n != 0 {
			t.Errorf("a tap that comes: applied %d times more", n)
		}
		apply(t, l, with(first))
		if n := quiet(t, l, with(first)); n != 0 {
			t.Errorf("a tap that goes: applied %d times more", n)
		}
	}
}
