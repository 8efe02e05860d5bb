package ec2

import (
	"net/netip"
	"slices"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestAssignAndUnassign(t *testing.T) {
	r := newRig(t)
	r.network()
	a := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.PrivateIpAddress = "172.31.64.10" }).NetworkInterfaceId
	b := r.newENI(func(in *shape.CreateNetworkInterfaceInput) { in.PrivateIpAddress = "172.31.64.20" }).NetworkInterfaceId
	assign := func(in shape.AssignPrivateIpAddressesInput) string {
		in.NetworkInterfaceId = a
		_, err := r.AssignPrivateIpAddresses(r.ctx, &in)
		return cloud.Code(err)
	}
	unassign := func(addrs ...string) string {
		_, err := r.UnassignPrivateIpAddresses(r.ctx, &shape.UnassignPrivateIpAddressesInput{NetworkInterfaceId: a, PrivateIpAddresses: addrs})
		return cloud.Code(err)
	}
	type input = shape.AssignPrivateIpAddressesInput
	for k, step := range []struct {
		name, want string
		do         func() string
		has        []string
	}{
		{"nothing is asked for", "MissingParameter", func() string { return assign(input{}) }, []string{"172.31.64.10"}},
		{"by name", "", func() string { return assign(input{PrivateIpAddresses: []string{"172.31.64.11", "172.31.64.12"}}) }, []string{"172.31.64.10", "172.31.64.11", "172.31.64.12"}},
		{"one that it has", "", func() string { return assign(input{PrivateIpAddresses: []string{"172.31.64.11"}}) }, []string{"172.31.64.10", "172.31.64.11", "172.31.64.12"}},
		{"by name and count", "InvalidParameterCombination", func() string {
			return assign(input{PrivateIpAddresses: []string{"172.31.64.13"}, SecondaryPrivateIpAddressCount: ptr(int64(1))})
		}, nil},
		{"more than any type has", "PrivateIpAddressLimitExceeded", func() string { return assign(input{SecondaryPrivateIpAddressCount: ptr(int64(13))}) }, nil},
		{"the primary of another", "InvalidIPAddress.InUse", func() string { return assign(input{PrivateIpAddresses: []string{"172.31.64.20"}}) }, nil},
		{"the primary of another, moved", "InvalidParameterValue", func() string {
			return assign(input{PrivateIpAddresses: []string{"172.31.64.20"}, AllowReassignment: ptr(true)})
		}, nil},
		{"the primary taken away", "InvalidParameterValue", func() string { return unassign("172.31.64.11", "172.31.64.10") }, []string{"172.31.64.10", "172.31.64.11", "172.31.64.12"}},
		{"one that it has not", "InvalidParameterValue", func() string { return unassign("172.31.64.20") }, nil},
		{"taken away, named twice", "", func() string { return unassign("172.31.64.11", "172.31.64.11") }, []string{"172.31.64.10", "172.31.64.12"}},
		{"again by name, though it rests", "", func() string { return assign(input{PrivateIpAddresses: []string{"172.31.64.11"}}) }, []string{"172.31.64.10", "172.31.64.12", "172.31.64.11"}},
	} {
		if got := step.do(); got != step.want {
			t.Errorf("step %d, %s: got %q, want %q", k, step.name, got, step.want)
		}
		if has := private(r.eni(a)); step.has != nil && !slices.Equal(has, step.has) {
			t.Errorf("step %d, %s: it has %v, want %v", k, step.name, has, step.has)
		}
	}
	out := must[*shape.AssignPrivateIpAddressesOutput](r)(r.AssignPrivateIpAddresses(r.ctx, &input{NetworkInterfaceId: b, SecondaryPrivateIpAddressCount: ptr(int64(2))}))
	if len(out.AssignedPrivateIpAddresses) != 2 || len(r.eni(b).PrivateIpAddresses) != 3 {
		t.Errorf("by count: got %v", out.AssignedPrivateIpAddresses)
	}
	p := must[*shape.AssignPrivateIpAddressesOutput](r)(r.AssignPrivateIpAddresses(r.ctx, &input{NetworkInterfaceId: b, Ipv4PrefixCount: ptr(int64(1))})).AssignedIpv4Prefixes
	if got := r.eni(b).Ipv4Prefixes; len(p) != 1 || !slices.Equal(got, p) {
		t.Fatalf("prefix: got %v, it has %v", p, got)
	}
	inside := netip.MustParsePrefix(p[0].Ipv4Prefix).Addr().Next().String()
	if got := assign(input{PrivateIpAddresses: []string{inside}, AllowReassignment: ptr(true)}); got != "InvalidIPAddress.InUse" {
		t.Errorf("an address of another's prefix: got %q", got)
	}
	must[*shape.UnassignPrivateIpAddressesOutput](r)(r.UnassignPrivateIpAddresses(r.ctx, &shape.UnassignPrivateIpAddressesInput{NetworkInterfaceId: b, Ipv4Prefixes: []string{p[0].Ipv4Prefix}}))
	if got := assign(input{PrivateIpAddresses: []string{inside}}); got != "" {
		t.Errorf("when the prefix is given back: got %q", got)
	}
}

// A secondary address that moves takes the public one with it that stands for it.
func TestAReassignedAddressKeepsItsPublicOne(t *testing.T) {
	r := newRig(t)
	r.network()
	a := r.newENI(func(in *shape.CreateNetworkInterfaceInput) {
		in.PrivateIpAddresses = []shape.PrivateIpAddressSpecification{{PrivateIpAddress: "172.31.64.10"}, {PrivateIpAddress: "172.31.64.11"}, {PrivateIpAddress: "172.31.64.12"}}
	}).NetworkInterfaceId
	b := r.newENI().NetworkInterfaceId
	eip := must[*shape.AllocateAddressOutput](r)(r.AllocateAddress(r.ctx, &shape.AllocateAddressInput{}))
	must[*shape.AssociateAddressOutput](r)(r.AssociateAddress(r.ctx, &shape.AssociateAddressInput{AllocationId: eip.AllocationId, NetworkInterfaceId: a, PrivateIpAddress: "172.31.64.11"}))
	must[*shape.AssignPrivateIpAddressesOutput](r)(r.AssignPrivateIpAddresses(r.ctx, &shape.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: b, PrivateIpAddresses: []string{"172.31.64.11", "172.31.64.12"}, AllowReassignment: ptr(true)}))
	if got := r.eni(a); len(got.PrivateIpAddresses) != 1 {
		t.Errorf("it still has %v", private(got))
	}
	got := r.eni(b)
	if len(got.PrivateIpAddresses) != 3 || got.PrivateIpAddresses[1].Association == nil || got.PrivateIpAddresses[1].Association.PublicIp != eip.PublicIp {
		t.Errorf("got %+v", got.PrivateIpAddresses)
	}
	for _, addr := range []string{"172.31.64.11", "172.31.64.12"} {
		if o, err := store.Get(t.Context(), r.Store, ledger.Keys(dual), addr); err != nil || string(o.Value) != b {
			t.Errorf("the key of %s says %s, %v", addr, o.Value, err)
		}
	}
	must[*shape.UnassignPrivateIpAddressesOutput](r)(r.UnassignPrivateIpAddresses(r.ctx, &shape.UnassignPrivateIpAddressesInput{NetworkInterfaceId: b, PrivateIpAddresses: []string{"172.31.64.11"}}))
	shown := must[*shape.DescribeAddressesOutput](r)(r.DescribeAddresses(r.ctx, &shape.DescribeAddressesInput{AllocationIds: []string{eip.AllocationId}})).Addresses[0]
	if shown.AssociationId != "" || shown.NetworkInterfaceId != "" || shown.PrivateIpAddress != "" {
		t.Errorf("its private address is gone, and it shows %+v", shown)
	}
}

func TestAssignIPv6(t *testing.T) {
	r := newRig(t)
	r.network()
	a, b := r.newENI().NetworkInterfaceId, r.newENI().NetworkInterfaceId
	type input = shape.AssignIpv6AddressesInput
	assign := func(id string, in input) (*shape.AssignIpv6AddressesOutput, string) {
		in.NetworkInterfaceId = id
		out, err := r.AssignIpv6Addresses(r.ctx, &in)
		return out, cloud.Code(err)
	}
	for _, c := range []struct {
		name, eni, code string
		in              input
	}{
		{"nothing", a, "MissingParameter", input{}},
		{"by count", a, "", input{Ipv6AddressCount: ptr(int64(2))}},
		{"by name", a, "", input{Ipv6Addresses: []string{"2001:db8:0:1:7::1"}}},
		{"again, which it has", a, "", input{Ipv6Addresses: []string{"2001:db8:0:1:7::1"}}},
		{"by name, of another", b, "InvalidIPAddress.InUse", input{Ipv6Addresses: []string{"2001:db8:0:1:7::1"}}},
		{"a prefix in which another has one", b, "InvalidIPAddress.InUse", input{Ipv6Prefixes: []string{"2001:db8:0:1:7::/80"}}},
		{"a prefix", b, "", input{Ipv6Prefixes: []string{"2001:db8:0:1:8::/80"}}},
		{"an address of it", a, "InvalidIPAddress.InUse", input{Ipv6Addresses: []string{"2001:db8:0:1:8::1"}}},
		{"prefixes by count", b, "", input{Ipv6PrefixCount: ptr(int64(2))}},
		{"elsewhere", a, "InvalidParameterValue", input{Ipv6Addresses: []string{"2001:db8:0:2::9"}}},
		{"of IPv4", a, "InvalidParameterValue", input{Ipv6Addresses: []string{"172.31.64.9"}}},
		{"mapped", a, "InvalidParameterValue", input{Ipv6Addresses: []string{"::ffff:172.31.64.9"}}},
		{"more than any type has", a, "PrivateIpAddressLimitExceeded", input{Ipv6AddressCount: ptr(int64(13))}},
	} {
		if _, got := assign(c.eni, c.in); got != c.code {
			t.Errorf("%s: got %q, want %q", c.name, got, c.code)
		}
	}
	if got := r.eni(a); len(got.Ipv6Addresses) != 3 {
		t.Errorf("got %v", got.Ipv6Addresses)
	}
	if got := r.eni(b); len(got.Ipv6Prefixes) != 3 {
		t.Errorf("got %v", got.Ipv6Prefixes)
	}
	out := must[*shape.UnassignIpv6AddressesOutput](r)(r.UnassignIpv6Addresses(r.ctx, &shape.UnassignIpv6AddressesInput{NetworkInterfaceId: b, Ipv6Prefixes: []string{"2001:db8:0:1:8::/80"}}))
	if _, got := assign(a, input{Ipv6Addresses: []string{"2001:db8:0:1:8::1"}}); got != "" || len(out.UnassignedIpv6Prefixes) != 1 {
		t.Errorf("when the prefix is given back: got %q", got)
	}
	must[*shape.UnassignIpv6AddressesOutput](r)(r.UnassignIpv6Addresses(r.ctx, &shape.UnassignIpv6AddressesInput{NetworkInterfaceId: a, Ipv6Addresses: []string{"2001:db8:0:1:7::1"}}))
	if _, got := assign(b, input{Ipv6Prefixes: []string{"2001:db8:0:1:7::/80"}}); got != "" {
		t.Errorf("when the address is given back: got %q", got)
	}
}
