package ssm

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

const machine = "mi-00000000000000001" // Name=a, a machine that is no guest

// grouped adds a machine, and groups: of instances, of all, and one of another account.
func grouped(r *rig) {
	r.Helper()
	query := func(kind, value string) cloud.ResourceQuery {
		q, err := cloud.ParseResourceQuery(cloud.TagFilters, fmt.Sprintf(`{"ResourceTypeFilters":[%q],"TagFilters":[{"Key":"Name","Values":[%q]}]}`, kind, value))
		if err != nil {
			r.Fatal(err)
		}
		return q
	}
	r.write(func(t *store.Txn) {
		store.Create(t, store.Nodes, cloud.InstanceID(machine), cloud.ManagedNode{ID: machine, Account: "000000000000", Host: "h-1", Tags: cloud.Tags{"Name": "a"}})
		store.Create(t, store.Pings("h-1"), cloud.InstanceID(machine), cloud.AgentPing{Instance: machine, Connected: true})
		for _, g := range []cloud.ResourceGroup{
			{Account: "000000000000", Name: "guests", Query: query("AWS::EC2::Instance", "a")},
			{Account: "000000000000", Name: "machines", Query: query("AWS::SSM::ManagedInstance", "a")},
			{Account: "000000000000", Name: "all", Query: query("AWS::AllSupported", "a")},
			{Account: "000000000000", Name: "b", Query: query("AWS::AllSupported", "b")},
			{Account: "000000000000", Name: "networks", Query: query("AWS::EC2::VPC", "a")},
			{Account: "111111111111", Name: "theirs", Query: query("AWS::AllSupported", "a")},
		} {
			store.Create(t, store.ResourceGroups, cloud.ResourceGroupID(g.Account, g.Name), g)
		}
	})
}

func toGroups(targets ...shape.Target) *shape.SendCommandInput {
	in := script()
	in.Targets = targets
	return in
}

func group(names ...string) shape.Target {
	return shape.Target{Key: "resource-groups:Name", Values: names}
}

func TestACommandGoesToAResourceGroup(t *testing.T) {
	r := newRig(t)
	grouped(r)
	for name, c := range map[string]struct {
		targets []shape.Target
		want    string
	}{
		"instances":                {[]shape.Target{group("guests")}, one},
		"machines":                 {[]shape.Target{group("machines")}, machine},
		"both":                     {[]shape.Target{group("all")}, one + " " + machine},
		"two groups":               {[]shape.Target{group("machines", "b")}, two + " " + machine},
		"of one kind":              {[]shape.Target{group("all"), {Key: "resource-groups:ResourceTypeFilters", Values: []string{"AWS::SSM::ManagedInstance"}}}, machine},
		"of a kind that is none":   {[]shape.Target{group("all"), {Key: "resource-groups:ResourceTypeFilters", Values: []string{"AWS::EC2::VPC"}}}, ""},
		"and a tag":                {[]shape.Target{group("all", "b"), {Key: "tag:Name", Values: []string{"b"}}}, two},
		"a group of other things":  {[]shape.Target{group("networks")}, ""},
		"in another order":         {[]shape.Target{{Key: "resource-groups:ResourceTypeFilters", Values: []string{"AWS::EC2::Instance"}}, group("all")}, one},
		"the same group two times": {[]shape.Target{group("guests", "guests")}, one},
	} {
		in := toGroups(c.targets...)
		sent := r.send(in)
		var got []string
		for _, id := range []string{one, two, mute, other, machine} {
			if _, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: sent.CommandId, InstanceId: id}); err == nil {
				got = append(got, id)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: sent to %v, want %s", name, got, c.want)
		}
		asked := len(r.reached(r.ctx, in)) - 1 // without the document
		if asked != len(got) {
			t.Errorf("%s: permission is asked for %v, and it is sent to %v", name, r.reached(r.ctx, in), got)
		}
	}
	for name, targets := range map[string][]shape.Target{
		"no such group":         {group("none")},
		"one of two":            {group("all", "none")},
		"somebody else's":       {group("theirs")},
		"another's by its path": {group("../111111111111/theirs")},
		"another key":           {{Key: "resource-groups:Tags", Values: []string{"x"}}},
	} {
		if _, err := r.SendCommand(r.ctx, toGroups(targets...)); cloud.Code(err) != "ValidationException" {
			t.Errorf("%s: got %v, want ValidationException", name, err)
		}
	}
}

// Who may send to some instances only does not reach others by a group, not even by one that changes after the front has asked.
func TestAGroupGivesNoPermission(t *testing.T) {
	r := newRig(t)
	grouped(r)
	r.Authorize = func(_ context.Context, action, resource string) error {
		if action == "ssm:SendCommand" && resource == "managed-instance/"+machine {
			return cloud.Errorf("AccessDeniedException", "no")
		}
		return nil
	}
	if got := fmt.Sprint(r.reached(r.ctx, toGroups(group("all")))); !strings.Contains(got, "ec2:instance/"+one) || !strings.Contains(got, "managed-instance/"+machine) {
		t.Errorf("permission is asked for %s, want %s and %s among them", got, one, machine)
	}
	many := toGroups(shape.Target{Key: "tag:Name", Values: append(make([]string, maxTargetValues), "a")})
	if got := r.reached(r.ctx, many); len(got) != 1 {
		t.Errorf("more than may be asked for is looked at: permission is asked for %v", got)
	}
	if _, err := r.SendCommand(r.ctx, toGroups(group("all"))); cloud.Code(err) != "AccessDeniedException" {
		t.Errorf("got %v, want AccessDeniedException", err)
	}
	if _, err := r.SendCommand(r.ctx, toGroups(group("guests"))); err != nil {
		t.Error(err)
	}
}

func TestResourcesOfSystemsManager(t *testing.T) {
	r := newRig(t)
	grouped(r)
	r.put("/app/colour", "String", "red")
	content := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["a"]}}]}`
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "mine", Content: content, Tags: []shape.Tag{{Key: "k", Value: "v"}}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := Resources(r.Mirror.Snapshot(), "000000000000", func(x cloud.Resource) {
		got = append(got, x.Kind+" "+api.ARN(x.Service, "r", "000000000000", x.Name)+fmt.Sprint(x.Tags))
	})
	want := "AWS::SSM::ManagedInstance arn:aws:ssm:r:000000000000:managed-instance/" + machine + "map[Name:a]" +
		" AWS::SSM::Document arn:aws:ssm:r:000000000000:document/minemap[k:v]" +
		" AWS::SSM::Parameter arn:aws:ssm:r:000000000000:parameter/app/colourmap[]"
	if strings.Join(got, " ") != want || err != nil {
		t.Errorf("got %s, %v, want %s", strings.Join(got, " "), err, want)
	}
}
