package firewall

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// span is an inclusive range of 16-bit numbers: ports, or ICMP type and code as type*256+code.
type span struct{ lo, hi uint16 }

// box is a range of addresses with one protocol and a span: one element of an interval set.
type box struct {
	prefix netip.Prefix
	proto  uint8
	span   span
}

// merge sorts spans and joins those that overlap or touch.
func merge(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && int(s.lo) <= int(out[n-1].hi)+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// subtract returns what of a is not in b; both are merged.
func subtract(a, b []span) []span {
	var out []span
	for _, s := range a {
		lo := int(s.lo)
		for _, t := range b {
			if int(t.hi) < lo || t.lo > s.hi {
				continue
			}
			if int(t.lo) > lo {
				out = append(out, span{uint16(lo), t.lo - 1})
			}
			lo = int(t.hi) + 1
		}
		if lo <= int(s.hi) {
			out = append(out, span{uint16(lo), s.hi})
		}
	}
	return out
}

// disjoint returns boxes that cover the same and do not overlap: the kernel refuses a set element whose
// corners lie in another one. Prefixes nest or are apart, so a prefix keeps what no wider one has.
func disjoint(boxes []box) []box {
	type key struct {
		prefix netip.Prefix
		proto  uint8
	}
	spans := map[key][]span{}
	for _, b := range boxes {
		k := key{b.prefix.Masked(), b.proto}
		spans[k] = append(spans[k], b.span)
	}
	var keys []key
	for k := range spans {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	var out []box
	for _, k := range keys {
		var wider []span
		for bits := k.prefix.Bits() - 1; bits >= 0; bits-- {
			p, _ := k.prefix.Addr().Prefix(bits)
			wider = append(wider, spans[key{p, k.proto}]...)
		}
		for _, s := range subtract(merge(spans[k]), merge(wider)) {
			out = append(out, box{k.prefix, k.proto, s})
		}
	}
	return out
}

// icmpSpan is the span of an ICMP rule, -1 meaning all types or all codes of a type.
func icmpSpan(typ, code int) span {
	if typ < 0 {
		return span{0, 0xffff}
	}
	if code < 0 {
		return span{uint16(typ) << 8, uint16(typ)<<8 | 0xff}
	}
	return span{uint16(typ)<<8 | uint16(code), uint16(typ)<<8 | uint16(code)}
}

// icmpBoxes splits a span of types and codes into at most three rectangles: lo and hi type, lo and hi code.
func icmpBoxes(s span) [][4]uint8 {
	lt, lc, ht, hc := uint8(s.lo>>8), uint8(s.lo), uint8(s.hi>>8), uint8(s.hi)
	if lt == ht {
		return [][4]uint8{{lt, ht, lc, hc}}
	}
	var out [][4]uint8
	if lc > 0 {
		out = append(out, [4]uint8{lt, lt, lc, 255})
		lt++
	}
	tail := hc < 255
	if tail {
		ht--
	}
	if lt <= ht {
		out = append(out, [4]uint8{lt, ht, 0, 255})
	}
	if tail {
		out = append(out, [4]uint8{ht + 1, ht + 1, 0, hc})
	}
	return out
}

// addresses is an inclusive range of IPv4 addresses.
type addresses struct{ lo, hi uint32 }

func bounds(p netip.Prefix) addresses {
	a := p.Masked().Addr().As4()
	lo := binary.BigEndian.Uint32(a[:])
	return addresses{lo, lo | uint32(uint64(1)<<(32-p.Bits())-1)}
}

// mergePrefixes joins prefixes that overlap or touch.
func mergePrefixes(prefixes []netip.Prefix) []addresses {
	var all []addresses
	for _, p := range prefixes {
		all = append(all, bounds(p))
	}
	slices.SortFunc(all, func(a, b addresses) int { return cmp.Compare(a.lo, b.lo) })
	var out []addresses
	for _, r := range all {
		if n := len(out); n > 0 && uint64(r.lo) <= uint64(out[n-1].hi)+1 {
			out[n-1].hi = max(out[n-1].hi, r.hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

func bytes4(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
