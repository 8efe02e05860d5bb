package resourcegroups

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Bounds of what a group says of itself: https://docs.aws.amazon.com/ARG/latest/APIReference/API_CreateGroup.html
const (
	maxDescription = 1024
	maxDisplayName = 300
	maxOwner       = 300
	maxCriticality = 10
)

// pages are how many groups or resources one answer tells.
var pages = api.Bounds{Default: 50, Min: 1, Max: 50}

func (s *Service) shape(g cloud.ResourceGroup) *shape.Group {
	return &shape.Group{GroupArn: s.arn(g), Name: g.Name, Description: g.Description, DisplayName: g.DisplayName, Owner: g.Owner, Criticality: criticality(g)}
}

func criticality(g cloud.ResourceGroup) *int64 {
	if g.Criticality == 0 {
		return nil
	}
	return new(int64(g.Criticality))
}

func query(q cloud.ResourceQuery) *shape.ResourceQuery {
	return &shape.ResourceQuery{Type: cloud.TagFilters, Query: q.Text}
}

// parse reads a query, which must be there.
func parse(q *shape.ResourceQuery) (cloud.ResourceQuery, error) {
	if q == nil {
		return cloud.ResourceQuery{}, bad("Give a ResourceQuery: groups of a configuration are not there")
	}
	return cloud.ParseResourceQuery(q.Type, q.Query)
}

// described applies the rules for what a group says of itself.
func described(g cloud.ResourceGroup) error {
	for _, part := range []struct {
		name, text string
		limit      int
	}{{"Description", g.Description, maxDescription}, {"DisplayName", g.DisplayName, maxDisplayName}, {"Owner", g.Owner, maxOwner}} {
		if utf8.RuneCountInString(part.text) > part.limit {
			return bad("%s may have %d characters", part.name, part.limit)
		}
	}
	return nil
}

func critical(n *int64) error {
	if n != nil && (*n < 1 || *n > maxCriticality) {
		return bad("Criticality is 1 to %d, not %d", maxCriticality, *n)
	}
	return nil
}

// tagged says what is wrong with tags in this service's words.
func tagged(t cloud.Tags) error {
	if err := t.Validate(); err != nil {
		var known cloud.Error
		if errors.As(err, &known) {
			return bad("%s", known.Message)
		}
		return err
	}
	return nil
}

// CreateGroup gives a query a name.
func (s *Service) CreateGroup(ctx context.Context, in *shape.CreateGroupInput) (*shape.CreateGroupOutput, error) {
	g := cloud.ResourceGroup{Account: caller(ctx), Name: in.Name, Description: in.Description, DisplayName: in.DisplayName, Owner: in.Owner, Tags: in.Tags}
	switch {
	case !namePattern.MatchString(in.Name):
		return nil, bad("The name of a group has 1 to 300 letters, digits, dots, hyphens and underscores, and is not %.60q", in.Name)
	case strings.HasPrefix(strings.ToLower(in.Name), "aws"):
		return nil, bad("The name of a group may not begin with aws, which is reserved: choose another than %.60q", in.Name)
	case len(in.Configuration) > 0:
		return nil, bad("Groups of a configuration are not there: give a ResourceQuery")
	}
	var err error
	if g.Query, err = parse(in.ResourceQuery); err != nil {
		return nil, err
	}
	if err := errors.Join(described(g), critical(in.Criticality), tagged(g.Tags)); err != nil {
		return nil, err
	}
	if in.Criticality != nil {
		g.Criticality = int(*in.Criticality)
	}
	id := cloud.ResourceGroupID(g.Account, g.Name)
	err = store.Change(ctx, s.Store, s.Mirror, func(snap *store.Snapshot) (*store.Txn, error) {
		if _, err := store.MirroredGet(snap, store.ResourceGroups, id); !errors.Is(err, store.ErrNotFound) {
			if err == nil {
				err = bad("A group with the name %s already exists: choose another", g.Name)
			}
			return nil, err
		}
		if n, err := owned(snap, g.Account); err != nil || n >= groups {
			return nil, cmp.Or(err, bad("The account has %d groups, which is the most: delete one that is not used", n))
		}
		t := store.NewTxn()
		store.Create(t, store.ResourceGroups, id, g)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	return &shape.CreateGroupOutput{Group: s.shape(g), ResourceQuery: query(g.Query), Tags: g.Tags}, nil
}

// groups is how many an account may have: Resource Groups' own quota. Two that ask at the same time may both get the last one.
const groups = 100

// owned returns how many groups an account has.
func owned(snap *store.Snapshot, who cloud.AccountID) (n int, err error) {
	all, err := store.Mirrored(snap, store.ResourceGroups)
	for _, o := range all {
		if o.Value.Account == who {
			n++
		}
	}
	return n, err
}

// DeleteGroup forgets a group. Those who belong to it stay as they are.
func (s *Service) DeleteGroup(ctx context.Context, in *shape.DeleteGroupInput) (*shape.DeleteGroupOutput, error) {
	out := &shape.DeleteGroupOutput{}
	err := s.commit(ctx, in.Group, in.GroupName, func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error {
		out.Group = s.shape(o.Value)
		store.Delete(t, store.ResourceGroups, o)
		return nil
	})
	return out, err
}

// UpdateGroup changes what a group says of itself. What is not given stays.
func (s *Service) UpdateGroup(ctx context.Context, in *shape.UpdateGroupInput) (*shape.UpdateGroupOutput, error) {
	if err := critical(in.Criticality); err != nil {
		return nil, err
	}
	out := &shape.UpdateGroupOutput{}
	err := s.commit(ctx, in.Group, in.GroupName, func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error {
		g := o.Value
		for _, part := range []struct {
			given *string
			to    *string
		}{{in.Description, &g.Description}, {in.DisplayName, &g.DisplayName}, {in.Owner, &g.Owner}} {
			if part.given != nil {
				*part.to = *part.given
			}
		}
		if in.Criticality != nil {
			g.Criticality = int(*in.Criticality)
		}
		out.Group = s.shape(g)
		store.Update(t, store.ResourceGroups, o, g)
		return described(g)
	})
	return out, err
}

// UpdateGroupQuery changes who belongs to a group.
func (s *Service) UpdateGroupQuery(ctx context.Context, in *shape.UpdateGroupQueryInput) (*shape.UpdateGroupQueryOutput, error) {
	q, err := parse(in.ResourceQuery)
	if err != nil {
		return nil, err
	}
	out := &shape.UpdateGroupQueryOutput{}
	err = s.commit(ctx, in.Group, in.GroupName, func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error {
		g := o.Value
		g.Query = q
		out.GroupQuery = &shape.GroupQuery{GroupName: g.Name, ResourceQuery: query(q)}
		store.Update(t, store.ResourceGroups, o, g)
		return nil
	})
	return out, err
}

// GetGroup shows a group.
func (s *Service) GetGroup(ctx context.Context, in *shape.GetGroupInput) (*shape.GetGroupOutput, error) {
	o, err := s.find(ctx, s.Mirror.Snapshot(), in.Group, in.GroupName)
	if err != nil {
		return nil, err
	}
	return &shape.GetGroupOutput{Group: s.shape(o.Value)}, nil
}

// GetGroupQuery shows a group's query, as it was given.
func (s *Service) GetGroupQuery(ctx context.Context, in *shape.GetGroupQueryInput) (*shape.GetGroupQueryOutput, error) {
	o, err := s.find(ctx, s.Mirror.Snapshot(), in.Group, in.GroupName)
	if err != nil {
		return nil, err
	}
	return &shape.GetGroupQueryOutput{GroupQuery: &shape.GroupQuery{GroupName: o.Value.Name, ResourceQuery: query(o.Value.Query)}}, nil
}

// GetGroupConfiguration refuses, as AWS does for a group that has a query: all have one here.
func (s *Service) GetGroupConfiguration(ctx context.Context, in *shape.GetGroupConfigurationInput) (*shape.GetGroupConfigurationOutput, error) {
	o, err := s.find(ctx, s.Mirror.Snapshot(), in.Group, "")
	if err != nil {
		return nil, err
	}
	return nil, bad("Group %s has a query and no configuration: see get-group-query", o.Value.Name)
}

// ListGroups shows the caller's groups in the order of their names.
func (s *Service) ListGroups(ctx context.Context, in *shape.ListGroupsInput) (*shape.ListGroupsOutput, error) {
	for _, f := range in.Filters {
		if filters[f.Name] == nil {
			return nil, bad("There is no filter %.40q: want one of %s", f.Name, strings.Join(slices.Sorted(maps.Keys(filters)), ", "))
		}
	}
	pg, err := s.Pager.Page(ctx, in, pages)
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	all, err := store.Mirrored(snap, store.ResourceGroups)
	if err != nil {
		return nil, err
	}
	var found []cloud.ResourceGroup
	for _, o := range all {
		if o.Value.Account == caller(ctx) && passes(o.Value, in.Filters) {
			found = append(found, o.Value)
		}
	}
	found, next := api.Cut(pg, snap.Rev(), found, func(g cloud.ResourceGroup) string { return g.Name })
	out := &shape.ListGroupsOutput{GroupIdentifiers: []shape.GroupIdentifier{}, Groups: []shape.Group{}, NextToken: next}
	for _, g := range found {
		out.Groups = append(out.Groups, *s.shape(g))
		out.GroupIdentifiers = append(out.GroupIdentifiers, shape.GroupIdentifier{
			GroupArn: s.arn(g), GroupName: g.Name, Description: g.Description, DisplayName: g.DisplayName, Owner: g.Owner, Criticality: criticality(g)})
	}
	return out, nil
}

// filters of ListGroups, by name: whether a group has a value.
var filters = map[string]func(g cloud.ResourceGroup, value string) bool{
	"resource-type":      func(g cloud.ResourceGroup, v string) bool { return g.Query.Wants(v) },
	"configuration-type": func(cloud.ResourceGroup, string) bool { return false },
	"owner":              func(g cloud.ResourceGroup, v string) bool { return g.Owner == v },
	"display-name":       func(g cloud.ResourceGroup, v string) bool { return g.DisplayName == v },
	"criticality": func(g cloud.ResourceGroup, v string) bool {
		return g.Criticality != 0 && strconv.Itoa(g.Criticality) == v
	},
}

func passes(g cloud.ResourceGroup, given []shape.GroupFilter) bool {
	for _, f := range given {
		if !slices.ContainsFunc(f.Values, func(v string) bool { return filters[f.Name](g, v) }) {
			return false
		}
	}
	return true
}

// Tag adds tags to a group, or gives those that there are another value.
func (s *Service) Tag(ctx context.Context, in *shape.TagInput) (*shape.TagOutput, error) {
	err := s.commit(ctx, in.Arn, "", func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error {
		g := o.Value
		g.Tags = maps.Clone(g.Tags)
		if g.Tags == nil {
			g.Tags = cloud.Tags{}
		}
		maps.Copy(g.Tags, in.Tags)
		store.Update(t, store.ResourceGroups, o, g)
		return tagged(g.Tags)
	})
	return &shape.TagOutput{Arn: in.Arn, Tags: in.Tags}, err
}

// Untag removes tags of a group by their keys. One that is not there is no mistake.
func (s *Service) Untag(ctx context.Context, in *shape.UntagInput) (*shape.UntagOutput, error) {
	err := s.commit(ctx, in.Arn, "", func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error {
		g := o.Value
		g.Tags = maps.Clone(g.Tags)
		for _, k := range in.Keys {
			delete(g.Tags, k)
		}
		store.Update(t, store.ResourceGroups, o, g)
		return nil
	})
	return &shape.UntagOutput{Arn: in.Arn, Keys: in.Keys}, err
}

// GetTags shows the tags of a group.
func (s *Service) GetTags(ctx context.Context, in *shape.GetTagsInput) (*shape.GetTagsOutput, error) {
	o, err := s.find(ctx, s.Mirror.Snapshot(), in.Arn, "")
	if err != nil {
		return nil, err
	}
	tags := o.Value.Tags
	if tags == nil {
		tags = cloud.Tags{}
	}
	return &shape.GetTagsOutput{Arn: in.Arn, Tags: tags}, nil
}
