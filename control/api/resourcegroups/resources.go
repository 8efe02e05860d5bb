package resourcegroups

import (
	"context"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// search returns the caller's resources that a query finds, one page of them in the order of their ARNs, and what is wrong with
// the query: types of which there is nothing here.
func (s *Service) search(ctx context.Context, snap *store.Snapshot, pg *api.Page, q cloud.ResourceQuery, kinds []string) ([]shape.ResourceIdentifier, []shape.QueryError, string, error) {
	found := []shape.ResourceIdentifier{}
	var there []string
	for _, source := range s.Sources {
		there = append(there, source.Kinds...)
		err := source.Each(snap, caller(ctx), func(r cloud.Resource) {
			if q.Matches(r.Kind, r.Tags) && (len(kinds) == 0 || slices.Contains(kinds, r.Kind)) {
				found = append(found, shape.ResourceIdentifier{ResourceArn: api.ARN(r.Service, s.Region, string(caller(ctx)), r.Name), ResourceType: r.Kind})
			}
		})
		if err != nil {
			return nil, nil, "", err
		}
	}
	wrong := []shape.QueryError{}
	for _, k := range q.Unknown(there) {
		wrong = append(wrong, shape.QueryError{ErrorCode: "RESOURCE_TYPE_NOT_SUPPORTED", Message: "There are no resources of the type " + k + " here"})
	}
	found, next := api.Cut(pg, snap.Rev(), found, func(r shape.ResourceIdentifier) string { return r.ResourceArn })
	return found, wrong, next, nil
}

// ListGroupResources shows who belongs to a group.
func (s *Service) ListGroupResources(ctx context.Context, in *shape.ListGroupResourcesInput) (*shape.ListGroupResourcesOutput, error) {
	var kinds []string
	for _, f := range in.Filters {
		if f.Name != "resource-type" || len(in.Filters) > 1 {
			return nil, bad("There is one filter, resource-type, not %.40q", f.Name)
		}
		kinds = f.Values
	}
	pg, err := s.Pager.Page(ctx, in, pages)
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	o, err := s.find(ctx, snap, in.Group, in.GroupName)
	if err != nil {
		return nil, err
	}
	found, wrong, next, err := s.search(ctx, snap, pg, o.Value.Query, kinds)
	out := &shape.ListGroupResourcesOutput{ResourceIdentifiers: found, QueryErrors: wrong, NextToken: next, Resources: []shape.ListGroupResourcesItem{}}
	for _, r := range found {
		out.Resources = append(out.Resources, shape.ListGroupResourcesItem{Identifier: &r})
	}
	return out, err
}

// SearchResources shows who would belong to a group.
func (s *Service) SearchResources(ctx context.Context, in *shape.SearchResourcesInput) (*shape.SearchResourcesOutput, error) {
	q, err := parse(in.ResourceQuery)
	if err != nil {
		return nil, err
	}
	pg, err := s.Pager.Page(ctx, in, pages)
	if err != nil {
		return nil, err
	}
	found, wrong, next, err := s.search(ctx, s.Mirror.Snapshot(), pg, q, nil)
	return &shape.SearchResourcesOutput{ResourceIdentifiers: found, QueryErrors: wrong, NextToken: next}, err
}
