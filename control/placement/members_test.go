package placement_test

import (
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// What a member of a group sends from its delegated /28 comes from the group.
func TestTheAddressesOfADelegatedPrefixAreMembers(t *testing.T) {
	n := cloud.NetworkInterface{ID: "eni-1", VPC: "vpc-1", Subnet: "subnet-1", Groups: []cloud.GroupID{"sg-1"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.32/28"), netip.MustParsePrefix("2001:db8:0:0:7::/80")}}
	w := placement.World{
		VPCs: map[cloud.VPCID]cloud.VPC{"vpc-1": {ID: "vpc-1"}}, Subnets: map[cloud.SubnetID]cloud.Subnet{"subnet-1": {ID: "subnet-1", VPC: "vpc-1"}},
		Groups: map[cloud.GroupID]cloud.SecurityGroup{"sg-1": {ID: "sg-1", VPC: "vpc-1"}}, Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{"eni-1": n},
	}
	got := placement.Networks(w, "h-1", []cloud.Instance{{ID: "i-1", Host: "h-1", Interfaces: []cloud.InterfaceID{"eni-1"}}})[0].Groups[0].Members
	if len(got) != 17 || got[1] != netip.MustParseAddr("10.0.0.32") || got[16] != netip.MustParseAddr("10.0.0.47") {
		t.Errorf("got %v, want 10.0.0.5 and the 16 of the prefix", got)
	}
}
