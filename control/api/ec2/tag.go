package ec2

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// taggable is a kind of resource that has tags: how to find one by ID, all of them, and change its tags.
type taggable struct {
	prefixes []string
	name     string // EC2's resource type
	change   func(r *retagging, id string) error
	each     func(snap *store.Snapshot, who cloud.AccountID, f func(id string, tags cloud.Tags)) error
}

func taggableKind[T any, ID ~string](name string, k store.Kind[T], n noun, id func(T) ID, field func(*T) *cloud.Tags) taggable {
	return taggable{
		prefixes: n.prefixes, name: name,
		change: func(r *retagging, given string) error {
			o, err := find(r.snap, k, ID(given), r.who, n)
			if err != nil {
				return err
			}
			next := o.Value
			tags := field(&next)
			if *tags, err = r.edit(*tags); err != nil {
				return err
			}
			store.Update(r.t, k, o, next)
			return nil
		},
		each: func(snap *store.Snapshot, who cloud.AccountID, f func(string, cloud.Tags)) error {
			all, err := store.Mirrored(snap, k)
			for _, o := range all {
				if owner(o.Value) == who {
					f(string(id(o.Value)), *field(&o.Value))
				}
			}
			return err
		},
	}
}

// taggables returns all kinds that have tags.
func taggables() []taggable {
	return []taggable{
		taggableInstance(),
		taggableKind("image", store.Images, anImage, func(v cloud.Image) cloud.ImageID { return v.ID }, func(v *cloud.Image) *cloud.Tags { return &v.Tags }),
		taggableKind("key-pair", store.KeyPairs, aKeyPair, func(v cloud.KeyPair) cloud.KeyPairID { return v.ID }, func(v *cloud.KeyPair) *cloud.Tags { return &v.Tags }),
		taggableKind("network-interface", store.Interfaces, anInterface, func(v cloud.NetworkInterface) cloud.InterfaceID { return v.ID }, func(v *cloud.NetworkInterface) *cloud.Tags { return &v.Tags }),
		taggableKind("vpc", store.VPCs, aVPC, func(v cloud.VPC) cloud.VPCID { return v.ID }, func(v *cloud.VPC) *cloud.Tags { return &v.Tags }),
		taggableKind("subnet", store.Subnets, aSubnet, func(v cloud.Subnet) cloud.SubnetID { return v.ID }, func(v *cloud.Subnet) *cloud.Tags { return &v.Tags }),
		taggableGroup(), taggableRule(),
		taggableKind("route-table", store.RouteTables, aRouteTable, func(v cloud.RouteTable) cloud.RouteTableID { return v.ID }, func(v *cloud.RouteTable) *cloud.Tags { return &v.Tags }),
		taggableKind("natgateway", store.NATGateways, aNATGateway, func(v cloud.NATGateway) cloud.NATGatewayID { return v.ID }, func(v *cloud.NATGateway) *cloud.Tags { return &v.Tags }),
		taggableKind("network-acl", store.NetworkACLs, aNetworkACL, func(v cloud.NetworkACL) cloud.NetworkACLID { return v.ID }, func(v *cloud.NetworkACL) *cloud.Tags { return &v.Tags }),
		taggableKind("dhcp-options", store.Options, anOptions, func(v cloud.DHCPOptions) cloud.DHCPOptionsID { return v.ID }, func(v *cloud.DHCPOptions) *cloud.Tags { return &v.Tags }),
		taggableKind("elastic-ip", store.Addresses, anAddress, func(v cloud.Address) cloud.AllocationID { return v.ID }, func(v *cloud.Address) *cloud.Tags { return &v.Tags }),
		taggableKind("internet-gateway", store.Gateways, aGateway, func(v cloud.InternetGateway) cloud.GatewayID { return v.ID }, func(v *cloud.InternetGateway) *cloud.Tags { return &v.Tags }),
	}
}

// retagging is one change of tags of several resources.
type retagging struct {
	snap   *store.Snapshot
	t      *store.Txn
	who    cloud.AccountID
	f      func(cloud.Tags) cloud.Tags
	groups map[string]*regroup // by ID: written once, however many of their rules have new tags
}

// regroup is a group as it was and as it shall be.
type regroup struct {
	was  store.Object[cloud.SecurityGroup]
	next cloud.SecurityGroup
}

func (r *retagging) edit(had cloud.Tags) (cloud.Tags, error) {
	next := r.f(maps.Clone(had))
	return next, next.Validate()
}

// group returns the group to be changed.
func (r *retagging) group(o store.Object[cloud.SecurityGroup]) *cloud.SecurityGroup {
	g, ok := r.groups[o.ID]
	if !ok {
		g = &regroup{o, o.Value}
		g.next.Ingress, g.next.Egress = slices.Clone(o.Value.Ingress), slices.Clone(o.Value.Egress)
		r.groups[o.ID] = g
	}
	return &g.next
}

// taggableInstance has tags that its metadata may show: then their keys are names in a tree.
func taggableInstance() taggable {
	t := taggableKind("instance", store.Instances, anInstance, func(v cloud.Instance) cloud.InstanceID { return v.ID }, func(v *cloud.Instance) *cloud.Tags { return &v.Tags })
	t.change = func(r *retagging, id string) error {
		o, err := find(r.snap, store.Instances, cloud.InstanceID(id), r.who, anInstance)
		if err != nil {
			return err
		}
		i := o.Value
		i.Generation++
		if i.Tags, err = r.edit(i.Tags); err != nil {
			return err
		}
		if err := i.ShowsTags(); err != nil {
			return err
		}
		store.Update(r.t, store.Instances, o, i)
		return nil
	}
	return t
}

// taggableGroup and taggableRule share one value: the rules of a group are in it.
func taggableGroup() taggable {
	t := taggableKind("security-group", store.Groups, aGroup, func(v cloud.SecurityGroup) cloud.GroupID { return v.ID }, func(v *cloud.SecurityGroup) *cloud.Tags { return &v.Tags })
	t.change = func(r *retagging, id string) error {
		o, err := groupByID(r.snap, r.who, id)
		if err != nil {
			return err
		}
		g := r.group(o)
		g.Tags, err = r.edit(g.Tags)
		return err
	}
	return t
}

func taggableRule() taggable {
	return taggable{
		prefixes: aRule.prefixes, name: "security-group-rule",
		change: func(r *retagging, id string) error {
			if !cloud.WellFormed(id, aRule.prefixes...) {
				return cloud.Malformed(aRule.code+".Malformed", id)
			}
			all, err := store.Mirrored(r.snap, store.Groups)
			for _, o := range all {
				for _, egress := range []bool{false, true} {
					k := slices.IndexFunc(o.Value.Rules(egress), func(rule cloud.GroupRule) bool { return string(rule.ID) == id })
					if k < 0 || o.Value.Account != r.who {
						continue
					}
					rule := &r.group(o).Rules(egress)[k]
					rule.Tags, err = r.edit(rule.Tags)
					return err
				}
			}
			return cmp.Or(err, cloud.NotFound(aRule.code+".NotFound", aRule.name, id))
		},
		each: func(snap *store.Snapshot, who cloud.AccountID, f func(string, cloud.Tags)) error {
			all, err := store.Mirrored(snap, store.Groups)
			for _, o := range all {
				for _, r := range slices.Concat(o.Value.Ingress, o.Value.Egress) {
					if o.Value.Account == who {
						f(string(r.ID), r.Tags)
					}
				}
			}
			return err
		},
	}
}

// retag changes the tags of all named resources, or of none.
func (s *Service) retag(ctx context.Context, ids []string, dryRun *bool, f func(cloud.Tags) cloud.Tags) error {
	kinds := taggables()
	return s.commit(ctx, dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		r := &retagging{snap, t, caller(ctx), f, map[string]*regroup{}}
		seen := map[string]bool{}
	next:
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			for _, k := range kinds {
				for _, p := range k.prefixes {
					if strings.HasPrefix(id, p+"-") {
						if err := k.change(r, id); err != nil {
							return err
						}
						continue next
					}
				}
			}
			return cloud.Errorf("InvalidID", "The ID '%.80s' is not valid, or resources of its kind have no tags", id)
		}
		for _, g := range r.groups {
			store.Update(t, store.Groups, g.was, g.next)
		}
		return nil
	})
}

// CreateTags adds tags to resources, or overwrites their values.
func (s *Service) CreateTags(ctx context.Context, in *shape.CreateTagsInput) (*shape.CreateTagsOutput, error) {
	given := cloud.Tags{}
	for _, t := range in.Tags {
		given[t.Key] = t.Value
	}
	if err := given.Validate(); err != nil {
		return nil, err
	}
	err := s.retag(ctx, in.Resources, in.DryRun, func(had cloud.Tags) cloud.Tags {
		if had == nil {
			had = cloud.Tags{}
		}
		maps.Copy(had, given)
		return had
	})
	return &shape.CreateTagsOutput{}, err
}

// DeleteTags removes tags: by key, by key and value, or all when none is named.
func (s *Service) DeleteTags(ctx context.Context, in *shape.DeleteTagsInput) (*shape.DeleteTagsOutput, error) {
	err := s.retag(ctx, in.Resources, in.DryRun, func(had cloud.Tags) cloud.Tags {
		if len(in.Tags) == 0 {
			return nil
		}
		for _, t := range in.Tags {
			if t.Value == nil || had[t.Key] == *t.Value {
				delete(had, t.Key)
			}
		}
		return had
	})
	return &shape.DeleteTagsOutput{}, err
}

// DescribeTags shows the tags of all resources.
func (s *Service) DescribeTags(ctx context.Context, in *shape.DescribeTagsInput) (*shape.DescribeTagsOutput, error) {
	type tag = shape.TagDescription
	q := query[tag]{in: in, filters: in.Filters, id: func(t tag) string { return t.ResourceId + "\x00" + t.Key }, fields: fields[tag]{
		"key":           func(t tag) []string { return one(t.Key) },
		"value":         func(t tag) []string { return []string{t.Value} },
		"resource-id":   func(t tag) []string { return one(t.ResourceId) },
		"resource-type": func(t tag) []string { return one(t.ResourceType) },
	}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]tag, error) {
		var out []tag
		for _, k := range taggables() {
			err := k.each(snap, caller(ctx), func(id string, tags cloud.Tags) {
				for key, value := range tags {
					out = append(out, tag{ResourceId: id, ResourceType: k.name, Key: key, Value: value})
				}
			})
			if err != nil {
				return nil, err
			}
		}
		return out, nil
	})
	return &shape.DescribeTagsOutput{Tags: page, NextToken: next}, err
}
