package cloud

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// blockBits is the size of a VPC's block of IPv6, as EC2 provides it.
const blockBits = 56

// IPv6Block returns a block for a VPC out of 48 random bits: fd, the 40 bits of a Global ID of RFC 4193 and the first
// 8 of its subnet ID, which makes a /56. Nobody outside has a way to it.
func IPv6Block(random [6]byte) netip.Prefix {
	a := [16]byte{0xfd}
	copy(a[1:], random[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), blockBits)
}

// ParseIPv6Pool reads the operator's networks of IPv6 that VPCs get their blocks from, with commas between them.
func ParseIPv6Pool(text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		p, err := netip.ParsePrefix(one)
		switch {
		case err != nil:
			return nil, err
		case !p.Addr().Is6() || p.Addr().Is4In6() || p != p.Masked() || p.Bits() > blockBits || p.Bits() < 16:
			return nil, fmt.Errorf("%s is not a network of IPv6 with room for blocks of /%d: want one such as 2001:db8:40::/48", one, blockBits)
		case slices.ContainsFunc(out, p.Overlaps):
			return nil, fmt.Errorf("%s overlaps another network of the list", one)
		}
		out = append(out, p)
	}
	return out, nil
}

// ChooseIPv6Block returns a block of the pool that is not taken. The search begins where random says; ok is false if all
// are taken.
func ChooseIPv6Block(pool []netip.Prefix, random uint64, taken map[netip.Prefix]bool) (block netip.Prefix, ok bool) {
	var all uint64
	for _, p := range pool {
		all += 1 << (blockBits - p.Bits())
	}
	for k := range min(all, uint64(len(taken))+1) { // so many tries find a free one if there is any
		n := (random%all + k) % all
		for _, p := range pool {
			if size := uint64(1) << (blockBits - p.Bits()); n >= size {
				n -= size
				continue
			}
			raw := p.Addr().As16()
			binary.BigEndian.PutUint64(raw[:], binary.BigEndian.Uint64(raw[:])|n<<(64-blockBits))
			if block = netip.PrefixFrom(netip.AddrFrom16(raw), blockBits); !taken[block] {
				return block, true
			}
			break
		}
	}
	return netip.Prefix{}, false
}
