package ipam

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// six is the IPv6 side of a subnet. Every address lies in one /80, which is either delegated as a whole or has
// single addresses in it.
type six struct {
	block   netip.Prefix // the subnet's /64; the zero Prefix if it has none
	taken   map[netip.Addr]bool
	blocks  map[netip.Prefix]int // by /80: delegated, or how many single addresses are in it
	gone    int                  // how many are delegated
	resting map[netip.Prefix]bool
}

const delegated = -1

func newSix(block netip.Prefix) six {
	return six{block: block.Masked(), taken: map[netip.Addr]bool{}, blocks: map[netip.Prefix]int{}, resting: map[netip.Prefix]bool{}}
}

// Block returns the /80 that an IPv6 address lies in.
func Block(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, Bits6).Masked() }

func (s *six) hold(a netip.Addr) {
	s.taken[a] = true
	if b := Block(a); s.blocks[b] != delegated {
		s.blocks[b]++
	}
}

func (s *six) delegate(p netip.Prefix) {
	if s.blocks[p] != delegated {
		s.blocks[p] = delegated
		s.gone++
	}
}

// reserved reports whether EC2 keeps the address: the first four and the last.
func (s *six) reserved(a netip.Addr) bool {
	first, b := s.block.Addr(), a.As16()
	for range 4 {
		if a == first {
			return true
		}
		first = first.Next()
	}
	return binary.BigEndian.Uint64(b[8:]) == 1<<64-1
}

func (s *six) none(subnet cloud.Subnet) error {
	return cloud.Errorf("InvalidParameterValue", "Subnet '%s' has no IPv6 CIDR block: associate one first", subnet.ID)
}

func (s *six) claim(subnet cloud.Subnet, want netip.Addr) error {
	switch {
	case !s.block.IsValid():
		return s.none(subnet)
	case !s.block.Contains(want):
		return cloud.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's IPv6 address range %s", want, s.block)
	case s.reserved(want):
		return reserved(want, s.block)
	case s.taken[want] || s.blocks[Block(want)] == delegated:
		return inUse(want)
	}
	s.hold(want)
	return nil
}

func (s *six) claimPrefix(subnet cloud.Subnet, want netip.Prefix) error {
	switch {
	case !s.block.IsValid():
		return s.none(subnet)
	case want.Bits() != Bits6 || want != want.Masked():
		return cloud.Errorf("InvalidParameterValue", "Value (%s) for parameter ipv6Prefix is invalid: it is a /%d on its boundary", want, Bits6)
	case !s.block.Contains(want.Addr()):
		return cloud.Errorf("InvalidParameterValue", "Prefix %s does not fall within the subnet's IPv6 address range %s", want, s.block)
	case s.edge(want):
		return reserved(want, s.block)
	case s.blocks[want] != 0:
		return inUse(want)
	}
	s.delegate(want)
	return nil
}

// edge reports whether the /80 has reserved addresses in it: it is the first or the last.
func (s *six) edge(p netip.Prefix) bool {
	return p.Contains(s.block.Addr()) || p == s.nth(s.count()-1)
}

// count is how many /80 the block has: 65,536 in a /64.
func (s *six) count() uint64 { return 1 << (Bits6 - s.block.Bits()) }

// nth returns the /80 at a place.
func (s *six) nth(i uint64) netip.Prefix {
	b := s.block.Addr().As16()
	// The number of a /80 ends at bit 80: 16 bits above the lower half's end are 48 bits of the address.
	upper := binary.BigEndian.Uint64(b[:8]) | i>>16
	binary.BigEndian.PutUint64(b[:8], upper)
	binary.BigEndian.PutUint16(b[8:10], uint16(i))
	return netip.PrefixFrom(netip.AddrFrom16(b), Bits6)
}

// choose takes a random address. In a /64 with its 2^64 the first try is nearly always free; where most /80 are
// delegated one is looked for that is not.
func (s *six) choose(subnet cloud.Subnet, r *rand.Rand) (netip.Addr, error) {
	if !s.block.IsValid() {
		return netip.Addr{}, s.none(subnet)
	}
	n := s.count()
	for from, k := r.Uint64N(n), uint64(0); k < n && uint64(s.gone) < n; k++ {
		b := s.nth((from + k) % n)
		if s.blocks[b] == delegated {
			continue
		}
		for range 8 { // 2^48 addresses: each try fails only where millions of millions are taken
			raw := b.Addr().As16()
			binary.BigEndian.PutUint64(raw[8:], binary.BigEndian.Uint64(raw[8:])|r.Uint64N(1<<48))
			if a := netip.AddrFrom16(raw); !s.taken[a] && !s.reserved(a) {
				s.hold(a)
				return a, nil
			}
		}
	}
	return netip.Addr{}, cloud.Errorf("InsufficientFreeAddressesInSubnet", "There are not enough free IPv6 addresses in subnet '%s'", subnet.ID)
}

// choosePrefix takes any /80 in which nobody has anything: one that does not rest if there is one.
func (s *six) choosePrefix(subnet cloud.Subnet, r *rand.Rand) (netip.Prefix, error) {
	if !s.block.IsValid() {
		return netip.Prefix{}, s.none(subnet)
	}
	n := s.count()
	from := r.Uint64N(n)
	for _, resting := range []map[netip.Prefix]bool{s.resting, nil} {
		for k := range n {
			if p := s.nth((from + k) % n); s.blocks[p] == 0 && !resting[p] && !s.edge(p) {
				s.delegate(p)
				return p, nil
			}
		}
	}
	return netip.Prefix{}, cloud.Errorf("InsufficientCidrBlocks", "There are not enough free cidr blocks of /%d in subnet '%s'", Bits6, subnet.ID)
}
