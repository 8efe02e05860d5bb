package ec2

import (
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
)

func TestTheGroupsOfAVPC(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	own := do(r, r.CreateSecurityGroup, shape.CreateSecurityGroupInput{GroupName: "web", Description: "for the web", VpcId: vpc}).GroupId
	got := do(r, r.GetSecurityGroupsForVpc, shape.GetSecurityGroupsForVpcInput{VpcId: vpc}).SecurityGroupForVpcs
	if len(got) != 2 || got[0].PrimaryVpcId != vpc || got[1].PrimaryVpcId != vpc {
		t.Errorf("got %+v, want the default group and web", got)
	}
	got = do(r, r.GetSecurityGroupsForVpc, shape.GetSecurityGroupsForVpcInput{VpcId: vpc, Filters: filter("group-name", "web")}).SecurityGroupForVpcs
	if len(got) != 1 || got[0].GroupId != own || got[0].Description != "for the web" || got[0].OwnerId != "000000000000" {
		t.Errorf("got %+v, want web", got)
	}
	if got := do(r, r.DescribeSecurityGroupReferences, shape.DescribeSecurityGroupReferencesInput{GroupId: []string{own}}).SecurityGroupReferenceSet; len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if got := do(r, r.DescribeStaleSecurityGroups, shape.DescribeStaleSecurityGroupsInput{VpcId: vpc}).StaleSecurityGroupSet; len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if !yes(do(r, r.ModifyVpcTenancy, shape.ModifyVpcTenancyInput{VpcId: vpc, InstanceTenancy: "default"}).ReturnValue) {
		t.Error("a VPC may not become what it is")
	}
	if got := do(r, r.DescribeManagedPrefixLists, shape.DescribeManagedPrefixListsInput{}).PrefixLists; len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	for _, c := range []struct{ name, got, want string }{
		{"groups of a VPC that is not there", second(try(r, r.GetSecurityGroupsForVpc, shape.GetSecurityGroupsForVpcInput{VpcId: "vpc-00000000000000001"})), "InvalidVpcID.NotFound"},
		{"groups with a filter of another action", second(try(r, r.GetSecurityGroupsForVpc, shape.GetSecurityGroupsForVpcInput{VpcId: vpc, Filters: filter("vpc-id", vpc)})), "InvalidParameterValue"},
		{"references to a group that is not there", second(try(r, r.DescribeSecurityGroupReferences, shape.DescribeSecurityGroupReferencesInput{GroupId: []string{"sg-00000000000000001"}})), "InvalidGroup.NotFound"},
		{"stale groups of a VPC that is not there", second(try(r, r.DescribeStaleSecurityGroups, shape.DescribeStaleSecurityGroupsInput{VpcId: "vpc-00000000000000001"})), "InvalidVpcID.NotFound"},
		{"another tenancy", second(try(r, r.ModifyVpcTenancy, shape.ModifyVpcTenancyInput{VpcId: vpc, InstanceTenancy: "dedicated"})), "InvalidParameterValue"},
		{"the tenancy of a VPC that is not there", second(try(r, r.ModifyVpcTenancy, shape.ModifyVpcTenancyInput{VpcId: "vpc-00000000000000001", InstanceTenancy: "default"})), "InvalidVpcID.NotFound"},
		{"a list of prefixes that is not there", second(try(r, r.DescribeManagedPrefixLists, shape.DescribeManagedPrefixListsInput{PrefixListIds: []string{"pl-1"}})), "InvalidPrefixListID.NotFound"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
}
