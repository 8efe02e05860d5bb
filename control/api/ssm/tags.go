package ssm

import (
	"context"
	"maps"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (s *Service) tagActions() []api.Action {
	return []api.Action{
		api.Do("AddTagsToResource", s.AddTagsToResource, api.Resource(func(in *shape.AddTagsToResourceInput) []string { return tagged(in.ResourceType, in.ResourceId) })),
		api.Do("RemoveTagsFromResource", s.RemoveTagsFromResource,
			api.Resource(func(in *shape.RemoveTagsFromResourceInput) []string { return tagged(in.ResourceType, in.ResourceId) })),
		api.Do("ListTagsForResource", s.ListTagsForResource, api.ReadOnly(),
			api.Resource(func(in *shape.ListTagsForResourceInput) []string { return tagged(in.ResourceType, in.ResourceId) })),
	}
}

// managedInstance is the type of machines that are no guests.
const managedInstance = "ManagedInstance"

// tagged is the resource that a change of tags needs permission for.
func tagged(kind, id string) []string {
	switch kind {
	case "Document":
		return documentARN(id)
	case "Parameter":
		return parameterARN(id)
	case managedInstance:
		return []string{"managed-instance/" + id}
	}
	return []string{"*"} // of no type that is there: the action refuses it
}

// merge returns the tags with more added.
func merge(had cloud.Tags, more []shape.Tag) (cloud.Tags, error) {
	next := maps.Clone(had)
	if next == nil {
		next = cloud.Tags{}
	}
	for _, t := range more {
		next[t.Key] = t.Value
	}
	err := next.Validate()
	switch cloud.Code(err) {
	case "TagLimitExceeded":
		return nil, cloud.Errorf("TooManyTagsError", "A resource may have 50 tags: remove some")
	case "InvalidParameterValue":
		return nil, cloud.Errorf("ValidationException", "%s", err.(cloud.Error).Message)
	}
	return next, err
}

// tags are in the order of their keys.
func tags(t cloud.Tags) []shape.Tag {
	out := []shape.Tag{}
	for _, k := range slices.Sorted(maps.Keys(t)) {
		out = append(out, shape.Tag{Key: k, Value: t[k]})
	}
	return out
}

// retag changes the tags of a resource by decide. Instances have EC2's.
func (s *Service) retag(ctx context.Context, kind, id string, decide func(had cloud.Tags) (cloud.Tags, error)) error {
	return s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		t := store.NewTxn()
		if kind == "Parameter" {
			o, _, err := s.find(ctx, snap, id)
			if err != nil {
				return nil, foreign(err)
			}
			next := o.Value
			next.Tags, err = decide(next.Tags)
			store.Update(t, store.Parameters, o, next)
			return t, err
		}
		if kind == managedInstance {
			o, err := s.node(ctx, snap, id)
			if err != nil {
				return nil, foreign(err)
			}
			next := o.Value
			next.Tags, err = decide(next.Tags)
			store.Update(t, store.Nodes, o, next)
			return t, err
		}
		o, err := s.tagged(ctx, snap, kind, id)
		if err != nil {
			return nil, err
		}
		next := o.Value
		next.Tags, err = decide(next.Tags)
		store.Update(t, store.Documents, o, next)
		return t, err
	})
}

// tagged is the document of that name, and no other thing.
func (s *Service) tagged(ctx context.Context, snap *store.Snapshot, kind, id string) (store.Object[cloud.Document], error) {
	if kind != "Document" {
		return store.Object[cloud.Document]{}, cloud.Errorf("InvalidResourceType", "ResourceType is %.40q: Document, Parameter and ManagedInstance are there", kind)
	}
	o, err := s.document(ctx, snap, id)
	return o, foreign(err)
}

// foreign says that a resource does not exist in the words of the actions on tags.
func foreign(err error) error {
	if code := cloud.Code(err); code == "InvalidDocument" || code == "ParameterNotFound" || code == "InvalidInstanceId" {
		return cloud.Errorf("InvalidResourceId", "%s", err.(cloud.Error).Message)
	}
	return err
}

// AddTagsToResource adds tags, or gives those that there are another value.
func (s *Service) AddTagsToResource(ctx context.Context, in *shape.AddTagsToResourceInput) (*shape.AddTagsToResourceOutput, error) {
	err := s.retag(ctx, in.ResourceType, in.ResourceId, func(had cloud.Tags) (cloud.Tags, error) { return merge(had, in.Tags) })
	return &shape.AddTagsToResourceOutput{}, err
}

// RemoveTagsFromResource removes tags by their keys. One that is not there is no mistake.
func (s *Service) RemoveTagsFromResource(ctx context.Context, in *shape.RemoveTagsFromResourceInput) (*shape.RemoveTagsFromResourceOutput, error) {
	err := s.retag(ctx, in.ResourceType, in.ResourceId, func(had cloud.Tags) (cloud.Tags, error) {
		next := maps.Clone(had)
		for _, k := range in.TagKeys {
			delete(next, k)
		}
		return next, nil
	})
	return &shape.RemoveTagsFromResourceOutput{}, err
}

// ListTagsForResource shows the tags.
func (s *Service) ListTagsForResource(ctx context.Context, in *shape.ListTagsForResourceInput) (*shape.ListTagsForResourceOutput, error) {
	snap := s.Mirror.Snapshot()
	if in.ResourceType == "Parameter" {
		o, _, err := s.find(ctx, snap, in.ResourceId)
		return &shape.ListTagsForResourceOutput{TagList: tags(o.Value.Tags)}, foreign(err)
	}
	if in.ResourceType == managedInstance {
		o, err := s.node(ctx, snap, in.ResourceId)
		return &shape.ListTagsForResourceOutput{TagList: tags(o.Value.Tags)}, foreign(err)
	}
	o, err := s.tagged(ctx, snap, in.ResourceType, in.ResourceId)
	if err != nil {
		return nil, err
	}
	return &shape.ListTagsForResourceOutput{TagList: tags(o.Value.Tags)}, nil
}
