package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/shape/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

type thing struct {
	id     string
	groups []string
	tags   map[string]string
}

var things = []thing{
	{"i-1", []string{"sg-a", "sg-b"}, map[string]string{"Name": "web 1", "env": "prod"}},
	{"i-2", []string{"sg-b"}, map[string]string{"Name": "db*"}},
	{"i-3", nil, nil},
}

func TestFilters(t *testing.T) {
	f := func(name string, values ...string) ec2.Filter { return ec2.Filter{Name: name, Values: values} }
	for _, c := range []struct {
		name    string
		filters []ec2.Filter
		want    string
	}{
		{"no filter matches all", nil, "i-1 i-2 i-3"},
		{"a value", []ec2.Filter{f("id", "i-2")}, "i-2"},
		{"any of the values", []ec2.Filter{f("id", "i-2", "i-3", "i-9")}, "i-2 i-3"},
		{"all of the filters", []ec2.Filter{f("group-id", "sg-b"), f("id", "i-1", "i-3")}, "i-1"},
		{"the same filter twice", []ec2.Filter{f("group-id", "sg-a"), f("group-id", "sg-b")}, "i-1"},
		{"a star", []ec2.Filter{f("id", "*")}, "i-1 i-2 i-3"},
		{"a star needs a value", []ec2.Filter{f("group-id", "*")}, "i-1 i-2"},
		{"stars inside", []ec2.Filter{f("tag:Name", "*e*1")}, "i-1"},
		{"a question mark", []ec2.Filter{f("id", "i-?")}, "i-1 i-2 i-3"},
		{"a question mark is one character", []ec2.Filter{f("id", "?-?1")}, ""},
		{"an escaped star", []ec2.Filter{f("tag:Name", `db\*`)}, "i-2"},
		{"an escaped star is no star", []ec2.Filter{f("tag:Name", `web\*`)}, ""},
		{"a tag's key", []ec2.Filter{f("tag-key", "env")}, "i-1"},
		{"a tag that is not there", []ec2.Filter{f("tag:env", "prod", "")}, "i-1"},
		{"case matters", []ec2.Filter{f("id", "I-1")}, ""},
		{"an unknown filter", []ec2.Filter{f("colour", "red")}, "InvalidParameterValue: The filter 'colour' is invalid"},
		{"no values", []ec2.Filter{f("id")}, "InvalidParameterValue: The filter 'id' has no values"},
		{"201 values", []ec2.Filter{f("id", slices.Repeat([]string{"i-1"}, 150)...), f("id", slices.Repeat([]string{"i-1"}, 51)...)}, "FilterLimitExceeded: The request has more than 200 filter values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			match, err := Match(c.filters, Fields[thing]{
				"id":       func(x thing) []string { return []string{x.id} },
				"group-id": func(x thing) []string { return x.groups },
			}, func(x thing) map[string]string { return x.tags })
			got := fmt.Sprint(err)
			if err == nil {
				var ids []string
				for _, x := range things {
					if match(x) {
						ids = append(ids, x.id)
					}
				}
				got = strings.Join(ids, " ")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A hostile pattern costs its length times the value's, not two to the number of its stars.
func TestPatternsOfManyStars(t *testing.T) {
	if wildcard([]rune(strings.Repeat("*a", 1000)+"b"), []rune(strings.Repeat("a", 5000))) {
		t.Error("matched")
	}
}

func TestPages(t *testing.T) {
	pager, err := NewPager(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	ctx := WithCaller(t.Context(), Identity{ARN: "u"})
	bounds := Bounds{Default: 0, Min: 5, Max: 1000}
	items := strings.Split("q w e r t y u i o p a s", " ")
	in := &ec2.DescribeInstancesInput{MaxResults: new(int64(5)), InstanceIds: []string{"x"}}
	var got []string
	for {
		pg, err := pager.Page(ctx, in, bounds)
		if err != nil {
			t.Fatal(err)
		}
		if in.NextToken != "" && pg.Revision != 42 {
			t.Errorf("got revision %d, want 42", pg.Revision)
		}
		page, next := Cut(pg, 42, slices.Clone(items), func(s string) string { return s })
		got = append(got, strings.Join(page, ""))
		if in.NextToken = next; next == "" {
			break
		}
		items = slices.DeleteFunc(items, func(s string) bool { return s == page[len(page)-1] }) // meanwhile
	}
	if want := "[aeiop qrstu wy]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}

	pg, err := pager.Page(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"x"}}, bounds)
	if err != nil {
		t.Fatal(err)
	}
	token := pg.Next(42, "k")
	other, err := NewPager([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		err   error
		want  string
		pager *Pager
		in    any
	}{
		{name: "the same question", in: &ec2.DescribeInstancesInput{InstanceIds: []string{"x"}, NextToken: token, MaxResults: new(int64(7))}},
		{name: "another question", in: &ec2.DescribeInstancesInput{InstanceIds: []string{"y"}, NextToken: token}, want: "InvalidNextToken"},
		{name: "another action", in: &ec2.DescribeVolumesInput{NextToken: token}, want: "InvalidNextToken"},
		{name: "another key", pager: other, in: &ec2.DescribeInstancesInput{InstanceIds: []string{"x"}, NextToken: token}, want: "InvalidNextToken"},
		{name: "a made-up token", in: &ec2.DescribeInstancesInput{NextToken: "AAAA"}, want: "InvalidNextToken"},
		{name: "not base64", in: &iam.ListRolesInput{Marker: "§"}, want: "InvalidNextToken"},
		{name: "too small a page", in: &ec2.DescribeInstancesInput{MaxResults: new(int64(4))}, want: "InvalidParameterValue"},
		{name: "too large a page", in: &ec2.DescribeInstancesInput{MaxResults: new(int64(1001))}, want: "InvalidParameterValue"},
		{name: "IAM's names", in: &iam.ListRolesInput{MaxItems: new(int64(1001))}, want: "InvalidParameterValue"},
	} {
		p := pager
		if c.pager != nil {
			p = c.pager
		}
		if _, err := p.Page(ctx, c.in, bounds); cloud.Code(err) != c.want {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := pager.Page(WithCaller(t.Context(), Identity{ARN: "v"}), &ec2.DescribeInstancesInput{InstanceIds: []string{"x"}, NextToken: token}, bounds); cloud.Code(err) != "InvalidNextToken" {
		t.Errorf("another caller: got %v, want InvalidNextToken", err)
	}
}
