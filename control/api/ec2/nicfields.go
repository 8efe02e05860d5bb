package ec2

import (
	"maps"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
)

// withInterfaces returns the filters of instances with those that go by their interfaces: any of them.
func withInterfaces(of fields[shape.Instance]) fields[shape.Instance] {
	type nic = shape.InstanceNetworkInterface
	out := maps.Clone(of)
	for name, f := range map[string]func(nic) []string{
		"network-interface-id": func(n nic) []string { return one(n.NetworkInterfaceId) },
		"mac-address":          func(n nic) []string { return one(n.MacAddress) },
		"subnet-id":            func(n nic) []string { return one(n.SubnetId) },
		"vpc-id":               func(n nic) []string { return one(n.VpcId) },
		"owner-id":             func(n nic) []string { return one(n.OwnerId) },
		"description":          func(n nic) []string { return one(n.Description) },
		"status":               func(n nic) []string { return one(n.Status) },
		"private-dns-name":     func(n nic) []string { return one(n.PrivateDnsName) },
		"private-ip-address":   func(n nic) []string { return one(n.PrivateIpAddress) },
		"source-dest-check":    func(n nic) []string { return truth(n.SourceDestCheck) },
		"group-id":             func(n nic) []string { return groupIDs(n.Groups) },
		"group-name":           func(n nic) []string { return groupNames(n.Groups) },

		"attachment.attachment-id":         func(n nic) []string { return one(n.Attachment.AttachmentId) },
		"attachment.status":                func(n nic) []string { return one(n.Attachment.Status) },
		"attachment.device-index":          func(n nic) []string { return one(digits(n.Attachment.DeviceIndex)) },
		"attachment.delete-on-termination": func(n nic) []string { return truth(n.Attachment.DeleteOnTermination) },
		"attachment.attach-time":           func(n nic) []string { return one(n.Attachment.AttachTime.UTC().Format("2006-01-02T15:04:05.000Z")) },

		"addresses.private-ip-address": func(n nic) (out []string) {
			for _, a := range n.PrivateIpAddresses {
				out = append(out, a.PrivateIpAddress)
			}
			return out
		},
		"addresses.primary": func(n nic) (out []string) {
			for _, a := range n.PrivateIpAddresses {
				out = append(out, truth(a.Primary)...)
			}
			return out
		},
		"ipv6-addresses.ipv6-address": func(n nic) (out []string) {
			for _, a := range n.Ipv6Addresses {
				out = append(out, a.Ipv6Address)
			}
			return out
		},
		"addresses.association.public-ip":   publicOf(func(a *shape.InstanceNetworkInterfaceAssociation) string { return a.PublicIp }),
		"addresses.association.ip-owner-id": publicOf(func(a *shape.InstanceNetworkInterfaceAssociation) string { return a.IpOwnerId }),
		"association.public-ip":             publicOf(func(a *shape.InstanceNetworkInterfaceAssociation) string { return a.PublicIp }),
		"association.ip-owner-id":           publicOf(func(a *shape.InstanceNetworkInterfaceAssociation) string { return a.IpOwnerId }),
		"association.public-dns-name":       publicOf(func(a *shape.InstanceNetworkInterfaceAssociation) string { return a.PublicDnsName }),
	} {
		out["network-interface."+name] = func(i shape.Instance) (values []string) {
			for _, n := range i.NetworkInterfaces {
				values = append(values, f(n)...)
			}
			return values
		}
	}
	return out
}

// publicOf returns what the public addresses of an interface have.
func publicOf(f func(*shape.InstanceNetworkInterfaceAssociation) string) func(shape.InstanceNetworkInterface) []string {
	return func(n shape.InstanceNetworkInterface) (out []string) {
		for _, a := range n.PrivateIpAddresses {
			if a.Association != nil {
				out = append(out, one(f(a.Association))...)
			}
		}
		return out
	}
}
