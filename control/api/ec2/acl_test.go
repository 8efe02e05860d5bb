package ec2

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (r *rig) acl(vpc cloud.VPCID) string {
	r.Helper()
	out, err := r.CreateNetworkAcl(r.ctx, &shape.CreateNetworkAclInput{VpcId: string(vpc)})
	if err != nil {
		r.Fatal(err)
	}
	return out.NetworkAcl.NetworkAclId
}

func (r *rig) showACL(id string) shape.NetworkAcl {
	r.Helper()
	out, err := r.DescribeNetworkAcls(r.ctx, &shape.DescribeNetworkAclsInput{NetworkAclIds: []string{id}})
	if err != nil {
		r.Fatal(err)
	}
	return out.NetworkAcls[0]
}

// entries writes an ACL's list as a table of its console would.
func entries(a shape.NetworkAcl) string {
	var out []string
	for _, e := range a.Entries {
		direction, of := "in", e.CidrBlock+e.Ipv6CidrBlock
		if yes(e.Egress) {
			direction = "out"
		}
		if e.PortRange != nil {
			of += fmt.Sprintf(" ports %s-%s", digits(e.PortRange.From), digits(e.PortRange.To))
		}
		if e.IcmpTypeCode != nil {
			of += fmt.Sprintf(" type %s code %s", digits(e.IcmpTypeCode.Type), digits(e.IcmpTypeCode.Code))
		}
		out = append(out, fmt.Sprintf("%s %s %s %s %s", direction, digits(e.RuleNumber), e.RuleAction, e.Protocol, of))
	}
	return strings.Join(out, "\n")
}

func TestTheACLOfAVPCLetsEverythingPass(t *testing.T) {
	r := newRig(t)
	v, err := groupVPC(r.Mirror.Snapshot(), "000000000000")
	if err != nil {
		t.Fatal(err)
	}
	a := r.showACL(string(v.Value.NetworkACL))
	const want = `in 100 allow -1 0.0.0.0/0
in 32767 deny -1 0.0.0.0/0
out 100 allow -1 0.0.0.0/0
out 32767 deny -1 0.0.0.0/0`
	if got := entries(a); got != want || !yes(a.IsDefault) {
		t.Errorf("got %s, default: %v\nwant %s", got, yes(a.IsDefault), want)
	}
	if len(a.Associations) != 1 || a.Associations[0].NetworkAclId != string(v.Value.NetworkACL) {
		t.Errorf("got %s, want the subnet of the VPC", text(a.Associations))
	}
	if _, err := r.DeleteNetworkAcl(r.ctx, &shape.DeleteNetworkAclInput{NetworkAclId: a.NetworkAclId}); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("delete it: got %v", err)
	}
	if _, err := r.DeleteNetworkAclEntry(r.ctx, &shape.DeleteNetworkAclEntryInput{NetworkAclId: a.NetworkAclId, Egress: ptr(false), RuleNumber: number(32767)}); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("delete its last entry: got %v", err)
	}
}

func TestEntriesOfAnACL(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	id := r.acl(v.ID)
	if got, want := entries(r.showACL(id)), "in 32767 deny -1 0.0.0.0/0\nout 32767 deny -1 0.0.0.0/0"; got != want {
		t.Errorf("a new one: got %s\nwant %s", got, want)
	}
	type in = shape.CreateNetworkAclEntryInput
	create := func(i in) string {
		i.NetworkAclId = cmp.Or(i.NetworkAclId, id)
		_, err := r.CreateNetworkAclEntry(r.ctx, &i)
		return cloud.Code(err)
	}
	web := in{RuleNumber: number(100), Egress: ptr(false), Protocol: "tcp", RuleAction: "allow", CidrBlock: "100.68.0.18/18", PortRange: &shape.PortRange{From: number(80), To: number(443)}}
	ping := in{RuleNumber: number(90), Egress: ptr(false), Protocol: "1", RuleAction: "allow", CidrBlock: "0.0.0.0/0", IcmpTypeCode: &shape.IcmpTypeCode{Type: number(8), Code: number(-1)}}
	six := in{RuleNumber: number(50), Egress: ptr(true), Protocol: "58", RuleAction: "deny", Ipv6CidrBlock: "2001:db8::7/32", IcmpTypeCode: &shape.IcmpTypeCode{Type: number(128), Code: number(0)}}
	unnumbered, elsewhere := web, web
	unnumbered.RuleNumber, elsewhere.NetworkAclId = nil, "acl-12345678"
	for k, c := range []struct{ got, want string }{
		{create(web), ""}, {create(ping), ""}, {create(six), ""}, {create(web), "NetworkAclEntryAlreadyExists"},
		{create(unnumbered), "MissingParameter"}, {create(elsewhere), "InvalidNetworkAclID.NotFound"},
	} {
		if c.got != c.want {
			t.Errorf("entry %d: got %q, want %q", k, c.got, c.want)
		}
	}
	replaced := shape.ReplaceNetworkAclEntryInput(web)
	replaced.NetworkAclId, replaced.RuleAction, replaced.Protocol = id, "deny", "50"
	if _, err := r.ReplaceNetworkAclEntry(r.ctx, &replaced); err != nil {
		t.Error(err)
	}
	const want = `in 90 allow 1 0.0.0.0/0 type 8 code -1
in 100 deny 50 100.68.0.0/18
in 32767 deny -1 0.0.0.0/0
out 50 deny 58 2001:db8::/32 type 128 code 0
out 32767 deny -1 0.0.0.0/0`
	if got := entries(r.showACL(id)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	replaced.Egress = ptr(true)
	if _, err := r.ReplaceNetworkAclEntry(r.ctx, &replaced); cloud.Code(err) != "InvalidNetworkAclEntry.NotFound" {
		t.Errorf("replace one of the other direction: got %v", err)
	}
	gone := &shape.DeleteNetworkAclEntryInput{NetworkAclId: id, Egress: ptr(false), RuleNumber: number(90)}
	for _, want := range []string{"", "InvalidNetworkAclEntry.NotFound"} {
		if _, err := r.DeleteNetworkAclEntry(r.ctx, gone); cloud.Code(err) != want {
			t.Errorf("delete: got %v, want %q", err, want)
		}
	}
}

func TestASubnetUsesAnotherACL(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	id := r.acl(v.ID)
	replace := func(association, acl string) (string, string) {
		out, err := r.ReplaceNetworkAclAssociation(r.ctx, &shape.ReplaceNetworkAclAssociationInput{AssociationId: association, NetworkAclId: acl})
		if err != nil {
			return "", cloud.Code(err)
		}
		return out.NewAssociationId, ""
	}
	remove := func() string {
		return cloud.Code(errOf(r.DeleteNetworkAcl(r.ctx, &shape.DeleteNetworkAclInput{NetworkAclId: id})))
	}
	const first = "aclassoc-00000000000000002"
	next, code := replace(first, id)
	if code != "" || next == first {
		t.Fatalf("got %s, %q", next, code)
	}
	if got, want := text(r.showACL(id).Associations), fmt.Sprintf("[{NetworkAclAssociationId:%s,NetworkAclId:%s,SubnetId:subnet-00000000000000002}]", next, id); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := r.showACL(string(v.NetworkACL)).Associations; len(got) != 0 {
		t.Errorf("the default ACL still has %s", text(got))
	}
	if got := remove(); got != "DependencyViolation" {
		t.Errorf("delete it in use: got %q", got)
	}
	foreign, err := groupVPC(r.Mirror.Snapshot(), v.Account)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ association, acl, want string }{
		"the association that was": {first, id, "InvalidAssociationID.NotFound"},
		"no association":           {"x", id, "InvalidAssociationID.Malformed"},
		"an ACL that is not there": {next, "acl-12345678", "InvalidNetworkAclID.NotFound"},
		"the ACL of another VPC":   {next, string(foreign.Value.NetworkACL), "InvalidParameterValue"},
	} {
		if _, code := replace(c.association, c.acl); code != c.want {
			t.Errorf("%s: got %q, want %q", name, code, c.want)
		}
	}
	if _, code := replace(next, string(v.NetworkACL)); code != "" || remove() != "" {
		t.Errorf("back to the VPC's own, and delete the other: got %q", code)
	}
}

func TestAClientTokenMakesOneACL(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	in := &shape.CreateNetworkAclInput{VpcId: string(v.ID), ClientToken: "tok/en"}
	ids := make([]string, 12)
	for _, err := range atOnce(r.processes(3), 4, func(s *Service, k int) error {
		out, err := s.CreateNetworkAcl(r.ctx, in)
		if err == nil {
			ids[k] = out.NetworkAcl.NetworkAclId
		}
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("got %v, want one", ids)
		}
	}
	other := *in
	other.TagSpecifications = []shape.TagSpecification{{ResourceType: "network-acl", Tags: []shape.Tag{{Key: "k"}}}}
	if _, err := r.CreateNetworkAcl(r.ctx, &other); cloud.Code(err) != "IdempotentParameterMismatch" {
		t.Errorf("another request: got %v", err)
	}
}

func TestACLsAreFound(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	id := r.acl(v.ID)
	for _, e := range []shape.CreateNetworkAclEntryInput{
		{RuleNumber: number(7), Egress: ptr(false), Protocol: "6", RuleAction: "allow", CidrBlock: "192.0.2.0/24", PortRange: &shape.PortRange{From: number(80), To: number(90)}},
		{RuleNumber: number(8), Egress: ptr(true), Protocol: "58", RuleAction: "deny", Ipv6CidrBlock: "2001:db8::/32", IcmpTypeCode: &shape.IcmpTypeCode{Type: number(128), Code: number(3)}},
	} {
		e.NetworkAclId = id
		if _, err := r.CreateNetworkAclEntry(r.ctx, &e); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		filter, value string
		want          int
	}{
		{"network-acl-id", id, 1}, {"vpc-id", string(v.ID), 2}, {"owner-id", "000000000000", 3}, {"default", "true", 2}, {"default", "false", 1},
		{"association.association-id", "aclassoc-00000000000000002", 1}, {"association.network-acl-id", string(v.NetworkACL), 1}, {"association.subnet-id", "subnet-00000000000000002", 1},
		{"entry.cidr", "192.0.2.0/24", 1}, {"entry.ipv6-cidr", "2001:db8::/32", 1}, {"entry.icmp.type", "128", 1}, {"entry.icmp.code", "3", 1}, {"entry.port-range.from", "80", 1}, {"entry.port-range.to", "90", 1},
		{"entry.protocol", "6", 1}, {"entry.protocol", "tcp", 1}, {"entry.rule-action", "allow", 3}, {"entry.egress", "true", 3}, {"entry.rule-number", "7", 1}, {"entry.rule-number", "32767", 3},
	} {
		out, err := r.DescribeNetworkAcls(r.ctx, &shape.DescribeNetworkAclsInput{Filters: []shape.Filter{{Name: c.filter, Values: []string{c.value}}}})
		if err != nil || len(out.NetworkAcls) != c.want {
			t.Errorf("%s=%s: got %d, %v, want %d", c.filter, c.value, len(out.NetworkAcls), err, c.want)
		}
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.DescribeNetworkAcls(they, &shape.DescribeNetworkAclsInput{NetworkAclIds: []string{id}}); cloud.Code(err) != "InvalidNetworkAclID.NotFound" {
		t.Errorf("another account: got %v", err)
	}
}

// Whoever associates what somebody deletes at the same time: one of them is refused.
func TestWhatASubnetOrAVPCUsesIsNotDeletedUnderIt(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	processes := r.processes(2)
	for round := range 10 {
		acl := r.acl(v.ID)
		made, err := r.CreateDhcpOptions(r.ctx, &shape.CreateDhcpOptionsInput{DhcpConfigurations: []shape.NewDhcpConfiguration{{Key: "domain-name", Values: []string{"example.com"}}}})
		if err != nil {
			t.Fatal(err)
		}
		options := made.DhcpOptions.DhcpOptionsId
		subnet, err := store.Get(t.Context(), r.Store, store.Subnets, "subnet-00000000000000002")
		if err != nil {
			t.Fatal(err)
		}
		errs := atOnce(processes, 2, func(s *Service, k int) (err error) {
			switch k {
			case 0:
				_, err = s.DeleteNetworkAcl(r.ctx, &shape.DeleteNetworkAclInput{NetworkAclId: acl})
			case 1:
				_, err = s.ReplaceNetworkAclAssociation(r.ctx, &shape.ReplaceNetworkAclAssociationInput{AssociationId: string(subnet.Value.ACLAssociation), NetworkAclId: acl})
			case 2:
				_, err = s.DeleteDhcpOptions(r.ctx, &shape.DeleteDhcpOptionsInput{DhcpOptionsId: options})
			case 3:
				_, err = s.AssociateDhcpOptions(r.ctx, &shape.AssociateDhcpOptionsInput{DhcpOptionsId: options, VpcId: string(v.ID)})
			}
			return err
		})
		for k := 0; k < 4; k += 2 {
			if (errs[k] == nil) == (errs[k+1] == nil) {
				t.Errorf("round %d: delete: %v, associate: %v: want one of them", round, errs[k], errs[k+1])
			}
		}
	}
}
