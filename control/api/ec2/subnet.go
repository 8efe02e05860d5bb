package ec2

import (
	"context"
	"errors"
	"net/netip"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// subnetActions are the actions on subnets.
func (s *Service) subnetActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateSubnet", s.CreateSubnet, api.Resource(func(in *shape.CreateSubnetInput) []string { return []string{"subnet/*", "vpc/" + in.VpcId} })),
		api.Do("CreateDefaultSubnet", s.CreateDefaultSubnet),
		api.Do("DeleteSubnet", s.DeleteSubnet, the("subnet", func(in *shape.DeleteSubnetInput) string { return in.SubnetId })),
		api.Do("DescribeSubnets", s.DescribeSubnets, ro),
		api.Do("ModifySubnetAttribute", s.ModifySubnetAttribute, the("subnet", func(in *shape.ModifySubnetAttributeInput) string { return in.SubnetId })),
	}
}

// CreateSubnet makes a subnet. It touches the VPC: of two that overlap one sees the other.
func (s *Service) CreateSubnet(ctx context.Context, in *shape.CreateSubnetInput) (*shape.CreateSubnetOutput, error) {
	err := unsupported([]lack{
		{in.Ipv4IpamPoolId != "" || in.Ipv4NetmaskLength != nil, "Ipv4IpamPoolId: pools of IPAM"},
		{in.Ipv6IpamPoolId != "" || in.Ipv6NetmaskLength != nil, "Ipv6IpamPoolId: pools of IPAM"},
		{yes(in.Ipv6Native), "Ipv6Native: subnets without IPv4"},
		{in.OutpostArn != "", "OutpostArn: Outposts"},
	})
	if err != nil {
		return nil, err
	}
	made := cloud.Subnet{
		ID: newID[cloud.SubnetID](s, "subnet"), Account: caller(ctx), VPC: cloud.VPCID(in.VpcId),
		ACLAssociation: newID[cloud.AssociationID](s, "aclassoc"),
	}
	if in.CidrBlock == "" {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter CidrBlock")
	}
	if made.CIDR, err = cloud.ParseIPv4Block("cidrBlock", in.CidrBlock); err != nil {
		return nil, err
	}
	if in.Ipv6CidrBlock != "" {
		var six netip.Prefix
		if six, err = cloud.ParseIPv6Block("ipv6CidrBlock", in.Ipv6CidrBlock); err != nil {
			return nil, err
		}
		made.Blocks = []cloud.CIDRBlock{{ID: newID[cloud.AssociationID](s, "subnet-cidr-assoc"), CIDR: six}}
	}
	given, err := specifiedTags(in.TagSpecifications, "subnet")
	if err != nil {
		return nil, err
	}
	made.Tags = given["subnet"]
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.VPCs, made.VPC, caller(ctx), aVPC)
		if err != nil {
			return err
		}
		if made.Zone, err = s.zone(snap, in.AvailabilityZone, in.AvailabilityZoneId); err != nil {
			return err
		}
		others, err := values(snap, store.Subnets)
		if err == nil {
			err = o.Value.CheckSubnet(made, others)
		}
		if err != nil {
			return err
		}
		touch(t, store.VPCs, o)
		store.Create(t, store.Subnets, made.ID, made)
		return nil
	})
	return &shape.CreateSubnetOutput{Subnet: ptr(s.subnetShape(made, 0))}, err
}

// CreateDefaultSubnet makes the default subnet of a zone anew.
func (s *Service) CreateDefaultSubnet(ctx context.Context, in *shape.CreateDefaultSubnetInput) (*shape.CreateDefaultSubnetOutput, error) {
	if yes(in.Ipv6Native) {
		return nil, cloud.Errorf("UnsupportedOperation", "Ipv6Native: subnets without IPv4 are not there: leave the parameter out")
	}
	if set(in.AvailabilityZone != "", in.AvailabilityZoneId != "") == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter AvailabilityZone")
	}
	var made cloud.Subnet
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		zone, err := s.zone(snap, in.AvailabilityZone, in.AvailabilityZoneId)
		if err != nil {
			return err
		}
		o, err := defaultVPC(snap, caller(ctx))
		if err != nil {
			return err
		}
		others, err := values(snap, store.Subnets)
		if err != nil {
			return err
		}
		if made, err = o.Value.NewDefaultSubnet(zone, others, s.mint); err != nil {
			return err
		}
		made.MapPublicAddress = len(s.Elastic) > 0
		touch(t, store.VPCs, o)
		store.Create(t, store.Subnets, made.ID, made)
		return nil
	})
	return &shape.CreateDefaultSubnetOutput{Subnet: ptr(s.subnetShape(made, 0))}, err
}

// DeleteSubnet deletes a subnet in which no interface is. A new interface changes nothing of its subnet, but its
// addresses are new keys.
func (s *Service) DeleteSubnet(ctx context.Context, in *shape.DeleteSubnetInput) (*shape.DeleteSubnetOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Subnets, cloud.SubnetID(in.SubnetId), caller(ctx), aSubnet)
		if err != nil {
			return err
		}
		nats, err1 := values(snap, store.NATGateways)
		interfaces, err2 := values(snap, store.Interfaces)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		owner := map[cloud.InterfaceID]string{}
		for _, n := range nats {
			owner[n.Interface] = string(n.ID)
		}
		var others []string
		for _, n := range interfaces {
			name := string(n.ID)
			if nat := owner[n.ID]; nat != "" {
				name += " of " + nat
			} else if n.Instance != "" {
				name += " of " + string(n.Instance)
			}
			if n.Subnet == o.Value.ID {
				others = append(others, name)
			}
		}
		if err := cloud.Depended("subnet", o.Value.ID, others); err != nil {
			return err
		}
		store.RequireNothingNew(t, ledger.Keys(o.Value.ID), snap.Rev())
		store.Delete(t, store.Subnets, o)
		return nil
	})
	return &shape.DeleteSubnetOutput{}, err
}

// ModifySubnetAttribute changes one attribute of a subnet.
func (s *Service) ModifySubnetAttribute(ctx context.Context, in *shape.ModifySubnetAttributeInput) (*shape.ModifySubnetAttributeOutput, error) {
	on := func(v *shape.AttributeBooleanValue) bool { return v != nil && yes(v.Value) }
	err := unsupported([]lack{
		{on(in.EnableDns64), "EnableDns64: DNS64 and NAT64"},
		{on(in.MapCustomerOwnedIpOnLaunch) || in.CustomerOwnedIpv4Pool != "", "CustomerOwnedIpv4Pool: addresses of your own"},
		{in.EnableLniAtDeviceIndex != nil, "EnableLniAtDeviceIndex: local network interfaces of Outposts"},
		{on(in.EnableResourceNameDnsARecordOnLaunch) || on(in.EnableResourceNameDnsAAAARecordOnLaunch) || in.PrivateDnsHostnameTypeOnLaunch == "resource-name",
			"PrivateDnsHostnameTypeOnLaunch: names of instances by their IDs"},
	})
	if err != nil {
		return nil, err
	}
	switch in.PrivateDnsHostnameTypeOnLaunch {
	case "", "ip-name":
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "PrivateDnsHostnameTypeOnLaunch is ip-name or resource-name, not %.40q", in.PrivateDnsHostnameTypeOnLaunch)
	}
	n := set(in.AssignIpv6AddressOnCreation != nil, in.MapPublicIpOnLaunch != nil, in.EnableDns64 != nil, in.MapCustomerOwnedIpOnLaunch != nil,
		in.DisableLniAtDeviceIndex != nil, in.EnableResourceNameDnsARecordOnLaunch != nil, in.EnableResourceNameDnsAAAARecordOnLaunch != nil, in.PrivateDnsHostnameTypeOnLaunch != "")
	if n != 1 {
		return nil, cloud.Errorf("InvalidParameterCombination", "Name exactly one attribute to change; this names %d", n)
	}
	err = s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Subnets, cloud.SubnetID(in.SubnetId), caller(ctx), aSubnet)
		if err != nil {
			return err
		}
		next := o.Value
		switch {
		case in.MapPublicIpOnLaunch != nil:
			next.MapPublicAddress = on(in.MapPublicIpOnLaunch)
		case in.AssignIpv6AddressOnCreation != nil:
			next.AssignIPv6 = on(in.AssignIpv6AddressOnCreation)
			if next.AssignIPv6 && !next.IPv6().IsValid() {
				return cloud.Errorf("InvalidParameterValue", "Invalid value 'true' for assignIpv6AddressOnCreation: %s has no IPv6 CIDR block", next.ID)
			}
		default: // it is off already
			return nil
		}
		store.Update(t, store.Subnets, o, next)
		return nil
	})
	return &shape.ModifySubnetAttributeOutput{}, err
}

// DescribeSubnets shows subnets with how many addresses are free.
func (s *Service) DescribeSubnets(ctx context.Context, in *shape.DescribeSubnetsInput) (*shape.DescribeSubnetsOutput, error) {
	q := query[shape.Subnet]{in: in, filters: in.Filters, fields: subnetFields, id: func(v shape.Subnet) string { return v.SubnetId }, tags: func(v shape.Subnet) []shape.Tag { return v.Tags }}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Subnet, error) {
		all, err1 := list[cloud.Subnet, cloud.SubnetID](snap, store.Subnets, in.SubnetIds, caller(ctx), aSubnet)
		interfaces, err2 := values(snap, store.Interfaces)
		used := map[cloud.SubnetID]int{}
		for _, n := range interfaces {
			used[n.Subnet] += n.Used()
		}
		out := make([]shape.Subnet, 0, len(all))
		for _, v := range all {
			out = append(out, s.subnetShape(v, used[v.ID]))
		}
		return out, errors.Join(err1, err2)
	})
	return &shape.DescribeSubnetsOutput{Subnets: page, NextToken: next}, err
}

var subnetFields = fields[shape.Subnet]{
	"subnet-id":            func(v shape.Subnet) []string { return one(v.SubnetId) },
	"subnet-arn":           func(v shape.Subnet) []string { return one(v.SubnetArn) },
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

	"available-ip-address-count": func(v shape.Subnet) []string { return one(digits(v.AvailableIpAddressCount)) },

	"ipv6-cidr-block-association.ipv6-cidr-block": subnetBlocks(func(b shape.SubnetIpv6CidrBlockAssociation) string { return b.Ipv6CidrBlock }),
	"ipv6-cidr-block-association.association-id":  subnetBlocks(func(b shape.SubnetIpv6CidrBlockAssociation) string { return b.AssociationId }),
	"ipv6-cidr-block-association.state":           subnetBlocks(func(b shape.SubnetIpv6CidrBlockAssociation) string { return b.Ipv6CidrBlockState.State }),

	"map-public-ip-on-launch":         func(v shape.Subnet) []string { return truth(v.MapPublicIpOnLaunch) },
	"map-customer-owned-ip-on-launch": func(v shape.Subnet) []string { return truth(v.MapCustomerOwnedIpOnLaunch) },
	"customer-owned-ipv4-pool":        func(v shape.Subnet) []string { return one(v.CustomerOwnedIpv4Pool) },
	"enable-dns64":                    func(v shape.Subnet) []string { return truth(v.EnableDns64) },
	"enable-lni-at-device-index":      func(v shape.Subnet) []string { return one(digits(v.EnableLniAtDeviceIndex)) },
	"ipv6-native":                     func(v shape.Subnet) []string { return truth(v.Ipv6Native) },
	"outpost-arn":                     func(v shape.Subnet) []string { return one(v.OutpostArn) },

	"private-dns-name-options-on-launch.hostname-type": func(v shape.Subnet) []string { return one(v.PrivateDnsNameOptionsOnLaunch.HostnameType) },
	"private-dns-name-options-on-launch.enable-resource-name-dns-a-record": func(v shape.Subnet) []string {
		return truth(v.PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsARecord)
	},
	"private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": func(v shape.Subnet) []string {
		return truth(v.PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsAAAARecord)
	},
}

func subnetBlocks(f func(shape.SubnetIpv6CidrBlockAssociation) string) func(shape.Subnet) []string {
	return func(v shape.Subnet) []string { return mapped(v.Ipv6CidrBlockAssociationSet, f) }
}

// subnetShape is a subnet of which so many addresses are used, in EC2's shape.
func (s *Service) subnetShape(v cloud.Subnet, used int) shape.Subnet {
	out := shape.Subnet{
		SubnetId: string(v.ID), VpcId: string(v.VPC), CidrBlock: v.CIDR.String(), AvailabilityZone: v.Zone, AvailabilityZoneId: cloud.ZoneID(s.Region, v.Zone),
		DefaultForAz: ptr(v.Default), MapPublicIpOnLaunch: ptr(v.MapPublicAddress), AssignIpv6AddressOnCreation: ptr(v.AssignIPv6),
		Ipv6Native: ptr(false), EnableDns64: ptr(false), MapCustomerOwnedIpOnLaunch: ptr(false),
		OwnerId: string(v.Account), State: "available", Tags: tags(v.Tags),
		SubnetArn: "arn:aws:ec2:" + s.Region + ":" + string(v.Account) + ":subnet/" + string(v.ID),
		PrivateDnsNameOptionsOnLaunch: &shape.PrivateDnsNameOptionsOnLaunch{
			HostnameType: "ip-name", EnableResourceNameDnsARecord: ptr(false), EnableResourceNameDnsAAAARecord: ptr(false),
		},
	}
	if v.CIDR.IsValid() { // it is not after a refusal
		out.AvailableIpAddressCount = number(v.Size() - used)
	}
	for _, b := range v.Blocks {
		out.Ipv6CidrBlockAssociationSet = append(out.Ipv6CidrBlockAssociationSet, shape.SubnetIpv6CidrBlockAssociation{
			AssociationId: string(b.ID), Ipv6CidrBlock: b.CIDR.String(), Ipv6CidrBlockState: &shape.SubnetCidrBlockState{State: "associated"},
		})
	}
	return out
}
