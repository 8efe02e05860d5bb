package cloud

import (
	"net/netip"
	"time"
)

// VPC is a private network with its own address space: two VPCs may use the same addresses.
type VPC struct {
	ID            VPCID
	Account       AccountID
	CIDR          netip.Prefix
	Default       bool
	DHCPOptions   DHCPOptionsID
	MainTable     RouteTableID
	NetworkACL    NetworkACLID
	Gateway       GatewayID `json:",omitempty"`
	EnableDNS     bool
	EnableDNSName bool
	Tags          Tags `json:",omitempty"`
}

// Subnet is a part of a VPC's addresses in one zone.
type Subnet struct {
	ID               SubnetID
	Account          AccountID
	VPC              VPCID
	CIDR             netip.Prefix
	Zone             string
	Default          bool
	MapPublicAddress bool
	Tags             Tags `json:",omitempty"`
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

// NetworkInterface is an elastic network interface: a MAC, addresses, and groups.
type NetworkInterface struct {
	ID                  InterfaceID
	Generation          int64
	Account             AccountID
	VPC                 VPCID
	Subnet              SubnetID
	Zone                string
	MAC                 string       // lower case, colons
	Addresses           []netip.Addr // the first is the primary private address
	Groups              []GroupID
	Description         string `json:",omitempty"`
	SourceDestCheck     bool
	Instance            InstanceID   `json:",omitempty"`
	Attachment          AttachmentID `json:",omitempty"`
	DeviceIndex         int
	DeleteOnTermination bool
	AttachTime          time.Time `json:",omitzero"`
	Tags                Tags      `json:",omitempty"`
}

// Primary returns the primary private address.
func (n NetworkInterface) Primary() netip.Addr {
	if len(n.Addresses) == 0 {
		return netip.Addr{}
	}
	return n.Addresses[0]
}

// PrivateDNSName returns EC2's name for an address: ip-10-0-0-5.REGION.compute.internal.
func PrivateDNSName(a netip.Addr, region string) string {
	b := []byte("ip-" + a.String())
	for i, c := range b {
		if c == '.' {
			b[i] = '-'
		}
	}
	return string(b) + "." + region + ".compute.internal"
}

// SecurityGroup is a list of what may come in and go out; what is not listed is dropped.
type SecurityGroup struct {
	ID          GroupID
	Account     AccountID
	VPC         VPCID
	Name        string
	Description string
	Ingress     []GroupRule
	Egress      []GroupRule
	Tags        Tags `json:",omitempty"`
}

// GroupRule allows one protocol and port range to or from one peer: a prefix or the members of a group.
type GroupRule struct {
	ID          RuleID
	Protocol    string  // tcp, udp, icmp, a number, or -1 for all
	FromPort    int     // -1 for all; ICMP type
	ToPort      int     // -1 for all; ICMP code
	CIDR        string  `json:",omitempty"`
	Group       GroupID `json:",omitempty"`
	Description string  `json:",omitempty"`
}

// DefaultGroupRules returns what EC2 gives a VPC's default group: everything in from its own members,
// everything out.
func DefaultGroupRules(id GroupID, in, out RuleID) (ingress, egress []GroupRule) {
	return []GroupRule{{ID: in, Protocol: "-1", FromPort: -1, ToPort: -1, Group: id}},
		[]GroupRule{{ID: out, Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
}

// InternetGateway joins a VPC to the host's uplink.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	VPC     VPCID `json:",omitempty"`
	Tags    Tags  `json:",omitempty"`
}
