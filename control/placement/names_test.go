package placement

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestAHostKnowsThePublicAddressesThatHaveNamesInItsVPC(t *testing.T) {
	address := func(public, private string, n cloud.InterfaceID) cloud.Address {
		a := cloud.Address{Public: netip.MustParseAddr(public), Interface: n}
		if private != "" {
			a.Private = netip.MustParseAddr(private)
		}
		return a
	}
	want := []cloud.PublicAddress{
		{Public: netip.MustParseAddr("203.0.113.1"), Private: netip.MustParseAddr("172.31.0.11")},
		{Public: netip.MustParseAddr("203.0.113.9"), Private: netip.MustParseAddr("172.31.0.12")},
	}
	for _, c := range []struct {
		name         string
		resolver, of bool
		want         []cloud.PublicAddress
	}{
		{"all of the VPC's, on whatever host, and no other's", true, true, want},
		{"none where public names are off", true, false, nil},
		{"none where the resolver is off", false, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := World{
				VPCs: map[cloud.VPCID]cloud.VPC{"vpc-1": {ID: "vpc-1", EnableDNS: c.resolver, EnableDNSName: c.of}},
				Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{
					"eni-1": {ID: "eni-1", VPC: "vpc-1"}, "eni-2": {ID: "eni-2", VPC: "vpc-1"}, "eni-3": {ID: "eni-3", VPC: "vpc-2"},
				},
				Addresses: map[cloud.AllocationID]cloud.Address{
					"a": address("203.0.113.9", "172.31.0.12", "eni-2"), "b": address("203.0.113.1", "172.31.0.11", "eni-1"),
					"c": address("203.0.113.5", "172.31.0.11", "eni-3"), "d": address("203.0.113.6", "", ""),
				},
			}
			got := Networks(w, "h-1", []cloud.Instance{{ID: "i-1", Host: "h-1", Interfaces: []cloud.InterfaceID{"eni-1"}}})
			if len(got) != 1 || !reflect.DeepEqual(got[0].Public, c.want) {
				t.Errorf("got %+v, want %v", got, c.want)
			}
		})
	}
}
