package ec2

import (
	"context"
	"net/netip"
	"slices"
	"time"

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
		api.Do("DescribeNetworkInterfaceAttribute", s.DescribeNetworkInterfaceAttribute, ro, onInterface(func(in *shape.DescribeNetworkInterfaceAttributeInput) string { return in.NetworkInterfaceId })),
		api.Do("CreateNetworkInterface", s.CreateNetworkInterface, api.Resource(func(in *shape.CreateNetworkInterfaceInput) []string {
			return append([]string{"network-interface/*", "subnet/" + in.SubnetId}, each("security-group", in.Groups)...)
		})),
		api.Do("DeleteNetworkInterface", s.DeleteNetworkInterface, onInterface(func(in *shape.DeleteNetworkInterfaceInput) string { return in.NetworkInterfaceId })),
		api.Do("AttachNetworkInterface", s.AttachNetworkInterface, api.Resource(func(in *shape.AttachNetworkInterfaceInput) []string {
			return []string{"network-interface/" + in.NetworkInterfaceId, "instance/" + in.InstanceId}
		})),
		api.Do("DetachNetworkInterface", s.DetachNetworkInterface, api.Resource(s.detached)),
		api.Do("ModifyNetworkInterfaceAttribute", s.ModifyNetworkInterfaceAttribute, api.Resource(func(in *shape.ModifyNetworkInterfaceAttributeInput) []string {
			return append([]string{"network-interface/" + in.NetworkInterfaceId}, each("security-group", in.Groups)...)
		})),
		api.Do("ResetNetworkInterfaceAttribute", s.ResetNetworkInterfaceAttribute, onInterface(func(in *shape.ResetNetworkInterfaceAttributeInput) string { return in.NetworkInterfaceId })),
		api.Do("AssignPrivateIpAddresses", s.AssignPrivateIpAddresses, onInterface(func(in *shape.AssignPrivateIpAddressesInput) string { return in.NetworkInterfaceId })),
		api.Do("UnassignPrivateIpAddresses", s.UnassignPrivateIpAddresses, onInterface(func(in *shape.UnassignPrivateIpAddressesInput) string { return in.NetworkInterfaceId })),
		api.Do("AssignIpv6Addresses", s.AssignIpv6Addresses, onInterface(func(in *shape.AssignIpv6AddressesInput) string { return in.NetworkInterfaceId })),
		api.Do("UnassignIpv6Addresses", s.UnassignIpv6Addresses, onInterface(func(in *shape.UnassignIpv6AddressesInput) string { return in.NetworkInterfaceId })),
	}
}

// onInterface makes the option for an action on one interface.
func onInterface[I any](id func(in *I) string) api.Option {
	return api.Resource(func(in *I) []string { return []string{"network-interface/" + id(in)} })
}

type eni = shape.NetworkInterface

// interfaceFields are the filters of DescribeNetworkInterfaces.
func interfaceFields() fields[eni] {
	attachment := func(f func(*shape.NetworkInterfaceAttachment) []string) func(eni) []string {
		return func(n eni) []string {
			if n.Attachment == nil {
				return nil
			}
			return f(n.Attachment)
		}
	}
	addresses := func(f func(shape.NetworkInterfacePrivateIpAddress) []string) func(eni) []string {
		return func(n eni) (out []string) {
			for _, a := range n.PrivateIpAddresses {
				out = append(out, f(a)...)
			}
			return out
		}
	}
	association := func(f func(*shape.NetworkInterfaceAssociation) string) func(eni) []string {
		return addresses(func(a shape.NetworkInterfacePrivateIpAddress) []string {
			if a.Association == nil {
				return nil
			}
			return one(f(a.Association))
		})
	}
	owner := association(func(a *shape.NetworkInterfaceAssociation) string { return a.IpOwnerId })
	public := association(func(a *shape.NetworkInterfaceAssociation) string { return a.PublicIp })
	return fields[eni]{
		"network-interface-id":            func(n eni) []string { return one(n.NetworkInterfaceId) },
		"subnet-id":                       func(n eni) []string { return one(n.SubnetId) },
		"vpc-id":                          func(n eni) []string { return one(n.VpcId) },
		"availability-zone":               func(n eni) []string { return one(n.AvailabilityZone) },
		"status":                          func(n eni) []string { return one(n.Status) },
		"mac-address":                     func(n eni) []string { return one(n.MacAddress) },
		"owner-id":                        func(n eni) []string { return one(n.OwnerId) },
		"requester-id":                    func(n eni) []string { return one(n.RequesterId) },
		"requester-managed":               func(n eni) []string { return truth(n.RequesterManaged) },
		"description":                     func(n eni) []string { return one(n.Description) },
		"private-ip-address":              func(n eni) []string { return one(n.PrivateIpAddress) },
		"private-dns-name":                func(n eni) []string { return one(n.PrivateDnsName) },
		"group-id":                        func(n eni) []string { return groupIDs(n.Groups) },
		"group-name":                      func(n eni) []string { return groupNames(n.Groups) },
		"source-dest-check":               func(n eni) []string { return truth(n.SourceDestCheck) },
		"interface-type":                  func(n eni) []string { return one(n.InterfaceType) },
		"addresses.private-ip-address":    addresses(func(a shape.NetworkInterfacePrivateIpAddress) []string { return one(a.PrivateIpAddress) }),
		"addresses.primary":               addresses(func(a shape.NetworkInterfacePrivateIpAddress) []string { return truth(a.Primary) }),
		"addresses.association.owner-id":  owner,
		"addresses.association.public-ip": public,
		"association.ip-owner-id":         owner,
		"association.public-ip":           public,
		"association.public-dns-name":     association(func(a *shape.NetworkInterfaceAssociation) string { return a.PublicDnsName }),
		"association.allocation-id":       association(func(a *shape.NetworkInterfaceAssociation) string { return a.AllocationId }),
		"association.association-id":      association(func(a *shape.NetworkInterfaceAssociation) string { return a.AssociationId }),
		"ipv6-addresses.ipv6-address": func(n eni) (out []string) {
			for _, a := range n.Ipv6Addresses {
				out = append(out, a.Ipv6Address)
			}
			return out
		},
		"attachment.instance-id":           attachment(func(a *shape.NetworkInterfaceAttachment) []string { return one(a.InstanceId) }),
		"attachment.instance-owner-id":     attachment(func(a *shape.NetworkInterfaceAttachment) []string { return one(a.InstanceOwnerId) }),
		"attachment.attachment-id":         attachment(func(a *shape.NetworkInterfaceAttachment) []string { return one(a.AttachmentId) }),
		"attachment.status":                attachment(func(a *shape.NetworkInterfaceAttachment) []string { return one(a.Status) }),
		"attachment.device-index":          attachment(func(a *shape.NetworkInterfaceAttachment) []string { return one(digits(a.DeviceIndex)) }),
		"attachment.delete-on-termination": attachment(func(a *shape.NetworkInterfaceAttachment) []string { return truth(a.DeleteOnTermination) }),
		"attachment.attach-time": attachment(func(a *shape.NetworkInterfaceAttachment) []string {
			return one(a.AttachTime.UTC().Format("2006-01-02T15:04:05.000Z"))
		}),
	}
}

// DescribeNetworkInterfaces shows network interfaces.
func (s *Service) DescribeNetworkInterfaces(ctx context.Context, in *shape.DescribeNetworkInterfacesInput) (*shape.DescribeNetworkInterfacesOutput, error) {
	q := query[eni]{
		in: in, filters: in.Filters, fields: interfaceFields(),
		id: func(n eni) string { return n.NetworkInterfaceId }, tags: func(n eni) []shape.Tag { return n.TagSet },
	}
	q.fields["availability-zone-id"] = func(n eni) []string { return one(cloud.ZoneID(s.Region, n.AvailabilityZone)) }
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]eni, error) {
		all, err := list[cloud.NetworkInterface, cloud.InterfaceID](snap, store.Interfaces, in.NetworkInterfaceIds, caller(ctx), anInterface)
		if err != nil {
			return nil, err
		}
		w := s.look(snap)
		out := make([]eni, 0, len(all))
		ended := filtered(in.Filters, "attachment.attachment-id")
		for _, n := range all {
			shown := w.networkInterface(n)
			if d := n.Left; d != nil && slices.Contains(ended, string(d.Attachment)) && s.Now().Sub(d.Time) < cloud.Remembered {
				shown.Attachment = departed(n.Account, *d)
			}
			out = append(out, shown)
		}
		return out, nil
	})
	return &shape.DescribeNetworkInterfacesOutput{NetworkInterfaces: page, NextToken: next}, err
}

func (w *look) networkInterface(n cloud.NetworkInterface) eni {
	out := eni{
		NetworkInterfaceId: string(n.ID), SubnetId: string(n.Subnet), VpcId: string(n.VPC), AvailabilityZone: n.Zone, MacAddress: n.MAC,
		Description: n.Description, InterfaceType: "interface", OwnerId: string(n.Account), RequesterManaged: ptr(n.Kind != cloud.KindInterface),
		SourceDestCheck: ptr(n.SourceDestCheck), Status: "available", Groups: w.groupNames(n.Groups), TagSet: tags(n.Tags),
		PrivateIpAddress: n.Primary().String(), PrivateDnsName: cloud.PrivateDNSName(n.Primary(), w.Region),
		ConnectionTrackingConfiguration: tracking(n.Tracking),
	}
	if n.Kind != cloud.KindInterface {
		out.InterfaceType, out.Status = string(n.Kind), "in-use"
	}
	for k, a := range n.Addresses {
		one := shape.NetworkInterfacePrivateIpAddress{Primary: ptr(k == 0), PrivateIpAddress: a.String(), PrivateDnsName: cloud.PrivateDNSName(a, w.Region)}
		if p, ok := w.public(n, a); ok {
			one.Association = &shape.NetworkInterfaceAssociation{IpOwnerId: ipOwner(p), PublicIp: p.Public.String(), PublicDnsName: w.publicName(n, p)}
			if !p.Launch {
				one.Association.AllocationId, one.Association.AssociationId = string(p.ID), string(p.Association)
			}
		}
		if k == 0 {
			out.Association = one.Association
		}
		out.PrivateIpAddresses = append(out.PrivateIpAddresses, one)
	}
	for _, a := range n.IPv6 {
		out.Ipv6Addresses = append(out.Ipv6Addresses, shape.NetworkInterfaceIpv6Address{Ipv6Address: a.String(), IsPrimaryIpv6: ptr(false)})
	}
	if len(n.IPv6) > 0 {
		out.Ipv6Address = n.IPv6[0].String()
	}
	for _, p := range n.Prefixes {
		if p.Addr().Is4() {
			out.Ipv4Prefixes = append(out.Ipv4Prefixes, shape.Ipv4PrefixSpecification{Ipv4Prefix: p.String()})
		} else {
			out.Ipv6Prefixes = append(out.Ipv6Prefixes, shape.Ipv6PrefixSpecification{Ipv6Prefix: p.String()})
		}
	}
	if n.Instance != "" {
		out.Status = "in-use"
		out.Attachment = w.attachment(n)
	}
	return out
}

// attachment is the attachment of an interface that has an instance.
func (w *look) attachment(n cloud.NetworkInterface) *shape.NetworkInterfaceAttachment {
	return &shape.NetworkInterfaceAttachment{
		AttachmentId: string(n.Attachment), AttachTime: ptr(n.AttachTime), DeviceIndex: number(n.DeviceIndex), NetworkCardIndex: number(0),
		InstanceId: string(n.Instance), InstanceOwnerId: string(n.Account), DeleteOnTermination: ptr(n.DeleteOnTermination), Status: w.attachmentState(n),
	}
}

// departed is an attachment that has ended.
func departed(owner cloud.AccountID, d cloud.Departure) *shape.NetworkInterfaceAttachment {
	return &shape.NetworkInterfaceAttachment{
		AttachmentId: string(d.Attachment), AttachTime: ptr(d.AttachTime), DeviceIndex: number(d.DeviceIndex), NetworkCardIndex: number(0),
		InstanceId: string(d.Instance), InstanceOwnerId: string(owner), DeleteOnTermination: ptr(d.DeleteOnTermination), Status: "detached",
	}
}

// filtered returns the values that a request's filter of a name has.
func filtered(filters []shape.Filter, name string) (values []string) {
	for _, f := range filters {
		if f.Name == name {
			values = append(values, f.Values...)
		}
	}
	return values
}

// attachmentState is how far an attachment is, from the wish and what the host has seen.
func (w *look) attachmentState(n cloud.NetworkInterface) string {
	o, err := store.MirroredGet(w.snap, store.Instances, n.Instance)
	if err != nil {
		return "detached"
	}
	return n.AttachmentState(o.Value, status(w.snap, o.Value))
}

// public returns the public address that stands for a private one of an interface.
func (w *look) public(n cloud.NetworkInterface, private netip.Addr) (cloud.Address, bool) {
	for _, a := range w.addresses[n.ID] {
		if a.Private == private {
			return a, true
		}
	}
	return cloud.Address{}, false
}

// publicName is the name of a public address, if the VPC has such names.
func (w *look) publicName(n cloud.NetworkInterface, a cloud.Address) string {
	if v, err := store.MirroredGet(w.snap, store.VPCs, n.VPC); err != nil || !v.Value.EnableDNSName {
		return ""
	}
	return cloud.PublicDNSName(a.Public, w.Region)
}

// ipOwner is who owns a public address in EC2's eyes: an Elastic one its account, another one the cloud.
func ipOwner(a cloud.Address) string {
	if a.Launch {
		return "amazon"
	}
	return string(a.Account)
}

// tracking shows the timeouts that were chosen; nil if all are the defaults.
func tracking(t cloud.Tracking) *shape.ConnectionTrackingConfiguration {
	if t == (cloud.Tracking{}) {
		return nil
	}
	some := func(n int) *int64 {
		if n == 0 {
			return nil
		}
		return number(n)
	}
	return &shape.ConnectionTrackingConfiguration{TcpEstablishedTimeout: some(t.TCPEstablished), UdpStreamTimeout: some(t.UDPStream), UdpTimeout: some(t.UDP)}
}

// attachTime is the moment of an attachment as EC2 tells it: in whole seconds.
func (s *Service) attachTime() time.Time { return s.Now().UTC().Truncate(time.Second) }
