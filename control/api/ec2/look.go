package ec2

import (
	"cmp"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// look is one snapshot as the describing actions see it: what instances refer to, by ID.
type look struct {
	*Service
	snap       *store.Snapshot
	interfaces map[cloud.InterfaceID]cloud.NetworkInterface
	groups     map[cloud.GroupID]cloud.SecurityGroup
	addresses  map[cloud.InterfaceID][]cloud.Address
}

func (s *Service) look(snap *store.Snapshot) *look {
	w := &look{Service: s, snap: snap, interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{}, groups: map[cloud.GroupID]cloud.SecurityGroup{},
		addresses: map[cloud.InterfaceID][]cloud.Address{}}
	interfaces, _ := store.Mirrored(snap, store.Interfaces)
	for _, n := range interfaces {
		w.interfaces[n.Value.ID] = n.Value
	}
	groups, _ := store.Mirrored(snap, store.Groups)
	for _, g := range groups {
		w.groups[g.Value.ID] = g.Value
	}
	public, _ := store.Mirrored(snap, store.Addresses)
	for _, a := range public {
		w.addresses[a.Value.Interface] = append(w.addresses[a.Value.Interface], a.Value)
	}
	return w
}

// reservations returns the account's instances in their reservations, in order of IDs.
func (w *look) reservations(who cloud.AccountID) ([]shape.Reservation, error) {
	all, err := store.Mirrored(w.snap, store.Instances)
	if err != nil {
		return nil, err
	}
	mine := make([]cloud.Instance, 0, len(all))
	for _, o := range all {
		if o.Value.Account == who {
			mine = append(mine, o.Value)
		}
	}
	return w.reserve(mine), nil
}

// reserve puts instances into their reservations.
func (w *look) reserve(instances []cloud.Instance) []shape.Reservation {
	slices.SortFunc(instances, func(a, b cloud.Instance) int {
		return cmp.Or(cmp.Compare(a.Reservation, b.Reservation), cmp.Compare(a.LaunchIndex, b.LaunchIndex))
	})
	var out []shape.Reservation
	for _, i := range instances {
		if n := len(out); n == 0 || out[n-1].ReservationId != string(i.Reservation) {
			out = append(out, shape.Reservation{ReservationId: string(i.Reservation), OwnerId: string(i.Account)})
		}
		r := &out[len(out)-1]
		r.Instances = append(r.Instances, w.instance(i))
	}
	return out
}

// instance is an instance in EC2's shape.
func (w *look) instance(i cloud.Instance) shape.Instance {
	st := status(w.snap, i)
	out := shape.Instance{
		InstanceId: string(i.ID), ImageId: string(i.Image), KernelId: string(i.Kernel), RamdiskId: string(i.Ramdisk),
		State: state(i.State(st)), StateTransitionReason: i.Transition,
		AmiLaunchIndex: number(i.LaunchIndex), Architecture: i.Architecture, VirtualizationType: i.Virtualization,
		ClientToken: i.ClientToken, InstanceType: i.Type, KeyName: i.KeyName, LaunchTime: &i.Launched,
		Hypervisor: "xen", RootDeviceName: i.RootDeviceName, RootDeviceType: i.RootDeviceType,
		EbsOptimized: ptr(false), EnaSupport: ptr(false), PlatformDetails: "Linux/UNIX", UsageOperation: "RunInstances",
		UsageOperationUpdateTime: &i.Launched, Tags: tags(i.Tags), Monitoring: &shape.Monitoring{State: "disabled"},
		Placement:       &shape.Placement{AvailabilityZone: i.Zone, Tenancy: "default"},
		MetadataOptions: shownOptions(i, st),
		EnclaveOptions:  &shape.EnclaveOptions{Enabled: ptr(false)}, HibernationOptions: &shape.HibernationOptions{Configured: ptr(false)},
		CapacityReservationSpecification: &shape.CapacityReservationSpecificationResponse{CapacityReservationPreference: "open"},
		MaintenanceOptions:               &shape.InstanceMaintenanceOptions{AutoRecovery: "disabled"},
	}
	if i.Monitoring {
		out.Monitoring.State = "enabled"
	}
	if t, err := cloud.TypeNamed(w.Types, i.Type); err == nil {
		out.CpuOptions = &shape.CpuOptions{CoreCount: number(t.VCPUs), ThreadsPerCore: number(1)}
	}
	if r := i.StateReason(st); r.Code != "" {
		out.StateReason = &shape.StateReason{Code: r.Code, Message: r.Message}
	} else if st != nil && st.Trouble != "" && i.State(st) == cloud.StateRunning {
		// EC2 has no field for why an interface does not come or go; this one is read when something is amiss.
		out.StateReason = &shape.StateReason{Code: "Server.InternalError", Message: "Server.InternalError: " + st.Trouble}
	}
	if i.Profile != nil {
		out.IamInstanceProfile = &shape.IamInstanceProfile{Arn: i.Profile.ARN, Id: i.Profile.ID}
	}
	for _, id := range i.Interfaces {
		n, ok := w.interfaces[id]
		if !ok {
			continue
		}
		shown := w.attached(n)
		out.NetworkInterfaces = append(out.NetworkInterfaces, shown)
		if n.DeviceIndex == 0 {
			if a := shown.Association; a != nil {
				out.PublicIpAddress, out.PublicDnsName = a.PublicIp, a.PublicDnsName
			}
			if len(n.IPv6) > 0 {
				out.Ipv6Address = n.IPv6[0].String()
			}
			out.PrivateIpAddress, out.SubnetId, out.VpcId = n.Primary().String(), string(n.Subnet), string(n.VPC)
			out.PrivateDnsName = cloud.PrivateDNSName(n.Primary(), w.Region)
			out.SecurityGroups, out.SourceDestCheck = w.groupNames(n.Groups), ptr(n.SourceDestCheck)
		}
	}
	return out
}

// attached is an interface as it shows in its instance.
func (w *look) attached(n cloud.NetworkInterface) shape.InstanceNetworkInterface {
	whole := w.networkInterface(n)
	out := shape.InstanceNetworkInterface{
		NetworkInterfaceId: whole.NetworkInterfaceId, MacAddress: whole.MacAddress, Description: whole.Description, InterfaceType: whole.InterfaceType,
		OwnerId: whole.OwnerId, Status: "in-use", SubnetId: whole.SubnetId, VpcId: whole.VpcId,
		SourceDestCheck: whole.SourceDestCheck, Groups: whole.Groups, Association: inInstance(whole.Association),
		PrivateIpAddress: whole.PrivateIpAddress, PrivateDnsName: whole.PrivateDnsName,
		Attachment: &shape.InstanceNetworkInterfaceAttachment{
			AttachmentId: string(n.Attachment), AttachTime: ptr(n.AttachTime), DeviceIndex: number(n.DeviceIndex),
			NetworkCardIndex: number(0), DeleteOnTermination: ptr(n.DeleteOnTermination), Status: w.attachmentState(n),
		},
	}
	if c := whole.ConnectionTrackingConfiguration; c != nil {
		out.ConnectionTrackingConfiguration = &shape.ConnectionTrackingSpecificationResponse{
			TcpEstablishedTimeout: c.TcpEstablishedTimeout, UdpStreamTimeout: c.UdpStreamTimeout, UdpTimeout: c.UdpTimeout,
		}
	}
	for _, a := range whole.PrivateIpAddresses {
		out.PrivateIpAddresses = append(out.PrivateIpAddresses, shape.InstancePrivateIpAddress{
			Primary: a.Primary, PrivateIpAddress: a.PrivateIpAddress, PrivateDnsName: a.PrivateDnsName, Association: inInstance(a.Association),
		})
	}
	for _, a := range whole.Ipv6Addresses {
		out.Ipv6Addresses = append(out.Ipv6Addresses, shape.InstanceIpv6Address(a))
	}
	for _, p := range whole.Ipv4Prefixes {
		out.Ipv4Prefixes = append(out.Ipv4Prefixes, shape.InstanceIpv4Prefix(p))
	}
	for _, p := range whole.Ipv6Prefixes {
		out.Ipv6Prefixes = append(out.Ipv6Prefixes, shape.InstanceIpv6Prefix(p))
	}
	return out
}

// inInstance is an association as it shows in an instance.
func inInstance(a *shape.NetworkInterfaceAssociation) *shape.InstanceNetworkInterfaceAssociation {
	if a == nil {
		return nil
	}
	return &shape.InstanceNetworkInterfaceAssociation{IpOwnerId: a.IpOwnerId, PublicDnsName: a.PublicDnsName, PublicIp: a.PublicIp}
}

func (w *look) groupNames(ids []cloud.GroupID) []shape.GroupIdentifier {
	out := make([]shape.GroupIdentifier, len(ids))
	for k, id := range ids {
		out[k] = shape.GroupIdentifier{GroupId: string(id), GroupName: w.groups[id].Name}
	}
	return out
}

func state(s cloud.State) *shape.InstanceState {
	return &shape.InstanceState{Code: ptr(s.Code()), Name: string(s)}
}

// tags returns tags in order of their keys.
func tags(t cloud.Tags) []shape.Tag {
	out := make([]shape.Tag, 0, len(t))
	for k, v := range t {
		out = append(out, shape.Tag{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b shape.Tag) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// specifiedTags returns the tags of a request by the type of resource that they are for.
func specifiedTags(in []shape.TagSpecification, allowed ...string) (map[string]cloud.Tags, error) {
	out := map[string]cloud.Tags{}
	for _, spec := range in {
		if !slices.Contains(allowed, spec.ResourceType) {
			return nil, cloud.Errorf("InvalidParameterValue", "'%.40s' is not a valid taggable resource type for this operation: %v are", spec.ResourceType, allowed)
		}
		t := cloud.Tags{}
		for _, tag := range spec.Tags {
			if _, twice := t[tag.Key]; twice {
				return nil, cloud.Errorf("InvalidParameterValue", "Duplicate tag key '%.40s' specified.", tag.Key)
			}
			t[tag.Key] = tag.Value
		}
		if err := t.Validate(); err != nil {
			return nil, err
		}
		out[spec.ResourceType] = t
	}
	return out, nil
}
