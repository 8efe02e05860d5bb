package ipam

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Pool are the public addresses that the operator has given, every address of every prefix, at one moment.
type Pool struct {
	prefixes []netip.Prefix
	taken    map[netip.Addr]bool
	resting  map[netip.Addr]bool
	rand     *rand.Rand
}

// NewPool returns a pool of which nothing is taken. The prefixes are of IPv4 and do not overlap.
func NewPool(prefixes []netip.Prefix, seed uint64) *Pool {
	return &Pool{prefixes: prefixes, taken: map[netip.Addr]bool{}, resting: map[netip.Addr]bool{}, rand: rand.New(rand.NewPCG(seed, seed))}
}

// Empty reports whether there is no pool at all.
func (p *Pool) Empty() bool { return len(p.prefixes) == 0 }

// Hold says that an address is taken.
func (p *Pool) Hold(a netip.Addr) { p.taken[a] = true }

// Rest says that an address was given back a moment ago: any other is chosen before it.
func (p *Pool) Rest(a netip.Addr) { p.resting[a] = true }

// Claim takes an address that is named.
func (p *Pool) Claim(a netip.Addr) error {
	switch {
	case !slices.ContainsFunc(p.prefixes, func(in netip.Prefix) bool { return in.Contains(a) }):
		return cloud.Errorf("InvalidAddress.NotFound", "Address %s is not of this cloud's public pool %v: leave it out to get any, or have the operator add it with --elastic", a, p.prefixes)
	case p.taken[a]:
		return inUse(a)
	}
	p.Hold(a)
	return nil
}

// Choose takes any address: one that does not rest if there is one.
func (p *Pool) Choose() (netip.Addr, error) {
	if p.Empty() {
		return netip.Addr{}, cloud.Errorf("InsufficientAddressCapacity", "This cloud has no public addresses: have its operator give some with --elastic CIDR (of `ichiro up` or ichiro-control)")
	}
	var total uint64
	for _, in := range p.prefixes {
		total += size(in)
	}
	from := p.rand.Uint64N(total)
	for _, resting := range []map[netip.Addr]bool{p.resting, nil} {
		for k := range total { // at most as many steps as addresses are taken or rest
			if a := p.nth((from + k) % total); !p.taken[a] && !resting[a] {
				p.Hold(a)
				return a, nil
			}
		}
	}
	return netip.Addr{}, cloud.Errorf("InsufficientAddressCapacity", "All %d public addresses are taken: release some, or have the operator add more with --elastic", total)
}

func size(p netip.Prefix) uint64 { return 1 << (32 - p.Bits()) }

func (p *Pool) nth(i uint64) netip.Addr {
	for _, in := range p.prefixes {
		if n := size(in); i >= n {
			i -= n
			continue
		}
		b := in.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
		return netip.AddrFrom4(b)
	}
	panic("ipam: a place behind the pool's end")
}
