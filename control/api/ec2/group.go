package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// groupActions are the actions on security groups and their rules.
func (s *Service) groupActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("DescribeSecurityGroups", s.DescribeSecurityGroups, ro),
		api.Do("DescribeSecurityGroupRules", s.DescribeSecurityGroupRules, ro),
	}
}

// DescribeSecurityGroups shows groups with their rules.
func (s *Service) DescribeSecurityGroups(ctx context.Context, in *shape.DescribeSecurityGroupsInput) (*shape.DescribeSecurityGroupsOutput, error) {
	who := caller(ctx)
	q := query[shape.SecurityGroup]{in: in, filters: in.Filters, id: func(v shape.SecurityGroup) string { return v.GroupId }, tags: func(v shape.SecurityGroup) []shape.Tag { return v.Tags },
		fields: fields[shape.SecurityGroup]{
			"group-id":    func(v shape.SecurityGroup) []string { return one(v.GroupId) },
			"group-name":  func(v shape.SecurityGroup) []string { return one(v.GroupName) },
			"vpc-id":      func(v shape.SecurityGroup) []string { return one(v.VpcId) },
			"description": func(v shape.SecurityGroup) []string { return one(v.Description) },
			"owner-id":    func(v shape.SecurityGroup) []string { return one(v.OwnerId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.SecurityGroup, error) {
		ids := in.GroupIds
		if len(in.GroupNames) > 0 {
			all, err := store.Mirrored(snap, store.Groups)
			if err != nil {
				return nil, err
			}
			vpcs, err := store.Mirrored(snap, store.VPCs)
			if err != nil {
				return nil, err
			}
			byDefault := map[cloud.VPCID]bool{}
			for _, v := range vpcs {
				byDefault[v.Value.ID] = v.Value.Default
			}
		next:
			for _, name := range in.GroupNames {
				for _, g := range all { // names without a VPC mean the default VPC's, as in EC2
					if g.Value.Name == name && g.Value.Account == who && byDefault[g.Value.VPC] {
						ids = append(ids, string(g.Value.ID))
						continue next
					}
				}
				return nil, cloud.Errorf("InvalidGroup.NotFound", "The security group '%.255s' does not exist in default VPC", name)
			}
		}
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, ids, who, aGroup)
		out := make([]shape.SecurityGroup, 0, len(all))
		for _, g := range all {
			out = append(out, shape.SecurityGroup{
				GroupId: string(g.ID), GroupName: g.Name, Description: g.Description, VpcId: string(g.VPC), OwnerId: string(g.Account), Tags: tags(g.Tags),
				IpPermissions: permissions(g, g.Ingress), IpPermissionsEgress: permissions(g, g.Egress),
			})
		}
		return out, err
	})
	return &shape.DescribeSecurityGroupsOutput{SecurityGroups: page, NextToken: next}, err
}

// permissions puts rules of the same protocol and ports together, as EC2 shows them.
func permissions(g cloud.SecurityGroup, rules []cloud.GroupRule) []shape.IpPermission {
	var out []shape.IpPermission
	at := map[[3]string]int{}
	for _, r := range rules {
		key := [3]string{r.Protocol, digits(number(r.FromPort)), digits(number(r.ToPort))}
		k, ok := at[key]
		if !ok {
			k = len(out)
			at[key] = k
			p := shape.IpPermission{IpProtocol: r.Protocol}
			if r.Protocol != "-1" {
				p.FromPort, p.ToPort = number(r.FromPort), number(r.ToPort)
			}
			out = append(out, p)
		}
		if r.Group != "" {
			out[k].UserIdGroupPairs = append(out[k].UserIdGroupPairs, shape.UserIdGroupPair{GroupId: string(r.Group), UserId: string(g.Account), Description: r.Description})
		} else {
			out[k].IpRanges = append(out[k].IpRanges, shape.IpRange{CidrIp: r.CIDR, Description: r.Description})
		}
	}
	return out
}

// DescribeSecurityGroupRules shows rules one by one, with their own IDs.
func (s *Service) DescribeSecurityGroupRules(ctx context.Context, in *shape.DescribeSecurityGroupRulesInput) (*shape.DescribeSecurityGroupRulesOutput, error) {
	q := query[shape.SecurityGroupRule]{in: in, filters: in.Filters, id: func(v shape.SecurityGroupRule) string { return v.SecurityGroupRuleId }, tags: func(v shape.SecurityGroupRule) []shape.Tag { return v.Tags },
		fields: fields[shape.SecurityGroupRule]{
			"group-id":               func(v shape.SecurityGroupRule) []string { return one(v.GroupId) },
			"security-group-rule-id": func(v shape.SecurityGroupRule) []string { return one(v.SecurityGroupRuleId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.SecurityGroupRule, error) {
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, nil, caller(ctx), aGroup)
		if err != nil {
			return nil, err
		}
		wanted := map[string]bool{}
		for _, id := range in.SecurityGroupRuleIds {
			wanted[id] = false
		}
		var out []shape.SecurityGroupRule
		for _, g := range all {
			for egress, rules := range map[bool][]cloud.GroupRule{false: g.Ingress, true: g.Egress} {
				for _, r := range rules {
					if len(in.SecurityGroupRuleIds) > 0 {
						if _, ok := wanted[string(r.ID)]; !ok {
							continue
						}
						wanted[string(r.ID)] = true
					}
					rule := shape.SecurityGroupRule{
						SecurityGroupRuleId: string(r.ID), GroupId: string(g.ID), GroupOwnerId: string(g.Account), IsEgress: ptr(egress),
						IpProtocol: r.Protocol, FromPort: number(r.FromPort), ToPort: number(r.ToPort), CidrIpv4: r.CIDR, Description: r.Description,
					}
					if r.Group != "" {
						rule.ReferencedGroupInfo = &shape.ReferencedSecurityGroup{GroupId: string(r.Group), UserId: string(g.Account)}
					}
					out = append(out, rule)
				}
			}
		}
		for id, found := range wanted {
			if !found {
				return nil, cloud.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%.80s' does not exist", id)
			}
		}
		return out, nil
	})
	return &shape.DescribeSecurityGroupRulesOutput{SecurityGroupRules: page, NextToken: next}, err
}
