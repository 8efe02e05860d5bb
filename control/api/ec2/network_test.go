package ec2

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// try calls an action and returns its answer, or the code of its error.
func try[I, O any](r *rig, f func(context.Context, *I) (*O, error), in I) (*O, string) {
	out, err := f(r.ctx, &in)
	if err != nil && cloud.Code(err) == "" {
		return out, err.Error()
	}
	return out, cloud.Code(err)
}

// do calls an action that must succeed.
func do[I, O any](r *rig, f func(context.Context, *I) (*O, error), in I) *O {
	r.Helper()
	out, code := try(r, f, in)
	if code != "" {
		r.Fatalf("%T: got %s", in, code)
	}
	return out
}

func filter(name string, values ...string) []shape.Filter {
	return []shape.Filter{{Name: name, Values: values}}
}

func named1(kind string) []shape.TagSpecification {
	return []shape.TagSpecification{{ResourceType: kind, Tags: []shape.Tag{{Key: "Name", Value: "mine"}}}}
}

func flag(v bool) *shape.AttributeBooleanValue { return &shape.AttributeBooleanValue{Value: &v} }

func (r *rig) vpc(cidr string) string {
	r.Helper()
	return do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: cidr}).Vpc.VpcId
}

func (r *rig) subnetOf(vpc, cidr string) string {
	r.Helper()
	return do(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: cidr}).Subnet.SubnetId
}

func (r *rig) table(vpc string) string {
	r.Helper()
	return do(r, r.CreateRouteTable, shape.CreateRouteTableInput{VpcId: vpc}).RouteTable.RouteTableId
}

// gateway makes an internet gateway, attached to the VPC if one is named.
func (r *rig) gateway(vpc string) string {
	r.Helper()
	id := do(r, r.CreateInternetGateway, shape.CreateInternetGatewayInput{}).InternetGateway.InternetGatewayId
	if vpc != "" {
		do(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: id, VpcId: vpc})
	}
	return id
}

// elastic writes what AllocateAddress would.
func (r *rig) elastic() string {
	r.Helper()
	id := newID[cloud.AllocationID](r.Service, "eipalloc")
	r.write(func(t *store.Txn) {
		store.Create(t, store.Addresses, id, cloud.Address{ID: id, Account: "000000000000", Public: netip.MustParseAddr("203.0.113.7")})
	})
	return string(id)
}

// behind returns the rig as a control process whose mirror has stopped shows it: what it decides, it decides on the
// past, and what it relied on must stop it.
func (r *rig) behind() *rig {
	r.Helper()
	m := store.NewMirror(r.Store, store.All("spec"), store.All("status"), store.All("host"))
	ctx, cancel := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	<-m.Ready()
	if err := m.WaitRev(ctx, r.head()); err != nil {
		r.Fatal(err)
	}
	cancel()
	wg.Wait()
	s := *r.Service
	s.Mirror = m
	return &rig{Service: &s, T: r.T, ctx: r.ctx}
}

// What one action relies on changes after another process has looked, and before it writes. Each case fails if the
// action's transaction does not rely on the key that the other one changed.
func TestWhatWasDecidedOnThePastIsNotDone(t *testing.T) {
	r := newRig(t)
	var vpc, subnet, table, gateway, other string
	group := func() {
		o, err := store.Get(r.ctx, r.Store, store.VPCs, vpc)
		if err != nil {
			t.Fatal(err)
		}
		r.write(func(t *store.Txn) { // as CreateSecurityGroup does
			store.Require(t, store.VPCs, vpc, o.Rev)
			id := newID[cloud.GroupID](r.Service, "sg")
			store.Create(t, store.Groups, id, cloud.SecurityGroup{ID: id, Account: "000000000000", VPC: cloud.VPCID(vpc), Name: "web"})
		})
	}
	launch := func() {
		in := small()
		in.SubnetId = subnet
		r.run(in)
	}
	for _, c := range []struct {
		name      string
		attached  bool // the gateway to the other VPC
		meanwhile func()
		then      func(r *rig) string // what is decided on the past, and once more on the present
		want      string
	}{
		{"a VPC gets a subnet and is deleted", false, func() { r.subnetOf(vpc, "10.1.8.0/24") },
			func(r *rig) string { _, c := try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}); return c }, "DependencyViolation"},
		{"a VPC gets a route table and is deleted", false, func() { r.table(vpc) },
			func(r *rig) string { _, c := try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}); return c }, "DependencyViolation"},
		{"a VPC gets a gateway and is deleted", false, func() {
			do(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: vpc})
		},
			func(r *rig) string { _, c := try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}); return c }, "DependencyViolation"},
		{"a VPC gets a group and is deleted", false, group,
			func(r *rig) string { _, c := try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}); return c }, "DependencyViolation"},
		{"a VPC is deleted and gets a subnet", false, func() { do(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}) },
			func(r *rig) string {
				_, c := try(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: "10.1.8.0/24"})
				return c
			}, "InvalidVpcID.NotFound"},
		{"two subnets overlap", false, func() { r.subnetOf(other, "10.2.8.0/24") },
			func(r *rig) string {
				_, c := try(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: other, CidrBlock: "10.2.8.128/25"})
				return c
			}, "InvalidSubnet.Conflict"},
		{"a subnet gets an instance and is deleted", false, launch,
			func(r *rig) string {
				_, c := try(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet})
				return c
			}, "DependencyViolation"},
		{"a subnet is deleted and gets an instance", false, func() { do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet}) },
			func(r *rig) string {
				in := *small()
				in.SubnetId = subnet
				_, c := try(r, r.RunInstances, in)
				return c
			}, "InvalidSubnetID.NotFound"},
		{"a table gets a subnet and is deleted", false, func() {
			do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet})
		},
			func(r *rig) string {
				_, c := try(r, r.DeleteRouteTable, shape.DeleteRouteTableInput{RouteTableId: table})
				return c
			}, "DependencyViolation"},
		{"a table becomes the main one and is deleted", false, func() {
			o, _ := store.Get(r.ctx, r.Store, store.VPCs, other)
			do(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{RouteTableId: table, AssociationId: string(o.Value.MainAssociation())})
		},
			func(r *rig) string {
				_, c := try(r, r.DeleteRouteTable, shape.DeleteRouteTableInput{RouteTableId: table})
				return c
			}, "DependencyViolation"},
		{"a subnet gets two tables", false, func() {
			do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: r.table(other), SubnetId: subnet})
		},
			func(r *rig) string {
				_, c := try(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet})
				return c
			}, "Resource.AlreadyAssociated"},
		{"a gateway is attached twice", false, func() {
			do(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: vpc})
		},
			func(r *rig) string {
				_, c := try(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: other})
				return c
			}, "Resource.AlreadyAssociated"},
		{"a VPC gets two gateways", false, func() { r.gateway(other) },
			func(r *rig) string {
				_, c := try(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: other})
				return c
			}, "InvalidParameterValue"},
		{"a gateway is detached and becomes a target", true, func() {
			do(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: other})
		},
			func(r *rig) string {
				_, c := try(r, r.CreateRoute, shape.CreateRouteInput{RouteTableId: table, GatewayId: gateway, DestinationCidrBlock: "0.0.0.0/0"})
				return c
			}, "InvalidParameterValue"},
		{"a public address comes into use and the gateway is detached", true, func() {
			do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: r.elastic()})
		},
			func(r *rig) string {
				_, c := try(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: other})
				return c
			}, "DependencyViolation"},
		{"a route leads where a block comes", true, func() {
			do(r, r.CreateRoute, shape.CreateRouteInput{RouteTableId: table, GatewayId: gateway, DestinationCidrBlock: "10.77.0.0/24"})
		},
			func(r *rig) string {
				_, c := try(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: other, CidrBlock: "10.77.0.0/16"})
				return c
			}, "InvalidVpc.Range"},
		{"there are two default VPCs", false, func() { do(r, r.CreateDefaultVpc, shape.CreateDefaultVpcInput{}) },
			func(r *rig) string { _, c := try(r, r.CreateDefaultVpc, shape.CreateDefaultVpcInput{}); return c }, "DefaultVpcAlreadyExists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.T = t
			r.empty()
			vpc, other = r.vpc("10.1.0.0/16"), r.vpc("10.2.0.0/16")
			subnet, table, gateway = r.subnetOf(other, "10.2.1.0/24"), r.table(other), r.gateway("")
			if c.attached {
				do(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: other})
			}
			late := r.behind()
			c.meanwhile()
			was := r.head()
			ctx, cancel := context.WithTimeout(late.ctx, 300*time.Millisecond) // it asks again on what its mirror never shows
			defer cancel()
			late.ctx = ctx
			if got := c.then(late); ctx.Err() == nil || r.head() != was {
				t.Errorf("decided on the past: got %q, and the store went from %d to %d", got, was, r.head())
			}
			if got := c.then(r); got != c.want {
				t.Errorf("decided on the present: got %q, want %q", got, c.want)
			}
		})
	}
}

// empty deletes all that the account has, whatever the API would say.
func (r *rig) empty() {
	r.write(func(t *store.Txn) {
		removeAll(r, t, store.VPCs)
		removeAll(r, t, store.Subnets)
		removeAll(r, t, store.RouteTables)
		removeAll(r, t, store.Gateways)
		removeAll(r, t, store.NATGateways)
		removeAll(r, t, store.Interfaces)
		removeAll(r, t, store.Instances)
		removeAll(r, t, store.Addresses)
		removeAll(r, t, store.Groups)
	})
}

func removeAll[T any](r *rig, t *store.Txn, k store.Kind[T]) {
	all, err := store.Mirrored(r.Mirror, k)
	if err != nil {
		r.Fatal(err)
	}
	for _, o := range all {
		store.Remove(t, k, o.ID)
	}
}

func TestSubnetsThatRaceDoNotOverlap(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	codes := make([]string, 24)
	var wg sync.WaitGroup
	for k := range codes {
		wg.Go(func() { // twelve places, each asked for by two that overlap
			_, codes[k] = try(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: fmt.Sprintf("10.0.%d.0/%d", k/2, 24+k%2)})
		})
	}
	wg.Wait()
	for k := 0; k < len(codes); k += 2 {
		if pair := []string{codes[k], codes[k+1]}; !slices.Contains(pair, "") || !slices.Contains(pair, "InvalidSubnet.Conflict") {
			t.Errorf("place %d: got %q, want one to win", k/2, pair)
		}
	}
	if n := len(do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: filter("vpc-id", vpc)}).Subnets); n != 12 {
		t.Errorf("got %d subnets, want 12", n)
	}
}

func TestAnInstanceIsNeverInASubnetThatIsGone(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	for k := range 10 {
		subnet := r.subnetOf(vpc, fmt.Sprintf("10.0.%d.0/24", k))
		in := *small()
		in.SubnetId = subnet
		var launched, deleted string
		var wg sync.WaitGroup
		wg.Go(func() { _, launched = try(r, r.RunInstances, in) })
		wg.Go(func() { _, deleted = try(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet}) })
		wg.Wait()
		if got := launched + "/" + deleted; got != "/DependencyViolation" && got != "InvalidSubnetID.NotFound/" {
			t.Errorf("got %q, want one of the two to win", got)
		}
	}
}

func TestOtherAccountsSeeNoNetworks(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, table, gateway := r.subnetOf(vpc, "10.0.1.0/24"), r.table(vpc), r.gateway(vpc)
	association := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet}).AssociationId
	nat := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: r.elastic()}).NatGateway.NatGatewayId
	block := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{VpcIds: []string{vpc}}).Vpcs[0].CidrBlockAssociationSet[0].AssociationId
	was := r.head()
	r.ctx = api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	for name, c := range map[string]struct{ got, want string }{
		"DeleteVpc":                    {second(try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc})), "InvalidVpcID.NotFound"},
		"CreateSubnet":                 {second(try(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: "10.0.2.0/24"})), "InvalidVpcID.NotFound"},
		"DeleteSubnet":                 {second(try(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet})), "InvalidSubnetID.NotFound"},
		"ModifySubnetAttribute":        {second(try(r, r.ModifySubnetAttribute, shape.ModifySubnetAttributeInput{SubnetId: subnet, MapPublicIpOnLaunch: flag(true)})), "InvalidSubnetID.NotFound"},
		"ModifyVpcAttribute":           {second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableDnsSupport: flag(true)})), "InvalidVpcID.NotFound"},
		"DisassociateVpcCidrBlock":     {second(try(r, r.DisassociateVpcCidrBlock, shape.DisassociateVpcCidrBlockInput{AssociationId: block})), "InvalidVpcCidrBlockAssociationID.NotFound"},
		"CreateRoute":                  {second(try(r, r.CreateRoute, shape.CreateRouteInput{RouteTableId: table, GatewayId: gateway, DestinationCidrBlock: "0.0.0.0/0"})), "InvalidRouteTableID.NotFound"},
		"DisassociateRouteTable":       {second(try(r, r.DisassociateRouteTable, shape.DisassociateRouteTableInput{AssociationId: association})), "InvalidAssociationID.NotFound"},
		"ReplaceRouteTableAssociation": {second(try(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{AssociationId: association, RouteTableId: table})), "InvalidAssociationID.NotFound"},
		"DetachInternetGateway":        {second(try(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: vpc})), "InvalidInternetGatewayID.NotFound"},
		"DeleteNatGateway":             {second(try(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: nat})), "NatGatewayNotFound"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
	if r.head() != was {
		t.Error("something was written")
	}
	if n := len(do(r, r.DescribeVpcs, shape.DescribeVpcsInput{}).Vpcs) + len(do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{}).Subnets) +
		len(do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{}).RouteTables) + len(do(r, r.DescribeNatGateways, shape.DescribeNatGatewaysInput{}).NatGateways); n != 0 {
		t.Errorf("they see %d", n)
	}
}

func second[T any](_ T, code string) string { return code }

func TestADryRunOfTheNetworkWritesNothing(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, table, gateway := r.subnetOf(vpc, "10.0.1.0/24"), r.table(vpc), r.gateway(vpc)
	association := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet}).AssociationId
	free, address := r.gateway(""), r.elastic()
	route := shape.CreateRouteInput{RouteTableId: table, GatewayId: gateway, DestinationCidrBlock: "0.0.0.0/0"}
	do(r, r.CreateRoute, route)
	was := r.head()
	dry := ptr(true)
	do(r, r.CreateVpc, shape.CreateVpcInput{DryRun: dry, CidrBlock: "10.0.0.0/16", AmazonProvidedIpv6CidrBlock: dry})
	do(r, r.CreateSubnet, shape.CreateSubnetInput{DryRun: dry, VpcId: vpc, CidrBlock: "10.0.2.0/24"})
	do(r, r.DeleteSubnet, shape.DeleteSubnetInput{DryRun: dry, SubnetId: subnet})
	do(r, r.CreateRouteTable, shape.CreateRouteTableInput{DryRun: dry, VpcId: vpc, ClientToken: "t"})
	do(r, r.DeleteRoute, shape.DeleteRouteInput{DryRun: dry, RouteTableId: table, DestinationCidrBlock: "0.0.0.0/0"})
	do(r, r.ReplaceRoute, shape.ReplaceRouteInput{DryRun: dry, RouteTableId: table, DestinationCidrBlock: "0.0.0.0/0", GatewayId: gateway})
	do(r, r.DisassociateRouteTable, shape.DisassociateRouteTableInput{DryRun: dry, AssociationId: association})
	do(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{DryRun: dry, AssociationId: association, RouteTableId: table})
	do(r, r.CreateInternetGateway, shape.CreateInternetGatewayInput{DryRun: dry})
	do(r, r.DeleteInternetGateway, shape.DeleteInternetGatewayInput{DryRun: dry, InternetGatewayId: free})
	do(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{DryRun: dry, InternetGatewayId: gateway, VpcId: vpc})
	do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{DryRun: dry, SubnetId: subnet, AllocationId: address, ClientToken: "t"})
	route.DryRun = dry
	if got := second(try(r, r.CreateRoute, route)); got != "RouteAlreadyExists" {
		t.Errorf("a dry run of what would be refused: got %q", got)
	}
	if r.head() != was {
		t.Error("something was written")
	}
}

func TestWhatIsNotThereIsEmptyAndChecked(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"vpc-id", "service-name", "vpc-endpoint-state", "tag:Name", "tag-key"} {
		if out := do(r, r.DescribeVpcEndpoints, shape.DescribeVpcEndpointsInput{Filters: filter(name, "*")}); len(out.VpcEndpoints) != 0 {
			t.Errorf("got %v", out.VpcEndpoints)
		}
	}
	for _, name := range []string{"prefix-list-id", "prefix-list-name"} {
		if out := do(r, r.DescribePrefixLists, shape.DescribePrefixListsInput{Filters: filter(name, "*")}); len(out.PrefixLists) != 0 {
			t.Errorf("got %v", out.PrefixLists)
		}
	}
	for name, c := range map[string]struct{ got, want string }{
		"a filter of endpoints":    {second(try(r, r.DescribeVpcEndpoints, shape.DescribeVpcEndpointsInput{Filters: filter("colour", "red")})), "InvalidParameterValue"},
		"a filter of prefix lists": {second(try(r, r.DescribePrefixLists, shape.DescribePrefixListsInput{Filters: filter("vpc-id", "x")})), "InvalidParameterValue"},
		"an endpoint":              {second(try(r, r.DescribeVpcEndpoints, shape.DescribeVpcEndpointsInput{VpcEndpointIds: []string{"vpce-12345678"}})), "InvalidVpcEndpointId.NotFound"},
		"a prefix list":            {second(try(r, r.DescribePrefixLists, shape.DescribePrefixListsInput{PrefixListIds: []string{"pl-12345678"}})), "InvalidPrefixListID.NotFound"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
}
