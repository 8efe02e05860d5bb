package tree

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// versions are those that EC2 lists at /.
var versions = []string{
	"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
	"2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19",
	"2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03",
	"2021-03-23", "2021-07-15", "2022-07-09", "2022-09-24", "2024-04-11", latest,
}

// EC2 returns EC2's tree.
func EC2() *Tree { return newTree(versions, leaves(), ec2Names, ec2Always) }

// ec2Always: clients ask for the tags of an instance whose tags are hidden, and expect an empty list.
var ec2Always = map[string]string{"meta-data/tags/instance": "2021-03-23"}

// ec2Names are the directories whose entries come from the instance, by their place holder.
var ec2Names = map[string]func(Instance, []string) []name{
	"{device}": func(i Instance, _ []string) []name {
		var names []name
		for k := range i.BlockDevices {
			names = append(names, plain(k))
		}
		return sorted(names)
	},
	"{index}": func(i Instance, _ []string) []name {
		if i.PublicKey == "" {
			return nil
		}
		// cloud-init reads `0=name`, and finds no key at all under `0/`.
		return []name{{segment: "0", listed: "0=" + i.KeyName, bare: true}}
	},
	"{mac}": func(i Instance, _ []string) []name {
		var names []name
		for _, n := range i.Interfaces {
			names = append(names, plain(n.MAC))
		}
		return sorted(names)
	},
	"{public}": func(i Instance, at []string) []name {
		var names []name
		for _, p := range interfaceOf(i, at).PublicAddress {
			names = append(names, plain(p.Public.String()))
		}
		return names
	},
	"{role}": func(i Instance, _ []string) []name {
		if c := i.role(); c != nil {
			return []name{plain(c.Role)}
		}
		return nil
	},
	"{key}": func(i Instance, _ []string) []name {
		var names []name
		for k := range i.Tags {
			if cloud.MetadataTagKey(k) {
				names = append(names, plain(k))
			}
		}
		return sorted(names)
	},
}

func plain(s string) name { return name{segment: s, listed: s} }

func sorted(names []name) []name {
	slices.SortFunc(names, func(a, b name) int { return strings.Compare(a.segment, b.segment) })
	return names
}

// leaves is the table. The version is that of EC2's documentation; where that is silent, the oldest in which
// public captures of the real tree show the key.
func leaves() []leaf {
	const (
		md  = "meta-data/"
		mac = "meta-data/network/interfaces/macs/{mac}/"
		id  = "dynamic/instance-identity/"
	)
	return []leaf{
		{path: "user-data", since: "1.0", binary: true, body: text(func(i Instance) string { return string(i.UserData) })},

		{path: md + "ami-id", since: "1.0", body: text(func(i Instance) string { return string(i.Image) })},
		{path: md + "ami-launch-index", since: "1.0", body: text(func(i Instance) string { return strconv.Itoa(i.LaunchIndex) })},
		{path: md + "ami-manifest-path", since: "1.0", body: text(manifestPath)},
		{path: md + "ancestor-ami-ids", since: "2007-10-10", body: text(func(i Instance) string { return lines(i.AncestorImages) })},
		{path: md + "block-device-mapping/{device}", since: "2007-12-15", body: func(i Instance, at []string) (string, bool) { return some(i.BlockDevices[at[0]]) }},
		{path: md + "events/maintenance/history", since: "2018-08-17", body: events(false)},
		{path: md + "events/maintenance/scheduled", since: "2018-08-17", body: events(true)},
		{path: md + "events/recommendations/rebalance", since: "2020-10-27", body: text(rebalance)},
		{path: md + "hostname", since: "1.0", body: text(func(i Instance) string { return i.Hostname })},
		{path: md + "iam/info", since: "2012-01-12", body: profileInfo},
		{path: md + "iam/security-credentials/{role}", since: "2012-01-12", body: credentials},
		{path: md + "instance-action", since: "2008-09-01", body: text(func(i Instance) string { return i.Action })},
		{path: md + "instance-id", since: "1.0", body: text(func(i Instance) string { return string(i.Instance) })},
		{path: md + "instance-life-cycle", since: "2019-10-01", body: text(func(i Instance) string { return i.LifeCycle })},
		{path: md + "instance-type", since: "2007-08-29", body: text(func(i Instance) string { return i.Type })},
		{path: md + "ipv6", since: "2021-01-03", body: text(func(i Instance) string { return first(i.Primary().IPv6) })},
		{path: md + "kernel-id", since: "2008-02-01", body: text(func(i Instance) string { return string(i.Kernel) })},
		{path: md + "local-hostname", since: "2007-01-19", body: text(func(i Instance) string { return i.Hostname })},
		{path: md + "local-ipv4", since: "1.0", body: text(func(i Instance) string { return first(i.Primary().Addresses) })},
		{path: md + "mac", since: "2011-01-01", body: text(func(i Instance) string { return i.Primary().MAC })},
		{path: md + "metrics/vhostmd", since: "2011-05-01", body: text(func(Instance) string { return `<?xml version="1.0" encoding="UTF-8"?>` })},
		{path: md + "placement/availability-zone", since: "2008-02-01", body: text(func(i Instance) string { return i.Placement.Zone })},
		{path: md + "placement/availability-zone-id", since: "2019-10-01", body: text(func(i Instance) string { return i.Placement.ZoneID })},
		{path: md + "placement/group-name", since: "2020-08-24", body: text(func(i Instance) string { return i.Placement.GroupName })},
		{path: md + "placement/host-id", since: "2020-08-24", body: text(func(i Instance) string { return string(i.Placement.Host) })},
		{path: md + "placement/partition-number", since: "2020-08-24", body: text(partition)},
		{path: md + "placement/region", since: "2020-08-24", body: text(func(i Instance) string { return i.Placement.Region })},
		{path: md + "product-codes", since: "2007-03-01", body: text(func(i Instance) string { return lines(i.ProductCodes) })},
		{path: md + "profile", since: "2008-02-01", body: text(func(i Instance) string { return prefixed("default-", i.Virtualization) })},
		{path: md + "public-hostname", since: "2007-01-19", body: text(func(i Instance) string { return i.PublicHostname })},
		{path: md + "public-ipv4", since: "2007-01-19", body: text(publicAddress)},
		{path: md + "public-keys/{index}/openssh-key", since: "1.0", body: text(func(i Instance) string { return i.PublicKey + "\n" })},
		{path: md + "ramdisk-id", since: "2007-10-10", body: text(func(i Instance) string { return string(i.Ramdisk) })},
		{path: md + "reservation-id", since: "1.0", body: text(func(i Instance) string { return string(i.Reservation) })},
		{path: md + "security-groups", since: "1.0", body: text(func(i Instance) string { return groupNames(i.Primary()) })},
		{path: md + "services/domain", since: "2014-02-25", body: text(func(i Instance) string { return i.Domain })},
		{path: md + "services/partition", since: "2015-10-20", body: text(func(i Instance) string { return i.Partition })},
		{path: md + "spot/instance-action", since: "2016-11-15", body: text(interruption)},
		{path: md + "spot/termination-time", since: "2014-11-05", body: text(termination)},
		{path: md + "system", since: "2021-07-15", body: text(func(Instance) string { return "nitro" })},
		{path: md + "tags/instance/{key}", since: "2021-03-23", body: func(i Instance, at []string) (string, bool) {
			v, ok := i.Tags[at[0]] // a value may be empty
			return v, ok
		}},

		{path: mac + "device-number", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return strconv.Itoa(n.DeviceNumber) })},
		{path: mac + "interface-id", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return string(n.ID) })},
		{path: mac + "ipv4-associations/{public}", since: "2011-01-01", body: association},
		{path: mac + "ipv4-prefix", since: "2021-07-15", body: each(func(n bundle.MetadataInterface) string { return delegated(n, netip.Addr.Is4) })},
		{path: mac + "ipv6-prefix", since: "2021-07-15", body: each(func(n bundle.MetadataInterface) string { return delegated(n, netip.Addr.Is6) })},
		{path: mac + "ipv6s", since: "2016-06-30", body: each(func(n bundle.MetadataInterface) string { return joined(n.IPv6) })},
		{path: mac + "local-hostname", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return n.Hostname })},
		{path: mac + "local-ipv4s", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return joined(n.Addresses) })},
		{path: mac + "mac", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return n.MAC })},
		{path: mac + "owner-id", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return string(n.Owner) })},
		{path: mac + "public-hostname", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return n.PublicHostname })},
		{path: mac + "public-ipv4s", since: "2011-01-01", body: each(publicAddresses)},
		{path: mac + "security-group-ids", since: "2011-01-01", body: each(groupIDs)},
		{path: mac + "security-groups", since: "2011-01-01", body: each(groupNames)},
		{path: mac + "subnet-id", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return string(n.Subnet) })},
		{path: mac + "subnet-ipv4-cidr-block", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return first([]netip.Prefix{n.SubnetPrefix}) })},
		{path: mac + "subnet-ipv6-cidr-blocks", since: "2016-06-30", body: each(func(n bundle.MetadataInterface) string { return joined(n.SubnetPrefix6) })},
		{path: mac + "vpc-id", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return string(n.VPC) })},
		{path: mac + "vpc-ipv4-cidr-block", since: "2011-01-01", body: each(func(n bundle.MetadataInterface) string { return first(n.VPCPrefixes) })},
		{path: mac + "vpc-ipv4-cidr-blocks", since: "2016-06-30", body: each(func(n bundle.MetadataInterface) string { return joined(n.VPCPrefixes) })},
		{path: mac + "vpc-ipv6-cidr-blocks", since: "2016-06-30", body: each(func(n bundle.MetadataInterface) string { return joined(n.VPCPrefixes6) })},

		{path: "dynamic/fws/instance-monitoring", since: "2011-01-01", body: text(monitoring)},
		{path: id + "document", since: "2009-04-04", body: text(func(i Instance) string { return i.Identity.Document })},
		{path: id + "pkcs7", since: "2009-04-04", body: text(func(i Instance) string { return i.Identity.PKCS7 })},
		{path: id + "rsa2048", since: "2009-04-04", body: text(func(i Instance) string { return i.Identity.RSA2048 })},
		{path: id + "signature", since: "2009-04-04", body: text(func(i Instance) string { return i.Identity.Signature })},
	}
}
