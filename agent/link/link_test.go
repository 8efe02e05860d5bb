package link

import (
	"net/netip"
	"testing"
)

func TestChooseTakesAFreePair(t *testing.T) {
	pool := netip.MustParsePrefix("100.64.0.0/29")
	var used []netip.Prefix
	for range 4 {
		p, err := Choose(pool, used, "seed")
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range used {
			if u.Overlaps(p) {
				t.Errorf("%s overlaps %s", p, u)
			}
		}
		if p.Bits() != 31 || !pool.Contains(p.Addr()) {
			t.Errorf("got %s, want a /31 of %s", p, pool)
		}
		used = append(used, p)
	}
	if p, err := Choose(pool, used, "seed"); err == nil {
		t.Errorf("got %s of a full pool", p)
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.0.0.1/32")} {
		if p, err := Choose(bad, nil, "seed"); err == nil {
			t.Errorf("got %s of pool %s", p, bad)
		}
	}
}

func TestPrefixesThatMakeTooLongNamesAreRefused(t *testing.T) {
	for prefix, want := range map[string]bool{"ic0a1b2c": true, "ab": true, "a": false, "ic0a1b2c3": false, "0ab": false, "a-b": false, "": false} {
		if err := ValidPrefix(prefix); (err == nil) != want {
			t.Errorf("%q: got %v, want ok %v", prefix, err, want)
		}
	}
	if n := len(vethName("ic0a1b2c", "vpc-0123456789abcdef0")); n > 15 {
		t.Errorf("veth name of %d bytes", n)
	}
	if !ownVeth("ic0a1b2c", vethName("ic0a1b2c", "vpc-1")) || ownVeth("ic0a1b2c", vethName("ic0a1b2d", "vpc-1")) {
		t.Error("a host does not know its own veth from another's")
	}
}
