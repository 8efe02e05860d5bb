package cloud

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Host is a machine that runs instances, as it describes itself.
type Host struct {
	ID        HostID
	Zone      string
	Cloud     CloudID // that it belongs to; "" for a new host, which belongs to whoever plans for it first
	VCPUs     int     // processors that may be given to instances; may be more than the machine has
	MemoryMiB int
	Door      string // where the control plane reads consoles and command output: unix:PATH

	// FarDoor is the same door by TLS, for a control plane on another machine, and DoorKey the Ed25519 key that is behind it.
	FarDoor netip.AddrPort `json:",omitzero"`
	DoorKey []byte         `json:",omitempty"`

	// Underlay is where other hosts send what their guests send to guests here; the zero value: nowhere, and no VPC with
	// guests here has any elsewhere that they could reach.
	Underlay netip.Addr `json:",omitzero"`
	Accel    string     // kvm | tcg
	Version  string
	Seen     time.Time
}

// Credentials are a role's temporary keys for one instance.
type Credentials struct {
	Role            string
	Profile         string // ID of the instance profile that they were made for
	Code            string // Success, or what went wrong
	Message         string `json:",omitempty"`
	LastUpdated     time.Time
	AccessKeyID     string
	SecretAccessKey string
	Token           string
	Expiration      time.Time
}

// IdentityDocument is an instance's signed identity: the exact bytes and the signatures over them.
type IdentityDocument struct {
	Key       string `json:",omitempty"` // that signed it
	Document  string
	Signature string
	RSA2048   string
	PKCS7     string
}

// AssignedInterface is a network interface with what its instance's host must know of it alone. What it shares
// with others is in HostNetwork.
type AssignedInterface struct {
	NetworkInterface
	Network     Subnet
	VPCPrefixes []netip.Prefix
	Public      []PublicAddress `json:",omitempty"`
	PublicNames bool            `json:",omitempty"` // the VPC gives public addresses names
	GroupNames  []string        // in the order of Groups
}

// Assignment is the wish for one instance, complete: all that its host may and must know. It is compiled by
// the control plane from the specs, and is the only thing about the instance that the host reads.
type Assignment struct {
	Instance   Instance
	Region     string
	Type       InstanceType
	ImageName  string
	Kernel     string // file of the image pool
	Ramdisk    string // file of the image pool
	Command    string `json:",omitempty"` // the image's part of the kernel's command line
	Interfaces []AssignedInterface
	PublicKey  string `json:",omitempty"` // one authorized_keys line
	UserData   []byte `json:",omitempty"`
	Identity   IdentityDocument
}

// HostNetwork is what a host must know of one VPC beyond its own interfaces: what its subnets do with packets, the
// groups in use, and who is a member of each, wherever it runs.
type HostNetwork struct {
	Generation int64
	VPC        VPC
	Options    DHCPOptions // the zero value if the VPC has none
	Subnets    []HostSubnet
	Groups     []HostGroup
	Public     []PublicAddress `json:",omitempty"` // that have names in the VPC's resolver

	Overlay uint32     `json:",omitempty"` // the VPC's VXLAN network identifier (RFC 7348); 0: it was never on two hosts
	Peers   []HostPeer `json:",omitempty"` // the other hosts with interfaces of the VPC, in order of their IDs
}

// HostPeer is another host with interfaces of a VPC.
type HostPeer struct {
	Host     HostID
	Underlay netip.Addr
	Members  Members        // the addresses of those interfaces, of both families, in order
	Prefixes []netip.Prefix `json:",omitempty"` // of IPv6, delegated to them, in order
}

// HostSubnet is a subnet that has an interface on the host, with its routes and rules.
type HostSubnet struct {
	Subnet
	Routes []HostRoute // beside the VPC's own blocks; at most one for a destination
	ACL    []ACLEntry  `json:",omitempty"` // none: everything may pass
}

// HostRoute is a route with what its target means: exactly one of Internet, NAT and Interface is set, or none of
// them, which drops.
type HostRoute struct {
	Destination netip.Prefix
	Internet    bool        `json:",omitempty"` // out of the uplink: under its public address, or masqueraded
	NAT         netip.Addr  `json:",omitzero"`  // out of the uplink under this address
	Home        netip.Addr  `json:",omitzero"`  // with NAT: of the host that this is, on the underlay; zero: this one
	Interface   InterfaceID `json:",omitempty"` // to this interface of an instance
	Via         netip.Addr  `json:",omitzero"`  // its primary address
}

// HostGroup is a security group with the addresses of its members in the whole VPC. Of a group that no interface of the
// host is in, and only a rule refers to, the members are all that is told.
type HostGroup struct {
	SecurityGroup
	Members Members
}

// ZoneID returns the identifier of a zone in EC2's form: ichiro1-az1 is zone a of region ichiro-1. It is
// empty for a zone whose name is not its region's and a letter.
func ZoneID(region, zone string) string {
	letter, ok := strings.CutPrefix(zone, region)
	if !ok || len(letter) != 1 || letter[0] < 'a' || letter[0] > 'i' {
		return ""
	}
	return strings.ReplaceAll(region, "-", "") + "-az" + string(letter[0]-'a'+'1')
}

// ParseResolvers reads the resolvers of a host as its operator writes them: addresses with commas between them, each with
// a port if it is not 53.
func ParseResolvers(text string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for one := range strings.SplitSeq(text, ",") {
		one = strings.TrimSpace(one)
		at, err := netip.ParseAddrPort(one)
		if err != nil {
			a, err := netip.ParseAddr(one)
			if err != nil {
				return nil, fmt.Errorf("resolver %q is not an address: want one such as 192.0.2.53 or 192.0.2.53:5353", one)
			}
			at = netip.AddrPortFrom(a, 53)
		}
		out = append(out, at)
	}
	return out, nil
}
