package store

import (
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// The kinds of the specs, which the API and the planners write.
var (
	VPCs     = NewKind[cloud.VPC](SpecPrefix("vpc"))
	Subnets  = NewKind[cloud.Subnet](SpecPrefix("subnet"))
	Groups   = NewKind[cloud.SecurityGroup](SpecPrefix("group"))
	Gateways = NewKind[cloud.InternetGateway](SpecPrefix("gateway"))

	RouteTables = NewKind[cloud.RouteTable](SpecPrefix("routes"))
	NetworkACLs = NewKind[cloud.NetworkACL](SpecPrefix("acl"))
	Options     = NewKind[cloud.DHCPOptions](SpecPrefix("dhcp"))
	NATGateways = NewKind[cloud.NATGateway](SpecPrefix("nat"))

	Overlays  = NewKind[uint32](SpecPrefix("overlay"))  // the number of a VPC, by its ID
	VNIs      = NewKind[cloud.VPCID](SpecPrefix("vni")) // whose a number is, so that no two VPCs have it
	Addresses = NewKind[cloud.Address](SpecPrefix("address"))

	Interfaces = NewKind[cloud.NetworkInterface](SpecPrefix("interface"))
	Instances  = NewKind[cloud.Instance](SpecPrefix("instance"))
	UserData   = NewKind[[]byte](SpecPrefix("userdata")) // apart: up to 16 KiB that no description needs
	Images     = NewKind[cloud.Image](SpecPrefix("image"))
	KeyPairs   = NewKind[cloud.KeyPair](SpecPrefix("key"))
	// MetadataDefaults are what an account's new instances get, by account; what is empty is left to the image.
	MetadataDefaults = NewKind[cloud.MetadataOptions](SpecPrefix("metadata-defaults"))

	Sessions    = NewKind[cloud.Session](SpecPrefix("session")) // of Session Manager
	Commands    = NewKind[cloud.Command](SpecPrefix("command"))
	Sendings    = NewKind[cloud.Sending](SpecPrefix("sending"))       // of the commands that instances wait for, by CommandID
	Deliveries  = NewKind[cloud.Delivery](SpecPrefix("delivery"))     // of outputs that are not in their buckets yet, by CommandID
	Notices     = NewKind[cloud.Notice](SpecPrefix("notice"))         // of what nobody has been told yet, by CommandID
	Activations = NewKind[cloud.Activation](SpecPrefix("activation")) // by cloud.ActivationID
	Nodes       = NewKind[cloud.ManagedNode](SpecPrefix("node"))      // by their ID
	// ResourceGroups are by cloud.ResourceGroupID: names are an account's own.
	ResourceGroups = NewKind[cloud.ResourceGroup](SpecPrefix("resource-group"))
	Documents      = NewKind[cloud.Document](SpecPrefix("document"))   // by cloud.DocumentID
	Parameters     = NewKind[cloud.Parameter](SpecPrefix("parameter")) // by cloud.DocumentID: names are an account's own
	// ParameterBoxes is where the values of SecureStrings are sealed for; they lie in the parameter.
	ParameterBoxes = NewKind[Sealed](SpecPrefix("parameter"))
	// DocumentTexts are the versions of documents, by Document.TextID. They are no specs, so that no mirror holds them:
	// a document may have a thousand of 64 KiB.
	DocumentTexts = NewKind[string](TextPrefix("document"))

	Hosts = NewKind[cloud.Host](HostPrefix()) // each written by the host that it describes
)

// The kinds of the wishes for one host, which only control writes.

// Assignments are the instances that a host shall run.
func Assignments(h cloud.HostID) Kind[cloud.Assignment] {
	return NewKind[cloud.Assignment](WishPrefix(h, "instance"))
}

// Credentials are the role credentials of a host's instances: cloud.Credentials, sealed.
func Credentials(h cloud.HostID) Kind[Sealed] {
	return NewKind[Sealed](WishPrefix(h, "credentials"))
}

// Networks are what a host must know of the VPCs in which it has an interface, by VPCID.
func Networks(h cloud.HostID) Kind[cloud.HostNetwork] {
	return NewKind[cloud.HostNetwork](WishPrefix(h, "network"))
}

// Memberships has one value, of the ID MembershipID: whose wishes these are. It lies among them so that nobody sees
// the one without the other.
func Memberships(h cloud.HostID) Kind[cloud.CloudID] {
	return NewKind[cloud.CloudID](WishPrefix(h, "membership"))
}

// Callers has one value, of the ID CallerID: the Ed25519 key of whom a host answers at its door.
func Callers(h cloud.HostID) Kind[[]byte] { return NewKind[[]byte](WishPrefix(h, "caller")) }

// CallerID is the ID of the one value of Callers.
const CallerID = "control"

// MembershipID is the ID of the one value of Memberships.
const MembershipID = "cloud"

// CommandWishes are the commands for a host's instances, by InvocationID.
func CommandWishes(h cloud.HostID) Kind[cloud.CommandWish] {
	return NewKind[cloud.CommandWish](WishPrefix(h, "command"))
}

// NodeWishes are the machines that may connect to a host's gateway.
func NodeWishes(h cloud.HostID) Kind[cloud.NodeWish] {
	return NewKind[cloud.NodeWish](WishPrefix(h, "node"))
}

// Target returns what Run Command reaches under an ID: an instance, or a managed machine as one.
func Target(v View, id cloud.InstanceID) (cloud.Instance, error) {
	if cloud.WellFormed(id, cloud.ManagedPrefix) {
		o, err := MirroredGet(v, Nodes, id)
		return o.Value.Target(), err
	}
	o, err := MirroredGet(v, Instances, id)
	return o.Value, err
}

// Targets returns all that Run Command may reach, instances first.
func Targets(v View) ([]cloud.Instance, error) {
	instances, err := Mirrored(v, Instances)
	if err != nil {
		return nil, err
	}
	nodes, err := Mirrored(v, Nodes)
	out := make([]cloud.Instance, 0, len(instances)+len(nodes))
	for _, o := range instances {
		out = append(out, o.Value)
	}
	for _, o := range nodes {
		out = append(out, o.Value.Target())
	}
	return out, err
}

// The kinds of the statuses, which only the host writes.

// InstanceStatuses are what a host has seen of its instances.
func InstanceStatuses(h cloud.HostID) Kind[cloud.InstanceStatus] {
	return NewKind[cloud.InstanceStatus](StatusPrefix(h, "instance"))
}

// Invocations are what a host has seen of commands, by InvocationID.
func Invocations(h cloud.HostID) Kind[cloud.Invocation] {
	return NewKind[cloud.Invocation](StatusPrefix(h, "invocation"))
}

// Pings are what a host knows of the Run Command agents in its guests.
func Pings(h cloud.HostID) Kind[cloud.AgentPing] {
	return NewKind[cloud.AgentPing](StatusPrefix(h, "agent"))
}

// AboutCommands reports whether a key is one of Run Command's: what is asked, and what was seen of it. A planner of
// instances need not be woken for it.
func AboutCommands(key string) bool {
	part := strings.Split(key, "/")
	switch part[0] {
	case "spec":
		return len(part) > 1 && slices.Contains([]string{"command", "sending", "delivery", "notice", "document", "parameter", "session", "activation", "node"}, part[1])
	case "wish", "status":
		return len(part) > 2 && (part[2] == "command" || part[2] == "invocation" || part[2] == "node" || part[2] == "agent")
	}
	return false
}

// InvocationID is the ID under which one command on one instance is kept.
func InvocationID(c cloud.CommandID, i cloud.InstanceID) string { return string(c) + "." + string(i) }
