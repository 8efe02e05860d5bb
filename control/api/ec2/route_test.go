package ec2

import (
	"fmt"
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// shown returns the routes of a table that somebody made, one per line.
func (r *rig) shown(table string) string {
	var out []string
	for _, o := range do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{RouteTableIds: []string{table}}).RouteTables[0].Routes {
		if o.Origin == "CreateRoute" {
			target, _, _ := strings.Cut(o.GatewayId+o.NatGatewayId+o.NetworkInterfaceId, "-")
			out = append(out, fmt.Sprint(o.DestinationCidrBlock, o.DestinationIpv6CidrBlock, " ", target, " ", o.State))
		}
	}
	return strings.Join(out, "\n")
}

func TestRoutesLeadToWhatIsThere(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, table, gateway := r.subnetOf(vpc, "10.0.1.0/24"), r.table(vpc), r.gateway(vpc)
	in := small()
	in.SubnetId = subnet
	i := r.run(in).Instances[0]
	nat := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, AllocationId: r.elastic()}).NatGateway.NatGatewayId
	route := func(in shape.CreateRouteInput) {
		t.Helper()
		in.RouteTableId = table
		if out := do(r, r.CreateRoute, in); !yes(out.Return) {
			t.Errorf("got %+v", out)
		}
	}
	route(shape.CreateRouteInput{DestinationCidrBlock: "0.0.0.0/0", GatewayId: gateway})
	route(shape.CreateRouteInput{DestinationIpv6CidrBlock: "::/0", GatewayId: gateway})
	route(shape.CreateRouteInput{DestinationCidrBlock: "198.51.100.9/24", NatGatewayId: nat})
	route(shape.CreateRouteInput{DestinationCidrBlock: "192.168.1.0/24", InstanceId: i.InstanceId})
	route(shape.CreateRouteInput{DestinationCidrBlock: "192.168.2.0/24", NetworkInterfaceId: i.NetworkInterfaces[0].NetworkInterfaceId})
	if got, want := r.shown(table), "0.0.0.0/0 igw active\n::/0 igw active\n198.51.100.0/24 nat active\n192.168.1.0/24 eni active\n192.168.2.0/24 eni active"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	association := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet}).AssociationId
	for name, want := range map[string]string{
		"route.gateway-id": gateway, "route.nat-gateway-id": nat, "route.instance-id": i.InstanceId, "route.destination-cidr-block": "198.51.100.0/24",
		"route.destination-ipv6-cidr-block": "::/0", "route.origin": "CreateRoute", "route.state": "active", "association.subnet-id": subnet,
		"association.route-table-association-id": association, "association.route-table-id": table, "association.main": "false",
		"route-table-id": table, "vpc-id": vpc, "owner-id": "000000000000",
	} {
		all := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: append(filter(name, want), filter("association.subnet-id", subnet)...)}).RouteTables
		if len(all) != 1 || all[0].RouteTableId != table {
			t.Errorf("%s=%s: got %+v", name, want, all)
		}
	}
	for _, name := range []string{"route.transit-gateway-id", "route.vpc-peering-connection-id", "route.egress-only-internet-gateway-id", "route.destination-prefix-list-id", "association.gateway-id"} {
		if all := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: filter(name, "*")}).RouteTables; len(all) != 0 {
			t.Errorf("%s: got %+v, want none", name, all)
		}
	}

	do(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: nat})
	do(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: vpc})
	do(r, r.DeleteInternetGateway, shape.DeleteInternetGatewayInput{InternetGatewayId: gateway})
	o, _ := store.Get(r.ctx, r.Store, store.Interfaces, i.NetworkInterfaces[0].NetworkInterfaceId)
	alone := o.Value
	alone.Instance = ""
	r.write(func(t *store.Txn) { store.Update(t, store.Interfaces, o, alone) })
	if got, want := r.shown(table), "0.0.0.0/0 igw blackhole\n::/0 igw blackhole\n198.51.100.0/24 nat blackhole\n192.168.1.0/24 eni blackhole\n192.168.2.0/24 eni blackhole"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	do(r, r.ReplaceRoute, shape.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: "0.0.0.0/0", GatewayId: r.gateway(vpc)})
	for _, d := range []string{"198.51.100.0/24", "192.168.1.0/24", "192.168.2.0/24"} {
		do(r, r.DeleteRoute, shape.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: d})
	}
	do(r, r.DeleteRoute, shape.DeleteRouteInput{RouteTableId: table, DestinationIpv6CidrBlock: "::/0"})
	if got, want := r.shown(table), "0.0.0.0/0 igw active"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRefusedRoutes(t *testing.T) {
	r := newRig(t)
	vpc, other := r.vpc("10.0.0.0/16"), r.vpc("10.1.0.0/16")
	table, gateway := r.table(vpc), r.gateway(vpc)
	theirs, loose := r.gateway(other), r.gateway("")
	away := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: r.subnetOf(other, "10.1.1.0/24"), ConnectivityType: "private"}).NatGateway
	gone := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: r.subnetOf(vpc, "10.0.1.0/24"), ConnectivityType: "private"}).NatGateway.NatGatewayId
	do(r, r.DeleteNatGateway, shape.DeleteNatGatewayInput{NatGatewayId: gone})
	elsewhere := r.run(small()).Instances[0]
	two := r.run(small()).Instances[0]
	o, _ := store.Get(r.ctx, r.Store, store.Instances, two.InstanceId)
	i := o.Value
	i.Interfaces = append(i.Interfaces, i.Interfaces[0])
	r.write(func(t *store.Txn) { store.Update(t, store.Instances, o, i) })
	do(r, r.CreateRoute, shape.CreateRouteInput{RouteTableId: table, GatewayId: gateway, DestinationCidrBlock: "0.0.0.0/0"})
	was := r.head()
	to := func(f func(in *shape.CreateRouteInput)) string {
		in := shape.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: "192.168.0.0/16"}
		f(&in)
		return second(try(r, r.CreateRoute, in))
	}
	for _, c := range []struct{ name, got, want string }{
		{"no target", to(func(in *shape.CreateRouteInput) {}), "MissingParameter"},
		{"two targets", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.NatGatewayId = gateway, gone }), "InvalidParameterCombination"},
		{"no destination", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.DestinationCidrBlock = gateway, "" }), "InvalidParameterCombination"},
		{"two destinations", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.DestinationIpv6CidrBlock = gateway, "::/0" }), "InvalidParameterCombination"},
		{"a destination of the other family", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.DestinationCidrBlock = gateway, "::/0" }), "InvalidParameterValue"},
		{"a prefix list", to(func(in *shape.CreateRouteInput) {
			in.GatewayId, in.DestinationCidrBlock, in.DestinationPrefixListId = gateway, "", "pl-12345678"
		}), "InvalidPrefixListID.NotFound"},
		{"a destination that is there", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.DestinationCidrBlock = gateway, "0.0.0.0/0" }), "RouteAlreadyExists"},
		{"the local one", to(func(in *shape.CreateRouteInput) { in.GatewayId, in.DestinationCidrBlock = gateway, "10.0.0.0/16" }), "RouteAlreadyExists"},
		{"no gateway", to(func(in *shape.CreateRouteInput) { in.GatewayId = "igw-12345678" }), "InvalidGatewayID.NotFound"},
		{"another VPC's gateway", to(func(in *shape.CreateRouteInput) { in.GatewayId = theirs }), "InvalidParameterValue"},
		{"a gateway of no VPC", to(func(in *shape.CreateRouteInput) { in.GatewayId = loose }), "InvalidParameterValue"},
		{"a private gateway", to(func(in *shape.CreateRouteInput) { in.GatewayId = "vgw-12345678" }), "UnsupportedOperation"},
		{"no NAT gateway", to(func(in *shape.CreateRouteInput) { in.NatGatewayId = "nat-12345678" }), "InvalidNatGatewayID.NotFound"},
		{"a deleted NAT gateway", to(func(in *shape.CreateRouteInput) { in.NatGatewayId = gone }), "InvalidNatGatewayID.NotFound"},
		{"another VPC's NAT gateway", to(func(in *shape.CreateRouteInput) { in.NatGatewayId = away.NatGatewayId }), "InvalidParameterValue"},
		{"no instance", to(func(in *shape.CreateRouteInput) { in.InstanceId = "i-12345678" }), "InvalidInstanceID.NotFound"},
		{"another VPC's instance", to(func(in *shape.CreateRouteInput) { in.InstanceId = elsewhere.InstanceId }), "InvalidParameterValue"},
		{"an instance with two interfaces", to(func(in *shape.CreateRouteInput) { in.InstanceId = two.InstanceId }), "InvalidInstanceID"},
		{"no interface", to(func(in *shape.CreateRouteInput) { in.NetworkInterfaceId = "eni-12345678" }), "InvalidNetworkInterfaceID.NotFound"},
		{"a transit gateway", to(func(in *shape.CreateRouteInput) { in.TransitGatewayId = "tgw-12345678" }), "UnsupportedOperation"},
		{"a peering", to(func(in *shape.CreateRouteInput) { in.VpcPeeringConnectionId = "pcx-12345678" }), "UnsupportedOperation"},
		{"an egress-only gateway", to(func(in *shape.CreateRouteInput) { in.EgressOnlyInternetGatewayId = "eigw-12345678" }), "UnsupportedOperation"},
		{"no table", to(func(in *shape.CreateRouteInput) { in.RouteTableId, in.GatewayId = "rtb-12345678", gateway }), "InvalidRouteTableID.NotFound"},
		{"replace what is not there", second(try(r, r.ReplaceRoute, shape.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: "192.168.0.0/16", GatewayId: gateway})), "InvalidParameterValue"},
		{"what is not local, by local", second(try(r, r.ReplaceRoute, shape.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: "0.0.0.0/0", LocalTarget: ptr(true)})), "InvalidParameterValue"},
		{"delete what is not there", second(try(r, r.DeleteRoute, shape.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: "192.168.0.0/16"})), "InvalidRoute.NotFound"},
		{"delete the local one", second(try(r, r.DeleteRoute, shape.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: "10.0.0.0/16"})), "InvalidParameterValue"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if r.head() != was {
		t.Error("something was written")
	}
	do(r, r.ReplaceRoute, shape.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: "10.0.0.0/16", LocalTarget: ptr(true)})
}

func TestWhoUsesWhichTable(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, first, spare := r.subnetOf(vpc, "10.0.1.0/24"), r.table(vpc), r.table(vpc)
	users := func(table string) (out []string) {
		for _, a := range do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{RouteTableIds: []string{table}}).RouteTables[0].Associations {
			if a.AssociationState.State != "associated" || a.RouteTableId != table {
				t.Errorf("got %+v", a)
			}
			out = append(out, a.SubnetId+map[bool]string{true: "main"}[yes(a.Main)])
		}
		return out
	}
	want := func(table, who string) {
		t.Helper()
		if got := strings.Join(users(table), " "); got != who {
			t.Errorf("%s: got %q, want %q", table, got, who)
		}
	}
	main := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: append(filter("vpc-id", vpc), filter("association.main", "true")...)}).RouteTables[0]
	a := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: first, SubnetId: subnet}).AssociationId
	want(main.RouteTableId, "main")
	want(first, subnet)
	if again := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: first, SubnetId: subnet}).AssociationId; again != a {
		t.Errorf("the same again: got %s, want %s", again, a)
	}
	b := do(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{AssociationId: a, RouteTableId: spare}).NewAssociationId
	want(first, "")
	want(spare, subnet)
	if _, code := try(r, r.DisassociateRouteTable, shape.DisassociateRouteTableInput{AssociationId: a}); code != "InvalidAssociationID.NotFound" {
		t.Errorf("the association that was replaced: got %q", code)
	}
	_, err := r.DeleteRouteTable(r.ctx, &shape.DeleteRouteTableInput{RouteTableId: spare})
	if cloud.Code(err) != "DependencyViolation" || !strings.Contains(err.Error(), subnet) {
		t.Errorf("got %v, want it to name %s", err, subnet)
	}
	do(r, r.DisassociateRouteTable, shape.DisassociateRouteTableInput{AssociationId: b})
	do(r, r.DeleteRouteTable, shape.DeleteRouteTableInput{RouteTableId: spare})

	mainID := main.Associations[0].RouteTableAssociationId
	if _, code := try(r, r.DisassociateRouteTable, shape.DisassociateRouteTableInput{AssociationId: mainID}); code != "InvalidParameterValue" {
		t.Errorf("the main association: got %q", code)
	}
	if _, code := try(r, r.DeleteRouteTable, shape.DeleteRouteTableInput{RouteTableId: main.RouteTableId}); code != "DependencyViolation" {
		t.Errorf("the main table: got %q", code)
	}
	next := do(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{AssociationId: mainID, RouteTableId: first}).NewAssociationId
	want(first, "main")
	want(main.RouteTableId, "")
	if next == mainID {
		t.Error("the association has the same ID, want a new one")
	}
	do(r, r.DeleteRouteTable, shape.DeleteRouteTableInput{RouteTableId: main.RouteTableId})
	other := r.table(r.vpc("10.1.0.0/16"))
	for name, code := range map[string]string{
		"another VPC's as main": second(try(r, r.ReplaceRouteTableAssociation, shape.ReplaceRouteTableAssociationInput{AssociationId: next, RouteTableId: other})),
		"another VPC's":         second(try(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: other, SubnetId: subnet})),
		"malformed":             second(try(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: first, GatewayId: "igw-12345678"})),
	} {
		if want := map[bool]string{true: "UnsupportedOperation", false: "InvalidParameterValue"}[name == "malformed"]; code != want {
			t.Errorf("%s: got %q, want %q", name, code, want)
		}
	}
	do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet})
	do(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc}) // with the table that became the main one
}

func TestAClientTokenMakesOneTable(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	in := shape.CreateRouteTableInput{VpcId: vpc, ClientToken: "once", TagSpecifications: named1("route-table")}
	first, again := do(r, r.CreateRouteTable, in), do(r, r.CreateRouteTable, in)
	if first.RouteTable.RouteTableId != again.RouteTable.RouteTableId || again.ClientToken != "once" || again.RouteTable.Tags[0].Value != "mine" {
		t.Errorf("got %+v and %+v, want one table", first.RouteTable, again.RouteTable)
	}
	in.TagSpecifications = nil
	if _, code := try(r, r.CreateRouteTable, in); code != "IdempotentParameterMismatch" {
		t.Errorf("another request: got %q", code)
	}
	in.ClientToken = strings.Repeat("x", 65)
	if _, code := try(r, r.CreateRouteTable, in); code != "InvalidParameterValue" {
		t.Errorf("a long token: got %q", code)
	}
}
