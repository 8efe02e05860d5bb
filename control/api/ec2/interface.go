package ec2

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// interfaceActions are the actions on network interfaces.
func (s *Service) interfaceActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("DescribeNetworkInterfaces", s.DescribeNetworkInterfaces, ro),
	}
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
