package ec2

import (
	"context"
	"errors"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// GetSecurityGroupsForVpc shows the groups that an interface in the VPC may be in: its own, none is shared.
func (s *Service) GetSecurityGroupsForVpc(ctx context.Context, in *shape.GetSecurityGroupsForVpcInput) (*shape.GetSecurityGroupsForVpcOutput, error) {
	type item = shape.SecurityGroupForVpc
	q := query[item]{in: in, filters: in.Filters, id: func(v item) string { return v.GroupId }, tags: func(v item) []shape.Tag { return v.Tags },
		fields: fields[item]{
			"group-id":       func(v item) []string { return one(v.GroupId) },
			"group-name":     func(v item) []string { return one(v.GroupName) },
			"description":    func(v item) []string { return one(v.Description) },
			"owner-id":       func(v item) []string { return one(v.OwnerId) },
			"primary-vpc-id": func(v item) []string { return one(v.PrimaryVpcId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]item, error) {
		_, err1 := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		all, err2 := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, nil, caller(ctx), aGroup)
		var out []item
		for _, g := range all {
			if string(g.VPC) == in.VpcId {
				out = append(out, item{GroupId: string(g.ID), GroupName: g.Name, Description: g.Description, OwnerId: string(g.Account), PrimaryVpcId: in.VpcId, Tags: tags(g.Tags)})
			}
		}
		return out, errors.Join(err1, err2)
	})
	return &shape.GetSecurityGroupsForVpcOutput{SecurityGroupForVpcs: page, NextToken: next}, err
}

// DescribeSecurityGroupReferences shows the VPCs at the other end of peerings whose rules name the groups: there are no
// peerings.
func (s *Service) DescribeSecurityGroupReferences(ctx context.Context, in *shape.DescribeSecurityGroupReferencesInput) (*shape.DescribeSecurityGroupReferencesOutput, error) {
	_, err := namedGroups(s.Mirror.Snapshot(), caller(ctx), in.GroupId, nil)
	return &shape.DescribeSecurityGroupReferencesOutput{SecurityGroupReferenceSet: []shape.SecurityGroupReference{}}, err
}

// DescribeStaleSecurityGroups shows the groups of a VPC whose rules name groups of peerings that are gone: there never
// were any, and a group that a rule names cannot be deleted.
func (s *Service) DescribeStaleSecurityGroups(ctx context.Context, in *shape.DescribeStaleSecurityGroupsInput) (*shape.DescribeStaleSecurityGroupsOutput, error) {
	type stale = shape.StaleSecurityGroup
	q := query[stale]{in: in, id: func(v stale) string { return v.GroupId }, most: 255}
	page, _, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]stale, error) {
		_, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		return nil, err
	})
	return &shape.DescribeStaleSecurityGroupsOutput{StaleSecurityGroupSet: page}, err
}
