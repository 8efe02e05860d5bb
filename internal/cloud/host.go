package cloud

import (
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
	Accel     string // kvm | tcg
	Version   string
	Seen      time.Time
}

// Credentials are a role's temporary keys for one instance.
type Credentials struct {
	Role            string
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
	Document  string
	Signature string
	RSA2048   string
	PKCS7     string
}

// AssignedInterface is a network interface with what a host must know of its surroundings.
type AssignedInterface struct {
	NetworkInterface
	Network    Subnet
	VPCPrefix  netip.Prefix
	GroupNames []string // in the order of Groups
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

// HostNetwork is what a host must know of its VPCs beyond its own interfaces: the groups in use and who is
// a member of each, wherever it runs.
type HostNetwork struct {
	Generation int64
	Groups     []HostGroup
}

// HostGroup is a security group with the addresses of its members in the whole VPC.
type HostGroup struct {
	SecurityGroup
	Members []netip.Addr
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
