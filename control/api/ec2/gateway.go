package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// gatewayActions are the actions on internet gateways.
func (s *Service) gatewayActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("DescribeInternetGateways", s.DescribeInternetGateways, ro),
	}
}

// DescribeInternetGateways shows internet gateways.
func (s *Service) DescribeInternetGateways(ctx context.Context, in *shape.DescribeInternetGatewaysInput) (*shape.DescribeInternetGatewaysOutput, error) {
	q := query[shape.InternetGateway]{in: in, filters: in.Filters, id: func(g shape.InternetGateway) string { return g.InternetGatewayId }, tags: func(g shape.InternetGateway) []shape.Tag { return g.Tags },
		fields: fields[shape.InternetGateway]{
			"internet-gateway-id": func(g shape.InternetGateway) []string { return one(g.InternetGatewayId) },
			"owner-id":            func(g shape.InternetGateway) []string { return one(g.OwnerId) },
			"attachment.vpc-id": func(g shape.InternetGateway) []string {
				var out []string
				for _, a := range g.Attachments {
					out = append(out, a.VpcId)
				}
				return out
			},
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.InternetGateway, error) {
		all, err := list[cloud.InternetGateway, cloud.GatewayID](snap, store.Gateways, in.InternetGatewayIds, caller(ctx), aGateway)
		out := make([]shape.InternetGateway, 0, len(all))
		for _, g := range all {
			v := shape.InternetGateway{InternetGatewayId: string(g.ID), OwnerId: string(g.Account), Tags: tags(g.Tags)}
			if g.VPC != "" {
				v.Attachments = []shape.InternetGatewayAttachment{{State: "available", VpcId: string(g.VPC)}}
			}
			out = append(out, v)
		}
		return out, err
	})
	return &shape.DescribeInternetGatewaysOutput{InternetGateways: page, NextToken: next}, err
}
