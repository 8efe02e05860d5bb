package cloud

import (
	"net/netip"
	"testing"
)

func TestAPoolOfIPv6IsReadOrRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		ok   bool
		n    int
	}{
		"nothing is no pool":                         {"", true, 0},
		"a network":                                  {"2001:db8:40::/48", true, 1},
		"two networks":                               {"2001:db8:40::/48, fd00:1::/56", true, 2},
		"the same twice is refused":                  {"2001:db8:40::/48,2001:db8:40:100::/56", false, 0},
		"too small for a VPC's block is refused":     {"2001:db8:40::/57", false, 0},
		"bits behind the network are refused":        {"2001:db8:40::1/48", false, 0},
		"IPv4 is refused":                            {"10.0.0.0/8", false, 0},
		"IPv4 in the clothes of IPv6 is refused":     {"::ffff:10.0.0.0/104", false, 0},
		"what is no network is refused":              {"ichiro", false, 0},
		"half of all there is would be half a world": {"8000::/1", false, 0},
	} {
		got, err := ParseIPv6Pool(c.text)
		if (err == nil) != c.ok || len(got) != c.n {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestEveryBlockOfAPoolIsGivenOnce(t *testing.T) {
	pool := []netip.Prefix{netip.MustParsePrefix("2001:db8:40::/54"), netip.MustParsePrefix("fd00:1::/56"), netip.MustParsePrefix("fd00:2::/55")}
	for start := range uint64(9) {
		taken := map[netip.Prefix]bool{}
		for range 4 + 1 + 2 {
			b, ok := ChooseIPv6Block(pool, start, taken)
			if !ok || taken[b] || b.Bits() != 56 || b != b.Masked() {
				t.Fatalf("start %d: got %s, %v after %v", start, b, ok, taken)
			}
			inside := false
			for _, p := range pool {
				inside = inside || p.Contains(b.Addr())
			}
			if !inside {
				t.Fatalf("%s is not of the pool", b)
			}
			taken[b] = true
		}
		if b, ok := ChooseIPv6Block(pool, start, taken); ok {
			t.Errorf("start %d: got %s of an empty pool", start, b)
		}
	}
}
