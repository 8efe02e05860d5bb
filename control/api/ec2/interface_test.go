package ec2

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

const (
	dual  = "subnet-000000000000000d6" // with IPv6
	apart = "subnet-000000000000000aa" // in another zone
)

// network adds subnets to the default VPC: one with IPv6, one in another zone; and public addresses.
func (r *rig) network() {
	r.Helper()
	r.Elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/29")}
	vpcs, err := store.Mirrored(r.Mirror, store.VPCs)
	if err != nil {
		r.Fatal(err)
	}
	s := cloud.Subnet{ID: dual, Account: "000000000000", VPC: vpcs[0].Value.ID, Zone: r.Zone, CIDR: netip.MustParsePrefix("172.31.64.0/24"),
		Blocks: []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}}
	far := s
	far.ID, far.Zone, far.CIDR, far.Blocks = apart, "r-1b", netip.MustParsePrefix("172.31.65.0/24"), nil
	r.write(func(t *store.Txn) {
		store.Create(t, store.Subnets, s.ID, s)
		store.Create(t, store.Subnets, far.ID, far)
	})
}

// must is for what has to succeed.
func must[O any](r *rig) func(out O, err error) O {
	return func(out O, err error) O {
		r.Helper()
		if err != nil {
			r.Fatal(err)
		}
		return out
	}
}

func (r *rig) newENI(change ...func(*shape.CreateNetworkInterfaceInput)) *shape.NetworkInterface {
	r.Helper()
	in := &shape.CreateNetworkInterfaceInput{SubnetId: dual}
	for _, f := range change {
		f(in)
	}
	return must[*shape.CreateNetworkInterfaceOutput](r)(r.CreateNetworkInterface(r.ctx, in)).NetworkInterface
}

// eni shows one interface.
func (r *rig) eni(id string) shape.NetworkInterface {
	r.Helper()
	return must[*shape.DescribeNetworkInterfacesOutput](r)(r.DescribeNetworkInterfaces(r.ctx, &shape.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})).NetworkInterfaces[0]
}

func (r *rig) instance(id string) shape.Instance {
	r.Helper()
	return must[*shape.DescribeInstancesOutput](r)(r.DescribeInstances(r.ctx, &shape.DescribeInstancesInput{InstanceIds: []string{id}})).Reservations[0].Instances[0]
}

func private(n shape.NetworkInterface) (out []string) {
	for _, a := range n.PrivateIpAddresses {
		out = append(out, a.PrivateIpAddress)
	}
	return out
}

func TestACreatedInterfaceHasWhatWasAskedFor(t *testing.T) {
	r := newRig(t)
	r.network()
	n := r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.PrivateIpAddresses = []shape.PrivateIpAddressSpecification{{PrivateIpAddress: "172.31.64.20"}, {PrivateIpAddress: "172.31.64.10", Primary: ptr(true)}}
		in.Ipv6Addresses = []shape.InstanceIpv6Address{{Ipv6Address: "2001:db8:0:1::99"}}
		in.Description = "d"
		in.ConnectionTrackingSpecification = &shape.ConnectionTrackingSpecificationRequest{UdpTimeout: ptr(int64(45))}
		in.TagSpecifications = []shape.TagSpecification{{ResourceType: "network-interface", Tags: []shape.Tag{{Key: "a", Value: "b"}}}}
	})
	if got := private(*n); !slices.Equal(got, []string{"172.31.64.10", "172.31.64.20"}) || n.PrivateIpAddress != "172.31.64.10" || !*n.PrivateIpAddresses[0].Primary || *n.PrivateIpAddresses[1].Primary {
		t.Errorf("addresses: got %v", got)
	}
	if n.Status != "available" || n.Attachment != nil || n.Ipv6Address != "2001:db8:0:1::99" || n.Description != "d" || len(n.TagSet) != 1 || len(n.Groups) != 1 ||
		*n.ConnectionTrackingConfiguration.UdpTimeout != 45 || n.ConnectionTrackingConfiguration.UdpStreamTimeout != nil || !*n.SourceDestCheck || n.AvailabilityZone != r.Zone {
		t.Errorf("got %+v", n)
	}
	// Before those that are chosen at random, as one of them might be it.
	if got := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.PrivateIpAddress = "172.31.64.30" }).PrivateIpAddress; got != "172.31.64.30" {
		t.Errorf("one address: got %s", got)
	}
	many := r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.SecondaryPrivateIpAddressCount, in.Ipv6AddressCount = ptr(int64(3)), ptr(int64(2))
	})
	if len(many.PrivateIpAddresses) != 4 || len(many.Ipv6Addresses) != 2 {
		t.Errorf("by count: got %v and %v", private(*many), many.Ipv6Addresses)
	}
	delegated := r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.Ipv4PrefixCount, in.Ipv6Prefixes = ptr(int64(2)), []shape.Ipv6PrefixSpecificationRequest{{Ipv6Prefix: "2001:db8:0:1:7::/80"}}
	})
	if len(delegated.Ipv4Prefixes) != 2 || len(delegated.Ipv6Prefixes) != 1 || len(delegated.PrivateIpAddresses) != 1 {
		t.Errorf("prefixes: got %+v", delegated)
	}
}

func TestRefusedInterfaces(t *testing.T) {
	r := newRig(t)
	r.network()
	r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.PrivateIpAddress, in.Ipv6Addresses = "172.31.64.10", []shape.InstanceIpv6Address{{Ipv6Address: "2001:db8:0:1:5::1"}}
	})
	type input = shape.CreateNetworkInterfaceInput
	listed := func(a ...string) (out []shape.PrivateIpAddressSpecification) {
		for _, a := range a {
			out = append(out, shape.PrivateIpAddressSpecification{PrivateIpAddress: a})
		}
		return out
	}
	for name, c := range map[string]struct {
		code string
		edit func(in *input)
	}{
		"without a subnet":          {"MissingParameter", func(in *input) { in.SubnetId = "" }},
		"of an unknown subnet":      {"InvalidSubnetID.NotFound", func(in *input) { in.SubnetId = "subnet-12345678" }},
		"in an unknown group":       {"InvalidGroup.NotFound", func(in *input) { in.Groups = []string{"sg-12345678"} }},
		"with a taken address":      {"InvalidIPAddress.InUse", func(in *input) { in.PrivateIpAddress = "172.31.64.10" }},
		"with a reserved address":   {"InvalidParameterValue", func(in *input) { in.PrivateIpAddress = "172.31.64.3" }},
		"with an address elsewhere": {"InvalidParameterValue", func(in *input) { in.PrivateIpAddress = "10.0.0.9" }},
		"with something else":       {"InvalidParameterValue", func(in *input) { in.PrivateIpAddress = "localhost" }},
		"with one address twice":    {"InvalidIPAddress.InUse", func(in *input) { in.PrivateIpAddresses = listed("172.31.64.11", "172.31.64.11") }},
		"with two primary addresses": {"InvalidParameterCombination", func(in *input) {
			in.PrivateIpAddress = "172.31.64.11"
			in.PrivateIpAddresses = []shape.PrivateIpAddressSpecification{{PrivateIpAddress: "172.31.64.12", Primary: ptr(true)}}
		}},
		"with addresses and a count": {"InvalidParameterCombination", func(in *input) {
			in.PrivateIpAddresses, in.SecondaryPrivateIpAddressCount = listed("172.31.64.11", "172.31.64.12"), ptr(int64(1))
		}},
		"with a count and prefixes": {"InvalidParameterCombination", func(in *input) { in.Ipv4PrefixCount, in.SecondaryPrivateIpAddressCount = ptr(int64(1)), ptr(int64(1)) }},
		"with a negative count":     {"InvalidParameterValue", func(in *input) { in.SecondaryPrivateIpAddressCount = ptr(int64(-1)) }},
		"with more than any type":   {"PrivateIpAddressLimitExceeded", func(in *input) { in.SecondaryPrivateIpAddressCount = ptr(int64(15)) }},
		"with more than there are":  {"InsufficientFreeAddressesInSubnet", func(in *input) { in.SecondaryPrivateIpAddressCount = ptr(int64(251)) }},
		"with more prefixes":        {"InsufficientCidrBlocks", func(in *input) { in.Ipv4PrefixCount = ptr(int64(15)) }},
		"with a /27": {"InvalidParameterValue", func(in *input) {
			in.Ipv4Prefixes = []shape.Ipv4PrefixSpecificationRequest{{Ipv4Prefix: "172.31.64.32/27"}}
		}},
		"with IPv6 as IPv4": {"InvalidParameterValue", func(in *input) {
			in.Ipv4Prefixes = []shape.Ipv4PrefixSpecificationRequest{{Ipv4Prefix: "2001:db8:0:1:7::/80"}}
		}},
		"with a /80 that is used": {"InvalidIPAddress.InUse", func(in *input) {
			in.Ipv6Prefixes = []shape.Ipv6PrefixSpecificationRequest{{Ipv6Prefix: "2001:db8:0:1:5::/80"}}
		}},
		"with IPv6 where there is none":   {"InvalidParameterValue", func(in *input) { in.SubnetId, in.Ipv6AddressCount = apart, ptr(int64(1)) }},
		"with IPv6 addresses and a count": {"InvalidParameterCombination", func(in *input) { in.Ipv6AddressCount, in.Ipv6PrefixCount = ptr(int64(1)), ptr(int64(1)) }},
		"of another type":                 {"UnsupportedOperation", func(in *input) { in.InterfaceType = "efa" }},
		"with an odd timeout": {"InvalidParameterValue", func(in *input) {
			in.ConnectionTrackingSpecification = &shape.ConnectionTrackingSpecificationRequest{UdpTimeout: ptr(int64(0))}
		}},
		"with tags of something": {"InvalidParameterValue", func(in *input) { in.TagSpecifications = []shape.TagSpecification{{ResourceType: "instance"}} }},
	} {
		in, was := &input{SubnetId: dual}, r.head()
		c.edit(in)
		if _, err := r.CreateNetworkInterface(r.ctx, in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if r.head() != was {
			t.Errorf("%s: it was refused, and something was written", name)
		}
	}
	was := r.head()
	if _, err := r.CreateNetworkInterface(r.ctx, &input{SubnetId: dual, DryRun: ptr(true), ClientToken: "t"}); err != nil || r.head() != was {
		t.Errorf("a dry run: %v, or something was written", err)
	}
}

func TestATokenCreatesOneInterface(t *testing.T) {
	r := newRig(t)
	r.network()
	in := &shape.CreateNetworkInterfaceInput{SubnetId: dual, ClientToken: "tok/en"}
	one := must[*shape.CreateNetworkInterfaceOutput](r)(r.CreateNetworkInterface(r.ctx, in))
	again := must[*shape.CreateNetworkInterfaceOutput](r)(r.CreateNetworkInterface(r.ctx, in))
	if one.NetworkInterface.NetworkInterfaceId != again.NetworkInterface.NetworkInterfaceId {
		t.Error("the same request made two interfaces")
	}
	other := *in
	other.Description = "x"
	if _, err := r.CreateNetworkInterface(r.ctx, &other); cloud.Code(err) != "IdempotentParameterMismatch" {
		t.Errorf("another request: got %v", err)
	}
}

func TestAttachAndDetach(t *testing.T) {
	r := newRig(t)
	r.network()
	id := r.run(small()).Instances[0].InstanceId
	n := r.newENI().NetworkInterfaceId
	attach := func(n, i string, index int64) (string, string) {
		out, err := r.AttachNetworkInterface(r.ctx, &shape.AttachNetworkInterfaceInput{NetworkInterfaceId: n, InstanceId: i, DeviceIndex: &index})
		if err != nil {
			return "", cloud.Code(err)
		}
		return out.AttachmentId, ""
	}
	if _, code := attach(n, id, 1); code != "IncorrectState" {
		t.Errorf("to a pending instance: got %q", code)
	}
	r.says(id, cloud.StateRunning)
	for what, c := range map[string]struct {
		n, i  string
		index int64
		code  string
	}{
		"unknown interface": {"eni-12345678", id, 1, "InvalidNetworkInterfaceID.NotFound"},
		"unknown instance":  {n, "i-12345678", 1, "InvalidInstanceID.NotFound"},
		"index in use":      {n, id, 0, "InvalidParameterValue"},
		"negative index":    {n, id, -1, "InvalidParameterValue"},
	} {
		if _, code := attach(c.n, c.i, c.index); code != c.code {
			t.Errorf("%s: got %q, want %s", what, code, c.code)
		}
	}
	far := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.SubnetId = apart }).NetworkInterfaceId
	if _, code := attach(far, id, 1); code != "InvalidParameterCombination" {
		t.Errorf("another zone: got %q", code)
	}
	attachment, code := attach(n, id, 1)
	if code != "" {
		t.Fatal(code)
	}
	if got := r.eni(n); got.Status != "in-use" || got.Attachment.Status != "attaching" || got.Attachment.AttachmentId != attachment || *got.Attachment.DeleteOnTermination {
		t.Errorf("got %+v", got.Attachment)
	}
	o, _ := store.Get(t.Context(), r.Store, store.InstanceStatuses("h-1"), id)
	st := o.Value
	st.Attached = []cloud.AttachmentID{cloud.AttachmentID(attachment)}
	r.write(func(t *store.Txn) { store.Put(t, store.InstanceStatuses("h-1"), id, st) })
	if got := r.eni(n); got.Attachment.Status != "attached" {
		t.Errorf("when its host has it: got %s", got.Attachment.Status)
	}
	if i := r.instance(id); len(i.NetworkInterfaces) != 2 || i.NetworkInterfaces[1].NetworkInterfaceId != n || *i.NetworkInterfaces[1].Attachment.DeviceIndex != 1 {
		t.Errorf("the instance shows %+v", i.NetworkInterfaces)
	}
	if _, code := attach(r.newENI().NetworkInterfaceId, id, 2); code != "AttachmentLimitExceeded" { // t2.nano has two
		t.Errorf("one too many: got %q", code)
	}
	if _, code := attach(n, id, 2); code != "InvalidNetworkInterface.InUse" {
		t.Errorf("again: got %q", code)
	}
	if _, err := r.DeleteNetworkInterface(r.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: n}); cloud.Code(err) != "InvalidNetworkInterface.InUse" {
		t.Errorf("delete while attached: got %v", err)
	}
	detach := func(id string, force bool) string {
		_, err := r.DetachNetworkInterface(r.ctx, &shape.DetachNetworkInterfaceInput{AttachmentId: id, Force: &force})
		return cloud.Code(err)
	}
	if got := detach("eni-attach-12345678", false); got != "InvalidAttachmentID.NotFound" {
		t.Errorf("unknown attachment: got %q", got)
	}
	if got := detach("x", false); got != "InvalidAttachmentID.Malformed" {
		t.Errorf("malformed attachment: got %q", got)
	}
	if got := detach(r.instance(id).NetworkInterfaces[0].Attachment.AttachmentId, true); got != "OperationNotPermitted" {
		t.Errorf("the primary one: got %q", got)
	}
	for _, force := range []bool{false, false, true} {
		if got := detach(attachment, force); got != "" {
			t.Errorf("got %q", got)
		}
		if got := r.eni(n); got.Attachment.Status != "detaching" {
			t.Errorf("got %s", got.Attachment.Status)
		}
	}
	// The end of it is shown to who asks for the attachment, for a while.
	for ago, want := range map[time.Duration]string{0: "detached", cloud.Remembered: ""} {
		o, _ := store.Get(t.Context(), r.Store, store.Interfaces, cloud.InterfaceID(n))
		r.write(func(t *store.Txn) { store.Put(t, store.Interfaces, o.ID, o.Value.Free(start.Add(-ago))) })
		if got := r.eni(n); got.Attachment != nil || got.Status != "available" {
			t.Errorf("detached: got %+v", got)
		}
		out, err := r.DescribeNetworkInterfaces(r.ctx, &shape.DescribeNetworkInterfacesInput{Filters: filter("attachment.attachment-id", attachment)})
		got := ""
		if err == nil && len(out.NetworkInterfaces) == 1 {
			got = out.NetworkInterfaces[0].Attachment.Status
		}
		if got != want {
			t.Errorf("asked for by its attachment %v after its end: got %q, %v", ago, got, err)
		}
		r.write(func(t *store.Txn) { store.Put(t, store.Interfaces, o.ID, o.Value) })
	}
}

// What its host could not do is said where the instance is shown.
func TestTroubleIsShown(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	r.says(id, cloud.StateRunning)
	o, _ := store.Get(t.Context(), r.Store, store.InstanceStatuses("h-1"), id)
	st := o.Value
	st.Trouble = "the guest does not let go of eni-1"
	r.write(func(t *store.Txn) { store.Put(t, store.InstanceStatuses("h-1"), id, st) })
	if got := r.instance(id).StateReason; got == nil || got.Message != "Server.InternalError: the guest does not let go of eni-1" {
		t.Errorf("got %+v", got)
	}
}

func TestModifyInterface(t *testing.T) {
	r := newRig(t)
	r.network()
	n := r.newENI()
	type input = shape.ModifyNetworkInterfaceAttributeInput
	modify := func(in input) string {
		in.NetworkInterfaceId = n.NetworkInterfaceId
		_, err := r.ModifyNetworkInterfaceAttribute(r.ctx, &in)
		return cloud.Code(err)
	}
	vpc := n.VpcId
	var groups []string
	r.write(func(t *store.Txn) {
		for k := range 6 {
			g := cloud.SecurityGroup{ID: cloud.GroupID(fmt.Sprintf("sg-0000000%d", k)), Account: "000000000000", VPC: cloud.VPCID(vpc), Name: fmt.Sprint("g", k)}
			groups = append(groups, string(g.ID))
			store.Create(t, store.Groups, g.ID, g)
		}
	})
	off := &shape.AttributeBooleanValue{Value: ptr(false)}
	for _, c := range []struct {
		name, code string
		in         input
	}{
		{"nothing", "InvalidParameterCombination", input{}},
		{"two at once", "InvalidParameterCombination", input{SourceDestCheck: off, Groups: groups[:1]}},
		{"the description", "", input{Description: &shape.AttributeValue{Value: "new"}}},
		{"the check", "", input{SourceDestCheck: off}},
		{"the groups", "", input{Groups: groups[:5]}},
		{"too many groups", "SecurityGroupsPerInterfaceLimitExceeded", input{Groups: groups}},
		{"a timeout", "", input{ConnectionTrackingSpecification: &shape.ConnectionTrackingSpecificationRequest{TcpEstablishedTimeout: ptr(int64(350))}}},
		{"another timeout", "", input{ConnectionTrackingSpecification: &shape.ConnectionTrackingSpecificationRequest{UdpTimeout: ptr(int64(60))}}},
		{"a bad timeout", "InvalidParameterValue", input{ConnectionTrackingSpecification: &shape.ConnectionTrackingSpecificationRequest{UdpTimeout: ptr(int64(61))}}},
		{"an attachment that it has not", "InvalidAttachmentID.NotFound", input{Attachment: &shape.NetworkInterfaceAttachmentChanges{AttachmentId: "eni-attach-12345678", DeleteOnTermination: ptr(true)}}},
	} {
		if got := modify(c.in); got != c.code {
			t.Errorf("%s: got %q, want %q", c.name, got, c.code)
		}
	}
	got := r.eni(n.NetworkInterfaceId)
	if got.Description != "new" || *got.SourceDestCheck || len(got.Groups) != 5 || *got.ConnectionTrackingConfiguration.TcpEstablishedTimeout != 350 || *got.ConnectionTrackingConfiguration.UdpTimeout != 60 {
		t.Errorf("got %+v", got)
	}
	must[*shape.ResetNetworkInterfaceAttributeOutput](r)(r.ResetNetworkInterfaceAttribute(r.ctx, &shape.ResetNetworkInterfaceAttributeInput{NetworkInterfaceId: n.NetworkInterfaceId, SourceDestCheck: "sourceDestCheck"}))
	for attribute, ok := range map[string]func(*shape.DescribeNetworkInterfaceAttributeOutput) bool{
		"description":     func(o *shape.DescribeNetworkInterfaceAttributeOutput) bool { return o.Description.Value == "new" },
		"sourceDestCheck": func(o *shape.DescribeNetworkInterfaceAttributeOutput) bool { return *o.SourceDestCheck.Value },
		"groupSet":        func(o *shape.DescribeNetworkInterfaceAttributeOutput) bool { return len(o.Groups) == 5 },
		"attachment":      func(o *shape.DescribeNetworkInterfaceAttributeOutput) bool { return o.Attachment == nil },
	} {
		if out := must[*shape.DescribeNetworkInterfaceAttributeOutput](r)(r.DescribeNetworkInterfaceAttribute(r.ctx, &shape.DescribeNetworkInterfaceAttributeInput{NetworkInterfaceId: n.NetworkInterfaceId, Attribute: attribute})); !ok(out) {
			t.Errorf("%s: got %+v", attribute, out)
		}
	}

	// An instance's attributes are those of its only interface.
	id := r.run(small()).Instances[0].InstanceId
	for _, in := range []*shape.ModifyInstanceAttributeInput{{SourceDestCheck: off}, {Groups: groups[1:2]}} {
		in.InstanceId = id
		must[*shape.ModifyInstanceAttributeOutput](r)(r.ModifyInstanceAttribute(r.ctx, in))
	}
	i := r.instance(id)
	if *i.SourceDestCheck || i.SecurityGroups[0].GroupId != groups[1] {
		t.Errorf("got %v and %v", *i.SourceDestCheck, i.SecurityGroups)
	}
	a := i.NetworkInterfaces[0]
	must[*shape.ModifyNetworkInterfaceAttributeOutput](r)(r.ModifyNetworkInterfaceAttribute(r.ctx, &input{NetworkInterfaceId: a.NetworkInterfaceId,
		Attachment: &shape.NetworkInterfaceAttachmentChanges{AttachmentId: a.Attachment.AttachmentId, DeleteOnTermination: ptr(false)}}))
	if got := r.eni(a.NetworkInterfaceId); *got.Attachment.DeleteOnTermination {
		t.Error("it would still go with its instance")
	}
}

// An interface of a NAT gateway is shown, and nobody changes it.
func TestManagedInterfacesAreLeftAlone(t *testing.T) {
	r := newRig(t)
	r.network()
	id := r.newENI().NetworkInterfaceId
	o, _ := store.Get(t.Context(), r.Store, store.Interfaces, id)
	n := o.Value
	n.Kind = cloud.KindNATGateway
	r.write(func(t *store.Txn) { store.Update(t, store.Interfaces, o, n) })
	if got := r.eni(id); !*got.RequesterManaged || got.InterfaceType != "nat_gateway" || got.Status != "in-use" {
		t.Errorf("got %+v", got)
	}
	for what, do := range map[string]func() error{
		"delete": func() error {
			_, err := r.DeleteNetworkInterface(r.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: id})
			return err
		},
		"modify": func() error {
			_, err := r.ModifyNetworkInterfaceAttribute(r.ctx, &shape.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: id, Description: &shape.AttributeValue{}})
			return err
		},
		"assign": func() error {
			_, err := r.AssignPrivateIpAddresses(r.ctx, &shape.AssignPrivateIpAddressesInput{NetworkInterfaceId: id, SecondaryPrivateIpAddressCount: ptr(int64(1))})
			return err
		},
		"launch with": func() error {
			in := small()
			in.NetworkInterfaces = []shape.InstanceNetworkInterfaceSpecification{{DeviceIndex: ptr(int64(0)), NetworkInterfaceId: id}}
			_, err := r.RunInstances(r.ctx, in)
			return err
		},
	} {
		if err := do(); cloud.Code(err) != "OperationNotPermitted" {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestInterfaceFilters(t *testing.T) {
	r := newRig(t)
	r.network()
	id := r.run(small()).Instances[0].InstanceId
	eip := must[*shape.AllocateAddressOutput](r)(r.AllocateAddress(r.ctx, &shape.AllocateAddressInput{}))
	as := must[*shape.AssociateAddressOutput](r)(r.AssociateAddress(r.ctx, &shape.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: id}))
	r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.Ipv6Addresses = []shape.InstanceIpv6Address{{Ipv6Address: "2001:db8:0:1::77"}}
	})
	n := r.eni(r.instance(id).NetworkInterfaces[0].NetworkInterfaceId)
	for name, value := range map[string]string{
		"association.allocation-id": eip.AllocationId, "association.association-id": as.AssociationId, "association.public-ip": eip.PublicIp,
		"association.ip-owner-id": "000000000000", "association.public-dns-name": "ec2-198-51-100-*", "addresses.association.public-ip": eip.PublicIp,
		"addresses.association.owner-id": "000000000000", "attachment.instance-id": id, "attachment.attachment-id": n.Attachment.AttachmentId,
		"attachment.status": "attaching", "attachment.device-index": "0", "attachment.delete-on-termination": "true", "attachment.instance-owner-id": "000000000000",
		"attachment.attach-time": "2026-11-23T*", "status": "in-use", "subnet-id": n.SubnetId, "private-ip-address": n.PrivateIpAddress,
		"mac-address": n.MacAddress, "private-dns-name": n.PrivateDnsName, "network-interface-id": n.NetworkInterfaceId,
	} {
		out, err := r.DescribeNetworkInterfaces(r.ctx, &shape.DescribeNetworkInterfacesInput{Filters: []shape.Filter{{Name: name, Values: []string{value}}}})
		if err != nil || len(out.NetworkInterfaces) != 1 || out.NetworkInterfaces[0].NetworkInterfaceId != n.NetworkInterfaceId {
			t.Errorf("%s=%s: got %v, %v", name, value, out.NetworkInterfaces, err)
		}
	}
	for name, value := range map[string]string{
		"addresses.primary": "true", "availability-zone": "r-1a", "availability-zone-id": "r1-az1", "owner-id": "000000000000", "requester-managed": "false",
		"group-name": "default", "interface-type": "interface", "source-dest-check": "true", "vpc-id": n.VpcId, "description": "",
	} {
		out, err := r.DescribeNetworkInterfaces(r.ctx, &shape.DescribeNetworkInterfacesInput{Filters: []shape.Filter{{Name: name, Values: []string{value}}}})
		if want := 2; err != nil || len(out.NetworkInterfaces) != want && name != "description" {
			t.Errorf("%s=%s: got %d, %v, want %d", name, value, len(out.NetworkInterfaces), err, want)
		}
	}
	out, err := r.DescribeNetworkInterfaces(r.ctx, &shape.DescribeNetworkInterfacesInput{Filters: []shape.Filter{{Name: "ipv6-addresses.ipv6-address", Values: []string{"2001:db8:0:1::77"}}}})
	if err != nil || len(out.NetworkInterfaces) != 1 {
		t.Errorf("IPv6: got %v, %v", out, err)
	}
	for name, value := range map[string]string{
		"ip-address": eip.PublicIp, "dns-name": "ec2-198-*", "network-interface.association.public-ip": eip.PublicIp, "network-interface.addresses.association.public-ip": eip.PublicIp,
		"network-interface.attachment.attachment-id": n.Attachment.AttachmentId, "network-interface.attachment.status": "attaching", "network-interface.addresses.primary": "true",
		"network-interface.group-name": "default", "network-interface.private-ip-address": n.PrivateIpAddress, "network-interface.attachment.attach-time": "2026-11-23T*",
	} {
		out, err := r.DescribeInstances(r.ctx, &shape.DescribeInstancesInput{Filters: []shape.Filter{{Name: name, Values: []string{value}}}})
		if err != nil || len(out.Reservations) != 1 {
			t.Errorf("instances with %s=%s: got %v, %v", name, value, out, err)
		}
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.DeleteNetworkInterface(they, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: n.NetworkInterfaceId}); cloud.Code(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Errorf("another account: got %v", err)
	}
	if _, err := r.ReleaseAddress(they, &shape.ReleaseAddressInput{PublicIp: eip.PublicIp}); cloud.Code(err) != "InvalidAddress.NotFound" {
		t.Errorf("another account's address: got %v", err)
	}
}
