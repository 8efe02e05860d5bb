package ec2

import (
	"context"
	"fmt"
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// several has two profiles whose roles may be passed, and one whose role may not.
type several struct{}

func (several) ResolveProfile(_ context.Context, name string) (cloud.ProfileRef, error) {
	name = strings.TrimPrefix(name, "arn:")
	if name != "first" && name != "second" && name != "theirs" {
		return cloud.ProfileRef{}, cloud.Errorf("InvalidParameterValue", "no profile %s", name)
	}
	return cloud.ProfileRef{Name: name, ARN: "arn:" + name, ID: "AIPA-" + name, RoleName: name + "-role"}, nil
}

func (several) MayPassRole(ctx context.Context, p cloud.ProfileRef) error {
	return nobody{}.MayPassRole(ctx, p)
}

func spec(name string) *shape.IamInstanceProfileSpecification {
	return &shape.IamInstanceProfileSpecification{Name: name}
}

// seat gives the instance credentials, as the planner does.
func (r *rig) seat(id string) {
	r.Helper()
	r.write(func(t *store.Txn) { store.Put(t, store.Credentials("h-1"), id, store.Sealed{Box: []byte("sealed")}) })
}

func (r *rig) seated(id string) bool {
	_, err := store.Get(r.Context(), r.Store, store.Credentials("h-1"), id)
	return err == nil
}

// carried is what the API shows of an instance's profile: in the list of associations, and in the instance.
func (r *rig) carried(id string) string {
	r.Helper()
	out := ""
	all := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{Filters: []shape.Filter{{Name: "instance-id", Values: []string{id}}}})
	for _, a := range all.IamInstanceProfileAssociations {
		out += fmt.Sprintf("%s %s ", a.IamInstanceProfile.Id, a.State)
	}
	if p := do(r, r.DescribeInstances, shape.DescribeInstancesInput{InstanceIds: []string{id}}).Reservations[0].Instances[0].IamInstanceProfile; p != nil {
		out += p.Id
	}
	return out
}

func TestAProfileComesChangesAndGoes(t *testing.T) {
	r := newRig(t)
	r.Profiles = several{}
	id := r.run(small()).Instances[0].InstanceId
	r.says(id, cloud.StateRunning)
	if got := r.carried(id); got != "" {
		t.Fatalf("an instance without a profile carries %q", got)
	}

	a := do(r, r.AssociateIamInstanceProfile, shape.AssociateIamInstanceProfileInput{InstanceId: id, IamInstanceProfile: spec("first")}).IamInstanceProfileAssociation
	if a.State != "associating" || a.InstanceId != id || a.IamInstanceProfile.Id != "AIPA-first" || !cloud.WellFormed(cloud.AssociationID(a.AssociationId), "iip-assoc") || !a.Timestamp.Equal(start) {
		t.Errorf("associate answers %+v", a)
	}
	if got, want := r.carried(id), "AIPA-first associating AIPA-first"; got != want {
		t.Errorf("before the host has heard of it: %q, want %q", got, want)
	}
	r.says(id, cloud.StateRunning)
	if got, want := r.carried(id), "AIPA-first associated AIPA-first"; got != want {
		t.Errorf("when the host has told the guest: %q, want %q", got, want)
	}

	r.seat(id)
	b := do(r, r.ReplaceIamInstanceProfileAssociation, shape.ReplaceIamInstanceProfileAssociationInput{AssociationId: a.AssociationId, IamInstanceProfile: &shape.IamInstanceProfileSpecification{Arn: "arn:second"}}).IamInstanceProfileAssociation
	if b.State != "associating" || b.AssociationId == a.AssociationId || b.IamInstanceProfile.Id != "AIPA-second" {
		t.Errorf("replace answers %+v", b)
	}
	if r.seated(id) {
		t.Error("the role before has credentials on the host, although another profile is associated")
	}
	if got, want := r.carried(id), "AIPA-second associating AIPA-second"; got != want {
		t.Errorf("after it was replaced: %q, want %q", got, want)
	}

	r.seat(id)
	c := do(r, r.DisassociateIamInstanceProfile, shape.DisassociateIamInstanceProfileInput{AssociationId: b.AssociationId}).IamInstanceProfileAssociation
	if c.State != "disassociating" || c.AssociationId != b.AssociationId || c.IamInstanceProfile.Id != "AIPA-second" {
		t.Errorf("disassociate answers %+v", c)
	}
	if got := r.carried(id); got != "" || r.seated(id) {
		t.Errorf("after it was taken away: %q, credentials on the host: %t", got, r.seated(id))
	}
}

func TestALaunchAssociatesItsProfile(t *testing.T) {
	r := newRig(t)
	r.Profiles = several{}
	in := small()
	in.IamInstanceProfile, in.MaxCount = spec("first"), ptr(int64(2))
	out := r.run(in).Instances
	all := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{}).IamInstanceProfileAssociations
	if len(all) != 2 || all[0].AssociationId == all[1].AssociationId {
		t.Fatalf("two instances have the associations %+v", all)
	}
	if got := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{AssociationIds: []string{all[1].AssociationId}}).IamInstanceProfileAssociations; len(got) != 1 || got[0].InstanceId != all[1].InstanceId {
		t.Errorf("by its ID: %+v", got)
	}
	associating := []shape.Filter{{Name: "state", Values: []string{"associating"}}}
	r.says(out[0].InstanceId, cloud.StateRunning)
	if got := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{Filters: associating}).IamInstanceProfileAssociations; len(got) != 1 || got[0].InstanceId != out[1].InstanceId {
		t.Errorf("one of two hosts has not heard of it: %+v", got)
	}
	do(r, r.TerminateInstances, shape.TerminateInstancesInput{InstanceIds: []string{out[0].InstanceId}})
	if got := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{}).IamInstanceProfileAssociations; len(got) != 1 || got[0].InstanceId != out[1].InstanceId {
		t.Errorf("after one of two was terminated: %+v", got)
	}
}

func TestAnInstanceOfBeforeAssociationsHadNames(t *testing.T) {
	r := newRig(t)
	r.Profiles = several{}
	id := r.run(small()).Instances[0].InstanceId
	o, err := store.Get(t.Context(), r.Store, store.Instances, id)
	if err != nil {
		t.Fatal(err)
	}
	i := o.Value
	i.Profile = &cloud.ProfileRef{ARN: "arn:first", ID: "AIPA-first", Name: "first", RoleName: "first-role"}
	r.write(func(t *store.Txn) { store.Update(t, store.Instances, o, i) })
	r.says(id, cloud.StateRunning)
	a := do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{}).IamInstanceProfileAssociations
	if len(a) != 1 || a[0].State != "associated" || !a[0].Timestamp.Equal(start) {
		t.Fatalf("it carries %+v", a)
	}
	do(r, r.DisassociateIamInstanceProfile, shape.DisassociateIamInstanceProfileInput{AssociationId: a[0].AssociationId})
	if got := r.carried(id); got != "" {
		t.Errorf("after it was taken away: %q", got)
	}
}

func TestProfileChangesThatAreRefusedWriteNothing(t *testing.T) {
	r := newRig(t)
	r.Profiles = several{}
	free, starting, over := r.run(small()).Instances[0].InstanceId, r.run(small()).Instances[0].InstanceId, r.run(small()).Instances[0].InstanceId
	in := small()
	in.IamInstanceProfile = spec("first")
	taken := r.run(in).Instances[0].InstanceId
	gone := r.run(in).Instances[0].InstanceId
	for _, id := range []string{free, taken, over, gone} {
		r.says(id, cloud.StateRunning)
	}
	of := func(id string) string {
		return do(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{Filters: []shape.Filter{{Name: "instance-id", Values: []string{id}}}}).IamInstanceProfileAssociations[0].AssociationId
	}
	its, former := of(taken), of(gone)
	do(r, r.TerminateInstances, shape.TerminateInstancesInput{InstanceIds: []string{over, gone}})
	associate := func(id string, p *shape.IamInstanceProfileSpecification) func() string {
		return func() string {
			_, code := try(r, r.AssociateIamInstanceProfile, shape.AssociateIamInstanceProfileInput{InstanceId: id, IamInstanceProfile: p})
			return code
		}
	}
	replace := func(id string, p *shape.IamInstanceProfileSpecification) func() string {
		return func() string {
			_, code := try(r, r.ReplaceIamInstanceProfileAssociation, shape.ReplaceIamInstanceProfileAssociationInput{AssociationId: id, IamInstanceProfile: p})
			return code
		}
	}
	remove := func(id string) func() string {
		return func() string {
			_, code := try(r, r.DisassociateIamInstanceProfile, shape.DisassociateIamInstanceProfileInput{AssociationId: id})
			return code
		}
	}
	describe := func(id string) func() string {
		return func() string {
			_, code := try(r, r.DescribeIamInstanceProfileAssociations, shape.DescribeIamInstanceProfileAssociationsInput{AssociationIds: []string{id}})
			return code
		}
	}
	const nothing = "iip-assoc-00000000000000001"
	for _, c := range []struct {
		name string
		call func() string
		want string
	}{
		{"an instance that carries one", associate(taken, spec("second")), "IncorrectState"},
		{"an instance that starts", associate(starting, spec("first")), "IncorrectInstanceState"},
		{"an instance that is terminated", associate(over, spec("first")), "IncorrectInstanceState"},
		{"an unknown instance", associate("i-00000000000000001", spec("first")), "InvalidInstanceID.NotFound"},
		{"a malformed instance", associate("x", spec("first")), "InvalidInstanceID.Malformed"},
		{"an unknown profile", associate(free, spec("x")), "InvalidParameterValue"},
		{"a role that may not be passed", associate(free, spec("theirs")), "UnauthorizedOperation"},
		{"no profile", associate(free, spec("")), "MissingParameter"},
		{"a profile named twice", associate(free, &shape.IamInstanceProfileSpecification{Name: "first", Arn: "arn:first"}), "InvalidParameterCombination"},
		{"replaced by a role that may not be passed", replace(its, spec("theirs")), "UnauthorizedOperation"},
		{"replaced by nothing", replace(its, spec("")), "MissingParameter"},
		{"an unknown association is replaced", replace(nothing, spec("second")), "InvalidAssociationID.NotFound"},
		{"a malformed association is replaced", replace("x", spec("second")), "InvalidParameterValue"},
		{"that of a terminated instance is replaced", replace(former, spec("second")), "InvalidAssociationID.NotFound"},
		{"an unknown association is removed", remove(nothing), "InvalidAssociationID.NotFound"},
		{"a malformed association is removed", remove("iip-assoc-x"), "InvalidParameterValue"},
		{"that of a terminated instance is removed", remove(former), "InvalidAssociationID.NotFound"},
		{"an unknown association is described", describe(nothing), "InvalidAssociationID.NotFound"},
		{"that of a terminated instance is described", describe(former), "InvalidAssociationID.NotFound"},
	} {
		was := r.head()
		if got := c.call(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		if r.head() != was {
			t.Errorf("%s: something was written", c.name)
		}
	}
}
