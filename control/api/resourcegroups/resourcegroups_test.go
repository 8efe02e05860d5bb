package resourcegroups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/resourcegroups"
	"github.com/aws/smithy-go"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const (
	me     = "000000000000"
	prefix = "arn:aws:resource-groups:r-1:000000000000:group/"
)

type rig struct {
	*Service
	*testing.T
	ctx context.Context
}

// newRig has three instances of ours, one of them without a stage, and one of somebody else.
func newRig(t *testing.T) *rig {
	c := storetest.New(t)
	m := storetest.Mirror(t, c, store.All("spec"))
	pager, err := api.NewPager(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	things := map[cloud.AccountID][]cloud.Resource{
		me: {
			{Kind: cloud.KindInstance, Service: "ec2", Name: "instance/i-1", Tags: cloud.Tags{"Stage": "Test", "Team": "a"}},
			{Kind: cloud.KindInstance, Service: "ec2", Name: "instance/i-2", Tags: cloud.Tags{"Stage": "Live", "Team": "a"}},
			{Kind: cloud.KindInstance, Service: "ec2", Name: "instance/i-3", Tags: cloud.Tags{"Team": "a"}},
			{Kind: "AWS::EC2::VPC", Service: "ec2", Name: "vpc/vpc-1", Tags: cloud.Tags{"Stage": "Test"}},
		},
		"111111111111": {{Kind: cloud.KindInstance, Service: "ec2", Name: "instance/i-4", Tags: cloud.Tags{"Stage": "Test"}}},
	}
	source := Source{Kinds: []string{cloud.KindInstance, "AWS::EC2::VPC"}, Each: func(_ *store.Snapshot, who cloud.AccountID, f func(cloud.Resource)) error {
		for _, r := range things[who] {
			f(r)
		}
		return nil
	}}
	return &rig{&Service{Config{Store: c, Mirror: m, Pager: pager, Region: "r-1", Sources: []Source{source}, Log: slog.New(slog.DiscardHandler)}},
		t, api.WithCaller(t.Context(), api.Identity{Account: me})}
}

func asks(text string) *shape.ResourceQuery {
	return &shape.ResourceQuery{Type: "TAG_FILTERS_1_0", Query: text}
}

const tests = `{"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Stage","Values":["Test"]}]}`

func (r *rig) create(name, query string) *shape.CreateGroupOutput {
	r.Helper()
	out, err := r.CreateGroup(r.ctx, &shape.CreateGroupInput{Name: name, ResourceQuery: asks(query), Description: "d", Tags: map[string]string{"k": "v"}})
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func TestTheLifeOfAGroup(t *testing.T) {
	r := newRig(t)
	made := r.create("tests", tests)
	if g := made.Group; g.Name != "tests" || g.GroupArn != prefix+"tests" || g.Description != "d" || made.Tags["k"] != "v" || made.ResourceQuery.Query != tests {
		t.Errorf("got %+v", made)
	}
	if _, err := r.CreateGroup(r.ctx, &shape.CreateGroupInput{Name: "tests", ResourceQuery: asks(tests)}); cloud.Code(err) != "BadRequestException" {
		t.Errorf("a second of the name: got %v", err)
	}
	for _, named := range []shape.GetGroupInput{{Group: "tests"}, {GroupName: "tests"}, {Group: prefix + "tests"}, {Group: "tests", GroupName: "tests"}} {
		if out, err := r.GetGroup(r.ctx, &named); err != nil || out.Group.Name != "tests" {
			t.Errorf("%+v: got %+v, %v", named, out, err)
		}
	}
	updated, err := r.UpdateGroup(r.ctx, &shape.UpdateGroupInput{Group: "tests", Description: new("other"), Owner: new("o"), Criticality: new(int64(3))})
	if err != nil || updated.Group.Description != "other" || updated.Group.Owner != "o" || *updated.Group.Criticality != 3 {
		t.Errorf("got %+v, %v", updated, err)
	}
	updated, err = r.UpdateGroup(r.ctx, &shape.UpdateGroupInput{Group: "tests", Owner: new("")})
	if err != nil || updated.Group.Description != "other" || updated.Group.Owner != "" || *updated.Group.Criticality != 3 {
		t.Errorf("what is not given does not stay, or what is empty does: got %+v, %v", updated.Group, err)
	}
	any := `{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"Stage"}]}`
	if _, err := r.UpdateGroupQuery(r.ctx, &shape.UpdateGroupQueryInput{Group: "tests", ResourceQuery: asks(any)}); err != nil {
		t.Error(err)
	}
	if q, err := r.GetGroupQuery(r.ctx, &shape.GetGroupQueryInput{Group: "tests"}); err != nil || q.GroupQuery.ResourceQuery.Query != any || q.GroupQuery.GroupName != "tests" {
		t.Errorf("got %+v, %v", q, err)
	}
	if _, err := r.Tag(r.ctx, &shape.TagInput{Arn: prefix + "tests", Tags: map[string]string{"a": "b"}}); err != nil {
		t.Error(err)
	}
	if _, err := r.Untag(r.ctx, &shape.UntagInput{Arn: prefix + "tests", Keys: []string{"k", "never was"}}); err != nil {
		t.Error(err)
	}
	if out, err := r.GetTags(r.ctx, &shape.GetTagsInput{Arn: prefix + "tests"}); err != nil || fmt.Sprint(out.Tags) != "map[a:b]" {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := r.GetGroupConfiguration(r.ctx, &shape.GetGroupConfigurationInput{Group: "tests"}); cloud.Code(err) != "BadRequestException" {
		t.Errorf("the configuration of a query: got %v", err)
	}
	if out, err := r.DeleteGroup(r.ctx, &shape.DeleteGroupInput{Group: "tests"}); err != nil || out.Group.Name != "tests" {
		t.Errorf("got %+v, %v", out, err)
	}
	for name, err := range map[string]error{
		"deleted":                  second(r.GetGroup(r.ctx, &shape.GetGroupInput{Group: "tests"})),
		"deleted twice":            second(r.DeleteGroup(r.ctx, &shape.DeleteGroupInput{Group: "tests"})),
		"of another region":        second(r.GetGroup(r.ctx, &shape.GetGroupInput{Group: strings.Replace(prefix, "r-1", "r-2", 1) + "tests"})),
		"of another account":       second(r.GetGroup(r.ctx, &shape.GetGroupInput{Group: "111111111111/tests"})),
		"tags of what is no group": second(r.Tag(r.ctx, &shape.TagInput{Arn: "arn:aws:ec2:r-1:000000000000:instance/i-1", Tags: map[string]string{"a": "b"}})),
	} {
		if cloud.Code(err) != "NotFoundException" {
			t.Errorf("%s: got %v, want NotFoundException", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestWhoBelongsToAGroup(t *testing.T) {
	r := newRig(t)
	for query, want := range map[string]string{
		tests: "i-1",
		`{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"Stage","Values":["Test"]}]}`:                                      "i-1 vpc-1",
		`{"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Stage","Values":["Test","Live"]}]}`:                              "i-1 i-2",
		`{"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Stage","Values":[]}]}`:                                           "i-1 i-2",
		`{"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Team","Values":["a"]},{"Key":"Stage","Values":["Live"]}]}`:       "i-2",
		`{"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"stage","Values":["Test"]}]}`:                                     "",
		`{"ResourceTypeFilters":["AWS::EC2::Instance","AWS::S3::Bucket","AWS::S3::Bucket"],"TagFilters":[{"Key":"Stage","Values":["Live"]}]}`: "i-2 AWS::S3::Bucket",
	} {
		out, err := r.SearchResources(r.ctx, &shape.SearchResourcesInput{ResourceQuery: asks(query)})
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		var got []string
		for _, x := range out.ResourceIdentifiers {
			_, name, _ := strings.Cut(x.ResourceArn, "/")
			got = append(got, name)
		}
		for _, e := range out.QueryErrors {
			got = append(got, e.Message[len("There are no resources of the type "):len(e.Message)-len(" here")])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", query, got, want)
		}
	}
	r.create("all", `{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"Stage","Values":["Test"]}]}`)
	one := int64(1)
	in := &shape.ListGroupResourcesInput{Group: "all", MaxResults: &one}
	first, err := r.ListGroupResources(r.ctx, in)
	if err != nil || len(first.Resources) != 1 || first.Resources[0].Identifier.ResourceArn != "arn:aws:ec2:r-1:000000000000:instance/i-1" || first.NextToken == "" {
		t.Fatalf("got %+v, %v", first, err)
	}
	in.NextToken = first.NextToken
	if rest, err := r.ListGroupResources(r.ctx, in); err != nil || len(rest.Resources) != 1 || rest.Resources[0].Identifier.ResourceType != "AWS::EC2::VPC" || rest.NextToken != "" {
		t.Errorf("got %+v, %v", rest, err)
	}
	in = &shape.ListGroupResourcesInput{Group: "all", Filters: []shape.ResourceFilter{{Name: "resource-type", Values: []string{"AWS::EC2::VPC"}}}}
	if out, err := r.ListGroupResources(r.ctx, in); err != nil || len(out.Resources) != 1 || out.Resources[0].Identifier.ResourceType != "AWS::EC2::VPC" {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestGroupsAreListed(t *testing.T) {
	r := newRig(t)
	r.create("b", tests)
	r.create("a", `{"ResourceTypeFilters":["AWS::EC2::VPC"],"TagFilters":[{"Key":"Stage"}]}`)
	r.create("c", `{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"Stage"}]}`)
	if _, err := r.UpdateGroup(r.ctx, &shape.UpdateGroupInput{Group: "c", Owner: new("me"), DisplayName: new("C"), Criticality: new(int64(2))}); err != nil {
		t.Fatal(err)
	}
	them := &rig{r.Service, t, api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})}
	them.create("theirs", tests)
	list := func(in shape.ListGroupsInput) string {
		t.Helper()
		out, err := r.ListGroups(r.ctx, &in)
		if err != nil {
			return cloud.Code(err)
		}
		var got []string
		for k, g := range out.GroupIdentifiers {
			if out.Groups[k].Name != g.GroupName {
				t.Errorf("the two lists differ: %+v", out)
			}
			got = append(got, g.GroupName)
		}
		return strings.Join(got, " ")
	}
	filter := func(name, value string) []shape.GroupFilter {
		return []shape.GroupFilter{{Name: name, Values: []string{value}}}
	}
	for _, c := range []struct {
		in   shape.ListGroupsInput
		want string
	}{
		{shape.ListGroupsInput{}, "a b c"},
		{shape.ListGroupsInput{MaxResults: new(int64(2))}, "a b"},
		{shape.ListGroupsInput{MaxResults: new(int64(51))}, "InvalidParameterValue"}, // the front says BadRequestException
		{shape.ListGroupsInput{Filters: filter("resource-type", "AWS::EC2::Instance")}, "b c"},
		{shape.ListGroupsInput{Filters: filter("configuration-type", "x")}, ""},
		{shape.ListGroupsInput{Filters: filter("owner", "me")}, "c"},
		{shape.ListGroupsInput{Filters: filter("display-name", "C")}, "c"},
		{shape.ListGroupsInput{Filters: filter("criticality", "2")}, "c"},
		{shape.ListGroupsInput{Filters: filter("criticality", "0")}, ""},
		{shape.ListGroupsInput{Filters: filter("colour", "x")}, "BadRequestException"},
	} {
		if got := list(c.in); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.in, got, c.want)
		}
	}
}

func TestAnAccountHasAHundredGroups(t *testing.T) {
	r := newRig(t)
	them := &rig{r.Service, t, api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})}
	them.create("theirs", tests)
	for n := range 100 {
		r.create(fmt.Sprintf("g-%d", n), tests)
	}
	if _, err := r.CreateGroup(r.ctx, &shape.CreateGroupInput{Name: "more", ResourceQuery: asks(tests)}); cloud.Code(err) != "BadRequestException" || !strings.Contains(err.Error(), "100") {
		t.Errorf("the hundred and first: got %v", err)
	}
	them.create("theirs-2", tests)
	if _, err := r.DeleteGroup(r.ctx, &shape.DeleteGroupInput{Group: "g-7"}); err != nil {
		t.Fatal(err)
	}
	r.create("more", tests)
}

func TestBadGroupsAreRefused(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("x", 1025)
	for name, in := range map[string]shape.CreateGroupInput{
		"no name":              {ResourceQuery: asks(tests)},
		"a path":               {Name: "a/b", ResourceQuery: asks(tests)},
		"a reserved name":      {Name: "AwsThings", ResourceQuery: asks(tests)},
		"a long name":          {Name: strings.Repeat("x", 301), ResourceQuery: asks(tests)},
		"no query":             {Name: "g"},
		"a configuration":      {Name: "g", ResourceQuery: asks(tests), Configuration: []shape.GroupConfigurationItem{{Type: "AWS::EC2::HostManagement"}}},
		"a long description":   {Name: "g", ResourceQuery: asks(tests), Description: long},
		"a criticality of 11":  {Name: "g", ResourceQuery: asks(tests), Criticality: new(int64(11))},
		"a reserved tag":       {Name: "g", ResourceQuery: asks(tests), Tags: map[string]string{"aws:x": "y"}},
		"a stack":              {Name: "g", ResourceQuery: &shape.ResourceQuery{Type: "CLOUDFORMATION_STACK_1_0", Query: "{}"}},
		"another type":         {Name: "g", ResourceQuery: &shape.ResourceQuery{Type: "x", Query: tests}},
		"no JSON":              {Name: "g", ResourceQuery: asks("{")},
		"two of them":          {Name: "g", ResourceQuery: asks(tests + tests)},
		"an unknown member":    {Name: "g", ResourceQuery: asks(`{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"a"}],"Colour":1}`)},
		"no kinds":             {Name: "g", ResourceQuery: asks(`{"TagFilters":[{"Key":"a"}]}`)},
		"no tags":              {Name: "g", ResourceQuery: asks(`{"ResourceTypeFilters":["AWS::AllSupported"]}`)},
		"what is no kind":      {Name: "g", ResourceQuery: asks(`{"ResourceTypeFilters":["instance"],"TagFilters":[{"Key":"a"}]}`)},
		"an empty key":         {Name: "g", ResourceQuery: asks(`{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":""}]}`)},
		"too many values":      {Name: "g", ResourceQuery: asks(`{"ResourceTypeFilters":["AWS::AllSupported"],"TagFilters":[{"Key":"a","Values":["` + strings.Repeat(`","`, 20) + `"]}]}`)},
		"a query of 4097 byte": {Name: "g", ResourceQuery: asks(tests + strings.Repeat(" ", 4097-len(tests)))},
	} {
		if _, err := r.CreateGroup(r.ctx, &in); cloud.Code(err) != "BadRequestException" {
			t.Errorf("%s: got %v, want BadRequestException", name, err)
		}
	}
	if _, err := r.GetGroup(r.ctx, &shape.GetGroupInput{}); cloud.Code(err) != "BadRequestException" {
		t.Errorf("no group: got %v", err)
	}
	if _, err := r.GetGroup(r.ctx, &shape.GetGroupInput{Group: "a", GroupName: "b"}); cloud.Code(err) != "BadRequestException" {
		t.Errorf("two groups: got %v", err)
	}
}

// However a group is named, permission is asked for its ARN: a policy that denies it is not to be got round.
func TestPermissionIsAskedForTheGroup(t *testing.T) {
	for _, named := range []string{"prod", prefix + "prod"} {
		got := group(named, "")
		if len(got) != 1 || api.ARN(name, "r-1", me, got[0]) != prefix+"prod" {
			t.Errorf("%s: permission is asked for %v, want %sprod", named, got, prefix)
		}
	}
	denied := &deny{prefix + "prod"}
	r := newRig(t)
	r.create("prod", tests)
	front, err := api.New(api.Config{Authority: denied, Services: []api.Service{New(r.Config)}, Region: "r-1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(front)
	defer srv.Close()
	client := sdk.NewFromConfig(aws.Config{Region: "r-1", BaseEndpoint: &srv.URL, Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} }})
	for _, named := range []string{"prod", prefix + "prod"} {
		_, tag := client.Tag(t.Context(), &sdk.TagInput{Arn: &named, Tags: map[string]string{"a": "b"}})
		_, untag := client.Untag(t.Context(), &sdk.UntagInput{Arn: &named, Keys: []string{"k"}})
		_, read := client.GetTags(t.Context(), &sdk.GetTagsInput{Arn: &named})
		_, get := client.GetGroup(t.Context(), &sdk.GetGroupInput{Group: &named})
		//lint:ignore SA1019 older clients send it
		_, old := client.GetGroup(t.Context(), &sdk.GetGroupInput{GroupName: &named})
		_, list := client.ListGroupResources(t.Context(), &sdk.ListGroupResourcesInput{Group: &named})
		_, gone := client.DeleteGroup(t.Context(), &sdk.DeleteGroupInput{Group: &named})
		for action, err := range map[string]error{"Tag": tag, "Untag": untag, "GetTags": read, "GetGroup": get, "GetGroup by its old member": old, "ListGroupResources": list, "DeleteGroup": gone} {
			var e smithy.APIError
			if !errors.As(err, &e) || e.ErrorCode() != "AccessDeniedException" {
				t.Errorf("%s of %s: got %v, want AccessDeniedException", action, named, err)
			}
		}
	}
}

// deny is an authority that denies one resource.
type deny struct{ resource string }

func (d *deny) Authenticate(_ context.Context, c api.Credential) (api.Identity, []byte, error) {
	return api.Identity{Account: me}, sigv4.Key("secret", c.Date, c.Region, c.Service), nil
}

func (d *deny) Authorize(_ context.Context, _ api.Identity, _, resource string) error {
	if resource == d.resource {
		return api.ErrDenied
	}
	return nil
}
