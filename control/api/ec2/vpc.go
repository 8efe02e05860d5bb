package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// vpcActions are the actions on VPCs.
func (s *Service) vpcActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("DescribeVpcs", s.DescribeVpcs, ro),
		api.Do("DescribeVpcAttribute", s.DescribeVpcAttribute, ro),
	}
}

// DescribeVpcs shows VPCs.
func (s *Service) DescribeVpcs(ctx context.Context, in *shape.DescribeVpcsInput) (*shape.DescribeVpcsOutput, error) {
	q := query[shape.Vpc]{in: in, filters: in.Filters, id: func(v shape.Vpc) string { return v.VpcId }, tags: func(v shape.Vpc) []shape.Tag { return v.Tags },
		fields: fields[shape.Vpc]{
			"vpc-id":          func(v shape.Vpc) []string { return one(v.VpcId) },
			"cidr":            func(v shape.Vpc) []string { return one(v.CidrBlock) },
			"cidr-block":      func(v shape.Vpc) []string { return one(v.CidrBlock) },
			"is-default":      func(v shape.Vpc) []string { return truth(v.IsDefault) },
			"isDefault":       func(v shape.Vpc) []string { return truth(v.IsDefault) },
			"state":           func(v shape.Vpc) []string { return one(v.State) },
			"owner-id":        func(v shape.Vpc) []string { return one(v.OwnerId) },
			"dhcp-options-id": func(v shape.Vpc) []string { return one(v.DhcpOptionsId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Vpc, error) {
		all, err := list[cloud.VPC, cloud.VPCID](snap, store.VPCs, in.VpcIds, caller(ctx), aVPC)
		out := make([]shape.Vpc, 0, len(all))
		for _, v := range all {
			out = append(out, shape.Vpc{
				VpcId: string(v.ID), CidrBlock: v.CIDR.String(), DhcpOptionsId: string(v.DHCPOptions), InstanceTenancy: "default",
				IsDefault: ptr(v.Default), OwnerId: string(v.Account), State: "available", Tags: tags(v.Tags),
				CidrBlockAssociationSet: []shape.VpcCidrBlockAssociation{{
					AssociationId: "vpc-cidr-assoc-" + cloud.Digits(v.ID), CidrBlock: v.CIDR.String(), CidrBlockState: &shape.VpcCidrBlockState{State: "associated"},
				}},
			})
		}
		return out, err
	})
	return &shape.DescribeVpcsOutput{Vpcs: page, NextToken: next}, err
}

// DescribeVpcAttribute shows one attribute of a VPC.
func (s *Service) DescribeVpcAttribute(ctx context.Context, in *shape.DescribeVpcAttributeInput) (*shape.DescribeVpcAttributeOutput, error) {
	o, err := find(s.Mirror.Snapshot(), store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
	if err != nil {
		return nil, err
	}
	out := &shape.DescribeVpcAttributeOutput{VpcId: in.VpcId}
	switch in.Attribute {
	case "enableDnsSupport":
		out.EnableDnsSupport = &shape.AttributeBooleanValue{Value: ptr(o.Value.EnableDNS)}
	case "enableDnsHostnames":
		out.EnableDnsHostnames = &shape.AttributeBooleanValue{Value: ptr(o.Value.EnableDNSName)}
	case "enableNetworkAddressUsageMetrics":
		out.EnableNetworkAddressUsageMetrics = &shape.AttributeBooleanValue{Value: ptr(false)}
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter attribute is invalid. Unknown attribute.", in.Attribute)
	}
	return out, nil
}
