package ec2

import (
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestASubnetShowsWhatItHas(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	s := do(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: vpc, CidrBlock: "10.0.1.77/24", TagSpecifications: named1("subnet")}).Subnet
	if s.CidrBlock != "10.0.1.0/24" || s.AvailabilityZone != "r-1a" || *s.AvailableIpAddressCount != 251 || s.State != "available" || yes(s.MapPublicIpOnLaunch) || s.Tags[0].Value != "mine" {
		t.Errorf("got %+v", s)
	}
	in := small()
	in.SubnetId = s.SubnetId
	r.run(in)
	do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: s.SubnetId, ConnectivityType: "private"})
	for name, want := range map[string]string{
		"subnet-id": s.SubnetId, "subnet-arn": "arn:aws:ec2:r-1:000000000000:subnet/" + s.SubnetId, "vpc-id": vpc, "cidr-block": "10.0.1.0/24",
		"availability-zone": "r-1a", "availability-zone-id": "r1-az1", "available-ip-address-count": "249", "default-for-az": "false", "state": "available",
		"owner-id": "000000000000", "map-public-ip-on-launch": "false", "map-customer-owned-ip-on-launch": "false", "enable-dns64": "false", "ipv6-native": "false",
		"private-dns-name-options-on-launch.hostname-type": "ip-name", "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": "false",
		"private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": "false", "tag:Name": "mine", "tag-key": "Name",
	} {
		if all := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: append(filter(name, want), filter("cidr", "10.*")...)}).Subnets; len(all) != 1 {
			t.Errorf("%s=%s: got %d subnets, want 1", name, want, len(all))
		}
	}
	for _, name := range []string{"outpost-arn", "customer-owned-ipv4-pool", "enable-lni-at-device-index", "ipv6-cidr-block-association.ipv6-cidr-block", "ipv6-cidr-block-association.association-id", "ipv6-cidr-block-association.state"} {
		if all := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: filter(name, "*")}).Subnets; len(all) != 0 {
			t.Errorf("%s: got %d subnets, want none", name, len(all))
		}
	}
}

func TestRefusedSubnets(t *testing.T) {
	r := newRig(t)
	r.write(func(t *store.Txn) { store.Create(t, store.Hosts, "h-2", cloud.Host{ID: "h-2", Zone: "r-1b"}) })
	vpc := r.vpc("10.0.0.0/16")
	subnet := r.subnetOf(vpc, "10.0.1.0/24")
	was := r.head()
	create := func(f func(in *shape.CreateSubnetInput)) string {
		in := shape.CreateSubnetInput{VpcId: vpc, CidrBlock: "10.0.2.0/24", DryRun: ptr(true)}
		f(&in)
		return second(try(r, r.CreateSubnet, in))
	}
	modify := func(f func(in *shape.ModifySubnetAttributeInput)) string {
		in := shape.ModifySubnetAttributeInput{SubnetId: subnet}
		f(&in)
		return second(try(r, r.ModifySubnetAttribute, in))
	}
	for _, c := range []struct{ name, got, want string }{
		{"a good one", create(func(in *shape.CreateSubnetInput) {}), ""},
		{"in another zone that has a host", create(func(in *shape.CreateSubnetInput) { in.AvailabilityZone = "r-1b" }), ""},
		{"in a zone by its ID", create(func(in *shape.CreateSubnetInput) { in.AvailabilityZoneId = "r1-az2" }), ""},
		{"in a zone by both", create(func(in *shape.CreateSubnetInput) { in.AvailabilityZone, in.AvailabilityZoneId = "r-1a", "r1-az2" }), "InvalidParameterCombination"},
		{"in no zone", create(func(in *shape.CreateSubnetInput) { in.AvailabilityZone = "r-1c" }), "InvalidParameterValue"},
		{"in no zone by its ID", create(func(in *shape.CreateSubnetInput) { in.AvailabilityZoneId = "r1-az3" }), "InvalidParameterValue"},
		{"no block", create(func(in *shape.CreateSubnetInput) { in.CidrBlock = "" }), "MissingParameter"},
		{"a word", create(func(in *shape.CreateSubnetInput) { in.CidrBlock = "ten" }), "InvalidParameterValue"},
		{"outside of the VPC", create(func(in *shape.CreateSubnetInput) { in.CidrBlock = "10.1.0.0/24" }), "InvalidSubnet.Range"},
		{"over another", create(func(in *shape.CreateSubnetInput) { in.CidrBlock = "10.0.0.0/20" }), "InvalidSubnet.Conflict"},
		{"IPv6 that the VPC has not", create(func(in *shape.CreateSubnetInput) { in.Ipv6CidrBlock = "fd00::/64" }), "InvalidSubnet.Range"},
		{"IPv4 as IPv6", create(func(in *shape.CreateSubnetInput) { in.Ipv6CidrBlock = "10.0.0.0/24" }), "InvalidParameterValue"},
		{"only IPv6", create(func(in *shape.CreateSubnetInput) { in.CidrBlock, in.Ipv6Native = "", ptr(true) }), "UnsupportedOperation"},
		{"an Outpost", create(func(in *shape.CreateSubnetInput) { in.OutpostArn = "arn" }), "UnsupportedOperation"},
		{"no VPC", create(func(in *shape.CreateSubnetInput) { in.VpcId = "vpc-12345678" }), "InvalidVpcID.NotFound"},
		{"a malformed VPC", create(func(in *shape.CreateSubnetInput) { in.VpcId = "x" }), "InvalidVpcID.Malformed"},

		{"no attribute", modify(func(in *shape.ModifySubnetAttributeInput) {}), "InvalidParameterCombination"},
		{"two attributes", modify(func(in *shape.ModifySubnetAttributeInput) {
			in.MapPublicIpOnLaunch, in.EnableDns64 = flag(true), flag(false)
		}), "InvalidParameterCombination"},
		{"IPv6 without a block", modify(func(in *shape.ModifySubnetAttributeInput) { in.AssignIpv6AddressOnCreation = flag(true) }), "InvalidParameterValue"},
		{"DNS64", modify(func(in *shape.ModifySubnetAttributeInput) { in.EnableDns64 = flag(true) }), "UnsupportedOperation"},
		{"no DNS64", modify(func(in *shape.ModifySubnetAttributeInput) { in.EnableDns64 = flag(false) }), ""},
		{"names by IDs", modify(func(in *shape.ModifySubnetAttributeInput) { in.PrivateDnsHostnameTypeOnLaunch = "resource-name" }), "UnsupportedOperation"},
		{"names by addresses", modify(func(in *shape.ModifySubnetAttributeInput) { in.PrivateDnsHostnameTypeOnLaunch = "ip-name" }), ""},
		{"names by colour", modify(func(in *shape.ModifySubnetAttributeInput) { in.PrivateDnsHostnameTypeOnLaunch = "red" }), "InvalidParameterValue"},
		{"records by IDs", modify(func(in *shape.ModifySubnetAttributeInput) { in.EnableResourceNameDnsARecordOnLaunch = flag(true) }), "UnsupportedOperation"},
		{"no records by IDs", modify(func(in *shape.ModifySubnetAttributeInput) { in.EnableResourceNameDnsAAAARecordOnLaunch = flag(false) }), ""},
		{"addresses of its own", modify(func(in *shape.ModifySubnetAttributeInput) {
			in.MapCustomerOwnedIpOnLaunch, in.CustomerOwnedIpv4Pool = flag(true), "p"
		}), "UnsupportedOperation"},
		{"no subnet", modify(func(in *shape.ModifySubnetAttributeInput) {
			in.SubnetId, in.MapPublicIpOnLaunch = "subnet-12345678", flag(true)
		}), "InvalidSubnetID.NotFound"},
		{"a default subnet of no zone", second(try(r, r.CreateDefaultSubnet, shape.CreateDefaultSubnetInput{})), "MissingParameter"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if r.head() != was {
		t.Error("something was written")
	}
}

func TestAttributesOfASubnet(t *testing.T) {
	r := newRig(t)
	v := do(r, r.CreateVpc, shape.CreateVpcInput{CidrBlock: "10.0.0.0/16", AmazonProvidedIpv6CidrBlock: ptr(true)}).Vpc
	six := strings.TrimSuffix(v.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock, "/56") + "/64"
	id := do(r, r.CreateSubnet, shape.CreateSubnetInput{VpcId: v.VpcId, CidrBlock: "10.0.1.0/24", Ipv6CidrBlock: six}).Subnet.SubnetId
	for _, on := range []bool{true, false} {
		do(r, r.ModifySubnetAttribute, shape.ModifySubnetAttributeInput{SubnetId: id, MapPublicIpOnLaunch: flag(on)})
		do(r, r.ModifySubnetAttribute, shape.ModifySubnetAttributeInput{SubnetId: id, AssignIpv6AddressOnCreation: flag(on)})
		s := do(r, r.DescribeSubnets, shape.DescribeSubnetsInput{Filters: filter("ipv6-cidr-block-association.ipv6-cidr-block", six)}).Subnets[0]
		if yes(s.MapPublicIpOnLaunch) != on || yes(s.AssignIpv6AddressOnCreation) != on {
			t.Errorf("got %+v, want both %v", s, on)
		}
	}
}

func TestASubnetInUseIsNotDeleted(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet := r.subnetOf(vpc, "10.0.1.0/24")
	in := small()
	in.SubnetId = subnet
	instance := r.run(in).Instances[0].InstanceId
	nat := do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: subnet, ConnectivityType: "private"}).NatGateway.NatGatewayId
	_, err := r.DeleteSubnet(r.ctx, &shape.DeleteSubnetInput{SubnetId: subnet})
	if cloud.Code(err) != "DependencyViolation" || !strings.Contains(err.Error(), instance) || !strings.Contains(err.Error(), nat) {
		t.Errorf("got %v, want it to name %s and %s", err, instance, nat)
	}
}
