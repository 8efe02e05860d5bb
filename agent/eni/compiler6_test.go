package eni

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// roll6 changes something of IPv6 in the Config, and returns what it did.
func (d *dice) roll6() string {
	n := d.IntN(len(d.c.VPCs))
	v := &d.c.VPCs[n]
	subnet := netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", n))
	if d.IntN(4) == 0 { // the block comes or goes
		var vpcBlocks, subnetBlocks []cloud.CIDRBlock
		if len(v.VPC.Blocks) == 0 {
			vpcBlocks = []cloud.CIDRBlock{{ID: "vpc-cidr-assoc-1", CIDR: netip.PrefixFrom(subnet.Addr(), 56)}}
			subnetBlocks = []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-1", CIDR: subnet}}
		}
		v.VPC.Blocks, v.Subnets[0].Blocks = vpcBlocks, subnetBlocks
		for k := range d.c.Interfaces {
			if d.c.Interfaces[k].VPC == v.VPC.ID {
				d.change(k).Network.Blocks = slices.Clone(subnetBlocks)
			}
		}
		return fmt.Sprintf("changes the block of %s to %v", v.VPC.ID, vpcBlocks)
	}
	i := d.change(d.index())
	v = &d.c.VPCs[slices.IndexFunc(d.c.VPCs, func(v cloud.HostNetwork) bool { return v.VPC.ID == i.VPC })]
	subnet = netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", slices.IndexFunc(d.c.VPCs, func(o cloud.HostNetwork) bool { return o.VPC.ID == i.VPC })))
	i.Network.Blocks = slices.Clone(v.Subnets[0].Blocks)
	i.IPv6, i.Prefixes = nil, slices.DeleteFunc(slices.Clone(i.Prefixes), func(p netip.Prefix) bool { return p.Addr().Is6() })
	for range d.IntN(3) {
		raw := subnet.Addr().As16()
		raw[15] = byte(10 + d.IntN(40))
		i.IPv6 = append(i.IPv6, netip.AddrFrom16(raw))
	}
	i.IPv6 = slices.Compact(i.IPv6)
	if d.IntN(4) == 0 {
		raw := subnet.Addr().As16()
		raw[9] = byte(1 + d.IntN(4))
		i.Prefixes = append(i.Prefixes, netip.PrefixFrom(netip.AddrFrom16(raw), 80))
	}
	return fmt.Sprintf("changes the IPv6 of %s to %v", i.ID, i.IPv6)
}
