package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeNetworkAcls shows network ACLs with their entries and the subnets that use them.
func (s *Service) DescribeNetworkAcls(ctx context.Context, in *shape.DescribeNetworkAclsInput) (*shape.DescribeNetworkAclsOutput, error) {
	q := query[shape.NetworkAcl]{in: in, filters: in.Filters, id: func(v shape.NetworkAcl) string { return v.NetworkAclId }, tags: func(v shape.NetworkAcl) []shape.Tag { return v.Tags }, fields: aclFields()}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.NetworkAcl, error) {
		all, err := list[cloud.NetworkACL, cloud.NetworkACLID](snap, store.NetworkACLs, in.NetworkAclIds, caller(ctx), aNetworkACL)
		if err != nil {
			return nil, err
		}
		w, err := aclLook(snap)
		if err != nil {
			return nil, err
		}
		out := make([]shape.NetworkAcl, len(all))
		for k, a := range all {
			out[k] = w.acl(a)
		}
		return out, nil
	})
	return &shape.DescribeNetworkAclsOutput{NetworkAcls: page, NextToken: next}, err
}

func aclFields() fields[shape.NetworkAcl] {
	f := fields[shape.NetworkAcl]{
		"network-acl-id": func(v shape.NetworkAcl) []string { return one(v.NetworkAclId) },
		"vpc-id":         func(v shape.NetworkAcl) []string { return one(v.VpcId) },
		"owner-id":       func(v shape.NetworkAcl) []string { return one(v.OwnerId) },
		"default":        func(v shape.NetworkAcl) []string { return truth(v.IsDefault) },
	}
	association := func(name string, value func(shape.NetworkAclAssociation) string) {
		f["association."+name] = func(v shape.NetworkAcl) []string { return mapped(v.Associations, value) }
	}
	association("association-id", func(a shape.NetworkAclAssociation) string { return a.NetworkAclAssociationId })
	association("network-acl-id", func(a shape.NetworkAclAssociation) string { return a.NetworkAclId })
	association("subnet-id", func(a shape.NetworkAclAssociation) string { return a.SubnetId })
	entry := func(name string, values func(shape.NetworkAclEntry) []string) {
		f["entry."+name] = func(v shape.NetworkAcl) []string {
			var out []string
			for _, e := range v.Entries {
				out = append(out, values(e)...)
			}
			return out
		}
	}
	icmp := func(e shape.NetworkAclEntry) shape.IcmpTypeCode {
		if e.IcmpTypeCode == nil {
			return shape.IcmpTypeCode{}
		}
		return *e.IcmpTypeCode
	}
	ports := func(e shape.NetworkAclEntry) shape.PortRange {
		if e.PortRange == nil {
			return shape.PortRange{}
		}
		return *e.PortRange
	}
	entry("cidr", func(e shape.NetworkAclEntry) []string { return one(e.CidrBlock) })
	entry("ipv6-cidr", func(e shape.NetworkAclEntry) []string { return one(e.Ipv6CidrBlock) })
	entry("icmp.code", func(e shape.NetworkAclEntry) []string { return one(digits(icmp(e).Code)) })
	entry("icmp.type", func(e shape.NetworkAclEntry) []string { return one(digits(icmp(e).Type)) })
	entry("port-range.from", func(e shape.NetworkAclEntry) []string { return one(digits(ports(e).From)) })
	entry("port-range.to", func(e shape.NetworkAclEntry) []string { return one(digits(ports(e).To)) })
	entry("egress", func(e shape.NetworkAclEntry) []string { return truth(e.Egress) })
	entry("rule-action", func(e shape.NetworkAclEntry) []string { return one(e.RuleAction) })
	entry("rule-number", func(e shape.NetworkAclEntry) []string { return one(digits(e.RuleNumber)) })
	entry("protocol", func(e shape.NetworkAclEntry) []string { // a filter may have the name or the number
		n, err := cloud.ParseProtocol(e.Protocol)
		if err != nil || cloud.ProtocolName(n) == e.Protocol {
			return one(e.Protocol)
		}
		return []string{e.Protocol, cloud.ProtocolName(n)}
	})
	return f
}
