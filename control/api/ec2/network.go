package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// list returns the account's values of a kind, or those named.
func list[T any, ID ~string](snap *store.Snapshot, k store.Kind[T], ids []string, who cloud.AccountID, n noun) ([]T, error) {
	var out []T
	for _, id := range ids {
		o, err := find(snap, k, ID(id), who, n)
		if err != nil {
			return nil, err
		}
		out = append(out, o.Value)
	}
	if len(ids) > 0 {
		return out, nil
	}
	all, err := store.Mirrored(snap, k)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		if owner(o.Value) == who {
			out = append(out, o.Value)
		}
	}
	return out, nil
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

// DescribeSecurityGroups shows groups with their rules.
func (s *Service) DescribeSecurityGroups(ctx context.Context, in *shape.DescribeSecurityGroupsInput) (*shape.DescribeSecurityGroupsOutput, error) {
	who := caller(ctx)
	q := query[shape.SecurityGroup]{in: in, filters: in.Filters, id: func(v shape.SecurityGroup) string { return v.GroupId }, tags: func(v shape.SecurityGroup) []shape.Tag { return v.Tags },
		fields: fields[shape.SecurityGroup]{
			"group-id":    func(v shape.SecurityGroup) []string { return one(v.GroupId) },
			"group-name":  func(v shape.SecurityGroup) []string { return one(v.GroupName) },
			"vpc-id":      func(v shape.SecurityGroup) []string { return one(v.VpcId) },
			"description": func(v shape.SecurityGroup) []string { return one(v.Description) },
			"owner-id":    func(v shape.SecurityGroup) []string { return one(v.OwnerId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.SecurityGroup, error) {
		ids := in.GroupIds
		if len(in.GroupNames) > 0 {
			all, err := store.Mirrored(snap, store.Groups)
			if err != nil {
				return nil, err
			}
			vpcs, err := store.Mirrored(snap, store.VPCs)
			if err != nil {
				return nil, err
			}
			byDefault := map[cloud.VPCID]bool{}
			for _, v := range vpcs {
				byDefault[v.Value.ID] = v.Value.Default
			}
		next:
			for _, name := range in.GroupNames {
				for _, g := range all { // names without a VPC mean the default VPC's, as in EC2
					if g.Value.Name == name && g.Value.Account == who && byDefault[g.Value.VPC] {
						ids = append(ids, string(g.Value.ID))
						continue next
					}
				}
				return nil, cloud.Errorf("InvalidGroup.NotFound", "The security group '%.255s' does not exist in default VPC", name)
			}
		}
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, ids, who, aGroup)
		out := make([]shape.SecurityGroup, 0, len(all))
		for _, g := range all {
			out = append(out, shape.SecurityGroup{
				GroupId: string(g.ID), GroupName: g.Name, Description: g.Description, VpcId: string(g.VPC), OwnerId: string(g.Account), Tags: tags(g.Tags),
				IpPermissions: permissions(g, g.Ingress), IpPermissionsEgress: permissions(g, g.Egress),
			})
		}
		return out, err
	})
	return &shape.DescribeSecurityGroupsOutput{SecurityGroups: page, NextToken: next}, err
}

// permissions puts rules of the same protocol and ports together, as EC2 shows them.
func permissions(g cloud.SecurityGroup, rules []cloud.GroupRule) []shape.IpPermission {
	var out []shape.IpPermission
	at := map[[3]string]int{}
	for _, r := range rules {
		key := [3]string{r.Protocol, digits(number(r.FromPort)), digits(number(r.ToPort))}
		k, ok := at[key]
		if !ok {
			k = len(out)
			at[key] = k
			p := shape.IpPermission{IpProtocol: r.Protocol}
			if r.Protocol != "-1" {
				p.FromPort, p.ToPort = number(r.FromPort), number(r.ToPort)
			}
			out = append(out, p)
		}
		if r.Group != "" {
			out[k].UserIdGroupPairs = append(out[k].UserIdGroupPairs, shape.UserIdGroupPair{GroupId: string(r.Group), UserId: string(g.Account), Description: r.Description})
		} else {
			out[k].IpRanges = append(out[k].IpRanges, shape.IpRange{CidrIp: r.CIDR, Description: r.Description})
		}
	}
	return out
}

// DescribeSecurityGroupRules shows rules one by one, with their own IDs.
func (s *Service) DescribeSecurityGroupRules(ctx context.Context, in *shape.DescribeSecurityGroupRulesInput) (*shape.DescribeSecurityGroupRulesOutput, error) {
	q := query[shape.SecurityGroupRule]{in: in, filters: in.Filters, id: func(v shape.SecurityGroupRule) string { return v.SecurityGroupRuleId }, tags: func(v shape.SecurityGroupRule) []shape.Tag { return v.Tags },
		fields: fields[shape.SecurityGroupRule]{
			"group-id":               func(v shape.SecurityGroupRule) []string { return one(v.GroupId) },
			"security-group-rule-id": func(v shape.SecurityGroupRule) []string { return one(v.SecurityGroupRuleId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.SecurityGroupRule, error) {
		all, err := list[cloud.SecurityGroup, cloud.GroupID](snap, store.Groups, nil, caller(ctx), aGroup)
		if err != nil {
			return nil, err
		}
		wanted := map[string]bool{}
		for _, id := range in.SecurityGroupRuleIds {
			wanted[id] = false
		}
		var out []shape.SecurityGroupRule
		for _, g := range all {
			for egress, rules := range map[bool][]cloud.GroupRule{false: g.Ingress, true: g.Egress} {
				for _, r := range rules {
					if len(in.SecurityGroupRuleIds) > 0 {
						if _, ok := wanted[string(r.ID)]; !ok {
							continue
						}
						wanted[string(r.ID)] = true
					}
					rule := shape.SecurityGroupRule{
						SecurityGroupRuleId: string(r.ID), GroupId: string(g.ID), GroupOwnerId: string(g.Account), IsEgress: ptr(egress),
						IpProtocol: r.Protocol, FromPort: number(r.FromPort), ToPort: number(r.ToPort), CidrIpv4: r.CIDR, Description: r.Description,
					}
					if r.Group != "" {
						rule.ReferencedGroupInfo = &shape.ReferencedSecurityGroup{GroupId: string(r.Group), UserId: string(g.Account)}
					}
					out = append(out, rule)
				}
			}
		}
		for id, found := range wanted {
			if !found {
				return nil, cloud.Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%.80s' does not exist", id)
			}
		}
		return out, nil
	})
	return &shape.DescribeSecurityGroupRulesOutput{SecurityGroupRules: page, NextToken: next}, err
}

// DescribeNetworkInterfaces shows network interfaces.
func (s *Service) DescribeNetworkInterfaces(ctx context.Context, in *shape.DescribeNetworkInterfacesInput) (*shape.DescribeNetworkInterfacesOutput, error) {
	type eni = shape.NetworkInterface
	attachment := func(f func(*shape.NetworkInterfaceAttachment) string) func(eni) []string {
		return func(n eni) []string {
			if n.Attachment == nil {
				return nil
			}
			return one(f(n.Attachment))
		}
	}
	addresses := func(n eni) []string {
		var out []string
		for _, a := range n.PrivateIpAddresses {
			out = append(out, a.PrivateIpAddress)
		}
		return out
	}
	q := query[eni]{in: in, filters: in.Filters, id: func(n eni) string { return n.NetworkInterfaceId }, tags: func(n eni) []shape.Tag { return n.TagSet },
		fields: fields[eni]{
			"network-interface-id":         func(n eni) []string { return one(n.NetworkInterfaceId) },
			"subnet-id":                    func(n eni) []string { return one(n.SubnetId) },
			"vpc-id":                       func(n eni) []string { return one(n.VpcId) },
			"availability-zone":            func(n eni) []string { return one(n.AvailabilityZone) },
			"status":                       func(n eni) []string { return one(n.Status) },
			"mac-address":                  func(n eni) []string { return one(n.MacAddress) },
			"owner-id":                     func(n eni) []string { return one(n.OwnerId) },
			"description":                  func(n eni) []string { return one(n.Description) },
			"private-ip-address":           func(n eni) []string { return one(n.PrivateIpAddress) },
			"private-dns-name":             func(n eni) []string { return one(n.PrivateDnsName) },
			"addresses.private-ip-address": addresses,
			"group-id":                     func(n eni) []string { return groupIDs(n.Groups) },
			"group-name":                   func(n eni) []string { return groupNames(n.Groups) },
			"source-dest-check":            func(n eni) []string { return truth(n.SourceDestCheck) },
			"interface-type":               func(n eni) []string { return one(n.InterfaceType) },
			"attachment.instance-id":       attachment(func(a *shape.NetworkInterfaceAttachment) string { return a.InstanceId }),
			"attachment.attachment-id":     attachment(func(a *shape.NetworkInterfaceAttachment) string { return a.AttachmentId }),
			"attachment.status":            attachment(func(a *shape.NetworkInterfaceAttachment) string { return a.Status }),
			"attachment.device-index":      attachment(func(a *shape.NetworkInterfaceAttachment) string { return digits(a.DeviceIndex) }),
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]eni, error) {
		all, err := list[cloud.NetworkInterface, cloud.InterfaceID](snap, store.Interfaces, in.NetworkInterfaceIds, caller(ctx), anInterface)
		if err != nil {
			return nil, err
		}
		w := s.look(snap)
		out := make([]eni, 0, len(all))
		for _, n := range all {
			out = append(out, w.networkInterface(n))
		}
		return out, nil
	})
	return &shape.DescribeNetworkInterfacesOutput{NetworkInterfaces: page, NextToken: next}, err
}

func (w *look) networkInterface(n cloud.NetworkInterface) shape.NetworkInterface {
	out := shape.NetworkInterface{
		NetworkInterfaceId: string(n.ID), SubnetId: string(n.Subnet), VpcId: string(n.VPC), AvailabilityZone: n.Zone, MacAddress: n.MAC,
		Description: n.Description, InterfaceType: "interface", OwnerId: string(n.Account), RequesterManaged: ptr(false),
		SourceDestCheck: ptr(n.SourceDestCheck), Status: "available", Groups: w.groupNames(n.Groups), TagSet: tags(n.Tags),
		PrivateIpAddress: n.Primary().String(), PrivateDnsName: cloud.PrivateDNSName(n.Primary(), w.Region),
	}
	for k, a := range n.Addresses {
		out.PrivateIpAddresses = append(out.PrivateIpAddresses, shape.NetworkInterfacePrivateIpAddress{
			Primary: ptr(k == 0), PrivateIpAddress: a.String(), PrivateDnsName: cloud.PrivateDNSName(a, w.Region),
		})
	}
	if n.Instance != "" {
		out.Status = "in-use"
		out.Attachment = &shape.NetworkInterfaceAttachment{
			AttachmentId: string(n.Attachment), AttachTime: &n.AttachTime, DeviceIndex: number(n.DeviceIndex), NetworkCardIndex: number(0),
			InstanceId: string(n.Instance), InstanceOwnerId: string(n.Account), DeleteOnTermination: ptr(n.DeleteOnTermination), Status: "attached",
		}
	}
	return out
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
