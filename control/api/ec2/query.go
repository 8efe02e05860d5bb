package ec2

import (
	"cmp"
	"context"
	"errors"
	"strconv"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// fields are the filters of one describing action.
type fields[T any] = api.Fields[T]

// query is the part that all describing actions have in common: filters and pages.
type query[T any] struct {
	in      any // the request: its MaxResults and NextToken, and what a token is bound to
	filters []shape.Filter
	fields  fields[T]
	tags    func(T) []shape.Tag // nil for items without
	id      func(T) string
	most    int64 // that MaxResults may be; 0 for what most allow
}

// bounds are what most describing actions allow for MaxResults.
var bounds = api.Bounds{Min: 5, Max: 1000}

// ask answers a describing action: all items from one snapshot, those that match, one page of them. The
// snapshot of a later page is the store as it was for the first.
func ask[T any](ctx context.Context, s *Service, q query[T], all func(*store.Snapshot) ([]T, error)) ([]T, string, error) {
	limits := bounds
	limits.Max = cmp.Or(q.most, limits.Max)
	page, err := s.Pager.Page(ctx, q.in, limits)
	if err != nil {
		return nil, "", err
	}
	var tags func(T) map[string]string
	if q.tags != nil {
		tags = func(item T) map[string]string {
			out := map[string]string{}
			for _, t := range q.tags(item) {
				out[t.Key] = t.Value
			}
			return out
		}
	}
	match, err := api.Match(q.filters, q.fields, tags)
	if err != nil {
		return nil, "", err
	}
	snap := s.Mirror.Snapshot()
	if page.Revision != 0 && page.Revision != snap.Rev() {
		snap, err = store.SnapshotAt(ctx, s.Store, page.Revision, store.All("spec"), store.All("status"), store.All("host"))
		if errors.Is(err, store.ErrCompacted) {
			return nil, "", cloud.Errorf("InvalidNextToken", "The token has expired: start again without one")
		}
		if err != nil {
			return nil, "", err
		}
	}
	items, err := all(snap)
	if err != nil {
		return nil, "", err
	}
	kept := items[:0]
	for _, item := range items {
		if match(item) {
			kept = append(kept, item)
		}
	}
	out, next := api.Cut(page, snap.Rev(), kept, q.id)
	return out, next, nil
}

// one is a filter's single value; an item without it has none.
func one(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}

func digits(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func truth(b *bool) []string {
	if b == nil {
		return nil
	}
	return []string{strconv.FormatBool(*b)}
}
