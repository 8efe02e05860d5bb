package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// ruleChange is what the actions on a group's rules have in common.
type ruleChange struct {
	id, name string // of the group
	egress   bool
	dryRun   *bool
	decide   func(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup) (cloud.SecurityGroup, error)
}

// changeRules decides anew on what is there until nobody was faster: of two changes at the same time both are kept.
func (s *Service) changeRules(ctx context.Context, c ruleChange) error {
	return s.commit(ctx, c.dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := group(snap, caller(ctx), c.id, c.name)
		if err != nil {
			return err
		}
		next, err := c.decide(snap, t, o.Value)
		if err != nil {
			return err
		}
		store.Update(t, store.Groups, o, next)
		return nil
	})
}

// AuthorizeSecurityGroupIngress lets more in.
func (s *Service) AuthorizeSecurityGroupIngress(ctx context.Context, in *shape.AuthorizeSecurityGroupIngressInput) (*shape.AuthorizeSecurityGroupIngressOutput, error) {
	wanted, err := flat{in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId}.with(in.IpPermissions)
	if err != nil {
		return nil, err
	}
	rules, err := s.authorize(ctx, ruleChange{id: in.GroupId, name: in.GroupName, dryRun: in.DryRun}, wanted, in.TagSpecifications)
	return &shape.AuthorizeSecurityGroupIngressOutput{Return: ptr(err == nil), SecurityGroupRules: rules}, err
}

// AuthorizeSecurityGroupEgress lets more out.
func (s *Service) AuthorizeSecurityGroupEgress(ctx context.Context, in *shape.AuthorizeSecurityGroupEgressInput) (*shape.AuthorizeSecurityGroupEgressOutput, error) {
	wanted, err := flat{in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId}.with(in.IpPermissions)
	if err != nil {
		return nil, err
	}
	rules, err := s.authorize(ctx, ruleChange{id: in.GroupId, egress: true, dryRun: in.DryRun}, wanted, in.TagSpecifications)
	return &shape.AuthorizeSecurityGroupEgressOutput{Return: ptr(err == nil), SecurityGroupRules: rules}, err
}

func (s *Service) authorize(ctx context.Context, c ruleChange, wanted []shape.IpPermission, spec []shape.TagSpecification) (out []shape.SecurityGroupRule, err error) {
	specified, err := specifiedTags(spec, "security-group-rule")
	if err != nil {
		return nil, err
	}
	c.decide = func(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup) (cloud.SecurityGroup, error) {
		out = nil
		rules, err := rulesOf(snap, t, g, wanted)
		if err != nil {
			return g, err
		}
		for k := range rules {
			rules[k].ID, rules[k].Tags = newID[cloud.RuleID](s, "sgr"), specified["security-group-rule"]
			out = append(out, ruleShape(g, c.egress, rules[k]))
		}
		return g.Authorize(c.egress, rules)
	}
	return out, s.changeRules(ctx, c)
}

// RevokeSecurityGroupIngress lets less in.
func (s *Service) RevokeSecurityGroupIngress(ctx context.Context, in *shape.RevokeSecurityGroupIngressInput) (*shape.RevokeSecurityGroupIngressOutput, error) {
	f := flat{in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId}
	unknown, err := s.revoke(ctx, ruleChange{id: in.GroupId, name: in.GroupName, dryRun: in.DryRun}, f, in.IpPermissions, in.SecurityGroupRuleIds)
	return &shape.RevokeSecurityGroupIngressOutput{Return: ptr(err == nil), UnknownIpPermissions: unknown}, err
}

// RevokeSecurityGroupEgress lets less out.
func (s *Service) RevokeSecurityGroupEgress(ctx context.Context, in *shape.RevokeSecurityGroupEgressInput) (*shape.RevokeSecurityGroupEgressOutput, error) {
	f := flat{in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName, in.SourceSecurityGroupOwnerId}
	unknown, err := s.revoke(ctx, ruleChange{id: in.GroupId, egress: true, dryRun: in.DryRun}, f, in.IpPermissions, in.SecurityGroupRuleIds)
	return &shape.RevokeSecurityGroupEgressOutput{Return: ptr(err == nil), UnknownIpPermissions: unknown}, err
}

// revoke takes rules away, by what they allow or by their IDs. What is not there is an error, and nothing is revoked;
// but in a default VPC EC2 revokes the others and answers with what is not there.
func (s *Service) revoke(ctx context.Context, c ruleChange, f flat, wanted []shape.IpPermission, ids []string) (unknown []shape.IpPermission, err error) {
	if len(ids) > 0 && (f != flat{} || len(wanted) > 0) {
		return nil, cloud.Errorf("InvalidParameterCombination", "Name rules by SecurityGroupRuleId or by what they allow, not by both")
	}
	if len(ids) == 0 {
		if wanted, err = f.with(wanted); err != nil {
			return nil, err
		}
	}
	c.decide = func(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup) (cloud.SecurityGroup, error) {
		if len(ids) > 0 {
			return g.RevokeIDs(c.egress, ruleIDs(ids))
		}
		rules, err := rulesOf(snap, t, g, wanted)
		if err != nil {
			return g, err
		}
		next, missing := g.Revoke(c.egress, rules)
		unknown = permissions(g, missing)
		v, err := store.MirroredGet(snap, store.VPCs, g.VPC)
		if len(missing) > 0 && (err != nil || !v.Value.Default) {
			return g, cloud.Errorf("InvalidPermission.NotFound", "The specified rule %q does not exist in this security group", missing[0])
		}
		return next, nil
	}
	err = s.changeRules(ctx, c)
	return unknown, err
}

func ruleIDs(list []string) []cloud.RuleID {
	out := make([]cloud.RuleID, len(list))
	for k, id := range list {
		out[k] = cloud.RuleID(id)
	}
	return out
}

// ModifySecurityGroupRules gives rules other permissions and descriptions under the IDs that they have.
func (s *Service) ModifySecurityGroupRules(ctx context.Context, in *shape.ModifySecurityGroupRulesInput) (*shape.ModifySecurityGroupRulesOutput, error) {
	if len(in.SecurityGroupRules) == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter SecurityGroupRule")
	}
	err := s.changeRules(ctx, ruleChange{id: in.GroupId, dryRun: in.DryRun, decide: func(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup) (cloud.SecurityGroup, error) {
		var rules []cloud.GroupRule
		for _, u := range in.SecurityGroupRules {
			if u.SecurityGroupRule == nil {
				return g, cloud.Errorf("MissingParameter", "The request must say what rule %.80s shall be", u.SecurityGroupRuleId)
			}
			wanted, err := rulesOf(snap, t, g, []shape.IpPermission{permissionOf(*u.SecurityGroupRule)})
			if err != nil {
				return g, err
			}
			if len(wanted) != 1 {
				return g, cloud.Errorf("InvalidParameterCombination", "A rule has one of CidrIpv4, CidrIpv6, PrefixListId and ReferencedGroupId, and %.80s would have %d", u.SecurityGroupRuleId, len(wanted))
			}
			wanted[0].ID = cloud.RuleID(u.SecurityGroupRuleId)
			rules = append(rules, wanted[0])
		}
		return g.Modify(rules)
	}})
	return &shape.ModifySecurityGroupRulesOutput{Return: ptr(err == nil)}, err
}

// permissionOf is the one rule of a request as a permission.
func permissionOf(r shape.SecurityGroupRuleRequest) shape.IpPermission {
	p := shape.IpPermission{IpProtocol: r.IpProtocol, FromPort: r.FromPort, ToPort: r.ToPort}
	if r.CidrIpv4 != "" {
		p.IpRanges = []shape.IpRange{{CidrIp: r.CidrIpv4, Description: r.Description}}
	}
	if r.CidrIpv6 != "" {
		p.Ipv6Ranges = []shape.Ipv6Range{{CidrIpv6: r.CidrIpv6, Description: r.Description}}
	}
	if r.ReferencedGroupId != "" {
		p.UserIdGroupPairs = []shape.UserIdGroupPair{{GroupId: r.ReferencedGroupId, Description: r.Description}}
	}
	if r.PrefixListId != "" {
		p.PrefixListIds = []shape.PrefixListId{{PrefixListId: r.PrefixListId}}
	}
	return p
}

// UpdateSecurityGroupRuleDescriptionsIngress changes what is said of rules for what comes in.
func (s *Service) UpdateSecurityGroupRuleDescriptionsIngress(ctx context.Context, in *shape.UpdateSecurityGroupRuleDescriptionsIngressInput) (*shape.UpdateSecurityGroupRuleDescriptionsIngressOutput, error) {
	err := s.describeRules(ctx, ruleChange{id: in.GroupId, name: in.GroupName, dryRun: in.DryRun}, in.IpPermissions, in.SecurityGroupRuleDescriptions)
	return &shape.UpdateSecurityGroupRuleDescriptionsIngressOutput{Return: ptr(err == nil)}, err
}

// UpdateSecurityGroupRuleDescriptionsEgress changes what is said of rules for what goes out.
func (s *Service) UpdateSecurityGroupRuleDescriptionsEgress(ctx context.Context, in *shape.UpdateSecurityGroupRuleDescriptionsEgressInput) (*shape.UpdateSecurityGroupRuleDescriptionsEgressOutput, error) {
	err := s.describeRules(ctx, ruleChange{id: in.GroupId, name: in.GroupName, egress: true, dryRun: in.DryRun}, in.IpPermissions, in.SecurityGroupRuleDescriptions)
	return &shape.UpdateSecurityGroupRuleDescriptionsEgressOutput{Return: ptr(err == nil)}, err
}

func (s *Service) describeRules(ctx context.Context, c ruleChange, wanted []shape.IpPermission, byID []shape.SecurityGroupRuleDescription) error {
	if (len(wanted) == 0) == (len(byID) == 0) {
		return cloud.Errorf("InvalidParameterCombination", "Name rules by SecurityGroupRuleDescription or by IpPermissions, and by one of them")
	}
	texts := map[cloud.RuleID]string{}
	for _, d := range byID {
		id := cloud.RuleID(d.SecurityGroupRuleId)
		if _, twice := texts[id]; twice {
			return cloud.Errorf("InvalidParameterValue", "The rule %.80s is named twice", id)
		}
		texts[id] = d.Description
	}
	c.decide = func(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup) (cloud.SecurityGroup, error) {
		if len(byID) > 0 {
			return g.DescribeIDs(c.egress, texts)
		}
		rules, err := rulesOf(snap, t, g, wanted)
		if err != nil {
			return g, err
		}
		return g.Describe(c.egress, rules)
	}
	return s.changeRules(ctx, c)
}

// described returns the IDs of the rules.
func described(list []shape.SecurityGroupRuleDescription) []string {
	out := make([]string, len(list))
	for k, d := range list {
		out[k] = d.SecurityGroupRuleId
	}
	return out
}
