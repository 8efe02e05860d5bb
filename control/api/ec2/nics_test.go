package ec2

import (
	"net/netip"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

type nicSpec = shape.InstanceNetworkInterfaceSpecification

func addrOf(t *testing.T, text string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func at(index int64, change ...func(*nicSpec)) nicSpec {
	n := nicSpec{DeviceIndex: &index, SubnetId: dual}
	for _, f := range change {
		f(&n)
	}
	return n
}

// two is a launch with two interfaces, named in the other order.
func two() *shape.RunInstancesInput {
	in := small()
	in.NetworkInterfaces = []nicSpec{at(1), at(0)}
	return in
}

func TestALaunchWithSeveralInterfaces(t *testing.T) {
	r := newRig(t)
	r.network()
	existing := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.Description = "mine" }).NetworkInterfaceId
	in := small()
	in.InstanceType = "t3.medium" // three interfaces with six addresses
	in.NetworkInterfaces = []nicSpec{
		at(2, func(n *nicSpec) { n.SubnetId, n.NetworkInterfaceId = "", existing }),
		at(0, func(n *nicSpec) {
			n.PrivateIpAddress, n.SecondaryPrivateIpAddressCount, n.Ipv6AddressCount, n.Description = "172.31.64.40", ptr(int64(2)), ptr(int64(1)), "first"
		}),
		at(1, func(n *nicSpec) {
			n.Ipv4PrefixCount, n.Ipv6PrefixCount, n.DeleteOnTermination = ptr(int64(2)), ptr(int64(1)), ptr(false)
		}),
	}
	in.TagSpecifications = []shape.TagSpecification{{ResourceType: "network-interface", Tags: []shape.Tag{{Key: "a", Value: "b"}}}}
	i := r.run(in).Instances[0]
	if len(i.NetworkInterfaces) != 3 || i.PrivateIpAddress != "172.31.64.40" || i.Ipv6Address == "" || i.SubnetId != dual {
		t.Fatalf("got %+v", i)
	}
	first, second, third := i.NetworkInterfaces[0], i.NetworkInterfaces[1], i.NetworkInterfaces[2]
	if *first.Attachment.DeviceIndex != 0 || len(first.PrivateIpAddresses) != 3 || len(first.Ipv6Addresses) != 1 || first.Description != "first" || !*first.Attachment.DeleteOnTermination || first.Attachment.Status != "attaching" {
		t.Errorf("device index 0: got %+v", first)
	}
	if *second.Attachment.DeviceIndex != 1 || len(second.Ipv4Prefixes) != 2 || len(second.Ipv6Prefixes) != 1 || *second.Attachment.DeleteOnTermination {
		t.Errorf("device index 1: got %+v", second)
	}
	if *third.Attachment.DeviceIndex != 2 || third.NetworkInterfaceId != existing || third.Description != "mine" || *third.Attachment.DeleteOnTermination {
		t.Errorf("device index 2: got %+v", third)
	}
	if got := r.eni(first.NetworkInterfaceId).TagSet; len(got) != 1 {
		t.Errorf("tags: got %v", got)
	}
	many := two()
	many.MinCount, many.MaxCount = ptr(int64(3)), ptr(int64(3))
	if out := r.run(many); len(out.Instances) != 3 || len(out.Instances[2].NetworkInterfaces) != 2 || *out.Instances[2].NetworkInterfaces[0].Attachment.DeviceIndex != 0 {
		t.Errorf("three with two each: got %+v", out.Instances)
	}
	plain := small()
	plain.SubnetId, plain.Ipv6AddressCount = dual, ptr(int64(1))
	if got := r.run(plain).Instances[0]; got.Ipv6Address == "" {
		t.Error("Ipv6AddressCount gave no address")
	}
	plain = small()
	plain.SubnetId, plain.Ipv6Addresses = dual, []shape.InstanceIpv6Address{{Ipv6Address: "2001:db8:0:1::42"}}
	if got := r.run(plain).Instances[0]; got.Ipv6Address != "2001:db8:0:1::42" {
		t.Errorf("got %s", got.Ipv6Address)
	}
}

func TestRefusedInterfacesOfALaunch(t *testing.T) {
	r := newRig(t)
	r.network()
	free, used := r.newENI().NetworkInterfaceId, ""
	far := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.SubnetId = apart }).NetworkInterfaceId
	used = r.run(two()).Instances[0].NetworkInterfaces[1].NetworkInterfaceId
	existing := func(id string) func(*nicSpec) {
		return func(n *nicSpec) { n.SubnetId, n.NetworkInterfaceId = "", id }
	}
	public := func(n *nicSpec) { n.AssociatePublicIpAddress = ptr(true) }
	type input = shape.RunInstancesInput
	for name, c := range map[string]struct {
		code string
		nics []nicSpec
		edit func(in *input)
	}{
		"a subnet of the instance as well":   {"InvalidParameterCombination", []nicSpec{at(0)}, func(in *input) { in.SubnetId = dual }},
		"groups of the instance as well":     {"InvalidParameterCombination", []nicSpec{at(0)}, func(in *input) { in.SecurityGroups = []string{"default"} }},
		"an address of the instance as well": {"InvalidParameterCombination", []nicSpec{at(0)}, func(in *input) { in.PrivateIpAddress = "172.31.64.9" }},
		"IPv6 of the instance as well":       {"InvalidParameterCombination", []nicSpec{at(0)}, func(in *input) { in.Ipv6AddressCount = ptr(int64(1)) }},
		"without a primary one":              {"InvalidParameterValue", []nicSpec{at(1)}, nil},
		"without an index":                   {"InvalidParameterValue", []nicSpec{{SubnetId: dual}}, nil},
		"one index twice":                    {"InvalidParameterValue", []nicSpec{at(0), at(0)}, nil},
		"more than the type has":             {"AttachmentLimitExceeded", []nicSpec{at(0), at(1), at(2)}, nil},
		"more addresses than the type has":   {"PrivateIpAddressLimitExceeded", []nicSpec{at(0, func(n *nicSpec) { n.SecondaryPrivateIpAddressCount = ptr(int64(2)) })}, nil},
		"in two zones":                       {"InvalidParameterCombination", []nicSpec{at(0), at(1, func(n *nicSpec) { n.SubnetId = apart })}, nil},
		"in two zones, one that exists":      {"InvalidParameterCombination", []nicSpec{at(0), at(1, existing(far))}, nil},
		"one that exists, with a subnet":     {"InvalidParameterCombination", []nicSpec{at(0, func(n *nicSpec) { n.NetworkInterfaceId = free })}, nil},
		"one that is used":                   {"InvalidNetworkInterface.InUse", []nicSpec{at(0, existing(used))}, nil},
		"one that is unknown":                {"InvalidNetworkInterfaceID.NotFound", []nicSpec{at(0, existing("eni-12345678"))}, nil},
		"one twice":                          {"InvalidParameterValue", []nicSpec{at(0, existing(free)), at(1, existing(free))}, nil},
		"one that exists, for two":           {"InvalidParameterCombination", []nicSpec{at(0, existing(free))}, func(in *input) { in.MaxCount = ptr(int64(2)) }},
		"one address, for two":               {"InvalidParameterCombination", []nicSpec{at(0, func(n *nicSpec) { n.PrivateIpAddress = "172.31.64.9" })}, func(in *input) { in.MaxCount = ptr(int64(2)) }},
		"a public address of several":        {"InvalidParameterCombination", []nicSpec{at(0, public), at(1)}, nil},
		"a public address of one that is":    {"InvalidParameterCombination", []nicSpec{at(0, existing(free), public)}, nil},
		"a public address of a second":       {"InvalidParameterCombination", []nicSpec{at(1, public)}, nil},
		"another type":                       {"UnsupportedOperation", []nicSpec{at(0, func(n *nicSpec) { n.InterfaceType = "efa" })}, nil},
		"another card":                       {"UnsupportedOperation", []nicSpec{at(0, func(n *nicSpec) { n.NetworkCardIndex = ptr(int64(1)) })}, nil},
		"a reserved address":                 {"InvalidParameterValue", []nicSpec{at(0, func(n *nicSpec) { n.PrivateIpAddress = "172.31.64.1" })}, nil},
	} {
		in, was := small(), r.head()
		in.NetworkInterfaces = c.nics
		if c.edit != nil {
			c.edit(in)
		}
		if _, err := r.RunInstances(r.ctx, in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if r.head() != was {
			t.Errorf("%s: it was refused, and something was written", name)
		}
	}
}

func TestAPublicAddressAtLaunch(t *testing.T) {
	r := newRig(t)
	r.network()
	r.Elastic = nil
	asks := func(v bool) *shape.RunInstancesInput {
		in := small()
		in.NetworkInterfaces = []nicSpec{at(0, func(n *nicSpec) { n.AssociatePublicIpAddress = &v })}
		return in
	}
	if _, err := r.RunInstances(r.ctx, asks(true)); cloud.Code(err) != "InsufficientAddressCapacity" {
		t.Errorf("asked for, without a pool: got %v", err)
	}
	o, _ := store.Get(t.Context(), r.Store, store.Subnets, dual)
	s := o.Value
	s.MapPublicAddress = true
	r.write(func(t *store.Txn) { store.Update(t, store.Subnets, o, s) })
	byDefault := small()
	byDefault.SubnetId = dual
	if got := r.run(byDefault).Instances[0]; got.PublicIpAddress != "" {
		t.Errorf("by the subnet's default, without a pool: got %s", got.PublicIpAddress)
	}
	r.Elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/31")}
	i := r.run(byDefault).Instances[0]
	n := r.eni(i.NetworkInterfaces[0].NetworkInterfaceId)
	if i.PublicIpAddress == "" || i.PublicDnsName == "" || n.Association.IpOwnerId != "amazon" || n.Association.AllocationId != "" || n.Association.AssociationId != "" {
		t.Errorf("by the subnet's default: got %s, %s, %+v", i.PublicIpAddress, i.PublicDnsName, n.Association)
	}
	if got := r.run(asks(false)).Instances[0]; got.PublicIpAddress != "" {
		t.Errorf("refused: got %s", got.PublicIpAddress)
	}
	if got := r.run(two()).Instances[0]; got.PublicIpAddress != "" {
		t.Errorf("with two interfaces: got %s", got.PublicIpAddress)
	}
	if got := r.run(asks(true)).Instances[0]; got.PublicIpAddress == "" || got.PublicIpAddress == i.PublicIpAddress {
		t.Errorf("asked for: got %s", got.PublicIpAddress)
	}
	if _, err := r.RunInstances(r.ctx, asks(true)); cloud.Code(err) != "InsufficientAddressCapacity" {
		t.Errorf("asked for, and all are taken: got %v", err)
	}
	if out := must[*shape.DescribeAddressesOutput](r)(r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{})); len(out.Addresses) != 0 {
		t.Errorf("they are nobody's Elastic addresses: got %v", out.Addresses)
	}
	vpc, _ := store.Get(t.Context(), r.Store, store.VPCs, i.VpcId)
	nameless := vpc.Value
	nameless.EnableDNSName = false
	r.write(func(t *store.Txn) { store.Update(t, store.VPCs, vpc, nameless) })
	if got := r.instance(i.InstanceId); got.PublicIpAddress == "" || got.PublicDnsName != "" {
		t.Errorf("in a VPC without names: got %s, %s", got.PublicIpAddress, got.PublicDnsName)
	}
	// An Elastic address takes the place of that of the launch, which is given back.
	r.Elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}
	e := r.newEIP()
	must[*shape.AssociateAddressOutput](r)(r.AssociateAddress(r.ctx, &shape.AssociateAddressInput{AllocationId: e.AllocationId, InstanceId: i.InstanceId}))
	if got := r.instance(i.InstanceId).PublicIpAddress; got != e.PublicIp {
		t.Errorf("got %s, want %s", got, e.PublicIp)
	}
	if out, err := r.AllocateAddress(r.ctx, &shape.AllocateAddressInput{Address: i.PublicIpAddress}); err != nil {
		t.Errorf("what it replaced is not free: got %v, %v", out, err)
	}
}

func TestALargerTypeIsNeededForMoreInterfaces(t *testing.T) {
	r := newRig(t)
	r.network()
	in := small()
	in.InstanceType = "t3.medium"
	in.NetworkInterfaces = []nicSpec{at(0), at(1), at(2)}
	id := r.run(in).Instances[0].InstanceId
	r.says(id, cloud.StateRunning)
	must[*shape.StopInstancesOutput](r)(r.StopInstances(r.ctx, &shape.StopInstancesInput{InstanceIds: []string{id}}))
	r.says(id, cloud.StateStopped)
	for typ, code := range map[string]string{"t2.nano": "AttachmentLimitExceeded", "t3.large": ""} {
		_, err := r.ModifyInstanceAttribute(r.ctx, &shape.ModifyInstanceAttributeInput{InstanceId: id, InstanceType: &shape.AttributeValue{Value: typ}})
		if cloud.Code(err) != code {
			t.Errorf("%s: got %v, want %q", typ, err, code)
		}
	}
	if _, err := r.ModifyInstanceAttribute(r.ctx, &shape.ModifyInstanceAttributeInput{InstanceId: id, SourceDestCheck: &shape.AttributeBooleanValue{Value: ptr(false)}}); cloud.Code(err) != "InvalidInstanceID" {
		t.Errorf("the check of one of three: got %v", err)
	}
}
