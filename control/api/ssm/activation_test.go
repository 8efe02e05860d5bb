package ssm

import (
	"strings"
	"testing"
	"time"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// activate creates an activation and returns its ID and code.
func (r *rig) activate(in shape.CreateActivationInput) (string, string) {
	r.Helper()
	in.IamRole = "machines"
	out, err := r.CreateActivation(r.ctx, &in)
	if err != nil {
		r.Fatal(err)
	}
	return out.ActivationId, out.ActivationCode
}

func key(n string) string { return strings.Repeat(n, 64) }

func TestAMachineRegistersAsOftenAsItsActivationLets(t *testing.T) {
	r := newRig(t)
	id, code := r.activate(shape.CreateActivationInput{DefaultInstanceName: "rack", RegistrationLimit: ptr(int64(2)), Tags: []shape.Tag{{Key: "where", Value: "cellar"}}})
	spent, spentCode := r.activate(shape.CreateActivationInput{ExpirationDate: ptr(start.Add(time.Hour))})
	first, err := r.register(r.ctx, "h-1", enrol.Request{Activation: id, Code: code, Name: "x", Key: key("a")})
	if err != nil || !cloud.WellFormed(first.ID, "mi") || first.Name != "rack" || first.Tags["where"] != "cellar" || first.Host != "h-1" {
		t.Fatalf("got %+v, %v", first, err)
	}
	// Its answer was lost: it asks again with its key, and that costs nothing.
	again, err := r.register(r.ctx, "h-1", enrol.Request{Activation: id, Code: code, Key: key("a")})
	if err != nil || again.ID != first.ID {
		t.Errorf("asked again: got %+v, %v", again, err)
	}
	for name, req := range map[string]enrol.Request{
		"a wrong code":            {Activation: id, Code: "x", Key: key("b")},
		"its own key, wrong code": {Activation: id, Code: "x", Key: key("a")},
		"no such activation":      {Activation: "00000000-0000-4000-8000-000000000000", Code: code, Key: key("b")},
		"an activation of a path": {Activation: "../activation/" + id, Code: code, Key: key("b")},
		"no activation":           {Code: code, Key: key("b")},
		"the code of another":     {Activation: id, Code: spentCode, Key: key("b")},
		"an empty code for none":  {Activation: "x", Key: key("b")},
		"a key that is no digest": {Activation: id, Code: code, Key: "../../x"},
		"no key, so nobody to be": {Activation: id, Code: code},
	} {
		if n, err := r.register(r.ctx, "h-1", req); cloud.Code(err) == "" || n.ID != "" && n.ID != first.ID {
			t.Errorf("%s: got %+v, %v", name, n, err)
		}
	}
	if _, err := r.register(r.ctx, "h-1", enrol.Request{Activation: strings.ToUpper(id), Code: code, Key: key("b")}); err != nil {
		t.Errorf("the second of two: %v", err)
	}
	if _, err := r.register(r.ctx, "h-1", enrol.Request{Activation: id, Code: code, Key: key("c")}); err == nil || !strings.Contains(err.Error(), "used up") {
		t.Errorf("the third of two: got %v", err)
	}
	r.now = start.Add(2 * time.Hour)
	if _, err := r.register(r.ctx, "h-1", enrol.Request{Activation: spent, Code: spentCode, Key: key("c")}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after its time: got %v", err)
	}
	list, err := r.DescribeActivations(r.ctx, &shape.DescribeActivationsInput{Filters: []shape.DescribeActivationsFilter{{FilterKey: "ActivationIds", FilterValues: []string{id}}}})
	if err != nil || len(list.ActivationList) != 1 || *list.ActivationList[0].RegistrationsCount != 2 || *list.ActivationList[0].Expired {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, err := r.DeleteActivation(r.ctx, &shape.DeleteActivationInput{ActivationId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DeleteActivation(r.ctx, &shape.DeleteActivationInput{ActivationId: id}); cloud.Code(err) != "InvalidActivationId" {
		t.Errorf("deleted twice: got %v", err)
	}
	if n, err := store.MirroredGet(r.Mirror.Snapshot(), store.Nodes, first.ID); err != nil || n.Value.Key != key("a") {
		t.Errorf("a machine without its activation: got %+v, %v", n, err)
	}
}

func TestActivationsThatAreRefused(t *testing.T) {
	r := newRig(t)
	for name, in := range map[string]shape.CreateActivationInput{
		"no role":                  {},
		"no registrations":         {IamRole: "a", RegistrationLimit: ptr(int64(0))},
		"too many registrations":   {IamRole: "a", RegistrationLimit: ptr(int64(1001))},
		"over before it begins":    {IamRole: "a", ExpirationDate: ptr(start)},
		"longer than 30 days":      {IamRole: "a", ExpirationDate: ptr(start.Add(31 * 24 * time.Hour))},
		"a description of a page":  {IamRole: "a", Description: strings.Repeat("x", 257)},
		"a tag of the cloud's own": {IamRole: "a", Tags: []shape.Tag{{Key: "aws:x", Value: "y"}}},
	} {
		if _, err := r.CreateActivation(r.ctx, &in); cloud.Code(err) != "ValidationException" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := r.DescribeActivations(r.ctx, &shape.DescribeActivationsInput{Filters: []shape.DescribeActivationsFilter{{FilterKey: "x"}}}); cloud.Code(err) != "InvalidFilter" {
		t.Errorf("a filter that is not known: got %v", err)
	}
}

func TestAMachineIsATargetLikeAnInstance(t *testing.T) {
	r := newRig(t)
	id, code := r.activate(shape.CreateActivationInput{Tags: []shape.Tag{{Key: "where", Value: "cellar"}}})
	n, err := r.register(r.ctx, "h-1", enrol.Request{Activation: id, Code: code, Name: "rack\x1b[2J7", Key: key("a")})
	if err != nil || n.Name != "rack?[2J7" {
		t.Fatalf("got %+v, %v", n, err)
	}
	if _, err := r.SendCommand(r.ctx, script(string(n.ID))); cloud.Code(err) != "InvalidInstanceId" {
		t.Errorf("before it has connected: got %v", err)
	}
	r.write(func(t *store.Txn) {
		store.Create(t, store.Pings("h-1"), n.ID, cloud.AgentPing{Instance: n.ID, Connected: true})
	})
	c := r.send(&shape.SendCommandInput{DocumentName: "AWS-RunShellScript", Parameters: map[string][]string{"commands": {"true"}}, Targets: []shape.Target{{Key: "tag:where", Values: []string{"cellar"}}}})
	if *c.TargetCount != 1 {
		t.Fatalf("got %+v", c)
	}
	if w, err := store.MirroredGet(r.Mirror.Snapshot(), store.CommandWishes("h-1"), store.InvocationID(cloud.CommandID(c.CommandId), n.ID)); err != nil || w.Value.Instance != n.ID {
		t.Errorf("got the wish %+v, %v", w, err)
	}
	if got := r.reached(r.ctx, &shape.SendCommandInput{DocumentName: "AWS-RunShellScript", InstanceIds: []string{string(n.ID), one}}); got[1] != "managed-instance/"+string(n.ID) || got[2] != "ec2:instance/"+one {
		t.Errorf("permission is asked for %v", got)
	}
	info, err := r.DescribeInstanceInformation(r.ctx, &shape.DescribeInstanceInformationInput{Filters: []shape.InstanceInformationStringFilter{{Key: "ActivationIds", Values: []string{id}}}})
	if err != nil || len(info.InstanceInformationList) != 1 || info.InstanceInformationList[0].ResourceType != "ManagedInstance" || info.InstanceInformationList[0].PingStatus != "Online" {
		t.Errorf("got %+v, %v", info, err)
	}
	if _, err := r.AddTagsToResource(r.ctx, &shape.AddTagsToResourceInput{ResourceType: "ManagedInstance", ResourceId: string(n.ID), Tags: []shape.Tag{{Key: "row", Value: "3"}}}); err != nil {
		t.Error(err)
	}
	if l, err := r.ListTagsForResource(r.ctx, &shape.ListTagsForResourceInput{ResourceType: "ManagedInstance", ResourceId: string(n.ID)}); err != nil || len(l.TagList) != 2 {
		t.Errorf("got %+v, %v", l, err)
	}
	role := func(id, role string) error {
		_, err := r.UpdateManagedInstanceRole(r.ctx, &shape.UpdateManagedInstanceRoleInput{InstanceId: id, IamRole: role})
		return err
	}
	if err := role(string(n.ID), "others"); err != nil {
		t.Error(err)
	}
	info, err = r.DescribeInstanceInformation(r.ctx, &shape.DescribeInstanceInformationInput{Filters: []shape.InstanceInformationStringFilter{{Key: "IamRole", Values: []string{"others"}}}})
	if err != nil || len(info.InstanceInformationList) != 1 {
		t.Errorf("by its new role: got %+v, %v", info, err)
	}
	if a, b := cloud.Code(role(one, "others")), cloud.Code(role(string(n.ID), strings.Repeat("x", 65))); a != "InvalidInstanceId" || b != "ValidationException" {
		t.Errorf("an instance of EC2's, and too long a role: got %s and %s", a, b)
	}
	if _, err := r.DeregisterManagedInstance(r.ctx, &shape.DeregisterManagedInstanceInput{InstanceId: one}); cloud.Code(err) != "InvalidInstanceId" {
		t.Errorf("an instance of EC2's: got %v", err)
	}
	if _, err := r.DeregisterManagedInstance(r.ctx, &shape.DeregisterManagedInstanceInput{InstanceId: string(n.ID)}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.MirroredGet(r.Mirror.Snapshot(), store.NodeWishes("h-1"), n.ID); err == nil {
		t.Error("its gateway still lets it in")
	}
	if got := r.get(c, string(n.ID)); got.StatusDetails != "Undeliverable" {
		t.Errorf("a command on its way to it: got %s", got.StatusDetails)
	}
}
