package ec2

import (
	"context"
	"errors"
	"net/netip"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// gatewayActions are the actions on internet gateways.
func (s *Service) gatewayActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateInternetGateway", s.CreateInternetGateway, the("internet-gateway", func(*shape.CreateInternetGatewayInput) string { return "*" })),
		api.Do("DeleteInternetGateway", s.DeleteInternetGateway, the("internet-gateway", func(in *shape.DeleteInternetGatewayInput) string { return in.InternetGatewayId })),
		api.Do("AttachInternetGateway", s.AttachInternetGateway, api.Resource(func(in *shape.AttachInternetGatewayInput) []string {
			return []string{"internet-gateway/" + in.InternetGatewayId, "vpc/" + in.VpcId}
		})),
		api.Do("DetachInternetGateway", s.DetachInternetGateway, api.Resource(func(in *shape.DetachInternetGatewayInput) []string {
			return []string{"internet-gateway/" + in.InternetGatewayId, "vpc/" + in.VpcId}
		})),
		api.Do("DescribeInternetGateways", s.DescribeInternetGateways, ro),
	}
}

// CreateInternetGateway makes a gateway that is attached to no VPC.
func (s *Service) CreateInternetGateway(ctx context.Context, in *shape.CreateInternetGatewayInput) (*shape.CreateInternetGatewayOutput, error) {
	given, err := specifiedTags(in.TagSpecifications, "internet-gateway")
	if err != nil {
		return nil, err
	}
	g := cloud.InternetGateway{ID: newID[cloud.GatewayID](s, "igw"), Account: caller(ctx), Tags: given["internet-gateway"]}
	err = s.commit(ctx, in.DryRun, func(_ *store.Snapshot, t *store.Txn) error {
		store.Create(t, store.Gateways, g.ID, g)
		return nil
	})
	return &shape.CreateInternetGatewayOutput{InternetGateway: ptr(gatewayShape(g))}, err
}

// DeleteInternetGateway deletes a gateway that is attached to no VPC. Routes to it are black holes from then on.
func (s *Service) DeleteInternetGateway(ctx context.Context, in *shape.DeleteInternetGatewayInput) (*shape.DeleteInternetGatewayOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Gateways, cloud.GatewayID(in.InternetGatewayId), caller(ctx), aGateway)
		if err != nil {
			return err
		}
		if v := o.Value.VPC; v != "" {
			return cloud.Depended("internetGateway", o.Value.ID, []string{string(v)})
		}
		store.Delete(t, store.Gateways, o)
		return nil
	})
	return &shape.DeleteInternetGatewayOutput{}, err
}

// join changes what a gateway and a VPC know of each other.
func (s *Service) join(ctx context.Context, dryRun *bool, gateway, vpc string, f func(snap *store.Snapshot, t *store.Txn, g cloud.InternetGateway, v cloud.VPC) (cloud.InternetGateway, cloud.VPC, error)) error {
	return s.commit(ctx, dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		g, err := find(snap, store.Gateways, cloud.GatewayID(gateway), caller(ctx), aGateway)
		if err != nil {
			return err
		}
		v, err := find(snap, store.VPCs, cloud.VPCID(vpc), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		nextG, nextV, err := f(snap, t, g.Value, v.Value)
		if err != nil {
			return err
		}
		store.Update(t, store.Gateways, g, nextG)
		store.Update(t, store.VPCs, v, nextV)
		return nil
	})
}

// AttachInternetGateway joins a gateway and a VPC.
func (s *Service) AttachInternetGateway(ctx context.Context, in *shape.AttachInternetGatewayInput) (*shape.AttachInternetGatewayOutput, error) {
	err := s.join(ctx, in.DryRun, in.InternetGatewayId, in.VpcId,
		func(_ *store.Snapshot, _ *store.Txn, g cloud.InternetGateway, v cloud.VPC) (cloud.InternetGateway, cloud.VPC, error) {
			return g.AttachTo(v)
		})
	return &shape.AttachInternetGatewayOutput{}, err
}

// DetachInternetGateway parts a gateway and its VPC, if the VPC has no public addresses.
func (s *Service) DetachInternetGateway(ctx context.Context, in *shape.DetachInternetGatewayInput) (*shape.DetachInternetGatewayOutput, error) {
	err := s.join(ctx, in.DryRun, in.InternetGatewayId, in.VpcId,
		func(snap *store.Snapshot, t *store.Txn, g cloud.InternetGateway, v cloud.VPC) (cloud.InternetGateway, cloud.VPC, error) {
			public, err := publicAddresses(snap, v.ID)
			if err != nil {
				return g, v, err
			}
			store.RequireNothingNew(t, store.Addresses, snap.Rev())
			return g.DetachFrom(v, public)
		})
	return &shape.DetachInternetGatewayOutput{}, err
}

// publicAddresses returns the public addresses that stand for private ones of a VPC.
func publicAddresses(snap *store.Snapshot, id cloud.VPCID) ([]netip.Addr, error) {
	all, err1 := values(snap, store.Addresses)
	interfaces, err2 := index[cloud.InterfaceID](snap, store.Interfaces)
	var out []netip.Addr
	for _, a := range all {
		if n, ok := interfaces[a.Interface]; ok && n.VPC == id {
			out = append(out, a.Public)
		}
	}
	return out, errors.Join(err1, err2)
}

// DescribeInternetGateways shows internet gateways.
func (s *Service) DescribeInternetGateways(ctx context.Context, in *shape.DescribeInternetGatewaysInput) (*shape.DescribeInternetGatewaysOutput, error) {
	attachments := func(f func(shape.InternetGatewayAttachment) string) func(shape.InternetGateway) []string {
		return func(g shape.InternetGateway) []string { return mapped(g.Attachments, f) }
	}
	q := query[shape.InternetGateway]{in: in, filters: in.Filters, id: func(g shape.InternetGateway) string { return g.InternetGatewayId }, tags: func(g shape.InternetGateway) []shape.Tag { return g.Tags },
		fields: fields[shape.InternetGateway]{
			"internet-gateway-id": func(g shape.InternetGateway) []string { return one(g.InternetGatewayId) },
			"owner-id":            func(g shape.InternetGateway) []string { return one(g.OwnerId) },
			"attachment.vpc-id":   attachments(func(a shape.InternetGatewayAttachment) string { return a.VpcId }),
			"attachment.state":    attachments(func(a shape.InternetGatewayAttachment) string { return a.State }),
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.InternetGateway, error) {
		all, err := list[cloud.InternetGateway, cloud.GatewayID](snap, store.Gateways, in.InternetGatewayIds, caller(ctx), aGateway)
		out := make([]shape.InternetGateway, 0, len(all))
		for _, g := range all {
			out = append(out, gatewayShape(g))
		}
		return out, err
	})
	return &shape.DescribeInternetGatewaysOutput{InternetGateways: page, NextToken: next}, err
}

// gatewayShape is an internet gateway in EC2's shape.
func gatewayShape(g cloud.InternetGateway) shape.InternetGateway {
	out := shape.InternetGateway{InternetGatewayId: string(g.ID), OwnerId: string(g.Account), Tags: tags(g.Tags)}
	if g.VPC != "" {
		out.Attachments = []shape.InternetGatewayAttachment{{State: "available", VpcId: string(g.VPC)}}
	}
	return out
}
