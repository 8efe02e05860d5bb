package ec2

import (
	"context"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeSecurityGroups shows groups with their rules.
func (s *Service) DescribeSecurityGroups(ctx context.Context, in *shape.DescribeSecurityGroupsInput) (*shape.DescribeSecurityGroupsOutput, error) {
	type item = shape.SecurityGroup
	who, names := caller(ctx), map[string]string{}
	q := query[item]{in: in, filters: in.Filters, id: func(v item) string { return v.GroupId }, tags: func(v item) []shape.Tag { return v.Tags },
		fields: fields[item]{
			"group-id":    func(v item) []string { return one(v.GroupId) },
			"group-name":  func(v item) []string { return one(v.GroupName) },
			"vpc-id":      func(v item) []string { return one(v.VpcId) },
			"description": func(v item) []string { return one(v.Description) },
			"owner-id":    func(v item) []string { return one(v.OwnerId) },
		}}
	permissionFields(q.fields, "ip-permission.", names, func(v item) []shape.IpPermission { return v.IpPermissions })
	permissionFields(q.fields, "egress.ip-permission.", names, func(v item) []shape.IpPermission { return v.IpPermissionsEgress })
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]item, error) {
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, nil, who, aGroup)
		if err != nil {
			return nil, err
		}
		for _, g := range all {
			names[string(g.ID)] = g.Name
		}
		if len(in.GroupIds)+len(in.GroupNames) > 0 {
			if all, err = namedGroups(snap, who, in.GroupIds, in.GroupNames); err != nil {
				return nil, err
			}
		}
		out := make([]item, 0, len(all))
		for _, g := range all {
			out = append(out, item{
				GroupId: string(g.ID), GroupName: g.Name, Description: g.Description, VpcId: string(g.VPC), OwnerId: string(g.Account), Tags: tags(g.Tags),
				IpPermissions: permissions(g, g.Ingress), IpPermissionsEgress: permissions(g, g.Egress),
			})
		}
		return out, nil
	})
	return &shape.DescribeSecurityGroupsOutput{SecurityGroups: page, NextToken: next}, err
}

// namedGroups returns those that a request names, each once.
func namedGroups(snap *store.Snapshot, who cloud.AccountID, ids, names []string) ([]cloud.SecurityGroup, error) {
	var out []cloud.SecurityGroup
	add := func(o store.Object[cloud.SecurityGroup], err error) error {
		if err == nil && !slices.ContainsFunc(out, func(g cloud.SecurityGroup) bool { return g.ID == o.Value.ID }) {
			out = append(out, o.Value)
		}
		return err
	}
	for _, id := range ids {
		if err := add(groupByID(snap, who, id)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if err := add(group(snap, who, "", name)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// permissionFields adds the filters on the rules of one direction. names are those of all groups, by ID.
func permissionFields(f fields[shape.SecurityGroup], prefix string, names map[string]string, of func(shape.SecurityGroup) []shape.IpPermission) {
	add := func(name string, values func(p shape.IpPermission) []string) {
		f[prefix+name] = func(g shape.SecurityGroup) []string {
			var out []string
			for _, p := range of(g) {
				out = append(out, values(p)...)
			}
			return out
		}
	}
	pairs := func(name string, value func(shape.UserIdGroupPair) string) {
		add(name, func(p shape.IpPermission) []string { return mapped(p.UserIdGroupPairs, value) })
	}
	add("cidr", func(p shape.IpPermission) []string {
		return mapped(p.IpRanges, func(r shape.IpRange) string { return r.CidrIp })
	})
	add("ipv6-cidr", func(p shape.IpPermission) []string {
		return mapped(p.Ipv6Ranges, func(r shape.Ipv6Range) string { return r.CidrIpv6 })
	})
	add("from-port", func(p shape.IpPermission) []string { return one(digits(p.FromPort)) })
	add("to-port", func(p shape.IpPermission) []string { return one(digits(p.ToPort)) })
	add("protocol", func(p shape.IpPermission) []string { return one(p.IpProtocol) })
	add("prefix-list-id", func(shape.IpPermission) []string { return nil }) // there are none
	pairs("group-id", func(p shape.UserIdGroupPair) string { return p.GroupId })
	pairs("user-id", func(p shape.UserIdGroupPair) string { return p.UserId })
	pairs("group-name", func(p shape.UserIdGroupPair) string { return names[p.GroupId] })
}

// permissions puts rules of the same protocol and ports together, as EC2 shows them.
func permissions(g cloud.SecurityGroup, rules []cloud.GroupRule) []shape.IpPermission {
	type key struct {
		protocol string
		from, to int
	}
	out := []shape.IpPermission{} // EC2 answers with empty lists too: clients count on their being there
	at := map[key]int{}
	for _, r := range rules {
		k, ok := at[key{r.Protocol, r.FromPort, r.ToPort}]
		if !ok {
			k = len(out)
			at[key{r.Protocol, r.FromPort, r.ToPort}] = k
			p := shape.IpPermission{
				IpProtocol: r.Protocol, IpRanges: []shape.IpRange{}, Ipv6Ranges: []shape.Ipv6Range{},
				PrefixListIds: []shape.PrefixListId{}, UserIdGroupPairs: []shape.UserIdGroupPair{},
			}
			if r.HasPorts() {
				p.FromPort, p.ToPort = number(r.FromPort), number(r.ToPort)
			}
			out = append(out, p)
		}
		p := &out[k]
		switch {
		case r.Group != "":
			p.UserIdGroupPairs = append(p.UserIdGroupPairs, shape.UserIdGroupPair{GroupId: string(r.Group), UserId: string(g.Account), Description: r.Description})
		case r.IPv6():
			p.Ipv6Ranges = append(p.Ipv6Ranges, shape.Ipv6Range{CidrIpv6: r.CIDR, Description: r.Description})
		default:
			p.IpRanges = append(p.IpRanges, shape.IpRange{CidrIp: r.CIDR, Description: r.Description})
		}
	}
	return out
}

// DescribeSecurityGroupRules shows rules one by one, with their own IDs.
func (s *Service) DescribeSecurityGroupRules(ctx context.Context, in *shape.DescribeSecurityGroupRulesInput) (*shape.DescribeSecurityGroupRulesOutput, error) {
	type item = shape.SecurityGroupRule
	q := query[item]{in: in, filters: in.Filters, id: func(v item) string { return v.SecurityGroupRuleId }, tags: func(v item) []shape.Tag { return v.Tags },
		fields: fields[item]{
			"group-id":               func(v item) []string { return one(v.GroupId) },
			"security-group-rule-id": func(v item) []string { return one(v.SecurityGroupRuleId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]item, error) {
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, nil, caller(ctx), aGroup)
		if err != nil {
			return nil, err
		}
		wanted := map[string]bool{} // whether it was found
		for _, id := range in.SecurityGroupRuleIds {
			if !cloud.WellFormed(id, aRule.prefixes...) {
				return nil, cloud.Malformed(aRule.code+".Malformed", id)
			}
			wanted[id] = false
		}
		out := []item{}
		for _, g := range all {
			for _, egress := range []bool{false, true} {
				for _, r := range g.Rules(egress) {
					if _, ok := wanted[string(r.ID)]; !ok && len(in.SecurityGroupRuleIds) > 0 {
						continue
					}
					wanted[string(r.ID)] = true
					out = append(out, ruleShape(g, egress, r))
				}
			}
		}
		for _, id := range in.SecurityGroupRuleIds {
			if !wanted[id] {
				return nil, cloud.NotFound(aRule.code+".NotFound", aRule.name, id)
			}
		}
		return out, nil
	})
	return &shape.DescribeSecurityGroupRulesOutput{SecurityGroupRules: page, NextToken: next}, err
}

// aRule is how EC2 speaks of a group's rules.
var aRule = noun{"security group rule ID", "InvalidSecurityGroupRuleId", []string{"sgr"}}

// ruleShape is a rule in EC2's shape. Where it has no ports they are -1 here, and left out among a group's permissions.
func ruleShape(g cloud.SecurityGroup, egress bool, r cloud.GroupRule) shape.SecurityGroupRule {
	out := shape.SecurityGroupRule{
		SecurityGroupRuleId: string(r.ID), GroupId: string(g.ID), GroupOwnerId: string(g.Account), IsEgress: ptr(egress),
		IpProtocol: r.Protocol, FromPort: number(r.FromPort), ToPort: number(r.ToPort), Description: r.Description, Tags: tags(r.Tags),
	}
	switch {
	case r.Group != "":
		out.ReferencedGroupInfo = &shape.ReferencedSecurityGroup{GroupId: string(r.Group), UserId: string(g.Account)}
	case r.IPv6():
		out.CidrIpv6 = r.CIDR
	default:
		out.CidrIpv4 = r.CIDR
	}
	return out
}
