package firewall

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMergeJoinsWhatTouches(t *testing.T) {
	got := merge([]span{{80, 90}, {22, 22}, {91, 95}, {85, 86}, {0, 0}, {65535, 65535}})
	want := []span{{0, 0}, {22, 22}, {80, 95}, {65535, 65535}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The kernel refuses elements that overlap, and a security group may have any rules: what disjoint returns must allow
// the same and not overlap.
func TestDisjointBoxesAllowTheSameAndDoNotOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		boxes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) box {
			a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host")})
			lo := rapid.Uint16Range(0, 20).Draw(t, "lo")
			return box{
				netip.PrefixFrom(a, rapid.IntRange(26, 32).Draw(t, "bits")),
				rapid.SampledFrom([]uint8{6, 17}).Draw(t, "proto"),
				span{lo, lo + rapid.Uint16Range(0, 10).Draw(t, "size")},
			}
		}), 0, 8).Draw(t, "boxes")
		in := func(b box, a netip.Addr, proto uint8, port uint16) bool {
			return b.prefix.Masked().Contains(a) && b.proto == proto && b.span.lo <= port && port <= b.span.hi
		}
		out := disjoint(boxes)
		for host := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(host)})
			for _, proto := range []uint8{6, 17} {
				for port := range uint16(32) {
					want := slices.ContainsFunc(boxes, func(b box) bool { return in(b, a, proto, port) })
					n := 0
					for _, b := range out {
						if in(b, a, proto, port) {
							n++
						}
					}
					if n > 1 || (n == 1) != want {
						t.Fatalf("%s %d %d is in %d boxes, wanted %v", a, proto, port, n, want)
					}
				}
			}
		}
	})
}

func TestICMPBoxesCoverTheirSpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Uint16().Draw(t, "lo")
		s := span{lo, rapid.Uint16Range(lo, 65535).Draw(t, "hi")}
		boxes := icmpBoxes(s)
		for v := range 65536 {
			typ, code := uint8(v>>8), uint8(v)
			n := 0
			for _, b := range boxes {
				if b[0] <= typ && typ <= b[1] && b[2] <= code && code <= b[3] {
					n++
				}
			}
			if want := uint16(v) >= s.lo && uint16(v) <= s.hi; (n == 1) != want || n > 1 {
				t.Fatalf("type %d code %d of %v is in %d boxes", typ, code, s, n)
			}
		}
	})
}

func TestPrefixesMergeIntoRanges(t *testing.T) {
	var in []netip.Prefix
	for _, s := range []string{"10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "192.0.2.1/32", "255.255.255.255/32"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	got := mergePrefixes(in)
	want := []addresses{{0x0a000000, 0x0a0001ff}, {0xc0000201, 0xc0000201}, {0xffffffff, 0xffffffff}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
