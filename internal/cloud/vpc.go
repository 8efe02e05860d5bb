package cloud

import "net/netip"

// VPC is a private network with its own address space: two VPCs may use the same addresses.
type VPC struct {
	ID            VPCID
	Account       AccountID
	CIDR          netip.Prefix // the primary block, of IPv4
	Blocks        []CIDRBlock  `json:",omitempty"` // further ones, and those of IPv6
	Default       bool
	DHCPOptions   DHCPOptionsID // empty: none, which EC2 calls "default"
	MainTable     RouteTableID  // of subnets that are associated with none
	NetworkACL    NetworkACLID  // of subnets that are associated with none
	Gateway       GatewayID     `json:",omitempty"` // the internet gateway that is attached
	EnableDNS     bool          // the resolver at .2 answers
	EnableDNSName bool          // instances with public addresses have public names
	Tags          Tags          `json:",omitempty"`
}

// CIDRBlock is a block of addresses with the identifier of its association.
type CIDRBlock struct {
	ID   AssociationID // vpc-cidr-assoc- or subnet-cidr-assoc-
	CIDR netip.Prefix
}

// Prefixes returns all blocks of the VPC, the primary one first.
func (v VPC) Prefixes() []netip.Prefix {
	out := []netip.Prefix{v.CIDR}
	for _, b := range v.Blocks {
		out = append(out, b.CIDR)
	}
	return out
}
