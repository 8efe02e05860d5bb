package ec2

import (
	"strings"
	"testing"
	"time"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestANATGatewayHasAnInterfaceAndAnAddress(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, address := r.subnetOf(vpc, "10.0.1.0/24"), r.elastic()
	gateway := r.gateway(vpc)
	n := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: address, PrivateIpAddress: "10.0.1.9", TagSpecifications: named1("natgateway")}).NatGateway
	a := n.NatGatewayAddresses[0]
	if n.State != "available" || n.ConnectivityType != "public" || n.VpcId != vpc || n.Tags[0].Value != "mine" || !n.CreateTime.Equal(start) ||
		a.PrivateIp != "10.0.1.9" || a.PublicIp != "203.0.113.7" || a.AllocationId != address || !strings.HasPrefix(a.AssociationId, "eipassoc-") || !yes(a.IsPrimary) {
		t.Errorf("got %+v", n)
	}
	card, err := store.Get(r.ctx, r.Store, store.Interfaces, a.NetworkInterfaceId)
	if err != nil || card.Value.Kind != cloud.KindNATGateway || card.Value.SourceDestCheck || card.Value.MAC == "" || !strings.Contains(card.Value.Description, n.NatGatewayId) {
		t.Errorf("got interface %+v, %v", card.Value, err)
	}
	o, err := store.Get(r.ctx, r.Store, store.Addresses, address)
	if err != nil || string(o.Value.Association) != a.AssociationId || o.Value.Interface != card.Value.ID || o.Value.Private.String() != "10.0.1.9" {
		t.Errorf("got address %+v, %v", o.Value, err)
	}
	for name, want := range map[string]string{"nat-gateway-id": n.NatGatewayId, "state": "available", "subnet-id": subnet, "vpc-id": vpc, "tag:Name": "mine", "tag-key": "Name"} {
		if all := do(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{Filter: filter(name, want)}).NatGateways; len(all) != 1 {
			t.Errorf("%s=%s: got %d, want 1", name, want, len(all))
		}
	}
	if _, code := try(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: vpc}); code != "DependencyViolation" {
		t.Errorf("detach the gateway under it: got %q", code)
	}

	for range 2 { // the second time changes nothing
		do(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: n.NatGatewayId})
	}
	n = &do(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{NatGatewayIds: []string{n.NatGatewayId}}).NatGateways[0]
	if a := n.NatGatewayAddresses[0]; n.State != "deleted" || !n.DeleteTime.Equal(start) || a.PrivateIp != "10.0.1.9" || a.PublicIp != "203.0.113.7" || a.AssociationId != "" {
		t.Errorf("got %+v, want a deleted one that tells what it had", n)
	}
	if o, _ := store.Get(r.ctx, r.Store, store.Addresses, address); o.Value.Association != "" || o.Value.Interface != "" || o.Value.Private.IsValid() {
		t.Errorf("got %+v, want the address free", o.Value)
	}
	if keys, err := store.List(r.ctx, r.Store, ledger.Keys(cloud.SubnetID(subnet)), store.Range{}); err != nil || len(keys.Objects) != 0 {
		t.Errorf("got %v, %v, want its private address free", keys.Objects, err)
	}
	do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet})
	r.Now = func() time.Time { return start.Add(time.Hour + time.Second) }
	if all := do(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{}).NatGateways; len(all) != 0 {
		t.Errorf("an hour later: got %+v", all)
	}
	if _, code := try(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{NatGatewayIds: []string{n.NatGatewayId}}); code != "NatGatewayNotFound" {
		t.Errorf("an hour later, by its ID: got %q", code)
	}
}

func TestRefusedNATGateways(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, inside := r.subnetOf(vpc, "10.0.1.0/28"), r.subnetOf(r.vpc("10.1.0.0/16"), "10.1.1.0/24")
	r.gateway(vpc)
	address := r.elastic()
	launch := newID[cloud.AllocationID](r.Service, "eipalloc")
	r.write(func(t *store.Txn) {
		store.Create(t, store.Addresses, launch, cloud.Address{ID: launch, Account: "000000000000", Launch: true})
	})
	used := r.elastic()
	do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: used, PrivateIpAddress: "10.0.1.5"})
	was := r.head()
	create := func(f func(in *shape.CreateNatGatewayInput)) string {
		in := shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: address}
		f(&in)
		return second(try(r, r.CreateNatGateway, in))
	}
	for _, c := range []struct{ name, got, want string }{
		{"no address", create(func(in *shape.CreateNatGatewayInput) { in.AllocationId = "" }), "MissingParameter"},
		{"no subnet", create(func(in *shape.CreateNatGatewayInput) { in.SubnetId = "" }), "MissingParameter"},
		{"a subnet that is not there", create(func(in *shape.CreateNatGatewayInput) { in.SubnetId = "subnet-12345678" }), "InvalidSubnetID.NotFound"},
		{"an address that is not there", create(func(in *shape.CreateNatGatewayInput) { in.AllocationId = "eipalloc-12345678" }), "InvalidAllocationID.NotFound"},
		{"an address that is not Elastic", create(func(in *shape.CreateNatGatewayInput) { in.AllocationId = string(launch) }), "InvalidAllocationID.NotFound"},
		{"an address in use", create(func(in *shape.CreateNatGatewayInput) { in.AllocationId = used }), "Resource.AlreadyAssociated"},
		{"a VPC without a way out", create(func(in *shape.CreateNatGatewayInput) { in.SubnetId = inside }), "Gateway.NotAttached"},
		{"a private one with an address", create(func(in *shape.CreateNatGatewayInput) { in.ConnectivityType = "private" }), "InvalidParameterCombination"},
		{"of another type", create(func(in *shape.CreateNatGatewayInput) { in.ConnectivityType = "x" }), "InvalidParameterValue"},
		{"a private address in use", create(func(in *shape.CreateNatGatewayInput) { in.PrivateIpAddress = "10.0.1.5" }), "InvalidIPAddress.InUse"},
		{"a reserved private address", create(func(in *shape.CreateNatGatewayInput) { in.PrivateIpAddress = "10.0.1.1" }), "InvalidParameterValue"},
		{"no private address", create(func(in *shape.CreateNatGatewayInput) { in.PrivateIpAddress = "ten" }), "InvalidParameterValue"},
		{"secondary addresses", create(func(in *shape.CreateNatGatewayInput) { in.SecondaryPrivateIpAddressCount = number(1) }), "UnsupportedOperation"},
		{"delete none", second(try(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: "nat-12345678"})), "NatGatewayNotFound"},
		{"delete nonsense", second(try(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: "x"})), "NatGatewayMalformed"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if r.head() != was {
		t.Error("something was written")
	}
	for range 10 { // the 11 addresses of a /28, one of which is taken
		do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, ConnectivityType: "private"})
	}
	if got := create(func(in *shape.CreateNatGatewayInput) {}); got != "InsufficientFreeAddressesInSubnet" {
		t.Errorf("a full subnet: got %q", got)
	}
}

func TestAClientTokenMakesOneNATGateway(t *testing.T) {
	r := newRig(t)
	in := shape.CreateNatGatewayInput{SubnetId: r.subnetOf(r.vpc("10.0.0.0/16"), "10.0.1.0/24"), ConnectivityType: "private", ClientToken: "once"}
	first, again := do(r, r.CreateNatGateway, in), do(r, r.CreateNatGateway, in)
	if first.NatGateway.NatGatewayId != again.NatGateway.NatGatewayId || again.ClientToken != "once" {
		t.Errorf("got %+v and %+v, want one gateway", first.NatGateway, again.NatGateway)
	}
	if all := do(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{}).NatGateways; len(all) != 1 {
		t.Errorf("got %d, want 1", len(all))
	}
}
