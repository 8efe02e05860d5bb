package placement_test

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A host that has a subnet's way out must know that subnet's routes, although it has none of its interfaces; and of several
// hosts one answers for a NAT gateway.
func TestWaysOutOnOtherHosts(t *testing.T) {
	addr := netip.MustParseAddr
	all := netip.MustParsePrefix("0.0.0.0/0")
	w := placement.World{
		VPCs: map[cloud.VPCID]cloud.VPC{"vpc-1": {ID: "vpc-1"}},
		Subnets: map[cloud.SubnetID]cloud.Subnet{
			"subnet-1": {ID: "subnet-1", VPC: "vpc-1", RouteTable: "rtb-1"}, "subnet-2": {ID: "subnet-2", VPC: "vpc-1", RouteTable: "rtb-2"},
			"subnet-3": {ID: "subnet-3", VPC: "vpc-1", RouteTable: "rtb-3"},
		},
		Tables: map[cloud.RouteTableID]cloud.RouteTable{
			"rtb-2": {Routes: []cloud.Route{{Destination: all, Interface: "eni-1"}}}, "rtb-3": {Routes: []cloud.Route{{Destination: all, NAT: "nat-1"}}},
		},
		NATs:      map[cloud.NATGatewayID]cloud.NATGateway{"nat-1": {ID: "nat-1", Interface: "eni-9", Allocation: "eipalloc-1"}},
		Addresses: map[cloud.AllocationID]cloud.Address{"eipalloc-1": {Public: addr("198.51.100.9")}},
		Hosts: map[cloud.HostID]cloud.Host{
			"h-1": {ID: "h-1", Underlay: addr("192.0.2.1")}, "h-2": {ID: "h-2", Underlay: addr("192.0.2.2")}, "h-3": {ID: "h-3", Underlay: addr("192.0.2.3")},
		},
		Overlays:   map[cloud.VPCID]uint32{"vpc-1": 7},
		Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{},
	}
	var instances []cloud.Instance
	for k, host := range []cloud.HostID{"h-1", "h-2", "h-3"} {
		n := string(rune('1' + k))
		i := cloud.NetworkInterface{ID: cloud.InterfaceID("eni-" + n), VPC: "vpc-1", Subnet: cloud.SubnetID("subnet-" + n), Instance: cloud.InstanceID("i-" + n), Addresses: []netip.Addr{addr("10.0." + n + ".10")}}
		w.Interfaces[i.ID] = i
		instances = append(instances, cloud.Instance{ID: i.Instance, Host: host, Power: cloud.PowerRunning, Interfaces: []cloud.InterfaceID{i.ID}})
	}
	if got, want := placement.Apart(w, instances), []cloud.VPCID{"vpc-1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("apart are %v, want %v", got, want)
	}
	for host, want := range map[cloud.HostID]map[cloud.SubnetID]cloud.HostRoute{
		"h-1": {"subnet-1": {}, "subnet-2": {Destination: all, Interface: "eni-1", Via: addr("10.0.1.10")}, "subnet-3": {Destination: all, NAT: addr("198.51.100.9")}},
		"h-2": {"subnet-2": {Destination: all, Interface: "eni-1", Via: addr("10.0.1.10")}},
		"h-3": {"subnet-3": {Destination: all, NAT: addr("198.51.100.9"), Home: addr("192.0.2.1")}},
	} {
		got := map[cloud.SubnetID]cloud.HostRoute{}
		for _, s := range placement.Networks(w, host, instances)[0].Subnets {
			got[s.ID] = cloud.HostRoute{}
			for _, r := range s.Routes {
				got[s.ID] = r
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s is told of the subnets %+v, want %+v", host, got, want)
		}
	}
}
