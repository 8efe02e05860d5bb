package cloud

import (
	"net/netip"
	"slices"
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

	Left *Departure `json:",omitempty"` // the last attachment, of a free interface
}

// Departure is an attachment that has ended, at Time.
type Departure struct {
	Attachment          AttachmentID
	Instance            InstanceID
	DeviceIndex         int
	DeleteOnTermination bool
	AttachTime, Time    time.Time
}

// Remembered is how long an ended attachment is shown, as detached, to who asks for it by its ID: clients that wait for the
// end of a detachment wait for that word, and not for its absence.
const Remembered = time.Minute

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

// The most security groups that an interface may be in: EC2's default quota.
const groupsPerInterface = 5

// Attach returns the interface and the instance with the wish that they belong together: as device index of a machine
// of the type, which runs or is stopped. others are the interfaces that the instance has.
func (n NetworkInterface) Attach(i Instance, st *InstanceStatus, t InstanceType, others []NetworkInterface, at Attachment) (NetworkInterface, Instance, error) {
	if n.Kind != KindInterface {
		return n, i, n.managed()
	}
	if n.Instance != "" {
		return n, i, Errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use: it is attached to %s", n.ID, n.Instance)
	}
	if s := i.State(st); s != StateRunning && s != StateStopped {
		return n, i, Errorf("IncorrectState", "Instance '%s' is %s: an interface can be attached to one that is running or stopped", i.ID, s)
	}
	if n.Zone != i.Zone {
		return n, i, Errorf("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone: %s is in %s, %s in %s", n.ID, n.Zone, i.ID, i.Zone)
	}
	for _, o := range others {
		if o.DeviceIndex == at.DeviceIndex {
			return n, i, Errorf("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", i.ID, at.DeviceIndex)
		}
	}
	if len(others) >= t.Interfaces {
		return n, i, TooManyInterfaces(t, len(others)+1)
	}
	if err := n.Fits(t); err != nil {
		return n, i, err
	}
	n.Instance, n.Attachment, n.DeviceIndex, n.AttachTime = i.ID, at.ID, at.DeviceIndex, at.Time
	n.DeleteOnTermination, n.Detach, n.Left = false, DetachNot, nil
	n.Generation++
	i.Interfaces = append(i.Interfaces[:len(i.Interfaces):len(i.Interfaces)], n.ID)
	i.Generation++
	return n, i, nil
}

// Attachment is how an interface shall be attached.
type Attachment struct {
	ID          AttachmentID
	DeviceIndex int
	Time        time.Time
}

// AskDetach returns the interface and its instance with the wish that they part. Wishing so again is no error, and
// makes it a matter of force if it was not.
func (n NetworkInterface) AskDetach(i Instance, how Detach) (NetworkInterface, Instance, error) {
	switch {
	case n.Kind != KindInterface:
		return n, i, n.managed()
	case n.DeviceIndex == 0:
		return n, i, Errorf("OperationNotPermitted", "The network interface at device index 0 cannot be detached: it is the primary interface of %s", i.ID)
	case n.Detach == how || n.Detach == DetachForce:
		return n, i, nil
	}
	n.Detach = how
	n.Generation++
	i.Generation++
	return n, i, nil
}

// Leaves reports whether the wish that the interface leaves the instance has come true: the machine, as its host saw
// it after the wish, does not have it, or there is no machine.
func (n NetworkInterface) Leaves(i Instance, st *InstanceStatus) bool {
	switch {
	case n.Detach == DetachNot || n.Instance != i.ID:
		return false
	case i.Host == "" || i.State(st) == StateStopped:
		return true
	}
	return st != nil && st.Generation >= i.Generation && !slices.Contains(st.Attached, n.Attachment)
}

// Free returns the interface as it is without an instance, which it left at the time given.
func (n NetworkInterface) Free(now time.Time) NetworkInterface {
	n.Left = &Departure{n.Attachment, n.Instance, n.DeviceIndex, n.DeleteOnTermination, n.AttachTime, now}
	n.Instance, n.Attachment, n.AttachTime = "", "", time.Time{}
	n.DeviceIndex, n.DeleteOnTermination, n.Detach = 0, false, DetachNot
	n.Generation++
	return n
}

// AttachmentState returns what EC2 would show for an attachment: attaching until the instance's host has it, detaching
// until it has it no more. The primary interface comes with the machine.
func (n NetworkInterface) AttachmentState(i Instance, st *InstanceStatus) string {
	switch s := i.State(st); {
	case n.Instance == "":
		return "detached"
	case n.Detach != DetachNot:
		return "detaching"
	case s == StatePending, s == StateRunning && n.DeviceIndex != 0 && !slices.Contains(st.Attached, n.Attachment):
		return "attaching"
	}
	return "attached"
}

// Fits refuses more addresses than an interface of the instance type may have. A prefix counts as one address.
func (n NetworkInterface) Fits(t InstanceType) error {
	four, six := len(n.Addresses), len(n.IPv6)
	for _, p := range n.Prefixes {
		if p.Addr().Is4() {
			four++
		} else {
			six++
		}
	}
	if four > t.Addresses || six > t.Addresses {
		return Errorf("PrivateIpAddressLimitExceeded", "Interface %s would have %d IPv4 and %d IPv6 addresses and prefixes, and one of %s may have %d of each: use more interfaces or a larger type", n.ID, four, six, t.Name, t.Addresses)
	}
	return nil
}

// InGroups returns the interface in other groups, of which there are some.
func (n NetworkInterface) InGroups(groups []GroupID) (NetworkInterface, error) {
	switch {
	case len(groups) == 0:
		return n, Errorf("InvalidParameterValue", "A network interface is in at least one security group")
	case len(groups) > groupsPerInterface:
		return n, Errorf("SecurityGroupsPerInterfaceLimitExceeded", "A network interface may be in %d security groups, and this names %d: put rules together", groupsPerInterface, len(groups))
	}
	n.Groups = groups
	n.Generation++
	return n, nil
}

// Deletable refuses to delete an interface that somebody uses.
func (n NetworkInterface) Deletable() error {
	switch {
	case n.Kind != KindInterface:
		return n.managed()
	case n.Instance != "":
		return Errorf("InvalidNetworkInterface.InUse", "Network interface '%s' is currently in use: detach it from %s first", n.ID, n.Instance)
	}
	return nil
}

// Managed refuses what only the service that the interface was made for may do.
func (n NetworkInterface) Managed() error {
	if n.Kind != KindInterface {
		return n.managed()
	}
	return nil
}

func (n NetworkInterface) managed() error {
	return Errorf("OperationNotPermitted", "Interface '%s' is of a NAT gateway, which alone changes it: delete the gateway to be rid of it", n.ID)
}

// TooManyInterfaces is the error for more interfaces than an instance type may have.
func TooManyInterfaces(t InstanceType, n int) error {
	return Errorf("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s: it may have %d", n, t.Name, t.Interfaces)
}

// Validate refuses timeouts that EC2 does not have. 0 stands for the default.
func (t Tracking) Validate() error {
	for _, c := range []struct {
		name             string
		given, low, high int
	}{{"TcpEstablishedTimeout", t.TCPEstablished, 60, 432000}, {"UdpStreamTimeout", t.UDPStream, 60, 180}, {"UdpTimeout", t.UDP, 30, 60}} {
		if c.given != 0 && (c.given < c.low || c.given > c.high) {
			return Errorf("InvalidParameterValue", "%s is %d to %d seconds, not %d", c.name, c.low, c.high, c.given)
		}
	}
	return nil
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
