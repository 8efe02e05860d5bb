package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// subnetActions are the actions on subnets.
func (s *Service) subnetActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("DescribeSubnets", s.DescribeSubnets, ro),
	}
}

// DescribeSubnets shows subnets with how many addresses are free.
func (s *Service) DescribeSubnets(ctx context.Context, in *shape.DescribeSubnetsInput) (*shape.DescribeSubnetsOutput, error) {
	q := query[shape.Subnet]{in: in, filters: in.Filters, id: func(v shape.Subnet) string { return v.SubnetId }, tags: func(v shape.Subnet) []shape.Tag { return v.Tags },
		fields: fields[shape.Subnet]{
			"subnet-id":            func(v shape.Subnet) []string { return one(v.SubnetId) },
			"vpc-id":               func(v shape.Subnet) []string { return one(v.VpcId) },
			"cidr":                 func(v shape.Subnet) []string { return one(v.CidrBlock) },
			"cidrBlock":            func(v shape.Subnet) []string { return one(v.CidrBlock) },
			"cidr-block":           func(v shape.Subnet) []string { return one(v.CidrBlock) },
			"availability-zone":    func(v shape.Subnet) []string { return one(v.AvailabilityZone) },
			"availabilityZone":     func(v shape.Subnet) []string { return one(v.AvailabilityZone) },
			"availability-zone-id": func(v shape.Subnet) []string { return one(v.AvailabilityZoneId) },
			"default-for-az":       func(v shape.Subnet) []string { return truth(v.DefaultForAz) },
			"defaultForAz":         func(v shape.Subnet) []string { return truth(v.DefaultForAz) },
			"state":                func(v shape.Subnet) []string { return one(v.State) },
			"owner-id":             func(v shape.Subnet) []string { return one(v.OwnerId) },
			"available-ip-address-count": func(v shape.Subnet) []string {
				return one(digits(v.AvailableIpAddressCount))
			},
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Subnet, error) {
		all, err := list[cloud.Subnet, cloud.SubnetID](snap, store.Subnets, in.SubnetIds, caller(ctx), aSubnet)
		if err != nil {
			return nil, err
		}
		used := map[cloud.SubnetID]int{}
		for _, n := range s.look(snap).interfaces {
			used[n.Subnet] += len(n.Addresses)
		}
		out := make([]shape.Subnet, 0, len(all))
		for _, v := range all {
			out = append(out, shape.Subnet{
				SubnetId: string(v.ID), VpcId: string(v.VPC), CidrBlock: v.CIDR.String(), AvailabilityZone: v.Zone, AvailabilityZoneId: cloud.ZoneID(s.Region, v.Zone),
				AvailableIpAddressCount: number(v.Size() - used[v.ID]), DefaultForAz: ptr(v.Default), MapPublicIpOnLaunch: ptr(v.MapPublicAddress),
				AssignIpv6AddressOnCreation: ptr(false), Ipv6Native: ptr(false), EnableDns64: ptr(false), MapCustomerOwnedIpOnLaunch: ptr(false),
				OwnerId: string(v.Account), State: "available", Tags: tags(v.Tags),
				SubnetArn: "arn:aws:ec2:" + s.Region + ":" + string(v.Account) + ":subnet/" + string(v.ID),
			})
		}
		return out, nil
	})
	return &shape.DescribeSubnetsOutput{Subnets: page, NextToken: next}, err
}
