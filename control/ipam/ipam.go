// Package ipam decides which addresses a network interface gets.
//
// It knows a subnet's rules (EC2 keeps the first four addresses and the last), which addresses are taken
// and which rest because somebody had them a moment ago; it does not take them. The caller creates one key
// per address in the transaction that creates the interface, and a key can be created only once: that, not
// this package, is what makes two owners of one address impossible. When two callers choose the same
// address one of them loses and asks again, so each begins its search at a place of its own.
//
//	Space: a subnet at one moment --> Serve(Ask) --> Grant: what the transaction takes
//	Pool:  the public addresses   --> Choose     --> one of them
package ipam

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Ask is what somebody wants of a subnet. The zero Addr in Addresses asks for any.
type Ask struct {
	Addresses    []netip.Addr
	IPv6         []netip.Addr
	MoreIPv6     int // beside those: any
	Prefixes     []netip.Prefix
	More         int // prefixes of IPv4, any
	MorePrefixes int // prefixes of IPv6, any
}

// Grant is what an Ask got, in its order.
type Grant struct {
	Addresses []netip.Addr
	IPv6      []netip.Addr
	Prefixes  []netip.Prefix
}

// Bits of the prefixes that EC2 delegates.
const (
	Bits4 = 28
	Bits6 = 80
)

// Space is what is known of a subnet's addresses at one moment. What it gives it remembers as taken.
type Space struct {
	subnet  cloud.Subnet
	base    uint32
	size    uint32
	taken   bitmap
	resting bitmap
	six     six
	rand    *rand.Rand
}

// NewSpace returns the space of a subnet in which nothing is taken but what EC2 reserves. The seed decides where
// searches begin.
func NewSpace(s cloud.Subnet, seed uint64) *Space {
	first := s.CIDR.Masked().Addr().As4()
	size := uint32(1) << (32 - s.CIDR.Bits())
	sp := &Space{
		subnet: s, base: binary.BigEndian.Uint32(first[:]), size: size, taken: newBitmap(size), resting: newBitmap(size),
		six: newSix(s.IPv6()), rand: rand.New(rand.NewPCG(seed, seed)),
	}
	for i := range min(4, size) {
		sp.taken.set(i)
	}
	sp.taken.set(size - 1)
	return sp
}

// Hold says that the interface has what it has.
func (s *Space) Hold(n cloud.NetworkInterface) {
	for _, a := range n.Addresses {
		s.mark(s.taken, netip.PrefixFrom(a, 32))
	}
	for _, a := range n.IPv6 {
		s.six.hold(a)
	}
	for _, p := range n.Prefixes {
		if p.Addr().Is4() {
			s.mark(s.taken, p)
		} else {
			s.six.delegate(p)
		}
	}
}

// Rest says that a prefix was given back a moment ago: any other is chosen before it.
func (s *Space) Rest(p netip.Prefix) {
	if p.Addr().Is4() {
		s.mark(s.resting, p)
	} else {
		s.six.resting[p] = true
	}
}

func (s *Space) mark(b bitmap, p netip.Prefix) {
	if !s.subnet.CIDR.Contains(p.Addr()) {
		return
	}
	from := s.at(p.Addr())
	for i := range uint32(1) << (32 - p.Bits()) {
		b.set(from + i)
	}
}

func (s *Space) at(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:]) - s.base
}

func (s *Space) addr(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], s.base+i)
	return netip.AddrFrom4(b)
}

// Serve gives what is asked for, what is named first. After an error some of it may be remembered as taken: the
// space is of no further use.
func (s *Space) Serve(a Ask) (Grant, error) {
	g := Grant{Addresses: make([]netip.Addr, len(a.Addresses)), IPv6: a.IPv6[:len(a.IPv6):len(a.IPv6)], Prefixes: a.Prefixes[:len(a.Prefixes):len(a.Prefixes)]}
	for k, want := range a.Addresses {
		if want.IsValid() {
			if err := s.claim(want); err != nil {
				return g, err
			}
			g.Addresses[k] = want
		}
	}
	for _, want := range a.Prefixes {
		if err := s.claimPrefix(want); err != nil {
			return g, err
		}
	}
	for _, want := range a.IPv6 {
		if err := s.six.claim(s.subnet, want); err != nil {
			return g, err
		}
	}
	for k, want := range a.Addresses {
		if !want.IsValid() {
			got, err := s.choose()
			if err != nil {
				return g, err
			}
			g.Addresses[k] = got
		}
	}
	for range a.More {
		p, err := s.choosePrefix()
		if err != nil {
			return g, err
		}
		g.Prefixes = append(g.Prefixes, p)
	}
	for range a.MorePrefixes {
		p, err := s.six.choosePrefix(s.subnet, s.rand)
		if err != nil {
			return g, err
		}
		g.Prefixes = append(g.Prefixes, p)
	}
	for range a.MoreIPv6 {
		got, err := s.six.choose(s.subnet, s.rand)
		if err != nil {
			return g, err
		}
		g.IPv6 = append(g.IPv6, got)
	}
	return g, nil
}

// claim takes an address that is named.
func (s *Space) claim(want netip.Addr) error {
	switch {
	case !s.subnet.CIDR.Contains(want):
		return cloud.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's address range %s", want, s.subnet.CIDR)
	case s.subnet.Reserved(want):
		return reserved(want, s.subnet.CIDR)
	case s.taken.has(s.at(want)):
		return inUse(want)
	}
	s.taken.set(s.at(want))
	return nil
}

// claimPrefix takes a prefix that is named, of either family.
func (s *Space) claimPrefix(want netip.Prefix) error {
	if want.Addr().Is6() {
		return s.six.claimPrefix(s.subnet, want)
	}
	switch {
	case want.Bits() != Bits4 || want != want.Masked():
		return cloud.Errorf("InvalidParameterValue", "Value (%s) for parameter ipv4Prefix is invalid: it is a /%d on its boundary", want, Bits4)
	case !s.subnet.CIDR.Contains(want.Addr()) || s.subnet.CIDR.Bits() > Bits4:
		return cloud.Errorf("InvalidParameterValue", "Prefix %s does not fall within the subnet's address range %s", want, s.subnet.CIDR)
	case want.Contains(s.subnet.CIDR.Masked().Addr()) || want.Contains(s.subnet.Last()):
		return reserved(want, s.subnet.CIDR)
	case !s.taken.free16(s.at(want.Addr()) / 16):
		return inUse(want)
	}
	s.mark(s.taken, want)
	return nil
}

// choose takes any address: one that does not rest if there is one.
func (s *Space) choose() (netip.Addr, error) {
	from := s.rand.Uint32N(s.size)
	i, ok := firstFree(s.taken, s.resting, from)
	if !ok {
		i, ok = firstFree(s.taken, nil, from)
	}
	if !ok {
		return netip.Addr{}, cloud.Errorf("InsufficientFreeAddressesInSubnet", "There are not enough free addresses in subnet '%s': all %d are taken", s.subnet.ID, s.subnet.Size())
	}
	s.taken.set(i)
	return s.addr(i), nil
}

// choosePrefix takes any /28.
func (s *Space) choosePrefix() (netip.Prefix, error) {
	blocks := s.size / 16
	from := s.rand.Uint32N(max(blocks, 1))
	for _, resting := range []bitmap{s.resting, nil} {
		for k := range blocks {
			b := (from + k) % blocks
			if s.taken.free16(b) && (resting == nil || resting.free16(b)) {
				p := netip.PrefixFrom(s.addr(b*16), Bits4)
				s.mark(s.taken, p)
				return p, nil
			}
		}
	}
	return netip.Prefix{}, cloud.Errorf("InsufficientCidrBlocks", "There are not enough free cidr blocks of /%d in subnet '%s': ask for single addresses, or use another subnet", Bits4, s.subnet.ID)
}

func reserved(what interface{ String() string }, in netip.Prefix) error {
	return cloud.Errorf("InvalidParameterValue", "Address %s is in subnet's reserved address range: the first four addresses and the last of %s cannot be used", what, in)
}

func inUse(what interface{ String() string }) error {
	return cloud.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", what)
}

// MAC returns an interface's hardware address: locally administered, unicast, and made from the
// interface's ID so that it stays the same wherever the interface goes.
func MAC(id cloud.InterfaceID) string {
	const hex = "0123456789abcdef"
	d := cloud.Digits(id)
	out := []byte("02")
	for i := 0; i < 10 && i < len(d); i++ {
		if i%2 == 0 {
			out = append(out, ':')
		}
		c := d[len(d)-10+i]
		if c < '0' || c > '9' && (c < 'a' || c > 'f') {
			c = hex[c%16]
		}
		out = append(out, c)
	}
	return string(out)
}
