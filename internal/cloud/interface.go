package cloud

import (
	"net/netip"
	"time"
)

// NetworkInterface is an elastic network interface: a MAC, addresses, and groups. All of it stays with the interface
// when it moves from one instance to another.
//
//	available -> attaching -> in-use -> detaching -> available
type NetworkInterface struct {
	ID              InterfaceID
	Generation      int64
	Account         AccountID
	VPC             VPCID
	Subnet          SubnetID
	Zone            string
	MAC             string         // lower case, colons
	Addresses       []netip.Addr   // private IPv4, the primary one first
	IPv6            []netip.Addr   `json:",omitempty"`
	Prefixes        []netip.Prefix `json:",omitempty"` // delegated: /28 of IPv4, /80 of IPv6
	Groups          []GroupID
	Description     string `json:",omitempty"`
	SourceDestCheck bool
	Kind            InterfaceKind `json:",omitempty"`
	AssignPublic    bool          `json:",omitempty"` // asked for at its creation, or the subnet's default then
	Tracking        Tracking      `json:",omitzero"`
	Tags            Tags          `json:",omitempty"`

	Instance            InstanceID   `json:",omitempty"`
	Attachment          AttachmentID `json:",omitempty"`
	DeviceIndex         int
	DeleteOnTermination bool
	AttachTime          time.Time `json:",omitzero"`
	Detach              Detach    `json:",omitempty"` // wished for; the planner takes Instance away when the host has done it
}

// InterfaceKind is what an interface is of, in EC2's words; empty is "interface".
type InterfaceKind string

// The kinds of interfaces.
const (
	KindInterface  InterfaceKind = ""
	KindNATGateway InterfaceKind = "nat_gateway"
)

// Detach is how an interface shall leave its instance.
type Detach string

// The ways to detach.
const (
	DetachNot   Detach = ""
	DetachAsked Detach = "asked" // the guest lets go of the device first
	DetachForce Detach = "force" // the device is taken away whatever the guest says
)

// Tracking are the idle timeouts of tracked connections, in seconds; 0 is EC2's default.
type Tracking struct {
	TCPEstablished int `json:",omitempty"` // 60..432000, default 432000
	UDPStream      int `json:",omitempty"` // 60..180, default 180
	UDP            int `json:",omitempty"` // 30..60, default 30
}

// PublicAddress is a public address and the private one that it stands for.
type PublicAddress struct{ Public, Private netip.Addr }

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
