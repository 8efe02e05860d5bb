package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// optionsActions are the actions on DHCP options.
func (s *Service) optionsActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateDhcpOptions", s.CreateDhcpOptions, api.Resource(func(*shape.CreateDhcpOptionsInput) []string { return []string{"dhcp-options/*"} })),
		api.Do("DeleteDhcpOptions", s.DeleteDhcpOptions, api.Resource(func(in *shape.DeleteDhcpOptionsInput) []string {
			return []string{"dhcp-options/" + in.DhcpOptionsId}
		})),
		api.Do("DescribeDhcpOptions", s.DescribeDhcpOptions, ro),
		api.Do("AssociateDhcpOptions", s.AssociateDhcpOptions, api.Resource(func(in *shape.AssociateDhcpOptionsInput) []string {
			return []string{"dhcp-options/" + in.DhcpOptionsId, "vpc/" + in.VpcId}
		})),
	}
}

// noOptions is what a request calls a VPC's state without DHCP options.
const noOptions = "default"

// CreateDhcpOptions makes a set of options, which never changes.
func (s *Service) CreateDhcpOptions(ctx context.Context, in *shape.CreateDhcpOptionsInput) (*shape.CreateDhcpOptionsOutput, error) {
	specified, err := specifiedTags(in.TagSpecifications, "dhcp-options")
	if err != nil {
		return nil, err
	}
	if len(in.DhcpConfigurations) == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter DhcpConfiguration")
	}
	o := cloud.DHCPOptions{ID: newID[cloud.DHCPOptionsID](s, "dopt"), Account: caller(ctx), Tags: specified["dhcp-options"]}
	for _, c := range in.DhcpConfigurations {
		if o, err = o.Set(cloud.DHCPOption{Name: c.Key, Values: c.Values}); err != nil {
			return nil, err
		}
	}
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		all, err := list[cloud.DHCPOptions, cloud.DHCPOptionsID](snap, store.Options, nil, o.Account, anOptions)
		if err != nil {
			return err
		}
		if len(all) >= cloud.OptionsPerRegion {
			return cloud.Errorf("DhcpOptionsLimitExceeded", "There are %d sets of DHCP options, which is the most: delete one that is not used", len(all))
		}
		store.Create(t, store.Options, o.ID, o)
		return nil
	})
	return &shape.CreateDhcpOptionsOutput{DhcpOptions: ptr(optionsShape(o))}, err
}

// DeleteDhcpOptions removes a set that no VPC uses.
func (s *Service) DeleteDhcpOptions(ctx context.Context, in *shape.DeleteDhcpOptionsInput) (*shape.DeleteDhcpOptionsOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Options, cloud.DHCPOptionsID(in.DhcpOptionsId), caller(ctx), anOptions)
		if err != nil {
			return err
		}
		vpcs, err := store.Mirrored(snap, store.VPCs)
		if err != nil {
			return err
		}
		for _, v := range vpcs {
			if v.Value.DHCPOptions == o.Value.ID {
				return cloud.Errorf("DependencyViolation", "%s is used by %s: associate other options, or default, first", o.ID, v.ID)
			}
		}
		store.Delete(t, store.Options, o)
		store.RequireNothingNew(t, store.VPCs, snap.Rev()) // whoever associates it at the same time Requires it
		return nil
	})
	return &shape.DeleteDhcpOptionsOutput{}, err
}

// AssociateDhcpOptions has a VPC use a set, or none. Its guests see it when they next ask.
func (s *Service) AssociateDhcpOptions(ctx context.Context, in *shape.AssociateDhcpOptionsInput) (*shape.AssociateDhcpOptionsOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		v := o.Value
		v.DHCPOptions = ""
		if in.DhcpOptionsId != noOptions {
			options, err := find(snap, store.Options, cloud.DHCPOptionsID(in.DhcpOptionsId), caller(ctx), anOptions)
			if err != nil {
				return err
			}
			store.Require(t, store.Options, options.ID, options.Rev)
			v.DHCPOptions = options.Value.ID
		}
		store.Update(t, store.VPCs, o, v)
		return nil
	})
	return &shape.AssociateDhcpOptionsOutput{}, err
}

// DescribeDhcpOptions shows sets of options.
func (s *Service) DescribeDhcpOptions(ctx context.Context, in *shape.DescribeDhcpOptionsInput) (*shape.DescribeDhcpOptionsOutput, error) {
	type item = shape.DhcpOptions
	q := query[item]{in: in, filters: in.Filters, id: func(v item) string { return v.DhcpOptionsId }, tags: func(v item) []shape.Tag { return v.Tags },
		fields: fields[item]{
			"dhcp-options-id": func(v item) []string { return one(v.DhcpOptionsId) },
			"owner-id":        func(v item) []string { return one(v.OwnerId) },
			"key": func(v item) []string {
				return mapped(v.DhcpConfigurations, func(c shape.DhcpConfiguration) string { return c.Key })
			},
			"value": func(v item) []string {
				var out []string
				for _, c := range v.DhcpConfigurations {
					out = append(out, mapped(c.Values, func(a shape.AttributeValue) string { return a.Value })...)
				}
				return out
			},
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]item, error) {
		all, err := list[cloud.DHCPOptions, cloud.DHCPOptionsID](snap, store.Options, in.DhcpOptionsIds, caller(ctx), anOptions)
		out := make([]item, len(all))
		for k, o := range all {
			out[k] = optionsShape(o)
		}
		return out, err
	})
	return &shape.DescribeDhcpOptionsOutput{DhcpOptions: page, NextToken: next}, err
}

func optionsShape(o cloud.DHCPOptions) shape.DhcpOptions {
	out := shape.DhcpOptions{DhcpOptionsId: string(o.ID), OwnerId: string(o.Account), Tags: tags(o.Tags)}
	for _, option := range o.List() {
		c := shape.DhcpConfiguration{Key: option.Name}
		for _, v := range option.Values {
			c.Values = append(c.Values, shape.AttributeValue{Value: v})
		}
		out.DhcpConfigurations = append(out.DhcpConfigurations, c)
	}
	return out
}
