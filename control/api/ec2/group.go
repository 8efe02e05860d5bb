package ec2

import (
	"cmp"
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
		api.Do("CreateSecurityGroup", s.CreateSecurityGroup, api.Resource(func(in *shape.CreateSecurityGroupInput) []string {
			return []string{"security-group/*", "vpc/" + cmp.Or(in.VpcId, "*")}
		})),
		api.Do("DeleteSecurityGroup", s.DeleteSecurityGroup, api.Resource(func(in *shape.DeleteSecurityGroupInput) []string {
			return s.groupResources(in.GroupId, in.GroupName, nil)
		})),
		api.Do("DescribeSecurityGroups", s.DescribeSecurityGroups, ro),
		api.Do("DescribeSecurityGroupRules", s.DescribeSecurityGroupRules, ro),
		api.Do("GetSecurityGroupsForVpc", s.GetSecurityGroupsForVpc, ro, the("vpc", func(in *shape.GetSecurityGroupsForVpcInput) string { return in.VpcId })),
		api.Do("DescribeSecurityGroupReferences", s.DescribeSecurityGroupReferences, ro),
		api.Do("DescribeStaleSecurityGroups", s.DescribeStaleSecurityGroups, ro),
		api.Do("AuthorizeSecurityGroupIngress", s.AuthorizeSecurityGroupIngress, api.Resource(func(in *shape.AuthorizeSecurityGroupIngressInput) []string {
			return s.groupResources(in.GroupId, in.GroupName, nil)
		})),
		api.Do("AuthorizeSecurityGroupEgress", s.AuthorizeSecurityGroupEgress, api.Resource(func(in *shape.AuthorizeSecurityGroupEgressInput) []string {
			return s.groupResources(in.GroupId, "", nil)
		})),
		api.Do("RevokeSecurityGroupIngress", s.RevokeSecurityGroupIngress, api.Resource(func(in *shape.RevokeSecurityGroupIngressInput) []string {
			return s.groupResources(in.GroupId, in.GroupName, in.SecurityGroupRuleIds)
		})),
		api.Do("RevokeSecurityGroupEgress", s.RevokeSecurityGroupEgress, api.Resource(func(in *shape.RevokeSecurityGroupEgressInput) []string {
			return s.groupResources(in.GroupId, "", in.SecurityGroupRuleIds)
		})),
		api.Do("ModifySecurityGroupRules", s.ModifySecurityGroupRules, api.Resource(func(in *shape.ModifySecurityGroupRulesInput) []string {
			var rules []string
			for _, r := range in.SecurityGroupRules {
				rules = append(rules, r.SecurityGroupRuleId)
			}
			return s.groupResources(in.GroupId, "", rules)
		})),
		api.Do("UpdateSecurityGroupRuleDescriptionsIngress", s.UpdateSecurityGroupRuleDescriptionsIngress, api.Resource(func(in *shape.UpdateSecurityGroupRuleDescriptionsIngressInput) []string {
			return s.groupResources(in.GroupId, in.GroupName, described(in.SecurityGroupRuleDescriptions))
		})),
		api.Do("UpdateSecurityGroupRuleDescriptionsEgress", s.UpdateSecurityGroupRuleDescriptionsEgress, api.Resource(func(in *shape.UpdateSecurityGroupRuleDescriptionsEgressInput) []string {
			return s.groupResources(in.GroupId, in.GroupName, described(in.SecurityGroupRuleDescriptions))
		})),
	}
}

// groupResources returns a group by its ID, which is what its ARN has, and rules. A name may be that of a group in
// each account's default VPC: all are asked for, and those of others are in no policy.
func (s *Service) groupResources(id, name string, rules []string) []string {
	out := each("security-group-rule", rules)
	if id != "" || name == "" {
		return append(out, "security-group/"+cmp.Or(id, "*"))
	}
	found := false
	snap := s.Mirror.Snapshot()
	all, _ := store.Mirrored(snap, store.Groups)
	for _, g := range all {
		v, err := store.MirroredGet(snap, store.VPCs, g.Value.VPC)
		if g.Value.Name == name && err == nil && v.Value.Default {
			out, found = append(out, "security-group/"+g.ID), true
		}
	}
	if !found {
		out = append(out, "security-group/*")
	}
	return out
}

// groupNameKeys make the names of groups unique in their VPC.
func groupNameKeys(who cloud.AccountID) store.Kind[cloud.GroupID] {
	return store.NewKind[cloud.GroupID](store.NamePrefix("group", who))
}

// nameInVPC is the ID of a name in groupNameKeys.
func nameInVPC(vpc cloud.VPCID, name string) string { return string(vpc) + "/" + name }

// groupVPC returns the account's default VPC, which is meant when groups are named without one.
func groupVPC(snap *store.Snapshot, who cloud.AccountID) (store.Object[cloud.VPC], error) {
	o, err := defaultVPC(snap, who)
	if cloud.Code(err) == "DefaultVpcDoesNotExist" {
		return o, cloud.Errorf("VPCIdNotSpecified", "There is no default VPC: name a VPC, or a group by its ID")
	}
	return o, err
}

// group returns the account's group that a request names: by ID, or by name in the default VPC.
func group(snap *store.Snapshot, who cloud.AccountID, id, name string) (store.Object[cloud.SecurityGroup], error) {
	var none store.Object[cloud.SecurityGroup]
	switch {
	case id == "" && name == "":
		return none, cloud.Errorf("MissingParameter", "The request must contain the parameter GroupId, or GroupName for a group of the default VPC")
	case id != "" && name != "":
		return none, cloud.Errorf("InvalidParameterCombination", "Name the group by GroupId or by GroupName, not by both")
	case id != "":
		return groupByID(snap, who, id)
	}
	v, err := groupVPC(snap, who)
	if err != nil {
		return none, err
	}
	all, err := store.Mirrored(snap, store.Groups)
	if err != nil {
		return none, err
	}
	for _, g := range all {
		if g.Value.VPC == v.Value.ID && g.Value.Name == name {
			return g, nil
		}
	}
	return none, cloud.Errorf("InvalidGroup.NotFound", "The security group '%.255s' does not exist in default VPC '%s'", name, v.ID)
}

// groupByID is find, with the code that EC2 has for IDs which are none.
func groupByID(snap *store.Snapshot, who cloud.AccountID, id string) (store.Object[cloud.SecurityGroup], error) {
	o, err := find(snap, store.Groups, cloud.GroupID(id), who, aGroup)
	if cloud.Code(err) == "InvalidGroup.Malformed" {
		err = cloud.Malformed("InvalidGroupId.Malformed", id)
	}
	return o, err
}

// CreateSecurityGroup makes a group that lets everything out and nothing in.
func (s *Service) CreateSecurityGroup(ctx context.Context, in *shape.CreateSecurityGroupInput) (*shape.CreateSecurityGroupOutput, error) {
	name, err := cloud.GroupName(in.GroupName)
	if err != nil {
		return nil, err
	}
	if err := cloud.ValidateGroupDescription(in.Description); err != nil {
		return nil, err
	}
	specified, err := specifiedTags(in.TagSpecifications, "security-group")
	if err != nil {
		return nil, err
	}
	g := cloud.SecurityGroup{
		ID: newID[cloud.GroupID](s, "sg"), Account: caller(ctx), Name: name, Description: in.Description, Tags: specified["security-group"],
	}
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		v, err := vpcOrDefault(snap, g.Account, in.VpcId)
		if err != nil {
			return err
		}
		if err := roomForGroup(snap, g.Account, v.Value.ID, name); err != nil {
			return err
		}
		g.VPC = v.Value.ID
		g.Egress = cloud.NewGroupEgress(v.Value, func() cloud.RuleID { return newID[cloud.RuleID](s, "sgr") })
		store.Require(t, store.VPCs, v.ID, v.Rev)
		store.Create(t, store.Groups, g.ID, g)
		store.Create(t, groupNameKeys(g.Account), nameInVPC(g.VPC, name), g.ID)
		return nil
	})
	return &shape.CreateSecurityGroupOutput{GroupId: string(g.ID), Tags: tags(g.Tags)}, err
}

func vpcOrDefault(snap *store.Snapshot, who cloud.AccountID, id string) (store.Object[cloud.VPC], error) {
	if id == "" {
		return groupVPC(snap, who)
	}
	return find(snap, store.VPCs, cloud.VPCID(id), who, aVPC)
}

// roomForGroup refuses a name that its VPC has, and a group too many.
func roomForGroup(snap *store.Snapshot, who cloud.AccountID, vpc cloud.VPCID, name string) error {
	all, err := store.Mirrored(snap, store.Groups)
	if err != nil {
		return err
	}
	n := 0
	for _, o := range all {
		if o.Value.Account != who {
			continue
		}
		n++
		if o.Value.VPC == vpc && o.Value.Name == name {
			return cloud.Errorf("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", name, vpc)
		}
	}
	if n >= cloud.GroupsPerRegion {
		return cloud.Errorf("SecurityGroupLimitExceeded", "There are %d security groups, which is the most: delete one that is not used", n)
	}
	return nil
}

// DeleteSecurityGroup removes a group that nothing uses. An interface that is made with it, or a rule that is made
// for it, at the same time either comes first and is seen here, or finds that the group is gone.
func (s *Service) DeleteSecurityGroup(ctx context.Context, in *shape.DeleteSecurityGroupInput) (*shape.DeleteSecurityGroupOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := group(snap, caller(ctx), in.GroupId, in.GroupName)
		if err != nil {
			return err
		}
		if o.Value.Name == cloud.DefaultGroup {
			return cloud.Errorf("CannotDelete", "The security group '%s' is the default one of %s, which goes with its VPC", o.ID, o.Value.VPC)
		}
		if err := unusedGroup(snap, o.Value); err != nil {
			return err
		}
		store.Delete(t, store.Groups, o)
		store.Remove(t, groupNameKeys(o.Value.Account), nameInVPC(o.Value.VPC, o.Value.Name))
		store.RequireNothingNew(t, store.Interfaces, snap.Rev())
		store.RequireNothingNew(t, store.Groups, snap.Rev())
		return nil
	})
	return &shape.DeleteSecurityGroupOutput{}, err
}

// unusedGroup refuses a group that an interface is in, or that another group's rule is for.
func unusedGroup(snap *store.Snapshot, g cloud.SecurityGroup) error {
	interfaces, err := store.Mirrored(snap, store.Interfaces)
	if err != nil {
		return err
	}
	for _, n := range interfaces {
		for _, id := range n.Value.Groups {
			if id == g.ID {
				return cloud.Errorf("DependencyViolation", "%s is used by network interface %s: give the interface other groups first", g.ID, n.ID)
			}
		}
	}
	groups, err := store.Mirrored(snap, store.Groups)
	if err != nil {
		return err
	}
	for _, o := range groups {
		if o.Value.ID != g.ID && o.Value.RefersTo(g.ID) {
			return cloud.Errorf("DependencyViolation", "%s is the peer of a rule of %s: revoke the rule first", g.ID, o.ID)
		}
	}
	return nil
}
