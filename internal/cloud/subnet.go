package cloud

import "net/netip"

// Subnet is a part of a VPC's addresses in one zone.
type Subnet struct {
	ID               SubnetID
	Account          AccountID
	VPC              VPCID
	CIDR             netip.Prefix
	Blocks           []CIDRBlock `json:",omitempty"` // of IPv6: at most one /64
	Zone             string
	Default          bool
	MapPublicAddress bool          // instances launched here get a public address unless they say otherwise
	AssignIPv6       bool          `json:",omitempty"` // new interfaces get an IPv6 address
	RouteTable       RouteTableID  `json:",omitempty"` // empty: the VPC's main one
	RouteAssociation AssociationID `json:",omitempty"` // rtbassoc-, with RouteTable
	NetworkACL       NetworkACLID  `json:",omitempty"` // empty: the VPC's default one
	ACLAssociation   AssociationID // aclassoc-
	Tags             Tags          `json:",omitempty"`
}

// IPv6 returns the subnet's IPv6 block; the zero Prefix if it has none.
func (s Subnet) IPv6() netip.Prefix {
	for _, b := range s.Blocks {
		if b.CIDR.Addr().Is6() {
			return b.CIDR
		}
	}
	return netip.Prefix{}
}

// Router returns the subnet's gateway: the first address after the network's.
func (s Subnet) Router() netip.Addr { return s.CIDR.Masked().Addr().Next() }

// Last returns the last address of the subnet, which is reserved (EC2 has no broadcast).
func (s Subnet) Last() netip.Addr {
	b := s.CIDR.Masked().Addr().As4()
	host := uint32(1)<<(32-s.CIDR.Bits()) - 1
	for i := range b {
		b[i] |= byte(host >> (8 * (3 - i)))
	}
	return netip.AddrFrom4(b)
}

// Reserved reports whether EC2 keeps the address for itself: the first four of a subnet and the last.
func (s Subnet) Reserved(a netip.Addr) bool {
	first := s.CIDR.Masked().Addr()
	for range 4 {
		if a == first {
			return true
		}
		first = first.Next()
	}
	return a == s.Last()
}

// Size returns the number of addresses that can be given out.
func (s Subnet) Size() int { return 1<<(32-s.CIDR.Bits()) - 5 }
