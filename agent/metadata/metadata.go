// Package metadata decides what an instance may know about itself.
//
// It turns the assignment that the control plane compiled into the bundle's metadata.json: names
// and numbers only, from one snapshot, so that whatever a guest reads fits together. It invents nothing
// that a host does not know, and it leaves out what the owner has hidden, so the metadata service
// needs no rule of its own about secrets. Called by agent/host whenever the assignment changes.
package metadata

import (
	"maps"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Compile returns the metadata of an assignment. It depends on nothing else.
func Compile(a cloud.Assignment) bundle.Metadata {
	i := a.Instance
	m := bundle.Metadata{
		Instance:       i.ID,
		Account:        i.Account,
		Reservation:    i.Reservation,
		LaunchIndex:    i.LaunchIndex,
		Launched:       i.Launched,
		Image:          i.Image,
		Kernel:         i.Kernel,
		Ramdisk:        i.Ramdisk,
		Type:           i.Type,
		Virtualization: i.Virtualization,
		LifeCycle:      "on-demand",
		Action:         action(i),
		Monitoring:     i.Monitoring,
		Placement:      bundle.MetadataPlacement{Region: a.Region, Zone: i.Zone, ZoneID: cloud.ZoneID(a.Region, i.Zone)},
		BlockDevices:   devices(i),
		PublicKey:      strings.TrimSpace(a.PublicKey),
		KeyName:        i.KeyName,
		Profile:        i.Profile,
		Events:         slices.Clone(i.Events),
		Options:        options(i.Metadata),
		UserData:       a.UserData,
		Identity:       a.Identity,
		Domain:         "amazonaws.com", // what SDKs and cloud-init know as EC2's, like the partition
		Partition:      "aws",
	}
	for _, n := range a.Interfaces {
		m.Interfaces = append(m.Interfaces, compileInterface(n, a.Region))
	}
	slices.SortStableFunc(m.Interfaces, func(x, y bundle.MetadataInterface) int { return x.DeviceNumber - y.DeviceNumber })
	m.Hostname, m.PublicHostname = m.Primary().Hostname, m.Primary().PublicHostname
	if m.Options.InstanceTags == "enabled" {
		m.Tags = maps.Clone(i.Tags)
	}
	return m
}

func compileInterface(n cloud.AssignedInterface, region string) bundle.MetadataInterface {
	out := bundle.MetadataInterface{
		ID:           n.ID,
		MAC:          strings.ToLower(n.MAC), // cloud-init compares it with the kernel's
		DeviceNumber: n.DeviceIndex,
		Owner:        n.Account,
		VPC:          n.VPC,
		Subnet:       n.Subnet,
		SubnetPrefix: n.Network.CIDR,
		Addresses:    slices.Clone(n.Addresses),

		PublicAddress: n.Public,
		Prefixes:      slices.Clone(n.Prefixes),
		IPv6:          slices.Clone(n.IPv6),
	}
	for _, p := range n.VPCPrefixes {
		if p.Addr().Is4() {
			out.VPCPrefixes = append(out.VPCPrefixes, p)
		} else {
			out.VPCPrefixes6 = append(out.VPCPrefixes6, p)
		}
	}
	for _, b := range n.Network.Blocks {
		out.SubnetPrefix6 = append(out.SubnetPrefix6, b.CIDR)
	}
	if a := n.Primary(); a.IsValid() {
		out.Hostname = cloud.PrivateDNSName(a, region)
	}
	if len(n.Public) > 0 && n.PublicNames {
		out.PublicHostname = cloud.PublicDNSName(n.Public[0].Public, region)
	}
	for k, id := range n.Groups {
		g := bundle.MetadataGroup{ID: id}
		if k < len(n.GroupNames) {
			g.Name = n.GroupNames[k]
		}
		out.Groups = append(out.Groups, g)
	}
	return out
}

// action tells the guest of an end that has been asked for.
func action(i cloud.Instance) string {
	if i.Power == cloud.PowerRunning || i.Power == "" {
		return "none"
	}
	return "shutdown"
}

// devices names the root device; cloud-init's mounts module wants `ami` beside it.
func devices(i cloud.Instance) map[string]string {
	if i.RootDeviceName == "" {
		return nil
	}
	return map[string]string{"ami": i.RootDeviceName, "root": i.RootDeviceName}
}

// options fills what an instance that was written before an option existed does not say.
func options(o cloud.MetadataOptions) cloud.MetadataOptions {
	d := cloud.DefaultMetadataOptions()
	if o.HTTPTokens == "" {
		o.HTTPTokens = d.HTTPTokens
	}
	if o.HTTPEndpoint == "" {
		o.HTTPEndpoint = d.HTTPEndpoint
	}
	if o.HopLimit == 0 {
		o.HopLimit = d.HopLimit
	}
	if o.InstanceTags == "" {
		o.InstanceTags = d.InstanceTags
	}
	if o.HTTPProtocolIPv6 == "" {
		o.HTTPProtocolIPv6 = d.HTTPProtocolIPv6
	}
	return o
}
