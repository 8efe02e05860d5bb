package ec2

import (
	"slices"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (r *rig) newEIP() *shape.AllocateAddressOutput {
	r.Helper()
	return must[*shape.AllocateAddressOutput](r)(r.AllocateAddress(r.ctx, &shape.AllocateAddressInput{}))
}

func (r *rig) elasticOf(id string) shape.Address {
	r.Helper()
	return must[*shape.DescribeAddressesOutput](r)(r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{AllocationIds: []string{id}})).Addresses[0]
}

func TestAllocateAndRelease(t *testing.T) {
	r := newRig(t)
	allocate := func(in shape.AllocateAddressInput) (*shape.AllocateAddressOutput, string) {
		out, err := r.AllocateAddress(r.ctx, &in)
		return out, cloud.Code(err)
	}
	if _, got := allocate(shape.AllocateAddressInput{}); got != "InsufficientAddressCapacity" {
		t.Errorf("without a pool: got %q", got)
	}
	r.network()
	for name, c := range map[string]struct {
		code string
		in   shape.AllocateAddressInput
	}{
		"classic":           {"InvalidParameterValue", shape.AllocateAddressInput{Domain: "standard"}},
		"an unknown pool":   {"InvalidPublicIpv4PoolID.NotFound", shape.AllocateAddressInput{PublicIpv4Pool: "ipv4pool-ec2-1"}},
		"not of the pool":   {"InvalidAddress.NotFound", shape.AllocateAddressInput{Address: "203.0.113.1"}},
		"no address":        {"InvalidParameterValue", shape.AllocateAddressInput{Address: "x"}},
		"tags of something": {"InvalidParameterValue", shape.AllocateAddressInput{TagSpecifications: []shape.TagSpecification{{ResourceType: "vpc"}}}},
	} {
		if _, got := allocate(c.in); got != c.code {
			t.Errorf("%s: got %q, want %q", name, got, c.code)
		}
	}
	chosen, code := allocate(shape.AllocateAddressInput{Address: "198.51.100.3", Domain: "vpc", TagSpecifications: []shape.TagSpecification{{ResourceType: "elastic-ip", Tags: []shape.Tag{{Key: "a", Value: "b"}}}}})
	if code != "" || chosen.PublicIp != "198.51.100.3" || chosen.Domain != "vpc" || chosen.NetworkBorderGroup != "r-1" {
		t.Fatalf("got %+v, %q", chosen, code)
	}
	if _, got := allocate(shape.AllocateAddressInput{Address: "198.51.100.3"}); got != "InvalidIPAddress.InUse" {
		t.Errorf("a taken one: got %q", got)
	}
	seen := []string{chosen.PublicIp}
	for range 7 { // a /29 has eight, and each is given
		out, code := allocate(shape.AllocateAddressInput{})
		if code != "" || slices.Contains(seen, out.PublicIp) {
			t.Fatalf("got %v, %q, after %v", out, code, seen)
		}
		seen = append(seen, out.PublicIp)
	}
	if _, got := allocate(shape.AllocateAddressInput{}); got != "InsufficientAddressCapacity" {
		t.Errorf("one too many: got %q", got)
	}
	was := r.head()
	if _, err := r.ReleaseAddress(r.ctx, &shape.ReleaseAddressInput{AllocationId: chosen.AllocationId, DryRun: ptr(true)}); err != nil || r.head() != was {
		t.Errorf("a dry run: %v, or something was written", err)
	}
	for _, c := range []struct {
		code string
		in   shape.ReleaseAddressInput
	}{
		{"MissingParameter", shape.ReleaseAddressInput{}},
		{"InvalidParameterCombination", shape.ReleaseAddressInput{AllocationId: chosen.AllocationId, PublicIp: chosen.PublicIp}},
		{"", shape.ReleaseAddressInput{AllocationId: chosen.AllocationId}},
		{"InvalidAllocationID.NotFound", shape.ReleaseAddressInput{AllocationId: chosen.AllocationId}},
		{"InvalidAddress.NotFound", shape.ReleaseAddressInput{PublicIp: chosen.PublicIp}},
		{"InvalidAllocationID.Malformed", shape.ReleaseAddressInput{AllocationId: "x"}},
		{"", shape.ReleaseAddressInput{PublicIp: seen[1]}},
	} {
		if _, err := r.ReleaseAddress(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("release %+v: got %v, want %q", c.in, err, c.code)
		}
	}
	all := must[*shape.DescribeAddressesOutput](r)(r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{}))
	attributes := must[*shape.DescribeAddressesAttributeOutput](r)(r.DescribeAddressesAttribute(r.ctx, &shape.DescribeAddressesAttributeInput{Attribute: "domain-name"}))
	if len(all.Addresses) != 6 || len(attributes.Addresses) != 6 {
		t.Errorf("%d addresses are left, %d with attributes, want 6", len(all.Addresses), len(attributes.Addresses))
	}
}

func TestAssociateAddress(t *testing.T) {
	r := newRig(t)
	r.network()
	id := r.run(small()).Instances[0].InstanceId
	e, other := r.newEIP(), r.newEIP()
	n := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.SecondaryPrivateIpAddressCount = ptr(int64(1)) })
	eni, second := n.NetworkInterfaceId, n.PrivateIpAddresses[1].PrivateIpAddress
	type input = shape.AssociateAddressInput
	associate := func(in input) (string, string) {
		out, err := r.AssociateAddress(r.ctx, &in)
		if err != nil {
			return "", cloud.Code(err)
		}
		return out.AssociationId, ""
	}
	for name, c := range map[string]struct {
		code string
		in   input
	}{
		"nothing to stand for":         {"MissingParameter", input{AllocationId: e.AllocationId}},
		"two things":                   {"InvalidParameterCombination", input{AllocationId: e.AllocationId, InstanceId: id, NetworkInterfaceId: eni}},
		"no address":                   {"MissingParameter", input{InstanceId: id}},
		"an unknown address":           {"InvalidAllocationID.NotFound", input{AllocationId: "eipalloc-12345678", InstanceId: id}},
		"an unknown instance":          {"InvalidInstanceID.NotFound", input{AllocationId: e.AllocationId, InstanceId: "i-12345678"}},
		"an unknown interface":         {"InvalidNetworkInterfaceID.NotFound", input{AllocationId: e.AllocationId, NetworkInterfaceId: "eni-12345678"}},
		"a private one that it hasn't": {"InvalidParameterValue", input{AllocationId: e.AllocationId, NetworkInterfaceId: eni, PrivateIpAddress: "172.31.64.250"}},
	} {
		if _, got := associate(c.in); got != c.code {
			t.Errorf("%s: got %q, want %q", name, got, c.code)
		}
	}
	first, code := associate(input{PublicIp: e.PublicIp, InstanceId: id})
	if code != "" {
		t.Fatal(code)
	}
	if again, code := associate(input{AllocationId: e.AllocationId, InstanceId: id, AllowReassociation: ptr(false)}); code != "" || again != first {
		t.Errorf("again: got %q, %q, want %s", again, code, first)
	}
	i := r.instance(id)
	if i.PublicIpAddress != e.PublicIp || i.PublicDnsName != cloud.PublicDNSName(addrOf(t, e.PublicIp), "r-1") || i.NetworkInterfaces[0].Association.IpOwnerId != "000000000000" {
		t.Errorf("got %s, %s, %+v", i.PublicIpAddress, i.PublicDnsName, i.NetworkInterfaces[0].Association)
	}
	if got := r.elasticOf(e.AllocationId); got.InstanceId != id || got.AssociationId != first || got.PrivateIpAddress != i.PrivateIpAddress || got.NetworkInterfaceOwnerId != "000000000000" {
		t.Errorf("got %+v", got)
	}
	if _, got := associate(input{AllocationId: e.AllocationId, NetworkInterfaceId: eni, AllowReassociation: ptr(false)}); got != "Resource.AlreadyAssociated" {
		t.Errorf("without reassociation: got %q", got)
	}
	if _, got := associate(input{AllocationId: other.AllocationId, InstanceId: id, AllowReassociation: ptr(false)}); got != "Resource.AlreadyAssociated" {
		t.Errorf("in the place of another, without reassociation: got %q", got)
	}
	if _, got := associate(input{AllocationId: other.AllocationId, InstanceId: id}); got != "" || r.elasticOf(e.AllocationId).AssociationId != "" || r.instance(id).PublicIpAddress != other.PublicIp {
		t.Errorf("in the place of another: got %q, and it shows %s", got, r.instance(id).PublicIpAddress)
	}
	moved, code := associate(input{AllocationId: other.AllocationId, NetworkInterfaceId: eni, PrivateIpAddress: second})
	if code != "" || r.instance(id).PublicIpAddress != "" || r.eni(eni).PrivateIpAddresses[1].Association.PublicIp != other.PublicIp || r.eni(eni).Association != nil {
		t.Errorf("moved: %q, %+v", code, r.eni(eni).PrivateIpAddresses)
	}
	for _, c := range []struct {
		code string
		in   shape.DisassociateAddressInput
	}{
		{"InvalidAssociationID.NotFound", shape.DisassociateAddressInput{AssociationId: first}},
		{"InvalidAssociationID.Malformed", shape.DisassociateAddressInput{AssociationId: "x"}},
		{"", shape.DisassociateAddressInput{AssociationId: moved}},
		{"", shape.DisassociateAddressInput{PublicIp: other.PublicIp}},
		{"MissingParameter", shape.DisassociateAddressInput{}},
	} {
		if _, err := r.DisassociateAddress(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("disassociate %+v: got %v, want %q", c.in, err, c.code)
		}
	}
	if got := r.elasticOf(other.AllocationId); got.AssociationId != "" || got.NetworkInterfaceId != "" {
		t.Errorf("got %+v", got)
	}
	must[*shape.AssociateAddressOutput](r)(r.AssociateAddress(r.ctx, &input{AllocationId: e.AllocationId, NetworkInterfaceId: eni}))
	must[*shape.DeleteNetworkInterfaceOutput](r)(r.DeleteNetworkInterface(r.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: eni}))
	if got := r.elasticOf(e.AllocationId); got.AssociationId != "" {
		t.Errorf("its interface is deleted, and it shows %+v", got)
	}
}

func TestWhereAnAddressCannotGo(t *testing.T) {
	r := newRig(t)
	r.network()
	e := r.newEIP()
	n := r.newENI()
	associate := func(in shape.AssociateAddressInput) string {
		in.AllocationId = e.AllocationId
		_, err := r.AssociateAddress(r.ctx, &in)
		return cloud.Code(err)
	}
	in := two()
	id := r.run(in).Instances[0].InstanceId
	if got := associate(shape.AssociateAddressInput{InstanceId: id}); got != "InvalidInstanceID" {
		t.Errorf("an instance with two interfaces: got %q", got)
	}
	must[*shape.TerminateInstancesOutput](r)(r.TerminateInstances(r.ctx, &shape.TerminateInstancesInput{InstanceIds: []string{id}}))
	if got := associate(shape.AssociateAddressInput{InstanceId: id}); got != "InvalidInstanceID" {
		t.Errorf("a terminated instance: got %q", got)
	}
	if got := associate(shape.AssociateAddressInput{NetworkInterfaceId: n.NetworkInterfaceId}); got != "" {
		t.Fatalf("got %q", got)
	}
	vpc, _ := store.Get(t.Context(), r.Store, store.VPCs, n.VpcId)
	own := vpc.Value
	own.Default, own.Gateway = false, ""
	r.write(func(t *store.Txn) { store.Update(t, store.VPCs, vpc, own) })
	if _, err := r.ReleaseAddress(r.ctx, &shape.ReleaseAddressInput{AllocationId: e.AllocationId}); cloud.Code(err) != "InvalidIPAddress.InUse" {
		t.Errorf("release what is in use, in a VPC that is not the default one: got %v", err)
	}
	e = r.newEIP()
	if got := associate(shape.AssociateAddressInput{NetworkInterfaceId: n.NetworkInterfaceId}); got != "Gateway.NotAttached" {
		t.Errorf("without an internet gateway: got %q", got)
	}
	r.write(func(t *store.Txn) {
		store.Create(t, store.NATGateways, "nat-12345678", cloud.NATGateway{ID: "nat-12345678", Account: "000000000000", Allocation: cloud.AllocationID(e.AllocationId)})
	})
	if _, err := r.ReleaseAddress(r.ctx, &shape.ReleaseAddressInput{AllocationId: e.AllocationId}); cloud.Code(err) != "InvalidIPAddress.InUse" {
		t.Errorf("release a NAT gateway's: got %v", err)
	}
}

func TestAddressFilters(t *testing.T) {
	r := newRig(t)
	r.network()
	id := r.run(small()).Instances[0].InstanceId
	e := r.newEIP()
	r.newEIP()
	must[*shape.AssociateAddressOutput](r)(r.AssociateAddress(r.ctx, &shape.AssociateAddressInput{AllocationId: e.AllocationId, InstanceId: id}))
	must[*shape.CreateTagsOutput](r)(r.CreateTags(r.ctx, &shape.CreateTagsInput{Resources: []string{e.AllocationId}, Tags: []shape.Tag{{Key: "a", Value: "b"}}}))
	a := r.elasticOf(e.AllocationId)
	for name, value := range map[string]string{
		"allocation-id": a.AllocationId, "association-id": a.AssociationId, "instance-id": id, "network-interface-id": a.NetworkInterfaceId,
		"network-interface-owner-id": "000000000000", "private-ip-address": a.PrivateIpAddress, "public-ip": a.PublicIp, "tag:a": "b", "tag-key": "a",
	} {
		out, err := r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{Filters: []shape.Filter{{Name: name, Values: []string{value}}}})
		if err != nil || len(out.Addresses) != 1 || out.Addresses[0].AllocationId != e.AllocationId {
			t.Errorf("%s=%s: got %+v, %v", name, value, out, err)
		}
	}
	for name, value := range map[string]string{"domain": "vpc", "network-border-group": "r-1"} {
		if out, err := r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{Filters: []shape.Filter{{Name: name, Values: []string{value}}}}); err != nil || len(out.Addresses) != 2 {
			t.Errorf("%s=%s: got %+v, %v", name, value, out, err)
		}
	}
}
