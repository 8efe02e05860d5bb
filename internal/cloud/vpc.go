package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

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

// of returns the blocks of one family, the primary one first.
func (v VPC) of(family func(netip.Addr) bool) []netip.Prefix {
	return slices.DeleteFunc(v.Prefixes(), func(p netip.Prefix) bool { return !family(p.Addr()) })
}

// PrimaryAssociation is the identifier of the association of the primary block, which cannot be taken away.
func (v VPC) PrimaryAssociation() AssociationID {
	return AssociationID("vpc-cidr-assoc-" + Digits(v.ID))
}

// MainAssociation is the identifier of the association with the main route table. It is another one whenever the
// main table is another one.
func (v VPC) MainAssociation() AssociationID {
	return AssociationID("rtbassoc-" + Digits(v.MainTable))
}

// What EC2 gives a new account: https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
var defaultVPC = netip.MustParsePrefix("172.31.0.0/16")

// defaultSubnetBits is the size of a default subnet: a default VPC has room for 16.
const defaultSubnetBits = 20

// NewVPC returns a VPC as EC2 makes one, with the identifiers of the route table and the ACL that it is born with.
func NewVPC(account AccountID, block netip.Prefix, id func(prefix string) string) VPC {
	return VPC{
		ID: VPCID(id("vpc")), Account: account, CIDR: block, EnableDNS: true,
		MainTable: RouteTableID(id("rtb")), NetworkACL: NetworkACLID(id("acl")),
	}
}

// NewDefaultVPC returns an account's default VPC, with the identifier of an internet gateway that is attached to it.
func NewDefaultVPC(account AccountID, id func(prefix string) string) VPC {
	v := NewVPC(account, defaultVPC, id)
	v.Default, v.EnableDNSName, v.Gateway = true, true, GatewayID(id("igw"))
	return v
}

// FirstTable returns the route table that the VPC is born with: it leads out, if there is a way out.
func (v VPC) FirstTable() RouteTable {
	t := RouteTable{ID: v.MainTable, Account: v.Account, VPC: v.ID}
	if v.Gateway != "" {
		t.Routes = []Route{{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: v.Gateway}}
	}
	return t
}

// FirstACL returns the network ACL that the VPC is born with: everything may pass.
func (v VPC) FirstACL() NetworkACL {
	return NetworkACL{ID: v.NetworkACL, Account: v.Account, VPC: v.ID, Entries: OpenACL()}
}

// FirstGroup returns the security group that the VPC is born with.
func (v VPC) FirstGroup(id func(prefix string) string) SecurityGroup {
	g := SecurityGroup{ID: GroupID(id("sg")), Account: v.Account, VPC: v.ID, Name: "default", Description: "default VPC security group"}
	g.Ingress, _ = DefaultGroupRules(g.ID, RuleID(id("sgr")), "")
	g.Egress = NewGroupEgress(v, func() RuleID { return RuleID(id("sgr")) })
	return g
}

// ParseIPv4Block reads a block of IPv4 addresses. Like EC2 it takes the bits away that belong to hosts: 100.68.0.18/18
// is 100.68.0.0/18.
func ParseIPv4Block(parameter, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, Errorf("InvalidParameterValue", "Value (%.60s) for parameter %s is invalid. This is not a valid CIDR block.", text, parameter)
	}
	return p.Masked(), nil
}

// ParseIPv6Block reads a block of IPv6 addresses, as ParseIPv4Block does.
func ParseIPv6Block(parameter, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() {
		return netip.Prefix{}, Errorf("InvalidParameterValue", "Value (%.60s) for parameter %s is invalid. This is not a valid IPv6 CIDR block.", text, parameter)
	}
	return p.Masked(), nil
}

// unusable are the ranges that no VPC can have: this network, loopback, link-local, multicast.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
}

// CheckVPCBlock refuses what cannot be a block of IPv4 of a VPC.
func CheckVPCBlock(p netip.Prefix) error {
	if p.Bits() < 16 || p.Bits() > 28 {
		return Errorf("InvalidVpc.Range", "The CIDR '%s' is invalid: its size is from /16 to /28", p)
	}
	for _, u := range unusable {
		if u.Overlaps(p) {
			return Errorf("InvalidVpc.Range", "The CIDR '%s' is invalid: %s cannot be used in a VPC", p, u)
		}
	}
	return nil
}

// maxBlocks is EC2's quota of blocks per VPC, of each family; the primary one counts.
const maxBlocks = 5

// ranges are what EC2 keeps apart: a VPC of one of them cannot have further blocks of another.
// https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html#add-cidr-block-restrictions
var ranges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.19.0.0/16"),
}

// exceptions are ranges that a VPC of a range cannot have though it is its own.
var exceptions = []struct{ primary, further netip.Prefix }{
	{netip.MustParsePrefix("10.0.0.0/15"), netip.MustParsePrefix("10.0.0.0/16")},
	{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("172.31.0.0/16")},
}

// Associate gives the VPC a further block. tables are its route tables: EC2 refuses a block that holds what a route
// leads elsewhere.
func (v VPC) Associate(b CIDRBlock, tables []RouteTable) (VPC, error) {
	family := netip.Addr.Is6
	if b.CIDR.Addr().Is4() {
		family = netip.Addr.Is4
		if err := v.checkFurther(b.CIDR); err != nil {
			return v, err
		}
	}
	if len(v.of(family)) >= maxBlocks {
		return v, Errorf("CidrLimitExceeded", "This network '%s' has met its maximum number of allowed CIDRs: %d", v.ID, maxBlocks)
	}
	for _, t := range tables {
		for _, r := range t.Routes {
			if within(r.Destination, b.CIDR) {
				return v, Errorf("InvalidVpc.Range", "The CIDR '%s' holds %s, where a route of %s leads: delete the route first", b.CIDR, r.Destination, t.ID)
			}
		}
	}
	v.Blocks = append(slices.Clone(v.Blocks), b)
	return v, nil
}

// checkFurther refuses what cannot be a further block of IPv4.
func (v VPC) checkFurther(p netip.Prefix) error {
	if err := CheckVPCBlock(p); err != nil {
		return err
	}
	for _, had := range v.Prefixes() {
		if had.Overlaps(p) {
			return Errorf("InvalidVpc.Range", "The CIDR '%s' conflicts with %s, which the VPC has already", p, had)
		}
	}
	restricted := false
	for _, r := range ranges {
		restricted = restricted || r.Overlaps(p) && !within(v.CIDR, r)
	}
	for _, e := range exceptions {
		restricted = restricted || within(v.CIDR, e.primary) && e.further.Overlaps(p)
	}
	if restricted {
		return Errorf("InvalidVpc.Range", "The CIDR '%s' is restricted. Use one of the same private range as the VPC's %s, or one that is publicly routable", p, v.CIDR)
	}
	return nil
}

// Disassociate takes a block away, if no subnet is in it.
func (v VPC) Disassociate(id AssociationID, subnets []Subnet) (VPC, CIDRBlock, error) {
	if id == v.PrimaryAssociation() {
		return v, CIDRBlock{}, Errorf("OperationNotPermitted", "The vpc CIDR block with association ID %s may not be disassociated. It is the primary IPv4 CIDR block of the VPC", id)
	}
	k := slices.IndexFunc(v.Blocks, func(b CIDRBlock) bool { return b.ID == id })
	if k < 0 {
		return v, CIDRBlock{}, NotFound("InvalidVpcCidrBlockAssociationID.NotFound", "vpc CIDR block association ID", id)
	}
	b := v.Blocks[k]
	for _, s := range subnets {
		for _, p := range []netip.Prefix{s.CIDR, s.IPv6()} {
			if s.VPC == v.ID && p.IsValid() && p.Overlaps(b.CIDR) {
				return v, b, Errorf("InvalidCidrBlock.InUse", "The vpc %s currently has a subnet within CIDR block %s: delete %s first", v.ID, b.CIDR, s.ID)
			}
		}
	}
	v.Blocks = slices.Delete(slices.Clone(v.Blocks), k, k+1)
	return v, b, nil
}

// within reports whether all of p lies in b.
func within(p, b netip.Prefix) bool { return b.Bits() <= p.Bits() && b.Contains(p.Addr()) }

// AttachTo joins an internet gateway and a VPC.
func (g InternetGateway) AttachTo(v VPC) (InternetGateway, VPC, error) {
	switch {
	case g.VPC != "":
		return g, v, Errorf("Resource.AlreadyAssociated", "resource %s is already attached to network %s", g.ID, g.VPC)
	case v.Gateway != "":
		return g, v, Errorf("InvalidParameterValue", "Network %s already has an internet gateway attached: %s", v.ID, v.Gateway)
	}
	g.VPC, v.Gateway = v.ID, g.ID
	return g, v, nil
}

// DetachFrom parts them, if no public address of the VPC needs the gateway.
func (g InternetGateway) DetachFrom(v VPC, mapped []netip.Addr) (InternetGateway, VPC, error) {
	if g.VPC != v.ID || v.Gateway != g.ID {
		return g, v, Errorf("Gateway.NotAttached", "resource %s is not attached to network %s", g.ID, v.ID)
	}
	if len(mapped) > 0 {
		return g, v, Errorf("DependencyViolation", "Network %s has some mapped public address(es). Please unmap those public address(es) before detaching the gateway: %s", v.ID, few(mapped))
	}
	g.VPC, v.Gateway = "", ""
	return g, v, nil
}

// Depended returns EC2's error for what cannot be deleted because of others; nil if there are none.
func Depended[ID ~string](noun string, id ID, others []string) error {
	if len(others) == 0 {
		return nil
	}
	return Errorf("DependencyViolation", "The %s '%s' has dependencies and cannot be deleted: %s", noun, id, few(others))
}

// few names the first of a list, which may be as long as an account has resources.
func few[T any](all []T) string {
	const most = 5
	var out []string
	for _, v := range all[:min(len(all), most)] {
		out = append(out, fmt.Sprint(v))
	}
	if len(all) > most {
		out = append(out, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(out, ", ")
}
