package ec2

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestAVPCIsBornWithATableAnACLAndAGroup(t *testing.T) {
	r := newRig(t)
	theDefault := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{Filters: filter("is-default", "true")}).Vpcs[0]
	v := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.18/16", InstanceTenancy: "default", TagSpecifications: named1("vpc")}).Vpc
	if v.CidrBlock != "10.0.0.0/16" || v.State != "available" || yes(v.IsDefault) || v.DhcpOptionsId != theDefault.DhcpOptionsId || v.Tags[0].Value != "mine" {
		t.Errorf("got %+v, want the canonical block, and the DHCP options of the account, %s", v, theDefault.DhcpOptionsId)
	}
	tables := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: append(filter("vpc-id", v.VpcId), filter("association.main", "true")...)}).RouteTables
	if len(tables) != 1 || len(tables[0].Routes) != 1 || tables[0].Routes[0].GatewayId != "local" || tables[0].Routes[0].Origin != "CreateRouteTable" {
		t.Errorf("got tables %+v, want a main one with the local route", tables)
	}
	groups := do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{Filters: filter("vpc-id", v.VpcId)}).SecurityGroups
	if len(groups) != 1 || groups[0].GroupName != "default" || len(groups[0].IpPermissions) != 1 || len(groups[0].IpPermissionsEgress) != 1 {
		t.Errorf("got groups %+v, want the default one with its two rules", groups)
	}
	o, err := store.Get(r.ctx, r.Store, store.VPCs, v.VpcId)
	if err != nil {
		t.Fatal(err)
	}
	if acl, err := store.Get(r.ctx, r.Store, store.NetworkACLs, o.Value.NetworkACL); err != nil || len(acl.Value.Entries) != 2 {
		t.Errorf("got ACL %+v, %v", acl.Value, err)
	}
	was := len(do(r, r.DescribeVpcs, shape.DescribeVpcsInput{}).Vpcs)
	do(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: v.VpcId})
	if n := len(do(r, r.DescribeVpcs, shape.DescribeVpcsInput{}).Vpcs); n != was-1 {
		t.Errorf("got %d VPCs, want %d", n, was-1)
	}
	for what, n := range map[string]int{
		"tables": len(do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: filter("vpc-id", v.VpcId)}).RouteTables),
		"groups": len(do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{Filters: filter("vpc-id", v.VpcId)}).SecurityGroups),
	} {
		if n != 0 {
			t.Errorf("%d %s of the VPC are left", n, what)
		}
	}
	if _, err := store.Get(r.ctx, r.Store, store.NetworkACLs, o.Value.NetworkACL); err == nil {
		t.Error("the ACL of the VPC is left")
	}
}

func TestRefusedVPCs(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	r.subnetOf(vpc, "10.0.1.0/24")
	was := r.head()
	for _, c := range []struct{ name, got, want string }{
		{"no block", second(try(r, r.CreateVpc, shape.CreateVpcInput{})), "MissingParameter"},
		{"no block but a word", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "ten"})), "InvalidParameterValue"},
		{"a block of IPv6", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "fd00::/56"})), "InvalidParameterValue"},
		{"too large", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/8"})), "InvalidVpc.Range"},
		{"a dedicated host", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", InstanceTenancy: "dedicated"})), "UnsupportedOperation"},
		{"an unknown tenancy", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", InstanceTenancy: "x"})), "InvalidParameterValue"},
		{"a pool", second(try(r, r.CreateVpc, shape.CreateVpcInput{Ipv4IpamPoolId: "ipam-pool-1", Ipv4NetmaskLength: number(16)})), "UnsupportedOperation"},
		{"IPv6 of its own", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", Ipv6Pool: "p"})), "UnsupportedOperation"},
		{"another region's border", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", Ipv6CidrBlockNetworkBorderGroup: "us-east-1"})), "InvalidParameterValue"},
		{"tags of something else", second(try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", TagSpecifications: named1("subnet")})), "InvalidParameterValue"},
		{"a second default VPC", second(try(r, r.CreateDefaultVpc, shape.CreateDefaultVpcInput{})), "DefaultVpcAlreadyExists"},
		{"delete a VPC with a subnet", second(try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: vpc})), "DependencyViolation"},
		{"delete no VPC", second(try(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: "vpc-12345678"})), "InvalidVpcID.NotFound"},
		{"two blocks at once", second(try(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: vpc, CidrBlock: "10.1.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)})), "InvalidParameterCombination"},
		{"no further block", second(try(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: vpc})), "MissingParameter"},
		{"a block that is there", second(try(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: vpc, CidrBlock: "10.0.2.0/24"})), "InvalidVpc.Range"},
		{"no attribute", second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc})), "InvalidParameterCombination"},
		{"two attributes", second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableDnsSupport: flag(true), EnableDnsHostnames: flag(true)})), "InvalidParameterCombination"},
		{"metrics", second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableNetworkAddressUsageMetrics: flag(true)})), "UnsupportedOperation"},
		{"no metrics", second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableNetworkAddressUsageMetrics: flag(false)})), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if r.head() != was {
		t.Error("something was written")
	}
	_, err := r.DeleteVpc(r.ctx, &shape.DeleteVpcInput{VpcId: vpc})
	subnet := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: filter("vpc-id", vpc)}).Subnets[0].SubnetId
	if err == nil || !strings.Contains(err.Error(), subnet) {
		t.Errorf("got %v, want it to name %s", err, subnet)
	}
}

func TestAttributesOfAVPC(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	show := func() (out [2]bool) {
		out[0] = yes(do(r, r.DescribeVpcAttribute, shape.DescribeVpcAttributeInput{VpcId: vpc, Attribute: "enableDnsSupport"}).EnableDnsSupport.Value)
		out[1] = yes(do(r, r.DescribeVpcAttribute, shape.DescribeVpcAttributeInput{VpcId: vpc, Attribute: "enableDnsHostnames"}).EnableDnsHostnames.Value)
		return out
	}
	if got, want := show(), [2]bool{true, false}; got != want {
		t.Errorf("a new VPC: got %v, want %v", got, want)
	}
	names := func(v bool) string {
		return second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableDnsHostnames: flag(v)}))
	}
	support := func(v bool) string {
		return second(try(r, r.ModifyVpcAttribute, shape.ModifyVpcAttributeInput{VpcId: vpc, EnableDnsSupport: flag(v)}))
	}
	if got, want := names(true), ""; got != want || show() != [2]bool{true, true} {
		t.Errorf("got %q, %v", got, show())
	}
	if a, b, c := names(false), support(false), names(true); a != "" || b != "" || c != "InvalidParameterCombination" {
		t.Errorf("names without support: got %q %q %q", a, b, c)
	}
}

func TestBlocksOfAVPC(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.2.0.0/16")
	table := r.table(vpc)
	four := do(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: vpc, CidrBlock: "10.3.0.0/16"}).CidrBlockAssociation
	six := do(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: vpc, AmazonProvidedIpv6CidrBlock: ptr(true)}).Ipv6CidrBlockAssociation
	p := netip.MustParsePrefix(six.Ipv6CidrBlock)
	if p.Bits() != 56 || !p.Addr().IsPrivate() || six.Ipv6Pool != "Amazon" || six.NetworkBorderGroup != r.Region || four.CidrBlockState.State != "associated" {
		t.Errorf("got %+v, %+v, want a unique local /56", four, six)
	}
	for name, want := range map[string]string{
		"cidr-block-association.cidr-block": "10.3.0.0/16", "cidr-block-association.association-id": four.AssociationId, "cidr-block-association.state": "associated",
		"ipv6-cidr-block-association.ipv6-cidr-block": six.Ipv6CidrBlock, "ipv6-cidr-block-association.association-id": six.AssociationId,
		"ipv6-cidr-block-association.ipv6-pool": "Amazon", "ipv6-cidr-block-association.state": "associated", "cidr": "10.2.0.0/16",
	} {
		all := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{Filters: append(filter(name, want), filter("vpc-id", vpc)...)}).Vpcs
		if len(all) != 1 || len(all[0].CidrBlockAssociationSet) != 2 || len(all[0].Ipv6CidrBlockAssociationSet) != 1 {
			t.Errorf("%s=%s: got %+v", name, want, all)
		}
	}
	var local []string
	for _, route := range do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{RouteTableIds: []string{table}}).RouteTables[0].Routes {
		local = append(local, route.DestinationCidrBlock+route.DestinationIpv6CidrBlock+" "+route.GatewayId)
	}
	if want := []string{"10.2.0.0/16 local", "10.3.0.0/16 local", six.Ipv6CidrBlock + " local"}; !slices.Equal(local, want) {
		t.Errorf("got routes %v, want %v", local, want)
	}

	subnet := do(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: "10.3.1.0/24", Ipv6CidrBlock: netip.PrefixFrom(p.Addr(), 64).String()}).Subnet
	if len(subnet.Ipv6CidrBlockAssociationSet) != 1 || !strings.HasPrefix(subnet.Ipv6CidrBlockAssociationSet[0].AssociationId, "subnet-cidr-assoc-") {
		t.Errorf("got %+v", subnet)
	}
	for _, id := range []string{four.AssociationId, six.AssociationId} {
		if _, code := try(r, r.DisassociateVpcCidrBlock, shape.DisassociateVpcCidrBlockInput{AssociationId: id}); code != "InvalidCidrBlock.InUse" {
			t.Errorf("a block with a subnet: got %q", code)
		}
	}
	do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet.SubnetId})
	for _, id := range []string{four.AssociationId, six.AssociationId} {
		if out := do(r, r.DisassociateVpcCidrBlock, shape.DisassociateVpcCidrBlockInput{AssociationId: id}); out.VpcId != vpc {
			t.Errorf("got %+v", out)
		}
	}
	if _, code := try(r, r.DisassociateVpcCidrBlock, shape.DisassociateVpcCidrBlockInput{AssociationId: six.AssociationId}); code != "InvalidVpcCidrBlockAssociationID.NotFound" {
		t.Errorf("twice: got %q", code)
	}
	if v := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{VpcIds: []string{vpc}}).Vpcs[0]; len(v.CidrBlockAssociationSet) != 1 || len(v.Ipv6CidrBlockAssociationSet) != 0 {
		t.Errorf("got %+v", v)
	}
}

// same reads the same bytes again and again until it is told to go on.
type same struct {
	r    *rig
	left int
}

func (s *same) Read(b []byte) (int, error) {
	if len(b) == 8 && s.left > 0 {
		s.left--
		clear(b)
		return len(b), nil
	}
	return s.r.Rand.Read(b)
}

func TestABlockOfIPv6IsOneVPCsOnly(t *testing.T) {
	r := newRig(t)
	unlucky := *r.Service
	unlucky.Rand = &same{r, 3} // the first VPC, and twice the second
	var blocks []string
	for range 2 {
		out, err := unlucky.CreateVpc(r.ctx, &shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)})
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, out.Vpc.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock)
	}
	if blocks[0] != "fd00::/56" || blocks[1] == blocks[0] {
		t.Errorf("got %v, want two blocks", blocks)
	}
}

func TestTheDefaultVPCIsMadeAnew(t *testing.T) {
	r := newRig(t)
	r.write(func(t *store.Txn) {
		store.Create(t, store.Hosts, "h-2", cloud.Host{ID: "h-2", Zone: "r-1b", VCPUs: 4, MemoryMiB: 2048})
	})
	was := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{}).Vpcs[0]
	subnet := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{}).Subnets[0]
	gateway := do(r, r.DescribeInternetGateways, shape.DescribeInternetGatewaysInput{}).InternetGateways[0].InternetGatewayId
	do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: subnet.SubnetId})
	if again := do(r, r.CreateDefaultSubnet, shape.CreateDefaultSubnetInput{AvailabilityZone: "r-1a"}).Subnet; again.CidrBlock != subnet.CidrBlock || !yes(again.DefaultForAz) {
		t.Errorf("got %+v, want the block of the one before", again)
	} else {
		if b := do(r, r.CreateDefaultSubnet, shape.CreateDefaultSubnetInput{AvailabilityZone: "r-1b"}).Subnet; b.CidrBlock != "172.31.16.0/20" {
			t.Errorf("got %s", b.CidrBlock)
		} else {
			do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: b.SubnetId})
		}
		if _, code := try(r, r.CreateDefaultSubnet, shape.CreateDefaultSubnetInput{AvailabilityZone: "r-1a"}); code != "DefaultSubnetAlreadyExistsInAvailabilityZone" {
			t.Errorf("got %q", code)
		}
		do(r, r.DeleteSubnet, shape.DeleteSubnetInput{SubnetId: again.SubnetId})
	}
	do(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: gateway, VpcId: was.VpcId})
	do(r, r.DeleteInternetGateway, shape.DeleteInternetGatewayInput{InternetGatewayId: gateway})
	do(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: was.VpcId})
	if _, code := try(r, r.CreateDefaultSubnet, shape.CreateDefaultSubnetInput{AvailabilityZone: "r-1a"}); code != "DefaultVpcDoesNotExist" {
		t.Errorf("got %q", code)
	}
	r.Elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}
	now := do(r, r.CreateDefaultVpc, shape.CreateDefaultVpcInput{}).Vpc
	if now.CidrBlock != "172.31.0.0/16" || !yes(now.IsDefault) || now.DhcpOptionsId != was.DhcpOptionsId {
		t.Errorf("got %+v", now)
	}
	subnets := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: filter("default-for-az", "true")}).Subnets
	if len(subnets) != 2 || !yes(subnets[0].MapPublicIpOnLaunch) || !yes(subnets[1].MapPublicIpOnLaunch) || yes(subnet.MapPublicIpOnLaunch) {
		t.Errorf("got %+v, want one in each of two zones, with public addresses now that there are some", subnets)
	}
	routes := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: filter("vpc-id", now.VpcId)}).RouteTables[0].Routes
	if len(routes) != 2 || routes[1].State != "active" || !strings.HasPrefix(routes[1].GatewayId, "igw-") {
		t.Errorf("got %+v, want a way out", routes)
	}
	r.run(small()) // the default subnet is there again
}

func TestAVPCWithoutDHCPOptionsSaysDefault(t *testing.T) {
	r := newRig(t)
	all, _ := store.Mirrored(r.Mirror, store.Options)
	r.write(func(t *store.Txn) { store.Delete(t, store.Options, all[0]) })
	v := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16"}).Vpc
	if got := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{Filters: filter("dhcp-options-id", "default")}).Vpcs; len(got) != 1 || got[0].VpcId != v.VpcId {
		t.Errorf("got %+v, want %s", got, v.VpcId)
	}
}

func TestBlocksOfIPv6AreThePoolsAndFreedWithTheirVPC(t *testing.T) {
	r := newRig(t)
	r.IPv6Pool = []netip.Prefix{netip.MustParsePrefix("2001:db8:40::/55")} // room for two
	create := func() (string, string) {
		out, code := try(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.9.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)})
		if code != "" {
			return "", code
		}
		return out.Vpc.VpcId, out.Vpc.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock
	}
	first, a := create()
	_, b := create()
	if got := []string{min(a, b), max(a, b)}; !slices.Equal(got, []string{"2001:db8:40:100::/56", "2001:db8:40::/56"}) {
		t.Errorf("got blocks %v", got)
	}
	if _, code := create(); code != "InsufficientCidrBlocks" {
		t.Errorf("of an empty pool: got %q", code)
	}
	do(r, r.DeleteVpc, shape.DeleteVpcInput{VpcId: first})
	if _, again := create(); again != a {
		t.Errorf("after its VPC is gone: got %s, want %s", again, a)
	}
}

func TestRoutesOfIPv6LeadToAnInternetGatewayOnly(t *testing.T) {
	r := newRig(t)
	v := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.9.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)}).Vpc
	table := do(r, r.CreateRouteTable, shape.CreateRouteTableInput{VpcId: v.VpcId}).RouteTable
	subnet := do(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: v.VpcId, CidrBlock: "10.9.1.0/24"}).Subnet
	n := do(r, r.CreateNetworkInterface, shape.CreateNetworkInterfaceInput{SubnetId: subnet.SubnetId}).NetworkInterface
	in := shape.CreateRouteInput{RouteTableId: table.RouteTableId, DestinationIpv6CidrBlock: "::/0", NetworkInterfaceId: n.NetworkInterfaceId}
	if _, code := try(r, r.CreateRoute, in); code != "UnsupportedOperation" {
		t.Errorf("to an interface: got %q", code)
	}
	g := do(r, r.CreateInternetGateway, shape.CreateInternetGatewayInput{}).InternetGateway
	do(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{VpcId: v.VpcId, InternetGatewayId: g.InternetGatewayId})
	in.NetworkInterfaceId, in.GatewayId = "", g.InternetGatewayId
	do(r, r.CreateRoute, in)
	replace := shape.ReplaceRouteInput{RouteTableId: table.RouteTableId, DestinationIpv6CidrBlock: "::/0", NetworkInterfaceId: n.NetworkInterfaceId}
	if _, code := try(r, r.ReplaceRoute, replace); code != "UnsupportedOperation" {
		t.Errorf("replaced by an interface: got %q", code)
	}
}

// A VPC that has IPv6 lets it out of the groups whose rules for that are those that they were born with.
func TestGroupsLetIPv6OutOfAVPCThatHasIt(t *testing.T) {
	r := newRig(t)
	egress := func(id string) (out []string) {
		t.Helper()
		for _, g := range do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{GroupIds: []string{id}}).SecurityGroups {
			for _, p := range g.IpPermissionsEgress {
				for _, a := range p.IpRanges {
					out = append(out, a.CidrIp)
				}
				for _, a := range p.Ipv6Ranges {
					out = append(out, a.CidrIpv6)
				}
			}
		}
		return out
	}
	first := func(vpc string) string {
		t.Helper()
		return do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{Filters: filter("vpc-id", vpc)}).SecurityGroups[0].GroupId
	}
	both, four := []string{"0.0.0.0/0", "::/0"}, []string{"0.0.0.0/0"}
	born := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.9.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)}).Vpc.VpcId
	if got := egress(first(born)); !slices.Equal(got, both) {
		t.Errorf("of a VPC born with IPv6: got %v", got)
	}
	late := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.9.0.0/16"}).Vpc.VpcId
	changed := do(r, r.CreateSecurityGroup, shape.CreateSecurityGroupInput{GroupName: "g", Description: "d", VpcId: late}).GroupId
	do(r, r.RevokeSecurityGroupEgress, shape.RevokeSecurityGroupEgressInput{GroupId: changed, IpPermissions: []shape.IpPermission{{IpProtocol: "-1", IpRanges: []shape.IpRange{{CidrIp: "0.0.0.0/0"}}}}})
	group := do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{Filters: append(filter("vpc-id", late), filter("group-name", "default")...)}).SecurityGroups[0].GroupId
	if got := egress(group); !slices.Equal(got, four) {
		t.Errorf("without IPv6: got %v", got)
	}
	for range 2 { // a second block of IPv6 adds no second rule
		do(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: late, AmazonProvidedIpv6CidrBlock: ptr(true)})
		if got := egress(group); !slices.Equal(got, both) {
			t.Errorf("after it has got IPv6: got %v", got)
		}
		if got := egress(changed); len(got) != 0 {
			t.Errorf("a group whose owner has changed its rules: got %v", got)
		}
	}
}

func TestIPv6ForAVPCWithMoreGroupsThanATransactionTakes(t *testing.T) {
	r := newRig(t)
	vpc := cloud.VPCID(do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.9.0.0/16"}).Vpc.VpcId)
	const many = store.MaxTxnOps + 1
	born := []cloud.GroupRule{{ID: "sgr-1", Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
	for from := 0; from < many; from += 500 {
		r.write(func(t *store.Txn) {
			for i := from; i < min(from+500, many); i++ {
				id := cloud.GroupID(fmt.Sprintf("sg-%017x", i))
				store.Create(t, store.Groups, id, cloud.SecurityGroup{ID: id, Account: "000000000000", VPC: vpc, Name: fmt.Sprint("g", i), Egress: born})
			}
		})
	}
	do(r, r.AssociateVpcCidrBlock, shape.AssociateVpcCidrBlockInput{VpcId: string(vpc), AmazonProvidedIpv6CidrBlock: ptr(true)})
	opened := 0
	for _, g := range do(r, r.DescribeSecurityGroups, shape.DescribeSecurityGroupsInput{Filters: filter("vpc-id", string(vpc))}).SecurityGroups {
		if len(g.IpPermissionsEgress) == 1 && len(g.IpPermissionsEgress[0].Ipv6Ranges) == 1 {
			opened++
		}
	}
	if opened != many+1 { // and the default group
		t.Errorf("%d groups let IPv6 out, and not %d", opened, many+1)
	}
}
