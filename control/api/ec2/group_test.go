package ec2

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// otherVPC adds a VPC that is not the default one, with its default group, ACL and a subnet.
func (r *rig) otherVPC() cloud.VPC {
	v := cloud.VPC{ID: "vpc-00000000000000002", Account: "000000000000", CIDR: netip.MustParsePrefix("10.0.0.0/16"), NetworkACL: "acl-00000000000000002"}
	r.write(func(t *store.Txn) {
		store.Create(t, store.VPCs, v.ID, v)
		store.Create(t, store.Groups, "sg-00000000000000002", cloud.SecurityGroup{ID: "sg-00000000000000002", Account: v.Account, VPC: v.ID, Name: "default"})
		store.Create(t, store.NetworkACLs, v.NetworkACL, cloud.NetworkACL{ID: v.NetworkACL, Account: v.Account, VPC: v.ID, Entries: cloud.OpenACL()})
		store.Create(t, store.Subnets, "subnet-00000000000000002", cloud.Subnet{ID: "subnet-00000000000000002", Account: v.Account, VPC: v.ID,
			CIDR: netip.MustParsePrefix("10.0.0.0/24"), Zone: "r-1a", ACLAssociation: "aclassoc-00000000000000002"})
	})
	return v
}

// another is a further control process on the same store.
func (r *rig) another() *Service {
	m := storetest.Mirror(r.T, r.Store, store.All("spec"), store.All("status"), store.All("host"))
	cfg := r.Config
	cfg.Mirror = m
	return &Service{cfg}
}

// group makes a group, in the default VPC unless one is named.
func (r *rig) group(name string, vpc ...cloud.VPCID) string {
	r.Helper()
	in := &shape.CreateSecurityGroupInput{GroupName: name, Description: "for " + name}
	if len(vpc) > 0 {
		in.VpcId = string(vpc[0])
	}
	out, err := r.CreateSecurityGroup(r.ctx, in)
	if err != nil {
		r.Fatal(err)
	}
	return out.GroupId
}

func (r *rig) show(id string) shape.SecurityGroup {
	r.Helper()
	out, err := r.DescribeSecurityGroups(r.ctx, &shape.DescribeSecurityGroupsInput{GroupIds: []string{id}})
	if err != nil {
		r.Fatal(err)
	}
	return out.SecurityGroups[0]
}

// tcp is a permission for one port from one prefix.
func tcp(port int, cidr string) shape.IpPermission {
	return shape.IpPermission{IpProtocol: "tcp", FromPort: number(port), ToPort: number(port), IpRanges: []shape.IpRange{{CidrIp: cidr}}}
}

func (r *rig) authorize(id string, p ...shape.IpPermission) *shape.AuthorizeSecurityGroupIngressOutput {
	r.Helper()
	out, err := r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: id, IpPermissions: p})
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// text is a value as JSON, without what is empty.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var plain any
	if err := json.Unmarshal(b, &plain); err != nil {
		panic(err)
	}
	if b, err = json.Marshal(bare(plain)); err != nil {
		panic(err)
	}
	return strings.ReplaceAll(string(b), `"`, "")
}

func bare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			item = bare(item)
			if list, ok := item.([]any); item == nil || item == "" || ok && len(list) == 0 {
				delete(v, k)
			}
		}
	case []any:
		for k := range v {
			v[k] = bare(v[k])
		}
	}
	return v
}

func TestGroupsAreMadeAndGo(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	made, err := r.CreateSecurityGroup(r.ctx, &shape.CreateSecurityGroupInput{GroupName: "web ", Description: "d", TagSpecifications: []shape.TagSpecification{
		{ResourceType: "security-group", Tags: []shape.Tag{{Key: "k", Value: "v"}}}}})
	if err != nil || text(made.Tags) != "[{Key:k,Value:v}]" {
		t.Fatalf("got %s, %v", text(made), err)
	}
	g := r.show(made.GroupId)
	if g.GroupName != "web" || text(g.IpPermissions) != "[]" || text(g.IpPermissionsEgress) != "[{IpProtocol:-1,IpRanges:[{CidrIp:0.0.0.0/0}]}]" || g.IpPermissionsEgress[0].Ipv6Ranges == nil {
		t.Errorf("got %s", text(g))
	}
	r.group("web", v.ID) // a name is unique in its VPC
	create := func(name, vpc string) string {
		_, err := r.CreateSecurityGroup(r.ctx, &shape.CreateSecurityGroupInput{GroupName: name, Description: "d", VpcId: vpc})
		return cloud.Code(err)
	}
	remove := func(id, name string) string {
		_, err := r.DeleteSecurityGroup(r.ctx, &shape.DeleteSecurityGroupInput{GroupId: id, GroupName: name})
		return cloud.Code(err)
	}
	for name, c := range map[string]struct{ got, want string }{
		"a name that is taken":        {create("web", ""), "InvalidGroup.Duplicate"},
		"a reserved name":             {create("default", ""), "InvalidGroup.Reserved"},
		"a VPC that is not there":     {create("x", "vpc-12345678"), "InvalidVpcID.NotFound"},
		"no group":                    {remove("", ""), "MissingParameter"},
		"two groups":                  {remove(made.GroupId, "web"), "InvalidParameterCombination"},
		"an ID that is none":          {remove("x", ""), "InvalidGroupId.Malformed"},
		"a group that is not there":   {remove("sg-12345678", ""), "InvalidGroup.NotFound"},
		"a name that is not there":    {remove("", "x"), "InvalidGroup.NotFound"},
		"the default group":           {remove("", "default"), "CannotDelete"},
		"the default group of others": {remove("sg-00000000000000002", ""), "CannotDelete"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
	for range 2 { // the name is free again
		if got := remove("", "web"); got != "" {
			t.Errorf("delete by name: got %q", got)
		}
		r.group("web")
	}
	was := r.head()
	for _, err := range []error{
		errOf(r.CreateSecurityGroup(r.ctx, &shape.CreateSecurityGroupInput{GroupName: "dry", Description: "d", DryRun: ptr(true)})),
		errOf(r.DeleteSecurityGroup(r.ctx, &shape.DeleteSecurityGroupInput{GroupName: "web", DryRun: ptr(true)})),
		errOf(r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupName: "web", DryRun: ptr(true), IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/8")}})),
	} {
		if err != nil || r.head() != was {
			t.Errorf("a dry run: got %v, or something was written", err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestAGroupInUseStays(t *testing.T) {
	r := newRig(t)
	a, b, own := r.group("a"), r.group("b"), r.group("own")
	r.authorize(b, shape.IpPermission{IpProtocol: "-1", UserIdGroupPairs: []shape.UserIdGroupPair{{GroupId: a}}})
	r.authorize(own, shape.IpPermission{IpProtocol: "-1", UserIdGroupPairs: []shape.UserIdGroupPair{{GroupId: own}}})
	in := small()
	in.SecurityGroupIds = []string{b}
	r.run(in)
	for id, want := range map[string]string{a: "DependencyViolation", b: "DependencyViolation", own: ""} {
		if _, err := r.DeleteSecurityGroup(r.ctx, &shape.DeleteSecurityGroupInput{GroupId: id}); cloud.Code(err) != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestGroupsPerRegionAreCounted(t *testing.T) {
	r := newRig(t)
	for from := 1; from < cloud.GroupsPerRegion; from += 500 {
		r.write(func(t *store.Txn) {
			for k := from; k < min(from+500, cloud.GroupsPerRegion-1); k++ {
				id := cloud.GroupID(fmt.Sprintf("sg-%017d", k))
				store.Create(t, store.Groups, id, cloud.SecurityGroup{ID: id, Account: "000000000000", VPC: "vpc-1", Name: string(id)})
			}
		})
	}
	r.group("the last") // with the default one there are 2,500
	if _, err := r.CreateSecurityGroup(r.ctx, &shape.CreateSecurityGroupInput{GroupName: "one more", Description: "d"}); cloud.Code(err) != "SecurityGroupLimitExceeded" {
		t.Errorf("got %v", err)
	}
}

func TestRefusedPermissions(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	mine, theirs := r.group("mine"), r.group("theirs", v.ID)
	r.authorize(mine, tcp(22, "10.0.0.0/8"))
	type in = shape.AuthorizeSecurityGroupIngressInput
	pair := func(p shape.UserIdGroupPair) []shape.IpPermission {
		return []shape.IpPermission{{IpProtocol: "-1", UserIdGroupPairs: []shape.UserIdGroupPair{p}}}
	}
	for name, c := range map[string]struct {
		code string
		in   in
	}{
		"nothing":                    {"MissingParameter", in{GroupId: mine}},
		"no group":                   {"MissingParameter", in{CidrIp: "10.0.0.0/8", IpProtocol: "-1"}},
		"both forms":                 {"InvalidParameterCombination", in{GroupId: mine, CidrIp: "10.0.0.0/8", IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/8")}}},
		"no CIDR":                    {"MissingParameter", in{GroupId: mine, IpProtocol: "tcp", FromPort: number(1), ToPort: number(1)}},
		"no protocol":                {"MissingParameter", in{GroupId: mine, CidrIp: "10.0.0.0/8"}},
		"a source group and a port":  {"InvalidParameterCombination", in{GroupId: mine, SourceSecurityGroupName: "mine", FromPort: number(1)}},
		"an owner without a group":   {"MissingParameter", in{GroupId: mine, SourceSecurityGroupOwnerId: "000000000000"}},
		"what is there":              {"InvalidPermission.Duplicate", in{GroupId: mine, IpPermissions: []shape.IpPermission{tcp(22, "10.1.2.3/8")}}},
		"the same twice":             {"InvalidParameterValue", in{GroupId: mine, IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/8"), tcp(1, "10.9.9.9/8")}}},
		"a CIDR that is none":        {"InvalidParameterValue", in{GroupId: mine, IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/99")}}},
		"IPv6 as IPv4":               {"InvalidParameterValue", in{GroupId: mine, IpPermissions: []shape.IpPermission{tcp(1, "::/0")}}},
		"no peer":                    {"InvalidPermission.Malformed", in{GroupId: mine, IpPermissions: []shape.IpPermission{{IpProtocol: "-1"}}}},
		"a protocol that is none":    {"InvalidPermission.Malformed", in{GroupId: mine, IpPermissions: []shape.IpPermission{{IpProtocol: "x", IpRanges: []shape.IpRange{{CidrIp: "10.0.0.0/8"}}}}}},
		"a prefix list":              {"UnsupportedOperation", in{GroupId: mine, IpPermissions: []shape.IpPermission{{IpProtocol: "-1", PrefixListIds: []shape.PrefixListId{{PrefixListId: "pl-1"}}}}}},
		"a group of another VPC":     {"InvalidGroup.NotFound", in{GroupId: mine, IpPermissions: pair(shape.UserIdGroupPair{GroupId: theirs})}},
		"a group of another account": {"InvalidGroup.NotFound", in{GroupId: mine, IpPermissions: pair(shape.UserIdGroupPair{GroupId: mine, UserId: "111111111111"})}},
		"a group that is not there":  {"InvalidGroup.NotFound", in{GroupId: mine, IpPermissions: pair(shape.UserIdGroupPair{GroupId: "sg-12345678"})}},
		"a group's ID that is none":  {"InvalidGroupId.Malformed", in{GroupId: mine, IpPermissions: pair(shape.UserIdGroupPair{GroupId: "x"})}},
		"a group by peering":         {"UnsupportedOperation", in{GroupId: mine, IpPermissions: pair(shape.UserIdGroupPair{GroupId: mine, VpcPeeringConnectionId: "pcx-1"})}},
		"by a name of another VPC":   {"InvalidGroup.NotFound", in{GroupId: theirs, IpPermissions: pair(shape.UserIdGroupPair{GroupName: "mine"})}},
		"a description with <":       {"InvalidParameterValue", in{GroupId: mine, IpPermissions: []shape.IpPermission{{IpProtocol: "-1", IpRanges: []shape.IpRange{{CidrIp: "10.0.0.0/8", Description: "a<b"}}}}}},
		"a long description":         {"InvalidParameterValue", in{GroupId: mine, IpPermissions: []shape.IpPermission{{IpProtocol: "-1", IpRanges: []shape.IpRange{{CidrIp: "10.0.0.0/8", Description: strings.Repeat("x", 256)}}}}}},
		"tags of something else":     {"InvalidParameterValue", in{GroupId: mine, CidrIp: "10.0.0.0/8", IpProtocol: "-1", TagSpecifications: []shape.TagSpecification{{ResourceType: "security-group"}}}},
	} {
		was := r.head()
		if _, err := r.AuthorizeSecurityGroupIngress(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if r.head() != was {
			t.Errorf("%s: it was refused, and something was written", name)
		}
	}
	many := make([]shape.IpPermission, 0, 60)
	for port := range 60 {
		many = append(many, tcp(1000+port, "10.0.0.0/8"))
	}
	if _, err := r.AuthorizeSecurityGroupIngress(r.ctx, &in{GroupId: mine, IpPermissions: many}); cloud.Code(err) != "RulesPerSecurityGroupLimitExceeded" {
		t.Errorf("61 rules: got %v", err)
	}
	if _, err := r.AuthorizeSecurityGroupEgress(r.ctx, &shape.AuthorizeSecurityGroupEgressInput{GroupId: mine, IpPermissions: many[:59]}); err != nil {
		t.Errorf("59 rules besides the first, of the other direction: got %v", err)
	}
}

func TestTheOlderFormsOfARule(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	one, err := r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{
		GroupName: "g", CidrIp: "100.68.0.18/18", IpProtocol: "6", FromPort: number(22), ToPort: number(22),
		TagSpecifications: []shape.TagSpecification{{ResourceType: "security-group-rule", Tags: []shape.Tag{{Key: "k", Value: "v"}}}},
	})
	if err != nil || !yes(one.Return) || len(one.SecurityGroupRules) != 1 {
		t.Fatalf("got %s, %v", text(one), err)
	}
	rule := one.SecurityGroupRules[0]
	rule.SecurityGroupRuleId = ""
	want := fmt.Sprintf("{CidrIpv4:100.68.0.0/18,FromPort:22,GroupId:%s,GroupOwnerId:000000000000,IpProtocol:tcp,IsEgress:false,Tags:[{Key:k,Value:v}],ToPort:22}", id)
	if got := text(rule); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if _, err := r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: id, SourceSecurityGroupName: "default", SourceSecurityGroupOwnerId: "000000000000"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.show(id).IpPermissions {
		got = append(got, fmt.Sprintf("%s %s-%s %d", p.IpProtocol, digits(p.FromPort), digits(p.ToPort), len(p.UserIdGroupPairs)))
	}
	if want := "[tcp 22-22 0 icmp -1--1 1 udp 0-65535 1 tcp 0-65535 1]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	back := &shape.RevokeSecurityGroupIngressInput{GroupId: id, SourceSecurityGroupName: "default"}
	if _, err := r.RevokeSecurityGroupIngress(r.ctx, back); err != nil || len(r.show(id).IpPermissions) != 1 {
		t.Errorf("got %v and %s", err, text(r.show(id).IpPermissions))
	}
}

func TestWhatIsRevoked(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	byDefault, other := r.group("g"), r.group("g", v.ID)
	type in = shape.RevokeSecurityGroupIngressInput
	revoke := func(i in) (string, string) {
		out, err := r.RevokeSecurityGroupIngress(r.ctx, &i)
		if err != nil {
			return cloud.Code(err), ""
		}
		return "", text(out.UnknownIpPermissions)
	}
	for _, id := range []string{byDefault, other} {
		r.authorize(id, tcp(1, "10.0.0.0/8"), tcp(2, "10.0.0.0/8"))
	}
	// EC2 documents the two kinds of VPC differently.
	if code, unknown := revoke(in{GroupId: other, IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/8"), tcp(3, "10.0.0.0/8")}}); code != "InvalidPermission.NotFound" || len(r.show(other).IpPermissions) != 2 {
		t.Errorf("one of two is not there: got %q %s, want an error and both rules left", code, unknown)
	}
	if code, unknown := revoke(in{GroupId: byDefault, IpPermissions: []shape.IpPermission{tcp(1, "10.0.0.0/8"), tcp(3, "10.0.0.0/8")}}); code != "" || unknown != "[{FromPort:3,IpProtocol:tcp,IpRanges:[{CidrIp:10.0.0.0/8}],ToPort:3}]" || len(r.show(byDefault).IpPermissions) != 1 {
		t.Errorf("one of two is not there, in the default VPC: got %q %s", code, unknown)
	}
	described := tcp(2, "10.200.0.1/8")
	described.IpRanges[0].Description = "whatever"
	if code, _ := revoke(in{GroupId: byDefault, IpPermissions: []shape.IpPermission{described}}); code != "" || len(r.show(byDefault).IpPermissions) != 0 {
		t.Errorf("with another description: got %q", code)
	}
	rules := r.authorize(other, tcp(4, "10.0.0.0/8")).SecurityGroupRules
	egress, err := r.DescribeSecurityGroupRules(r.ctx, &shape.DescribeSecurityGroupRulesInput{Filters: []shape.Filter{{Name: "group-id", Values: []string{byDefault}}}})
	if err != nil || len(egress.SecurityGroupRules) != 1 {
		t.Fatalf("got %s, %v", text(egress), err)
	}
	for name, c := range map[string]struct {
		in   in
		want string
	}{
		"an ID that is none":               {in{GroupId: other, SecurityGroupRuleIds: []string{"x"}}, "InvalidSecurityGroupRuleId.Malformed"},
		"a rule that is not there":         {in{GroupId: other, SecurityGroupRuleIds: []string{rules[0].SecurityGroupRuleId, "sgr-12345678"}}, "InvalidSecurityGroupRuleId.NotFound"},
		"a rule of another group":          {in{GroupId: byDefault, SecurityGroupRuleIds: []string{rules[0].SecurityGroupRuleId}}, "InvalidSecurityGroupRuleId.NotFound"},
		"a rule of the other direction":    {in{GroupId: byDefault, SecurityGroupRuleIds: []string{egress.SecurityGroupRules[0].SecurityGroupRuleId}}, "InvalidSecurityGroupRuleId.NotFound"},
		"by ID and by what it allows":      {in{GroupId: other, SecurityGroupRuleIds: []string{rules[0].SecurityGroupRuleId}, CidrIp: "10.0.0.0/8"}, "InvalidParameterCombination"},
		"nothing":                          {in{GroupId: other}, "MissingParameter"},
		"by ID":                            {in{GroupId: other, SecurityGroupRuleIds: []string{rules[0].SecurityGroupRuleId}}, ""},
		"a permission that cannot be read": {in{GroupId: other, IpPermissions: []shape.IpPermission{tcp(1, "x")}}, "InvalidParameterValue"},
	} {
		if code, _ := revoke(c.in); code != c.want {
			t.Errorf("%s: got %q, want %q", name, code, c.want)
		}
	}
	out, err := r.RevokeSecurityGroupEgress(r.ctx, &shape.RevokeSecurityGroupEgressInput{GroupId: other, IpPermissions: r.show(other).IpPermissionsEgress})
	if err != nil || !yes(out.Return) || len(r.show(other).IpPermissionsEgress) != 0 {
		t.Errorf("what is shown can be revoked: got %v", err)
	}
}

func TestRulesAreModifiedAndDescribed(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	rules := r.authorize(id, tcp(1, "10.0.0.0/8"), tcp(2, "10.0.0.0/8")).SecurityGroupRules
	first := rules[0].SecurityGroupRuleId
	modify := func(u ...shape.SecurityGroupRuleUpdate) string {
		_, err := r.ModifySecurityGroupRules(r.ctx, &shape.ModifySecurityGroupRulesInput{GroupId: id, SecurityGroupRules: u})
		return cloud.Code(err)
	}
	to := func(rule string, q shape.SecurityGroupRuleRequest) shape.SecurityGroupRuleUpdate {
		return shape.SecurityGroupRuleUpdate{SecurityGroupRuleId: rule, SecurityGroupRule: &q}
	}
	for k, c := range []struct {
		got, want string
	}{
		{modify(), "MissingParameter"},
		{modify(shape.SecurityGroupRuleUpdate{SecurityGroupRuleId: first}), "MissingParameter"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "-1"})), "InvalidPermission.Malformed"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "-1", CidrIpv4: "10.0.0.0/8", CidrIpv6: "::/0"})), "InvalidParameterCombination"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "-1", PrefixListId: "pl-1"})), "UnsupportedOperation"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "tcp", FromPort: number(2), ToPort: number(2), CidrIpv4: "10.0.0.0/8"})), "InvalidPermission.Duplicate"},
		{modify(to("sgr-12345678", shape.SecurityGroupRuleRequest{IpProtocol: "-1", CidrIpv6: "::/0"})), "InvalidSecurityGroupRuleId.NotFound"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "-1", CidrIpv6: "::/0"}), to(first, shape.SecurityGroupRuleRequest{IpProtocol: "-1", CidrIpv6: "::/0"})), "InvalidParameterValue"},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "icmpv6", CidrIpv6: "2001:db8::9/32", Description: "ping"})), ""},
		{modify(to(first, shape.SecurityGroupRuleRequest{IpProtocol: "icmpv6", ReferencedGroupId: id, Description: "ping"})), ""},
	} {
		if c.got != c.want {
			t.Errorf("step %d: got %q, want %q", k, c.got, c.want)
		}
	}
	pair := func(description string) []shape.IpPermission {
		return []shape.IpPermission{{IpProtocol: "icmpv6", UserIdGroupPairs: []shape.UserIdGroupPair{{GroupName: "g", Description: description}}}}
	}
	type in = shape.UpdateSecurityGroupRuleDescriptionsIngressInput
	describe := func(i in) string {
		i.GroupId = id
		_, err := r.UpdateSecurityGroupRuleDescriptionsIngress(r.ctx, &i)
		shown := r.show(id).IpPermissions[0].UserIdGroupPairs[0].Description
		return cmp.Or(cloud.Code(err), shown, "none")
	}
	for k, c := range []struct{ got, want string }{
		{describe(in{}), "InvalidParameterCombination"},
		{describe(in{IpPermissions: pair("by permission")}), "by permission"},
		{describe(in{IpPermissions: []shape.IpPermission{tcp(9, "10.0.0.0/8")}}), "InvalidPermission.NotFound"},
		{describe(in{SecurityGroupRuleDescriptions: []shape.SecurityGroupRuleDescription{{SecurityGroupRuleId: first, Description: "by ID"}}}), "by ID"},
		{describe(in{SecurityGroupRuleDescriptions: []shape.SecurityGroupRuleDescription{{SecurityGroupRuleId: first, Description: "a<b"}}}), "InvalidParameterValue"},
		{describe(in{SecurityGroupRuleDescriptions: []shape.SecurityGroupRuleDescription{{SecurityGroupRuleId: "sgr-12345678"}}}), "InvalidSecurityGroupRuleId.NotFound"},
		{describe(in{SecurityGroupRuleDescriptions: []shape.SecurityGroupRuleDescription{{SecurityGroupRuleId: first}}}), "none"},
	} {
		if c.got != c.want {
			t.Errorf("description %d: got %q, want %q", k, c.got, c.want)
		}
	}
	everything := r.show(id).IpPermissionsEgress
	everything[0].IpRanges[0].Description = "out"
	if _, err := r.UpdateSecurityGroupRuleDescriptionsEgress(r.ctx, &shape.UpdateSecurityGroupRuleDescriptionsEgressInput{GroupName: "g", IpPermissions: everything}); err != nil {
		t.Error(err)
	}
	if got := r.show(id).IpPermissionsEgress[0].IpRanges[0].Description; got != "out" {
		t.Errorf("got %q", got)
	}
}

func TestRulesHaveTagsOfTheirOwn(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	rules := r.authorize(id, tcp(1, "10.0.0.0/8"), tcp(2, "10.0.0.0/8")).SecurityGroupRules
	all := []string{rules[0].SecurityGroupRuleId, id, rules[1].SecurityGroupRuleId, rules[0].SecurityGroupRuleId}
	if _, err := r.CreateTags(r.ctx, &shape.CreateTagsInput{Resources: all, Tags: []shape.Tag{{Key: "k", Value: "v"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DeleteTags(r.ctx, &shape.DeleteTagsInput{Resources: all[:1]}); err != nil {
		t.Fatal(err)
	}
	out, err := r.DescribeTags(r.ctx, &shape.DescribeTagsInput{Filters: []shape.Filter{{Name: "key", Values: []string{"k"}}}})
	var got []string
	for _, tag := range out.Tags {
		got = append(got, tag.ResourceType+" "+tag.ResourceId)
	}
	slices.Sort(got)
	if want := []string{"security-group " + id, "security-group-rule " + rules[1].SecurityGroupRuleId}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	shown, err := r.DescribeSecurityGroupRules(r.ctx, &shape.DescribeSecurityGroupRulesInput{Filters: []shape.Filter{{Name: "tag:k", Values: []string{"v"}}}})
	if err != nil || len(shown.SecurityGroupRules) != 1 || shown.SecurityGroupRules[0].SecurityGroupRuleId != rules[1].SecurityGroupRuleId {
		t.Errorf("by tag: got %s, %v", text(shown), err)
	}
	was := r.head()
	for missing, code := range map[string]string{"sgr-12345678": "InvalidSecurityGroupRuleId.NotFound", "sgr-x": "InvalidSecurityGroupRuleId.Malformed"} {
		if _, err := r.CreateTags(r.ctx, &shape.CreateTagsInput{Resources: []string{id, missing}, Tags: []shape.Tag{{Key: "a"}}}); cloud.Code(err) != code || r.head() != was {
			t.Errorf("got %v, want %s, and all or none tagged", err, code)
		}
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.CreateTags(they, &shape.CreateTagsInput{Resources: all[:1], Tags: []shape.Tag{{Key: "a"}}}); cloud.Code(err) != "InvalidSecurityGroupRuleId.NotFound" {
		t.Errorf("another account: got %v", err)
	}
}

func TestGroupsAreFoundByTheirRules(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	web, app := r.group("web"), r.group("app")
	r.group("web", v.ID)
	r.authorize(web, tcp(80, "203.0.113.0/24"), shape.IpPermission{IpProtocol: "icmpv6", Ipv6Ranges: []shape.Ipv6Range{{CidrIpv6: "2001:db8::/32"}}})
	r.authorize(app, shape.IpPermission{IpProtocol: "udp", FromPort: number(5), ToPort: number(9), UserIdGroupPairs: []shape.UserIdGroupPair{{GroupId: web}}})
	if _, err := r.AuthorizeSecurityGroupEgress(r.ctx, &shape.AuthorizeSecurityGroupEgressInput{GroupId: app, IpPermissions: []shape.IpPermission{tcp(443, "198.51.100.0/24")}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ filter, value, want string }{
		{"group-name", "app", "app"}, {"group-id", app, "app"}, {"description", "for w*", "web web"}, {"vpc-id", string(v.ID), "default web"}, {"owner-id", "000000000000", "app default default web web"},
		{"ip-permission.cidr", "203.0.113.0/24", "web"}, {"ip-permission.ipv6-cidr", "2001:db8::/32", "web"}, {"ip-permission.from-port", "5", "app"}, {"ip-permission.to-port", "9", "app"},
		{"ip-permission.protocol", "udp", "app"}, {"ip-permission.protocol", "icmpv6", "web"}, {"ip-permission.group-id", web, "app"}, {"ip-permission.group-name", "web", "app"},
		{"ip-permission.user-id", "000000000000", "app default"}, {"ip-permission.prefix-list-id", "pl-1", ""},
		{"egress.ip-permission.cidr", "198.51.100.0/24", "app"}, {"egress.ip-permission.from-port", "443", "app"}, {"egress.ip-permission.protocol", "-1", "app default web web"},
		{"egress.ip-permission.to-port", "80", ""}, {"egress.ip-permission.group-id", web, ""}, {"egress.ip-permission.ipv6-cidr", "::/0", ""},
		{"egress.ip-permission.group-name", "web", ""}, {"egress.ip-permission.user-id", "000000000000", ""}, {"egress.ip-permission.prefix-list-id", "pl-1", ""},
	} {
		out, err := r.DescribeSecurityGroups(r.ctx, &shape.DescribeSecurityGroupsInput{Filters: []shape.Filter{{Name: c.filter, Values: []string{c.value}}}})
		var got []string
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		for _, g := range out.SecurityGroups {
			got = append(got, g.GroupName)
		}
		if slices.Sort(got); strings.Join(got, " ") != c.want {
			t.Errorf("%s=%s: got %v, want %q", c.filter, c.value, got, c.want)
		}
	}
	named, err := r.DescribeSecurityGroups(r.ctx, &shape.DescribeSecurityGroupsInput{GroupIds: []string{web, web}, GroupNames: []string{"web", "default"}})
	if err != nil || len(named.SecurityGroups) != 2 {
		t.Errorf("named twice: got %s, %v", text(named), err)
	}
	for want, in := range map[string]*shape.DescribeSecurityGroupsInput{
		"InvalidGroup.NotFound": {GroupNames: []string{"x"}}, "InvalidGroupId.Malformed": {GroupIds: []string{"x"}}, "InvalidParameterValue": {Filters: []shape.Filter{{Name: "x", Values: []string{"y"}}}},
	} {
		if _, err := r.DescribeSecurityGroups(r.ctx, in); cloud.Code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestRulesAreShownInPages(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	for port := range 12 {
		r.authorize(id, tcp(1+port, "10.0.0.0/8"))
	}
	in := &shape.DescribeSecurityGroupRulesInput{MaxResults: ptr(int64(5)), Filters: []shape.Filter{{Name: "group-id", Values: []string{id}}}}
	seen := map[string]bool{}
	for page := 0; page == 0 || in.NextToken != ""; page++ {
		out, err := r.DescribeSecurityGroupRules(r.ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range out.SecurityGroupRules {
			seen[rule.SecurityGroupRuleId] = true
		}
		in.NextToken = out.NextToken
		r.authorize(id, tcp(100+page, "10.0.0.0/8")) // must not show
	}
	if len(seen) != 13 {
		t.Errorf("got %d rules, want 12 and the one for what goes out", len(seen))
	}
	for want, ids := range map[string][]string{"InvalidSecurityGroupRuleId.NotFound": {"sgr-12345678"}, "InvalidSecurityGroupRuleId.Malformed": {"x"}} {
		if _, err := r.DescribeSecurityGroupRules(r.ctx, &shape.DescribeSecurityGroupRulesInput{SecurityGroupRuleIds: ids}); cloud.Code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What is shown of a group makes the same group when it is asked for again, and means what was asked for at first.
func TestWhatIsShownCanBeAskedForAgain(t *testing.T) {
	r := newRig(t)
	peer := r.group("peer")
	k := 0
	rapid.Check(t, func(t *rapid.T) {
		k++
		a, b := r.group(fmt.Sprintf("a%d", k)), r.group(fmt.Sprintf("b%d", k))
		asked := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) shape.IpPermission { return drawPermission(t, peer) }), 1, 5).Draw(t, "permissions")
		out, err := r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: a, IpPermissions: asked})
		if cloud.Code(err) == "InvalidParameterValue" { // the same twice
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		first := r.show(a)
		if _, err := r.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: b, IpPermissions: first.IpPermissions}); err != nil {
			t.Fatalf("%s cannot be asked for again: %v", text(first.IpPermissions), err)
		}
		if got, want := text(r.show(b).IpPermissions), text(first.IpPermissions); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		rules, err := r.DescribeSecurityGroupRules(r.ctx, &shape.DescribeSecurityGroupRulesInput{Filters: []shape.Filter{{Name: "group-id", Values: []string{a}}}})
		if err != nil || len(rules.SecurityGroupRules) != 1+len(out.SecurityGroupRules) {
			t.Fatalf("got %s, %v, want those that were made: %s", text(rules), err, text(out.SecurityGroupRules))
		}
		stored, err := store.Get(r.Context(), r.Store, store.Groups, a)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			p := drawPacket(t, peer)
			got := cloud.Allows([]cloud.SecurityGroup{stored.Value}, false, p)
			if want := slices.ContainsFunc(asked, func(q shape.IpPermission) bool { return permits(q, p) }); got != want {
				t.Fatalf("%+v: the group allows it: %v, and %s does: %v", p, got, text(asked), want)
			}
		}
		if _, err := r.RevokeSecurityGroupIngress(r.ctx, &shape.RevokeSecurityGroupIngressInput{GroupId: a, IpPermissions: first.IpPermissions}); err != nil || len(r.show(a).IpPermissions) != 0 {
			t.Fatalf("revoke what is shown: %v, %s is left", err, text(r.show(a).IpPermissions))
		}
		for _, id := range []string{a, b} {
			if _, err := r.DeleteSecurityGroup(r.ctx, &shape.DeleteSecurityGroupInput{GroupId: id}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func drawPermission(t *rapid.T, peer string) shape.IpPermission {
	p := shape.IpPermission{IpProtocol: rapid.SampledFrom([]string{"tcp", "6", "udp", "17", "icmp", "1", "icmpv6", "58", "-1", "50"}).Draw(t, "protocol")}
	switch p.IpProtocol {
	case "tcp", "6", "udp", "17":
		from := rapid.IntRange(0, 20).Draw(t, "from")
		p.FromPort, p.ToPort = number(from), number(rapid.IntRange(from, 20).Draw(t, "to"))
	case "icmp", "1", "icmpv6", "58":
		kind := rapid.IntRange(-1, 3).Draw(t, "type")
		p.FromPort, p.ToPort = number(kind), number(-1)
		if kind >= 0 {
			p.ToPort = number(rapid.IntRange(-1, 2).Draw(t, "code"))
		}
	}
	description := rapid.SampledFrom([]string{"", "why", "a (b)"}).Draw(t, "description")
	switch rapid.IntRange(0, 2).Draw(t, "peer") {
	case 0:
		p.IpRanges = []shape.IpRange{{CidrIp: rapid.SampledFrom([]string{"0.0.0.0/0", "10.1.2.3/8", "192.0.2.7/32"}).Draw(t, "cidr"), Description: description}}
	case 1:
		p.Ipv6Ranges = []shape.Ipv6Range{{CidrIpv6: rapid.SampledFrom([]string{"::/0", "2001:DB8::1/32"}).Draw(t, "cidr"), Description: description}}
	case 2:
		p.UserIdGroupPairs = []shape.UserIdGroupPair{{GroupId: peer, Description: description}}
	}
	return p
}

func drawPacket(t *rapid.T, peer string) cloud.Packet {
	p := cloud.Packet{
		Peer:     netip.MustParseAddr(rapid.SampledFrom([]string{"10.9.9.9", "192.0.2.7", "192.0.2.8", "2001:db8:1::1", "2001:db9::1"}).Draw(t, "address")),
		Protocol: rapid.SampledFrom([]int{1, 6, 17, 50, 51, 58}).Draw(t, "packet"), Port: rapid.IntRange(0, 21).Draw(t, "port"),
		Type: rapid.IntRange(0, 4).Draw(t, "kind"), Code: rapid.IntRange(0, 3).Draw(t, "its code"),
	}
	if rapid.Bool().Draw(t, "member") {
		p.PeerGroups = []cloud.GroupID{cloud.GroupID(peer)}
	}
	return p
}

// permits reads a permission as EC2's documentation has it, without any of our own words for rules.
func permits(q shape.IpPermission, p cloud.Packet) bool {
	number := map[string]int{"tcp": 6, "6": 6, "udp": 17, "17": 17, "icmp": 1, "1": 1, "icmpv6": 58, "58": 58, "50": 50}
	if q.IpProtocol != "-1" && number[q.IpProtocol] != p.Protocol {
		return false
	}
	switch {
	case q.IpProtocol == "-1":
	case p.Protocol == 6, p.Protocol == 17:
		if int64(p.Port) < *q.FromPort || int64(p.Port) > *q.ToPort {
			return false
		}
	case p.Protocol == 1 && p.Peer.Is4(), p.Protocol == 58 && p.Peer.Is6():
		if *q.FromPort != -1 && *q.FromPort != int64(p.Type) || *q.ToPort != -1 && *q.ToPort != int64(p.Code) {
			return false
		}
	}
	for _, r := range q.IpRanges {
		if netip.MustParsePrefix(r.CidrIp).Contains(p.Peer) {
			return true
		}
	}
	for _, r := range q.Ipv6Ranges {
		if netip.MustParsePrefix(r.CidrIpv6).Contains(p.Peer) {
			return true
		}
	}
	return len(q.UserIdGroupPairs) > 0 && len(p.PeerGroups) > 0
}

// A policy that denies one group denies it under its name too.
func TestAGroupsNameIsAskedForByItsID(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	id := r.group("web")
	r.group("web", v.ID) // a name alone means the default VPC's
	for name, want := range map[string]string{"web": "[security-group-rule/sgr-1 security-group/" + id + "]", "x": "[security-group-rule/sgr-1 security-group/*]"} {
		if got := fmt.Sprint(r.groupResources("", name, []string{"sgr-1"})); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	in := &shape.ReplaceNetworkAclAssociationInput{AssociationId: "aclassoc-00000000000000002", NetworkAclId: "acl-1"}
	if got, want := fmt.Sprint(r.replacedAssociation(in)), "[network-acl/acl-1 subnet/subnet-00000000000000002]"; got != want {
		t.Errorf("an association: got %s, want %s", got, want)
	}
}
