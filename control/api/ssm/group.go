package ssm

import (
	"errors"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// ResourceKinds are the kinds that Resources tells of.
var ResourceKinds = []string{cloud.KindManagedInstance, cloud.KindDocument, cloud.KindParameter}

// Resources tells an account's resources of Systems Manager.
func Resources(snap *store.Snapshot, who cloud.AccountID, f func(cloud.Resource)) error {
	nodes, err := store.Mirrored(snap, store.Nodes)
	documents, err2 := store.Mirrored(snap, store.Documents)
	parameters, err3 := store.Mirrored(snap, store.Parameters)
	for _, o := range nodes {
		if n := o.Value; n.Account == who {
			f(cloud.Resource{Kind: cloud.KindManagedInstance, Service: "ssm", Name: targetARN(n.ID), Tags: n.Tags})
		}
	}
	for _, o := range documents {
		if d := o.Value; d.Account == who {
			f(cloud.Resource{Kind: cloud.KindDocument, Service: "ssm", Name: "document/" + d.Name, Tags: d.Tags})
		}
	}
	for _, o := range parameters {
		if p := o.Value; p.Account == who {
			f(cloud.Resource{Kind: cloud.KindParameter, Service: "ssm", Name: "parameter/" + strings.TrimPrefix(p.Name, "/"), Tags: p.Tags})
		}
	}
	return errors.Join(err, err2, err3)
}

// What a target's key may be, beside tag:KEY.
const (
	keyInstances  = "InstanceIds"
	keyTag        = "tag-key"
	keyGroup      = "resource-groups:Name"
	keyGroupKinds = "resource-groups:ResourceTypeFilters"
)

// A selector reports whether an instance is one of a target's.
type selector func(cloud.Instance) bool

// selectors returns one for each target: an instance must be one of all.
func selectors(snap *store.Snapshot, who cloud.AccountID, targets []cloud.CommandTarget) ([]selector, error) {
	var out []selector
	grouped := slices.ContainsFunc(targets, func(t cloud.CommandTarget) bool { return t.Key == keyGroup })
	for _, t := range targets {
		if t.Key == keyGroupKinds && !grouped {
			return nil, cloud.Errorf("ValidationException", "Target key %s goes with %s: name the group too", keyGroupKinds, keyGroup)
		}
		s, err := selects(snap, who, t)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// all reports whether an instance is one of every target's.
func all(of []selector, i cloud.Instance) bool {
	return !slices.ContainsFunc(of, func(s selector) bool { return !s(i) })
}

func selects(snap *store.Snapshot, who cloud.AccountID, t cloud.CommandTarget) (selector, error) {
	switch {
	case ofTags(t.Key):
		return func(i cloud.Instance) bool { return haveTag(i.Tags, t.Key, t.Values) }, nil
	case t.Key == keyInstances:
		return func(i cloud.Instance) bool { return slices.Contains(t.Values, string(i.ID)) }, nil
	case t.Key == keyGroupKinds:
		return func(i cloud.Instance) bool { return slices.Contains(t.Values, kindOf(i)) }, nil
	case t.Key == keyGroup:
		var queries []cloud.ResourceQuery
		for _, name := range t.Values {
			o, err := store.MirroredGet(snap, store.ResourceGroups, cloud.ResourceGroupID(who, name))
			if errors.Is(err, store.ErrNotFound) {
				return nil, cloud.Errorf("ValidationException", "There is no resource group %.300q: see aws resource-groups list-groups", name)
			}
			if err != nil {
				return nil, err
			}
			queries = append(queries, o.Value.Query)
		}
		return func(i cloud.Instance) bool {
			return slices.ContainsFunc(queries, func(q cloud.ResourceQuery) bool { return q.Matches(kindOf(i), i.Tags) })
		}, nil
	}
	return nil, cloud.Errorf("ValidationException", "Target key %.60q: want %s, tag:KEY, %s, %s or %s", t.Key, keyInstances, keyTag, keyGroup, keyGroupKinds)
}

// ofTags reports whether a key of targets or filters is one of those that look at tags.
func ofTags(key string) bool { return key == keyTag || strings.HasPrefix(key, "tag:") }

// haveTag reports whether tags are what such a key and its values want.
func haveTag(tags cloud.Tags, key string, values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		if key == keyTag {
			_, ok := tags[v]
			return ok
		}
		has, ok := tags[strings.TrimPrefix(key, "tag:")]
		return ok && has == v
	})
}

// kindOf is the kind of what Run Command reaches.
func kindOf(i cloud.Instance) string {
	if cloud.WellFormed(i.ID, cloud.ManagedPrefix) {
		return cloud.KindManagedInstance
	}
	return cloud.KindInstance
}
