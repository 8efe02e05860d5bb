package ec2

import (
	"cmp"
	"slices"
	"time"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// nic is one interface that a launch asks for: a new one, or one that exists.
type nic struct {
	index       int
	existing    cloud.InterfaceID
	subnet      string // of a new one; "" for the default
	groups      []string
	groupNames  []string
	addressing  addressing
	description string
	tracking    cloud.Tracking
	public      *bool // nil: as its subnet says
	keep        bool  // when the instance is terminated
}

// nics returns the interfaces that a request asks for, in order of their device indexes, for max instances of a type.
func nics(in *shape.RunInstancesInput, t cloud.InstanceType, max int) ([]nic, error) {
	if len(in.NetworkInterfaces) == 0 {
		a := addressing{primary: in.PrivateIpAddress, six: sixAddressing{listed: in.Ipv6Addresses, more: in.Ipv6AddressCount}}
		return []nic{{subnet: in.SubnetId, groups: in.SecurityGroupIds, groupNames: in.SecurityGroups, addressing: a}}, onlyOne(a, max)
	}
	if in.SubnetId != "" || len(in.SecurityGroupIds)+len(in.SecurityGroups) > 0 || in.PrivateIpAddress != "" || len(in.Ipv6Addresses) > 0 || in.Ipv6AddressCount != nil {
		return nil, cloud.Errorf("InvalidParameterCombination", "Network interfaces and an instance-level subnet ID, security groups or addresses may not be specified on the same request")
	}
	if len(in.NetworkInterfaces) > t.Interfaces {
		return nil, cloud.TooManyInterfaces(t, len(in.NetworkInterfaces))
	}
	var out []nic
	for k, spec := range in.NetworkInterfaces {
		n, err := nicOf(k+1, spec, len(in.NetworkInterfaces), max)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o nic) bool { return o.index == n.index }) {
			return nil, cloud.Errorf("InvalidParameterValue", "Two network interfaces have device index %d: number them from 0", n.index)
		}
		if n.existing != "" && slices.ContainsFunc(out, func(o nic) bool { return o.existing == n.existing }) {
			return nil, cloud.Errorf("InvalidParameterValue", "Network interface '%s' is named twice", n.existing)
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b nic) int { return cmp.Compare(a.index, b.index) })
	if out[0].index != 0 {
		return nil, cloud.Errorf("InvalidParameterValue", "NetworkInterface.1.DeviceIndex: one of the interfaces must have device index 0: it is the primary interface")
	}
	return out, nil
}

// nicOf reads the k-th of several specifications of interfaces.
func nicOf(k int, spec shape.InstanceNetworkInterfaceSpecification, several, max int) (nic, error) {
	n := nic{
		existing: cloud.InterfaceID(spec.NetworkInterfaceId), subnet: spec.SubnetId, groups: spec.Groups, description: spec.Description,
		public: spec.AssociatePublicIpAddress, keep: spec.DeleteOnTermination != nil && !*spec.DeleteOnTermination,
		addressing: addressing{spec.PrivateIpAddress, spec.PrivateIpAddresses, spec.SecondaryPrivateIpAddressCount, spec.Ipv4Prefixes, spec.Ipv4PrefixCount,
			sixAddressing{spec.Ipv6Addresses, spec.Ipv6AddressCount, spec.Ipv6Prefixes, spec.Ipv6PrefixCount}},
	}
	var err error
	if n.tracking, err = trackingOf(spec.ConnectionTrackingSpecification); err != nil {
		return n, err
	}
	switch {
	case spec.DeviceIndex == nil:
		return n, cloud.Errorf("InvalidParameterValue", "NetworkInterface.%d.DeviceIndex: each network interface requires a device index, 0 for the primary one", k)
	case *spec.DeviceIndex < 0 || *spec.DeviceIndex > 255:
		return n, cloud.Errorf("InvalidParameterValue", "NetworkInterface.%d.DeviceIndex is 0 to 255, not %d", k, *spec.DeviceIndex)
	case spec.InterfaceType != "" && spec.InterfaceType != "interface":
		return n, unbuiltNic(k, "InterfaceType: other network interfaces are")
	case spec.NetworkCardIndex != nil && *spec.NetworkCardIndex != 0:
		return n, unbuiltNic(k, "NetworkCardIndex: further network cards are")
	case yes(spec.PrimaryIpv6):
		return n, unbuiltNic(k, "PrimaryIpv6: primary IPv6 addresses are")
	case spec.EnaSrdSpecification != nil:
		return n, unbuiltNic(k, "EnaSrdSpecification: ENA Express is")
	case yes(spec.AssociateCarrierIpAddress):
		return n, unbuiltNic(k, "AssociateCarrierIpAddress: carrier addresses are")
	case yes(n.public) && several > 1:
		return n, cloud.Errorf("InvalidParameterCombination", "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces: allocate an address and associate it afterwards")
	case yes(n.public) && n.existing != "":
		return n, cloud.Errorf("InvalidParameterCombination", "The associatePublicIPAddress parameter cannot be specified for a network interface that exists: associate an address with it")
	case yes(n.public) && *spec.DeviceIndex != 0:
		return n, cloud.Errorf("InvalidParameterCombination", "The associatePublicIPAddress parameter can only be specified for the network interface with device index 0")
	case n.existing != "" && max > 1:
		return n, cloud.Errorf("InvalidParameterCombination", "A network interface that exists can be used by one instance only, and MaxCount is %d", max)
	case n.existing != "" && (n.subnet != "" || len(n.groups) > 0 || n.description != "" || !n.addressing.empty()):
		return n, cloud.Errorf("InvalidParameterCombination", "NetworkInterface.%d: a network interface that exists has its subnet, groups, addresses and description: leave them out", k)
	case len([]rune(n.description)) > 255:
		return n, cloud.Errorf("InvalidParameterValue", "NetworkInterface.%d.Description may have 255 characters", k)
	}
	n.index = int(*spec.DeviceIndex)
	if n.existing != "" {
		n.keep = spec.DeleteOnTermination == nil || !*spec.DeleteOnTermination // its owner made it, and not for this instance
	}
	return n, onlyOne(n.addressing, max)
}

func unbuiltNic(k int, what string) error {
	return cloud.Errorf("UnsupportedOperation", "NetworkInterface.%d.%s not there yet: leave the parameter out", k, what)
}

func onlyOne(a addressing, max int) error {
	if max > 1 && a.named() {
		return cloud.Errorf("InvalidParameterCombination", "An address can be asked for one instance only, and MaxCount is %d", max)
	}
	return nil
}

// network is what a launch's interfaces are made of, from one snapshot.
type network struct {
	s        *Service
	l        *launch
	zone     string
	now      time.Time
	subnets  []store.Object[cloud.Subnet]           // of each nic that is new
	existing []store.Object[cloud.NetworkInterface] // of each nic that exists
	groups   [][]cloud.GroupID
	spaces   map[cloud.SubnetID]*ipam.Space
	pool     *ipam.Pool
}

// network finds the subnets, groups and existing interfaces of a launch. The transaction relies on them.
func (s *Service) network(snap *store.Snapshot, t *store.Txn, l *launch) (*network, error) {
	w := &network{
		s: s, l: l, now: s.attachTime(), spaces: map[cloud.SubnetID]*ipam.Space{},
		subnets: make([]store.Object[cloud.Subnet], len(l.nics)), existing: make([]store.Object[cloud.NetworkInterface], len(l.nics)), groups: make([][]cloud.GroupID, len(l.nics)),
	}
	for k, n := range l.nics {
		if err := w.find(snap, t, k, n); err != nil {
			return nil, err
		}
		zone := cmp.Or(w.existing[k].Value.Zone, w.subnets[k].Value.Zone)
		if k == 0 {
			w.zone = zone
		}
		if zone != w.zone {
			return nil, cloud.Errorf("InvalidParameterCombination", "The network interfaces of an instance are in one availability zone: device index %d is in %s, and 0 is in %s", n.index, zone, w.zone)
		}
	}
	if p := l.in.Placement; p != nil && p.AvailabilityZone != "" && p.AvailabilityZone != w.zone {
		return nil, cloud.Errorf("InvalidParameterValue", "The network interfaces are in %s, and the availability zone asked for is %.40s", w.zone, p.AvailabilityZone)
	}
	var err error
	w.pool, err = s.pool(snap)
	return w, err
}

// find finds what the k-th interface is made of.
func (w *network) find(snap *store.Snapshot, t *store.Txn, k int, n nic) error {
	if n.existing != "" {
		o, err := find(snap, store.Interfaces, n.existing, w.l.account, anInterface)
		if err != nil {
			return err
		}
		if err := o.Value.Managed(); err != nil {
			return err
		}
		if o.Value.Instance != "" {
			return cloud.Errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use: it is attached to %s", n.existing, o.Value.Instance)
		}
		w.existing[k] = o
		return o.Value.Fits(w.l.typ)
	}
	o, err := w.s.subnet(snap, w.l.account, n.subnet, w.l.in.Placement)
	if err != nil {
		return err
	}
	store.Require(t, store.Subnets, o.Value.ID, o.Rev)
	w.subnets[k] = o
	if w.groups[k], err = w.s.groupsIn(snap, t, w.l.account, o.Value.VPC, n.groups, n.groupNames); err != nil {
		return err
	}
	if w.spaces[o.Value.ID] == nil {
		w.spaces[o.Value.ID], err = w.s.space(snap, o.Value)
	}
	return err
}

// given are the interfaces of one instance of a launch, not written yet.
type given struct {
	interfaces []cloud.NetworkInterface
	existing   []store.Object[cloud.NetworkInterface]
	public     cloud.Address // of the primary one; without ID if it has none
}

// give returns the interfaces of the next instance.
func (w *network) give(id cloud.InstanceID) (given, error) {
	g := given{existing: w.existing}
	for k, spec := range w.l.nics {
		n, err := w.one(k, spec)
		if err != nil {
			return g, err
		}
		n.Instance, n.DeviceIndex, n.DeleteOnTermination, n.AttachTime = id, spec.index, !spec.keep, w.now
		n.Attachment = newID[cloud.AttachmentID](w.s, "eni-attach")
		g.interfaces = append(g.interfaces, n)
	}
	// EC2 gives a public address to a new interface that is the only one; and when nobody has asked for it, only
	// as long as there is one.
	first := &g.interfaces[0]
	if len(g.interfaces) > 1 || w.l.nics[0].existing != "" {
		return g, nil
	}
	asked := w.l.nics[0].public
	if asked != nil {
		first.AssignPublic = *asked
	}
	if !first.AssignPublic {
		return g, nil
	}
	a, err := w.pool.Choose()
	if err != nil {
		if yes(asked) {
			return g, err
		}
		return g, nil
	}
	g.public = cloud.Address{ID: newID[cloud.AllocationID](w.s, "eipalloc"), Account: w.l.account, Public: a, Launch: true,
		Association: newID[cloud.AssociationID](w.s, "eipassoc"), Interface: first.ID, Private: first.Primary()}
	return g, nil
}

// one returns the k-th interface of the next instance.
func (w *network) one(k int, spec nic) (cloud.NetworkInterface, error) {
	if spec.existing != "" {
		n := w.existing[k].Value
		n.Generation++
		return n, nil
	}
	subnet := w.subnets[k].Value
	n, err := w.s.newInterface(newID[cloud.InterfaceID](w.s, "eni"), subnet, w.groups[k], spec.addressing, w.spaces[subnet.ID])
	if err != nil {
		return n, err
	}
	n.Description, n.Tracking, n.Tags = spec.description, spec.tracking, w.l.tags["network-interface"]
	return n, n.Fits(w.l.typ)
}

func (g given) ids() []cloud.InterfaceID {
	var out []cloud.InterfaceID
	for _, n := range g.interfaces {
		out = append(out, n.ID)
	}
	return out
}

// write adds the interfaces to the transaction.
func (g given) write(t *store.Txn) {
	for k, n := range g.interfaces {
		if g.existing[k].Rev != 0 {
			store.Update(t, store.Interfaces, g.existing[k], n)
			continue
		}
		store.Create(t, store.Interfaces, n.ID, n)
		ledger.Take(t, n.Subnet, n.ID, ledger.All(n))
	}
	if g.public.ID != "" {
		ledger.TakePublic(t, g.public)
	}
}
