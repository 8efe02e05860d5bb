package bundle

import (
	"net/netip"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Metadata is metadata.json: all that the metadata service may say about one instance, except its
// role credentials, which change more often. agent/metadata decides it; an answer to a guest is a
// pure function of it. Zero values mean that there is nothing to tell: the guest gets a 404.
type Metadata struct {
	Instance       cloud.InstanceID
	Account        cloud.AccountID
	Reservation    cloud.ReservationID
	LaunchIndex    int
	Launched       time.Time // pendingTime of the identity document: the latest launch or start
	Image          cloud.ImageID
	AncestorImages []cloud.ImageID `json:",omitempty"`
	ManifestPath   string          `json:",omitempty"` // empty: (unknown), as for images on volumes
	Kernel         cloud.ImageID   `json:",omitempty"`
	Ramdisk        cloud.ImageID   `json:",omitempty"`
	Type           string
	Virtualization string   // paravirtual | hvm
	LifeCycle      string   // on-demand | spot | scheduled
	Action         string   // none | shutdown: what is about to happen to the instance
	Monitoring     bool     `json:",omitempty"`
	ProductCodes   []string `json:",omitempty"`

	Hostname       string              // the private DNS name of the primary interface
	PublicHostname string              `json:",omitempty"`
	Interfaces     []MetadataInterface // the first is the primary one
	Placement      MetadataPlacement
	BlockDevices   map[string]string      `json:",omitempty"` // ami, root, ebs1 ...: device names as of the launch
	KeyName        string                 `json:",omitempty"`
	PublicKey      string                 `json:",omitempty"` // one authorized_keys line, no line feed
	Profile        *cloud.ProfileRef      `json:",omitempty"`
	Tags           cloud.Tags             `json:",omitempty"` // only those that the guest may see
	Events         []cloud.ScheduledEvent `json:",omitempty"`
	Options        cloud.MetadataOptions
	UserData       []byte                 `json:",omitempty"` // byte for byte what the user gave
	Identity       cloud.IdentityDocument // exact bytes, signed by the control plane
	Domain         string                 // services/domain
	Partition      string                 // services/partition
}

// MetadataInterface is a network interface as its instance sees it.
type MetadataInterface struct {
	ID            cloud.InterfaceID
	MAC           string // lower case, colons
	DeviceNumber  int
	Owner         cloud.AccountID
	VPC           cloud.VPCID
	VPCPrefixes   []netip.Prefix
	Subnet        cloud.SubnetID
	SubnetPrefix  netip.Prefix
	Addresses     []netip.Addr          // private, the primary one first
	PublicAddress []cloud.PublicAddress `json:",omitempty"`
	Prefixes      []netip.Prefix        `json:",omitempty"` // delegated, of both versions of IP
	IPv6          []netip.Addr          `json:",omitempty"`
	VPCPrefixes6  []netip.Prefix        `json:",omitempty"`
	SubnetPrefix6 []netip.Prefix        `json:",omitempty"`
	Hostname      string
	Groups        []MetadataGroup

	PublicHostname string `json:",omitempty"`
}

// MetadataGroup names a security group.
type MetadataGroup struct {
	ID   cloud.GroupID
	Name string
}

// MetadataPlacement says where the instance is.
type MetadataPlacement struct {
	Region    string
	Zone      string
	ZoneID    string
	GroupName string       `json:",omitempty"`
	Partition int          `json:",omitempty"` // of a partition placement group, from 1
	Host      cloud.HostID `json:",omitempty"` // only for instances on dedicated hosts
}

// Primary returns the interface with the lowest device number, or a zero one.
func (m *Metadata) Primary() MetadataInterface {
	if len(m.Interfaces) == 0 {
		return MetadataInterface{}
	}
	return m.Interfaces[0]
}
