// Package ipam decides which address a network interface gets.
//
// It knows a subnet's rules (EC2 keeps the first four addresses and the last) and which addresses are
// taken; it does not take them. The caller creates one key per address in the transaction that creates
// the interface, and a key can be created only once: that, not this package, is what makes two owners
// of one address impossible. When two callers choose the same address one of them loses and asks again.
package ipam

import (
	"encoding/binary"
	"net/netip"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Check returns why a wished address cannot be had in the subnet, or nil.
func Check(s cloud.Subnet, want netip.Addr, taken func(netip.Addr) bool) error {
	switch {
	case !s.CIDR.Contains(want):
		return cloud.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's address range %s", want, s.CIDR)
	case s.Reserved(want):
		return cloud.Errorf("InvalidParameterValue", "Address %s is in subnet's reserved address range: the first four addresses and the last of %s cannot be used", want, s.CIDR)
	case taken(want):
		return cloud.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", want)
	}
	return nil
}

// Choose returns a free address of the subnet. The search begins at a place that seed decides, so that
// concurrent callers with different seeds seldom meet; it ends when every address has been looked at.
func Choose(s cloud.Subnet, seed uint64, taken func(netip.Addr) bool) (netip.Addr, error) {
	first := s.CIDR.Masked().Addr().As4()
	base := binary.BigEndian.Uint32(first[:])
	size := uint64(1) << (32 - s.CIDR.Bits())
	for i := range size {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+uint32((seed+i)%size))
		if a := netip.AddrFrom4(b); !s.Reserved(a) && !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, cloud.Errorf("InsufficientFreeAddressesInSubnet", "There are not enough free addresses in subnet '%s': all %d are taken", s.ID, s.Size())
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
