package cloud

import (
	"encoding/binary"
	"net/netip"
)

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

// Used returns how many addresses of its subnet's IPv4 block an interface holds: a delegated prefix counts whole.
func (n NetworkInterface) Used() int {
	out := len(n.Addresses)
	for _, p := range n.Prefixes {
		if p.Addr().Is4() {
			out += 1 << (32 - p.Bits())
		}
	}
	return out
}

// CheckSubnet refuses a subnet that the VPC cannot have beside the others, which may be of any VPC.
func (v VPC) CheckSubnet(s Subnet, others []Subnet) error {
	if s.CIDR.Bits() < 16 || s.CIDR.Bits() > 28 {
		return Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid: its size is from /16 to /28", s.CIDR)
	}
	blocks := []netip.Prefix{s.CIDR}
	if six := s.IPv6(); six.IsValid() {
		if six.Bits() != 64 {
			return Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid: the size of a subnet's IPv6 block is /64", six)
		}
		blocks = append(blocks, six)
	}
	for _, b := range blocks {
		inside := false
		for _, p := range v.Prefixes() {
			inside = inside || within(b, p)
		}
		if !inside {
			return Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid: it is not within a block of %s, which has %s", b, v.ID, few(v.Prefixes()))
		}
	}
	for _, o := range others {
		if o.VPC != v.ID {
			continue
		}
		for _, b := range blocks {
			if b.Overlaps(o.CIDR) || o.IPv6().IsValid() && b.Overlaps(o.IPv6()) {
				return Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet: %s", b, o.ID)
			}
		}
	}
	return nil
}

// NewDefaultSubnet returns the default subnet of a zone: the first /20 of the default VPC that is free.
func (v VPC) NewDefaultSubnet(zone string, others []Subnet, id func(prefix string) string) (Subnet, error) {
	for _, o := range others {
		if o.VPC == v.ID && o.Default && o.Zone == zone {
			return Subnet{}, Errorf("DefaultSubnetAlreadyExistsInAvailabilityZone", "'%s' is already the default subnet in %s.", o.ID, zone)
		}
	}
	b := v.CIDR.Addr().As4()
	base := binary.BigEndian.Uint32(b[:])
	for k := range uint32(1) << (defaultSubnetBits - v.CIDR.Bits()) {
		binary.BigEndian.PutUint32(b[:], base+k<<(32-defaultSubnetBits))
		s := Subnet{Account: v.Account, VPC: v.ID, CIDR: netip.PrefixFrom(netip.AddrFrom4(b), defaultSubnetBits), Zone: zone, Default: true}
		if v.CheckSubnet(s, others) == nil {
			s.ID, s.ACLAssociation = SubnetID(id("subnet")), AssociationID(id("aclassoc"))
			return s, nil
		}
	}
	return Subnet{}, Errorf("InsufficientFreeAddressesInSubnet", "The default VPC %s has no free /%d for a subnet: delete one of its others", v.ID, defaultSubnetBits)
}

// Associate gives the subnet a route table of its own; id is for the association if it needs a new one.
func (s Subnet) Associate(t RouteTable, id AssociationID) (Subnet, error) {
	switch {
	case t.VPC != s.VPC:
		return s, Errorf("InvalidParameterValue", "Route table %s and subnet %s belong to different networks", t.ID, s.ID)
	case s.RouteTable == t.ID:
		return s, nil
	case s.RouteTable != "":
		return s, Errorf("Resource.AlreadyAssociated", "the specified association for route table %s conflicts with an existing association: %s has %s, replace %s", t.ID, s.ID, s.RouteTable, s.RouteAssociation)
	}
	s.RouteTable, s.RouteAssociation = t.ID, id
	return s, nil
}
