// Package resourcegroups answers the Resource Groups API: groups of what has the same tags, to which Run Command sends.
//
// A group is a query under a name; who belongs to it is asked each time anew. Groups of a configuration, which other services
// of AWS fill, are not there.
package resourcegroups

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// A Source tells the resources of a service.
type Source struct {
	Kinds []string // that it has
	Each  func(snap *store.Snapshot, who cloud.AccountID, f func(cloud.Resource)) error
}

// Config is what the service works with.
type Config struct {
	Store   *store.Client
	Mirror  *store.Mirror // of spec/
	Pager   *api.Pager
	Region  string
	Sources []Source
	Log     *slog.Logger
}

// Service answers the actions.
type Service struct{ Config }

// name is that of the service in ARNs and policies.
const name = "resource-groups"

// New returns the service as the front's table has it.
func New(cfg Config) api.Service {
	s := &Service{cfg}
	ro := api.ReadOnly()
	return api.Service{
		Name: name, Protocol: wire.REST, Version: shape.Version, Known: shape.Operations, Routes: shape.Routes, Ignored: shape.Ignored,
		Actions: []api.Action{
			api.Do("CreateGroup", s.CreateGroup),
			api.Do("DeleteGroup", s.DeleteGroup, api.Resource(func(in *shape.DeleteGroupInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("UpdateGroup", s.UpdateGroup, api.Resource(func(in *shape.UpdateGroupInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("UpdateGroupQuery", s.UpdateGroupQuery, api.Resource(func(in *shape.UpdateGroupQueryInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("GetGroup", s.GetGroup, ro, api.Resource(func(in *shape.GetGroupInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("GetGroupQuery", s.GetGroupQuery, ro, api.Resource(func(in *shape.GetGroupQueryInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("GetGroupConfiguration", s.GetGroupConfiguration, ro, api.Resource(func(in *shape.GetGroupConfigurationInput) []string { return group(in.Group, "") })),
			api.Do("ListGroups", s.ListGroups, ro),
			api.Do("ListGroupResources", s.ListGroupResources, ro, api.Resource(func(in *shape.ListGroupResourcesInput) []string { return group(in.Group, in.GroupName) })),
			api.Do("SearchResources", s.SearchResources, ro),
			api.Do("Tag", s.Tag, api.Resource(func(in *shape.TagInput) []string { return group(in.Arn, "") })),
			api.Do("Untag", s.Untag, api.Resource(func(in *shape.UntagInput) []string { return group(in.Arn, "") })),
			api.Do("GetTags", s.GetTags, ro, api.Resource(func(in *shape.GetTagsInput) []string { return group(in.Arn, "") })),
		},
	}
}

// group is the resource that permission is asked for: a group is named by its name or its ARN, in one of two members.
func group(given, old string) []string {
	if given == "" {
		given = old
	}
	if strings.HasPrefix(given, "arn:") {
		return []string{given}
	}
	return []string{"group/" + given}
}

func caller(ctx context.Context) cloud.AccountID { return cloud.AccountID(api.CallerFrom(ctx).Account) }

// arn is a group's.
func (s *Service) arn(g cloud.ResourceGroup) string {
	return api.ARN(name, s.Region, string(g.Account), "group/"+g.Name)
}

// find returns the caller's group of a name or an ARN.
func (s *Service) find(ctx context.Context, snap *store.Snapshot, given, old string) (store.Object[cloud.ResourceGroup], error) {
	wanted := given
	switch {
	case wanted == "":
		wanted = old
	case old != "" && old != given:
		return store.Object[cloud.ResourceGroup]{}, bad("Name the group by Group alone")
	}
	if wanted == "" {
		return store.Object[cloud.ResourceGroup]{}, bad("Name the group, by Group")
	}
	short := strings.TrimPrefix(wanted, api.ARN(name, s.Region, string(caller(ctx)), "group/"))
	if namePattern.MatchString(short) {
		o, err := store.MirroredGet(snap, store.ResourceGroups, cloud.ResourceGroupID(caller(ctx), short))
		if !errors.Is(err, store.ErrNotFound) {
			return o, err
		}
	}
	return store.Object[cloud.ResourceGroup]{}, cloud.Errorf("NotFoundException", "Cannot find group: %.300s: see list-groups", wanted)
}

func bad(format string, args ...any) error {
	return cloud.Errorf("BadRequestException", format, args...)
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,300}$`)

// commit carries out a change of a group.
func (s *Service) commit(ctx context.Context, given, old string, decide func(t *store.Txn, o store.Object[cloud.ResourceGroup]) error) error {
	return store.Change(ctx, s.Store, s.Mirror, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.find(ctx, snap, given, old)
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		return t, decide(t, o)
	})
}
