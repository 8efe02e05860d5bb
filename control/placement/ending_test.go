package placement

import (
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// An instance that is ending needs its network until its host has let go of it; nobody else may take its addresses for
// a member's any more.
func TestAHostKnowsTheNetworkOfAnInstanceThatIsEnding(t *testing.T) {
	w := World{
		VPCs:    map[cloud.VPCID]cloud.VPC{"vpc-1": {ID: "vpc-1"}},
		Subnets: map[cloud.SubnetID]cloud.Subnet{"subnet-1": {ID: "subnet-1", VPC: "vpc-1"}},
		Groups:  map[cloud.GroupID]cloud.SecurityGroup{"sg-1": {ID: "sg-1", VPC: "vpc-1"}},
		Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{
			"eni-1": {ID: "eni-1", VPC: "vpc-1", Subnet: "subnet-1", Groups: []cloud.GroupID{"sg-1"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4")}},
		},
	}
	i := cloud.Instance{ID: "i-1", Host: "h-1", Power: cloud.PowerTerminated, Interfaces: []cloud.InterfaceID{"eni-1"}}
	got := Networks(w, "h-1", []cloud.Instance{i})
	if len(got) != 1 || len(got[0].Subnets) != 1 || len(got[0].Groups) != 1 || len(got[0].Groups[0].Members) != 0 {
		t.Errorf("got %+v, want the VPC with its subnet and a group without members", got)
	}
	i.Host = ""
	if got := Networks(w, "h-1", []cloud.Instance{i}); len(got) != 0 {
		t.Errorf("released: got %+v", got)
	}
}
