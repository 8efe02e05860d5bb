package ec2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// vpcActions are the actions on VPCs.
func (s *Service) vpcActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateVpc", s.CreateVpc, the("vpc", func(*shape.CreateVpcInput) string { return "*" })),
		api.Do("CreateDefaultVpc", s.CreateDefaultVpc),
		api.Do("DeleteVpc", s.DeleteVpc, the("vpc", func(in *shape.DeleteVpcInput) string { return in.VpcId })),
		api.Do("DescribeVpcs", s.DescribeVpcs, ro),
		api.Do("DescribeVpcAttribute", s.DescribeVpcAttribute, ro),
		api.Do("ModifyVpcAttribute", s.ModifyVpcAttribute, the("vpc", func(in *shape.ModifyVpcAttributeInput) string { return in.VpcId })),
		api.Do("ModifyVpcTenancy", s.ModifyVpcTenancy, the("vpc", func(in *shape.ModifyVpcTenancyInput) string { return in.VpcId })),
		api.Do("AssociateVpcCidrBlock", s.AssociateVpcCidrBlock, the("vpc", func(in *shape.AssociateVpcCidrBlockInput) string { return in.VpcId })),
		api.Do("DisassociateVpcCidrBlock", s.DisassociateVpcCidrBlock, the("vpc", s.blockOwner)),
		api.Do("DescribeVpcEndpoints", s.DescribeVpcEndpoints, ro),
		api.Do("DescribePrefixLists", s.DescribePrefixLists, ro),
		api.Do("DescribeManagedPrefixLists", s.DescribeManagedPrefixLists, ro),
	}
}

// ipv6Blocks are the keys that make a block of IPv6 one VPC's only.
var ipv6Blocks = store.NewKind[cloud.VPCID](store.IPAMPrefix(store.BlockPool))

// CreateVpc makes a VPC with its main route table, ACL and default security group.
func (s *Service) CreateVpc(ctx context.Context, in *shape.CreateVpcInput) (*shape.CreateVpcOutput, error) {
	err := errors.Join(s.ownBorder(in.Ipv6CidrBlockNetworkBorderGroup), unsupported([]lack{
		{in.Ipv4IpamPoolId != "" || in.Ipv4NetmaskLength != nil, "Ipv4IpamPoolId: pools of IPAM"},
		{in.Ipv6IpamPoolId != "" || in.Ipv6NetmaskLength != nil, "Ipv6IpamPoolId: pools of IPAM"},
		{in.Ipv6Pool != "" || in.Ipv6CidrBlock != "", "Ipv6Pool: IPv6 addresses of your own"},
		{in.InstanceTenancy == "dedicated" || in.InstanceTenancy == "host", "InstanceTenancy: dedicated hosts"},
	}))
	if err != nil {
		return nil, err
	}
	if in.InstanceTenancy != "" && in.InstanceTenancy != "default" {
		return nil, cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter instanceTenancy is invalid", in.InstanceTenancy)
	}
	if in.CidrBlock == "" {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter CidrBlock")
	}
	block, err := cloud.ParseIPv4Block("cidrBlock", in.CidrBlock)
	if err == nil {
		err = cloud.CheckVPCBlock(block)
	}
	if err != nil {
		return nil, err
	}
	given, err := specifiedTags(in.TagSpecifications, "vpc")
	if err != nil {
		return nil, err
	}
	var v cloud.VPC
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		v = cloud.NewVPC(caller(ctx), block, s.mint)
		v.Tags = given["vpc"]
		if v.DHCPOptions, err = s.defaultOptions(snap, t, v.Account); err != nil {
			return err
		}
		if yes(in.AmazonProvidedIpv6CidrBlock) {
			if v, err = s.giveIPv6(snap, t, v, nil); err != nil {
				return err
			}
		}
		cluster.Found(t, v, s.mint)
		return nil
	})
	return &shape.CreateVpcOutput{Vpc: ptr(s.vpcShape(v))}, err
}

// ownBorder refuses the border groups of other regions.
func (s *Service) ownBorder(group string) error {
	if group != "" && group != s.Region {
		return cloud.Errorf("InvalidParameterValue", "Ipv6CidrBlockNetworkBorderGroup is %s, not %.40q", s.Region, group)
	}
	return nil
}

// defaultOptions returns the DHCP options of a new VPC.
func (s *Service) defaultOptions(snap *store.Snapshot, t *store.Txn, who cloud.AccountID) (cloud.DHCPOptionsID, error) {
	id := cluster.DefaultOptions(snap, who)
	if id == "" {
		return "", nil
	}
	o, err := store.MirroredGet(snap, store.Options, id)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil // their owner has deleted them
	}
	store.Require(t, store.Options, id, o.Rev)
	return id, err
}

// giveIPv6 gives the VPC a block of IPv6 that no other has.
func (s *Service) giveIPv6(snap *store.Snapshot, t *store.Txn, v cloud.VPC, tables []cloud.RouteTable) (cloud.VPC, error) {
	block, err := s.chooseIPv6(snap)
	if err != nil {
		return v, err
	}
	b := cloud.CIDRBlock{ID: newID[cloud.AssociationID](s, "vpc-cidr-assoc"), CIDR: block}
	store.Create(t, ipv6Blocks, b.CIDR.String(), v.ID)
	return v.Associate(b, tables)
}

func (s *Service) chooseIPv6(snap *store.Snapshot) (netip.Prefix, error) {
	var random [8]byte
	if _, err := io.ReadFull(s.Rand, random[:]); err != nil {
		return netip.Prefix{}, fmt.Errorf("read random bytes: %w", err)
	}
	if len(s.IPv6Pool) == 0 {
		return cloud.IPv6Block([6]byte(random[:])), nil
	}
	vpcs, err := store.Mirrored(snap, store.VPCs)
	if err != nil {
		return netip.Prefix{}, err
	}
	taken := map[netip.Prefix]bool{}
	for _, v := range vpcs {
		for _, b := range v.Value.Blocks {
			taken[b.CIDR] = true
		}
	}
	block, ok := cloud.ChooseIPv6Block(s.IPv6Pool, binary.BigEndian.Uint64(random[:]), taken)
	if !ok {
		return block, cloud.Errorf("InsufficientCidrBlocks", "There is no free IPv6 CIDR block: the operator's pool has %d VPCs' blocks and all are taken", len(taken))
	}
	return block, nil
}

// ModifyVpcTenancy sets the only tenancy that EC2 lets a VPC be changed to, and that ours have.
func (s *Service) ModifyVpcTenancy(ctx context.Context, in *shape.ModifyVpcTenancyInput) (*shape.ModifyVpcTenancyOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, _ *store.Txn) error {
		if in.InstanceTenancy != "default" {
			return cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter instanceTenancy is invalid: a VPC can be changed to default only", in.InstanceTenancy)
		}
		_, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		return err
	})
	return &shape.ModifyVpcTenancyOutput{ReturnValue: ptr(true)}, err
}

// CreateDefaultVpc makes the default VPC anew for an account that has deleted its own.
func (s *Service) CreateDefaultVpc(ctx context.Context, in *shape.CreateDefaultVpcInput) (*shape.CreateDefaultVpcOutput, error) {
	var v cloud.VPC
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		if o, err := defaultVPC(snap, caller(ctx)); err == nil {
			return cloud.Errorf("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region: %s", o.ID)
		}
		options, err := s.defaultOptions(snap, t, caller(ctx))
		if err != nil {
			return err
		}
		zones, err := s.zones(snap)
		if err != nil {
			return err
		}
		store.RequireNothingNew(t, store.VPCs, snap.Rev())
		v, err = cluster.FoundDefault(t, cluster.Default{Account: caller(ctx), Options: options, Zones: zones, Public: len(s.Elastic) > 0}, s.mint)
		return err
	})
	return &shape.CreateDefaultVpcOutput{Vpc: ptr(s.vpcShape(v))}, err
}

// defaultVPC returns the account's default VPC.
func defaultVPC(snap *store.Snapshot, who cloud.AccountID) (store.Object[cloud.VPC], error) {
	all, err := store.Mirrored(snap, store.VPCs)
	if err != nil {
		return store.Object[cloud.VPC]{}, err
	}
	for _, o := range all {
		if o.Value.Default && o.Value.Account == who {
			return o, nil
		}
	}
	return store.Object[cloud.VPC]{}, cloud.Errorf("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region: see create-default-vpc")
}

// DeleteVpc deletes a VPC in which nothing is left but what it was born with.
func (s *Service) DeleteVpc(ctx context.Context, in *shape.DeleteVpcInput) (*shape.DeleteVpcOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		v := o.Value
		others, err := dependents(snap, t, v)
		if err == nil {
			err = cloud.Depended("vpc", v.ID, others)
		}
		if err != nil {
			return err
		}
		for _, b := range v.Blocks {
			if b.CIDR.Addr().Is6() {
				store.Remove(t, ipv6Blocks, b.CIDR.String())
			}
		}
		store.Delete(t, store.VPCs, o)
		return nil
	})
	return &shape.DeleteVpcOutput{}, err
}

// dependents names what is in the VPC beside what it was born with, which goes into the transaction to be deleted.
func dependents(snap *store.Snapshot, t *store.Txn, v cloud.VPC) (others []string, err error) {
	subnets, err1 := store.Mirrored(snap, store.Subnets) // a new one touches the VPC, and so do tables and gateways
	for _, s := range subnets {
		if s.Value.VPC == v.ID {
			others = append(others, s.ID)
		}
	}
	if v.Gateway != "" {
		others = append(others, string(v.Gateway))
	}
	tables, err2 := store.Mirrored(snap, store.RouteTables)
	for _, r := range tables {
		switch {
		case r.Value.VPC == v.ID && r.Value.ID == v.MainTable:
			store.Delete(t, store.RouteTables, r)
		case r.Value.VPC == v.ID:
			others = append(others, r.ID)
		}
	}
	acls, err3 := store.Mirrored(snap, store.NetworkACLs)
	for _, a := range acls {
		switch {
		case a.Value.VPC == v.ID && a.Value.ID == v.NetworkACL:
			store.Delete(t, store.NetworkACLs, a)
		case a.Value.VPC == v.ID:
			others = append(others, a.ID)
		}
	}
	groups, err4 := store.Mirrored(snap, store.Groups)
	for _, g := range groups {
		switch {
		case g.Value.VPC == v.ID && g.Value.Name == "default":
			store.Delete(t, store.Groups, g)
		case g.Value.VPC == v.ID:
			others = append(others, g.ID)
		}
	}
	store.RequireNothingNew(t, store.NetworkACLs, snap.Rev())
	store.RequireNothingNew(t, store.Groups, snap.Rev())
	return others, errors.Join(err1, err2, err3, err4)
}

// DescribeVpcs shows VPCs.
func (s *Service) DescribeVpcs(ctx context.Context, in *shape.DescribeVpcsInput) (*shape.DescribeVpcsOutput, error) {
	q := query[shape.Vpc]{in: in, filters: in.Filters, fields: vpcFields, id: func(v shape.Vpc) string { return v.VpcId }, tags: func(v shape.Vpc) []shape.Tag { return v.Tags }}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Vpc, error) {
		all, err := list[cloud.VPC, cloud.VPCID](snap, store.VPCs, in.VpcIds, caller(ctx), aVPC)
		out := make([]shape.Vpc, 0, len(all))
		for _, v := range all {
			out = append(out, s.vpcShape(v))
		}
		return out, err
	})
	return &shape.DescribeVpcsOutput{Vpcs: page, NextToken: next}, err
}

var vpcFields = fields[shape.Vpc]{
	"vpc-id":          func(v shape.Vpc) []string { return one(v.VpcId) },
	"cidr":            func(v shape.Vpc) []string { return one(v.CidrBlock) },
	"cidr-block":      func(v shape.Vpc) []string { return one(v.CidrBlock) },
	"is-default":      func(v shape.Vpc) []string { return truth(v.IsDefault) },
	"isDefault":       func(v shape.Vpc) []string { return truth(v.IsDefault) },
	"state":           func(v shape.Vpc) []string { return one(v.State) },
	"owner-id":        func(v shape.Vpc) []string { return one(v.OwnerId) },
	"dhcp-options-id": func(v shape.Vpc) []string { return one(v.DhcpOptionsId) },

	"cidr-block-association.cidr-block":           vpcBlocks(func(b shape.VpcCidrBlockAssociation) string { return b.CidrBlock }),
	"cidr-block-association.association-id":       vpcBlocks(func(b shape.VpcCidrBlockAssociation) string { return b.AssociationId }),
	"cidr-block-association.state":                vpcBlocks(func(b shape.VpcCidrBlockAssociation) string { return b.CidrBlockState.State }),
	"ipv6-cidr-block-association.ipv6-cidr-block": vpcIPv6Blocks(func(b shape.VpcIpv6CidrBlockAssociation) string { return b.Ipv6CidrBlock }),
	"ipv6-cidr-block-association.association-id":  vpcIPv6Blocks(func(b shape.VpcIpv6CidrBlockAssociation) string { return b.AssociationId }),
	"ipv6-cidr-block-association.ipv6-pool":       vpcIPv6Blocks(func(b shape.VpcIpv6CidrBlockAssociation) string { return b.Ipv6Pool }),
	"ipv6-cidr-block-association.state":           vpcIPv6Blocks(func(b shape.VpcIpv6CidrBlockAssociation) string { return b.Ipv6CidrBlockState.State }),
}

func vpcBlocks(f func(shape.VpcCidrBlockAssociation) string) func(shape.Vpc) []string {
	return func(v shape.Vpc) []string { return mapped(v.CidrBlockAssociationSet, f) }
}

func vpcIPv6Blocks(f func(shape.VpcIpv6CidrBlockAssociation) string) func(shape.Vpc) []string {
	return func(v shape.Vpc) []string { return mapped(v.Ipv6CidrBlockAssociationSet, f) }
}

// mapped returns one field of several items, for a filter: those that have a value.
func mapped[T any](items []T, f func(T) string) []string {
	var out []string
	for _, item := range items {
		out = append(out, one(f(item))...)
	}
	return out
}

// vpcShape is a VPC in EC2's shape.
func (s *Service) vpcShape(v cloud.VPC) shape.Vpc {
	out := shape.Vpc{
		VpcId: string(v.ID), CidrBlock: v.CIDR.String(), DhcpOptionsId: string(v.DHCPOptions), InstanceTenancy: "default",
		IsDefault: ptr(v.Default), OwnerId: string(v.Account), State: "available", Tags: tags(v.Tags),
	}
	if out.DhcpOptionsId == "" {
		out.DhcpOptionsId = "default"
	}
	for _, b := range append([]cloud.CIDRBlock{{ID: v.PrimaryAssociation(), CIDR: v.CIDR}}, v.Blocks...) {
		if four, six := s.blockShape(b, "associated"); four != nil {
			out.CidrBlockAssociationSet = append(out.CidrBlockAssociationSet, *four)
		} else {
			out.Ipv6CidrBlockAssociationSet = append(out.Ipv6CidrBlockAssociationSet, *six)
		}
	}
	return out
}

// blockShape is a VPC's block in EC2's shape, which is one of two.
func (s *Service) blockShape(b cloud.CIDRBlock, state string) (*shape.VpcCidrBlockAssociation, *shape.VpcIpv6CidrBlockAssociation) {
	st := &shape.VpcCidrBlockState{State: state}
	if b.CIDR.Addr().Is4() {
		return &shape.VpcCidrBlockAssociation{AssociationId: string(b.ID), CidrBlock: b.CIDR.String(), CidrBlockState: st}, nil
	}
	return nil, &shape.VpcIpv6CidrBlockAssociation{
		AssociationId: string(b.ID), Ipv6CidrBlock: b.CIDR.String(), Ipv6CidrBlockState: st, Ipv6Pool: "Amazon", NetworkBorderGroup: s.Region,
	}
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

// ModifyVpcAttribute changes one attribute of a VPC.
func (s *Service) ModifyVpcAttribute(ctx context.Context, in *shape.ModifyVpcAttributeInput) (*shape.ModifyVpcAttributeOutput, error) {
	if n := set(in.EnableDnsSupport != nil, in.EnableDnsHostnames != nil, in.EnableNetworkAddressUsageMetrics != nil); n != 1 {
		return nil, cloud.Errorf("InvalidParameterCombination", "Name exactly one attribute to change; this names %d", n)
	}
	err := s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		v := o.Value
		switch {
		case in.EnableDnsSupport != nil:
			v.EnableDNS = yes(in.EnableDnsSupport.Value)
		case in.EnableDnsHostnames != nil:
			v.EnableDNSName = yes(in.EnableDnsHostnames.Value)
			if v.EnableDNSName && !v.EnableDNS {
				return cloud.Errorf("InvalidParameterCombination", "EnableDnsHostnames needs EnableDnsSupport, which is off in %s: switch it on first", v.ID)
			}
		case yes(in.EnableNetworkAddressUsageMetrics.Value):
			return cloud.Errorf("UnsupportedOperation", "EnableNetworkAddressUsageMetrics: there are no such metrics")
		default: // they are off already
			return nil
		}
		store.Update(t, store.VPCs, o, v)
		return nil
	})
	return &shape.ModifyVpcAttributeOutput{}, err
}

// AssociateVpcCidrBlock gives a VPC one more block of addresses.
func (s *Service) AssociateVpcCidrBlock(ctx context.Context, in *shape.AssociateVpcCidrBlockInput) (*shape.AssociateVpcCidrBlockOutput, error) {
	err := errors.Join(s.ownBorder(in.Ipv6CidrBlockNetworkBorderGroup), unsupported([]lack{
		{in.Ipv4IpamPoolId != "" || in.Ipv4NetmaskLength != nil, "Ipv4IpamPoolId: pools of IPAM"},
		{in.Ipv6IpamPoolId != "" || in.Ipv6NetmaskLength != nil, "Ipv6IpamPoolId: pools of IPAM"},
		{in.Ipv6Pool != "" || in.Ipv6CidrBlock != "", "Ipv6Pool: IPv6 addresses of your own"},
	}))
	if err != nil {
		return nil, err
	}
	switch set(in.CidrBlock != "", yes(in.AmazonProvidedIpv6CidrBlock)) {
	case 0:
		return nil, cloud.Errorf("MissingParameter", "Either CidrBlock or AmazonProvidedIpv6CidrBlock is needed")
	case 2:
		return nil, cloud.Errorf("InvalidParameterCombination", "CidrBlock and AmazonProvidedIpv6CidrBlock are two requests")
	}
	four := cloud.CIDRBlock{ID: newID[cloud.AssociationID](s, "vpc-cidr-assoc")}
	if in.CidrBlock != "" {
		if four.CIDR, err = cloud.ParseIPv4Block("cidrBlock", in.CidrBlock); err != nil {
			return nil, err
		}
	}
	var v cloud.VPC
	associate := func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		tables, err := s.tablesOf(snap, o.Value.ID)
		if err != nil {
			return err
		}
		if four.CIDR.IsValid() {
			v, err = o.Value.Associate(four, tables)
		} else {
			if v, err = s.giveIPv6(snap, t, o.Value, tables); err == nil {
				_, err = s.openGroups(snap, t, v.ID, math.MaxInt)
			}
		}
		if err != nil {
			return err
		}
		store.RequireNothingNew(t, store.RouteTables, snap.Rev())
		store.Update(t, store.VPCs, o, v)
		return nil
	}
	err = s.commit(ctx, nil, associate)
	if errors.Is(err, store.ErrTooLarge) { // its groups are too many to be opened with it: most of them before it, then
		if err = s.openMost(ctx, cloud.VPCID(in.VpcId)); err == nil {
			err = s.commit(ctx, nil, associate)
		}
	}
	if err != nil {
		return nil, err
	}
	out := &shape.AssociateVpcCidrBlockOutput{VpcId: string(v.ID)}
	out.CidrBlockAssociation, out.Ipv6CidrBlockAssociation = s.blockShape(v.Blocks[len(v.Blocks)-1], "associated")
	return out, nil
}

// openGroups lets the groups of a VPC that gets IPv6 let it out, most of them at once, and says whether there are more.
func (s *Service) openGroups(snap *store.Snapshot, t *store.Txn, id cloud.VPCID, most int) (more bool, err error) {
	groups, err := store.Mirrored(snap, store.Groups)
	if err != nil {
		return false, err
	}
	for _, g := range groups {
		if g.Value.VPC != id {
			continue
		}
		opened, ok := g.Value.OpenIPv6(newID[cloud.RuleID](s, "sgr"))
		if !ok {
			continue
		}
		if t.Len() == most {
			return true, nil
		}
		store.Update(t, store.Groups, g, opened)
	}
	return false, nil
}

// openMost opens groups before their VPC has IPv6, where it changes nothing, until they are few enough to be opened with it.
func (s *Service) openMost(ctx context.Context, id cloud.VPCID) error {
	for {
		var more bool
		err := s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) (err error) {
			more, err = s.openGroups(snap, t, id, 100) // an etcd of the operator's takes 128
			return err
		})
		if err != nil || !more {
			return err
		}
	}
}

// tablesOf returns the route tables of a VPC.
func (s *Service) tablesOf(snap *store.Snapshot, id cloud.VPCID) ([]cloud.RouteTable, error) {
	all, err := values(snap, store.RouteTables)
	var out []cloud.RouteTable
	for _, t := range all {
		if t.VPC == id {
			out = append(out, t)
		}
	}
	return out, err
}

// DisassociateVpcCidrBlock takes a block away from its VPC.
func (s *Service) DisassociateVpcCidrBlock(ctx context.Context, in *shape.DisassociateVpcCidrBlockInput) (*shape.DisassociateVpcCidrBlockOutput, error) {
	id := cloud.AssociationID(in.AssociationId)
	out := &shape.DisassociateVpcCidrBlockOutput{}
	err := s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := vpcWithBlock(snap, caller(ctx), id)
		if err != nil {
			return err
		}
		subnets, err := values(snap, store.Subnets)
		if err != nil {
			return err
		}
		v, b, err := o.Value.Disassociate(id, subnets)
		if err != nil {
			return err
		}
		if b.CIDR.Addr().Is6() {
			store.Remove(t, ipv6Blocks, b.CIDR.String())
		}
		store.Update(t, store.VPCs, o, v)
		out.VpcId = string(v.ID)
		out.CidrBlockAssociation, out.Ipv6CidrBlockAssociation = s.blockShape(b, "disassociated")
		return nil
	})
	return out, err
}

// vpcWithBlock returns the VPC that a block is associated with.
func vpcWithBlock(snap *store.Snapshot, who cloud.AccountID, id cloud.AssociationID) (store.Object[cloud.VPC], error) {
	all, err := store.Mirrored(snap, store.VPCs)
	if err != nil {
		return store.Object[cloud.VPC]{}, err
	}
	for _, o := range all {
		if o.Value.Account == who && hasBlock(o.Value, id) {
			return o, nil
		}
	}
	return store.Object[cloud.VPC]{}, cloud.NotFound("InvalidVpcCidrBlockAssociationID.NotFound", "vpc CIDR block association ID", id)
}

func hasBlock(v cloud.VPC, id cloud.AssociationID) bool {
	return v.PrimaryAssociation() == id || slices.ContainsFunc(v.Blocks, func(b cloud.CIDRBlock) bool { return b.ID == id })
}

// blockOwner returns the VPC that permission is asked for when a block shall go; * if it is nobody's.
func (s *Service) blockOwner(in *shape.DisassociateVpcCidrBlockInput) string {
	all, _ := store.Mirrored(s.Mirror, store.VPCs)
	for _, o := range all {
		if hasBlock(o.Value, cloud.AssociationID(in.AssociationId)) {
			return o.ID
		}
	}
	return "*"
}
