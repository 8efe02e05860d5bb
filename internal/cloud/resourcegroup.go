package cloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
)

// ResourceGroup is what has the same tags, under a name:
// https://docs.aws.amazon.com/ARG/latest/APIReference/API_CreateGroup.html
type ResourceGroup struct {
	Account     AccountID
	Name        string
	Description string        `json:",omitempty"`
	DisplayName string        `json:",omitempty"`
	Owner       string        `json:",omitempty"`
	Criticality int           `json:",omitempty"` // 1 to 10; 0 where it was not said
	Tags        Tags          `json:",omitempty"` // of the group itself
	Query       ResourceQuery // who belongs to it
}

// ResourceGroupID is the ID under which a group is kept: names are an account's own.
func ResourceGroupID(account AccountID, name string) string { return string(account) + "/" + name }

// Kinds of resources as CloudFormation names them, of which a group may want some.
const (
	KindInstance        = "AWS::EC2::Instance"
	KindManagedInstance = "AWS::SSM::ManagedInstance"
	KindDocument        = "AWS::SSM::Document"
	KindParameter       = "AWS::SSM::Parameter"
	kindAll             = "AWS::AllSupported"
)

// Resource is one of an account's resources, as groups see it.
type Resource struct {
	Kind    string
	Service string // of its ARN
	Name    string // the last part of its ARN: instance/i-123
	Tags    Tags
}

// TagFilters is the type of queries by tags: the only one there is, as CloudFormation has no stacks here.
const TagFilters = "TAG_FILTERS_1_0"

// ResourceQuery tells who belongs to a group.
type ResourceQuery struct {
	Text    string // as it was given
	Kinds   []string
	Filters []TagFilter
}

// TagFilter wants a tag of one of the values, or of any where there are none.
type TagFilter struct {
	Key    string
	Values []string
}

// Bounds of a query: https://docs.aws.amazon.com/ARG/latest/APIReference/API_ResourceQuery.html
const (
	maxQuery       = 4096
	maxTagFilters  = 50
	maxTagValues   = 20
	maxResourceKey = 128
)

var kindPattern = regexp.MustCompile(`^AWS::([A-Za-z0-9]+::[A-Za-z0-9]+|AllSupported)$`)

// ParseResourceQuery reads a query such as {"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Stage","Values":["Test"]}]}.
// A query without tags is refused: who sends a command to a group does not mean everybody.
func ParseResourceQuery(kind, text string) (ResourceQuery, error) {
	q := ResourceQuery{Text: text}
	bad := func(format string, args ...any) (ResourceQuery, error) {
		return ResourceQuery{}, Errorf("BadRequestException", "The query is not valid: "+format, args...)
	}
	switch {
	case kind == "CLOUDFORMATION_STACK_1_0":
		return bad("there are no CloudFormation stacks here, use one of type %s", TagFilters)
	case kind != TagFilters:
		return bad("its type is %.40q, and %s is there", kind, TagFilters)
	case len(text) > maxQuery:
		return bad("it may have %d bytes", maxQuery)
	}
	var read struct {
		ResourceTypeFilters []string
		TagFilters          []TagFilter
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	err := dec.Decode(&read)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more follows")
		}
	}
	if err != nil {
		return bad(`want {"ResourceTypeFilters":["AWS::EC2::Instance"],"TagFilters":[{"Key":"Stage","Values":["Test"]}]}`)
	}
	q.Kinds, q.Filters = read.ResourceTypeFilters, read.TagFilters
	switch {
	case len(q.Kinds) == 0:
		return bad("ResourceTypeFilters names no type: AWS::AllSupported is all")
	case len(q.Filters) == 0:
		return bad("TagFilters names no tag")
	case len(q.Filters) > maxTagFilters:
		return bad("TagFilters may name %d tags", maxTagFilters)
	}
	for _, k := range q.Kinds {
		if !kindPattern.MatchString(k) {
			return bad("%.60q is not a type of resources, such as AWS::EC2::Instance", k)
		}
	}
	for _, f := range q.Filters {
		if f.Key == "" || len([]rune(f.Key)) > maxResourceKey || len(f.Values) > maxTagValues {
			return bad("a tag filter has a Key of 1 to %d characters and at most %d Values", maxResourceKey, maxTagValues)
		}
	}
	return q, nil
}

// Wants reports whether resources of a kind may belong to the group.
func (q ResourceQuery) Wants(kind string) bool {
	return slices.Contains(q.Kinds, kindAll) || slices.Contains(q.Kinds, kind)
}

// Matches reports whether a resource belongs to the group: it is of a kind that is wanted and has all the tags.
func (q ResourceQuery) Matches(kind string, tags Tags) bool {
	if !q.Wants(kind) {
		return false
	}
	for _, f := range q.Filters {
		value, ok := tags[f.Key]
		if !ok || len(f.Values) > 0 && !slices.Contains(f.Values, value) {
			return false
		}
	}
	return len(q.Filters) > 0
}

// Unknown returns the kinds that a query names and that are not among those there are.
func (q ResourceQuery) Unknown(there []string) []string {
	var out []string
	for _, k := range q.Kinds {
		if k != kindAll && !slices.Contains(there, k) && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}
