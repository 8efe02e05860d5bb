package cloud

import (
	"net/netip"
	"testing"
)

func TestSubnetsOfAVPC(t *testing.T) {
	v := VPC{ID: "vpc-1", CIDR: block("10.0.0.0/16"), Blocks: []CIDRBlock{{CIDR: block("10.8.0.0/20")}, {CIDR: block("fd00:0:0:100::/56")}}}
	others := []Subnet{
		{ID: "subnet-1", VPC: "vpc-1", CIDR: block("10.0.1.0/24"), Blocks: []CIDRBlock{{CIDR: block("fd00:0:0:101::/64")}}},
		{ID: "subnet-2", VPC: "vpc-2", CIDR: block("10.0.2.0/24"), Blocks: []CIDRBlock{{CIDR: block("fd00:0:0:102::/64")}}},
	}
	for _, c := range []struct{ name, four, six, code string }{
		{"a free part", "10.0.3.0/24", "", ""},
		{"what another VPC's subnet has", "10.0.2.0/24", "fd00:0:0:102::/64", ""},
		{"a part of the second block", "10.8.15.0/24", "", ""},
		{"the smallest", "10.0.3.16/28", "", ""},
		{"too small", "10.0.3.0/29", "", "InvalidSubnet.Range"},
		{"too large", "10.0.0.0/15", "", "InvalidSubnet.Range"},
		{"all of a VPC with a subnet", "10.0.0.0/16", "", "InvalidSubnet.Conflict"},
		{"the same as another", "10.0.1.0/24", "", "InvalidSubnet.Conflict"},
		{"a part of another", "10.0.1.128/25", "", "InvalidSubnet.Conflict"},
		{"more than another", "10.0.0.0/22", "", "InvalidSubnet.Conflict"},
		{"outside", "10.1.0.0/24", "", "InvalidSubnet.Range"},
		{"partly outside", "10.8.0.0/19", "", "InvalidSubnet.Range"},
		{"with IPv6", "10.0.3.0/24", "fd00:0:0:1ff::/64", ""},
		{"IPv6 outside", "10.0.3.0/24", "fd00:0:0:200::/64", "InvalidSubnet.Range"},
		{"IPv6 of another size", "10.0.3.0/24", "fd00:0:0:1f0::/60", "InvalidSubnet.Range"},
		{"IPv6 of another", "10.0.3.0/24", "fd00:0:0:101::/64", "InvalidSubnet.Conflict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Subnet{VPC: "vpc-1", CIDR: block(c.four)}
			if c.six != "" {
				s.Blocks = []CIDRBlock{{CIDR: block(c.six)}}
			}
			if got := Code(v.CheckSubnet(s, others)); got != c.code {
				t.Errorf("got %q, want %q", got, c.code)
			}
		})
	}
}

func TestDefaultSubnetsFillTheDefaultVPC(t *testing.T) {
	v := NewDefaultVPC("1", ids())
	others := []Subnet{{ID: "subnet-9", VPC: v.ID, CIDR: block("172.31.16.0/24")}}
	for _, want := range []string{"172.31.0.0/20", "172.31.32.0/20"} {
		s, err := v.NewDefaultSubnet("zone "+want, others, ids())
		if err != nil || s.CIDR.String() != want || !s.Default || s.VPC != v.ID || s.ID == "" || s.ACLAssociation == "" {
			t.Errorf("got %+v, %v, want %s", s, err, want)
		}
		others = append(others, s)
	}
	_, err := v.NewDefaultSubnet("zone 172.31.0.0/20", others, ids())
	if got, want := Code(err), "DefaultSubnetAlreadyExistsInAvailabilityZone"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = v.NewDefaultSubnet("z", append(others, Subnet{VPC: v.ID, CIDR: v.CIDR}), ids())
	if got, want := Code(err), "InsufficientFreeAddressesInSubnet"; got != want {
		t.Errorf("a full VPC: got %q, want %q", got, want)
	}
}

func TestASubnetHasOneRouteTable(t *testing.T) {
	s := Subnet{ID: "subnet-1", VPC: "vpc-1"}
	_, err := s.Associate(RouteTable{ID: "rtb-9", VPC: "vpc-2"}, "rtbassoc-1")
	if got, want := Code(err), "InvalidParameterValue"; got != want {
		t.Errorf("another VPC's: got %q, want %q", got, want)
	}
	s, err = s.Associate(RouteTable{ID: "rtb-1", VPC: "vpc-1"}, "rtbassoc-1")
	if err != nil || s.RouteTable != "rtb-1" || s.RouteAssociation != "rtbassoc-1" {
		t.Fatalf("got %+v, %v", s, err)
	}
	if again, err := s.Associate(RouteTable{ID: "rtb-1", VPC: "vpc-1"}, "rtbassoc-2"); err != nil || again.RouteAssociation != "rtbassoc-1" {
		t.Errorf("the same again: got %+v, %v, want the association that there is", again, err)
	}
	_, err = s.Associate(RouteTable{ID: "rtb-2", VPC: "vpc-1"}, "rtbassoc-2")
	if got, want := Code(err), "Resource.AlreadyAssociated"; got != want {
		t.Errorf("a second: got %q, want %q", got, want)
	}
}

func TestPrefixesCountWhole(t *testing.T) {
	n := NetworkInterface{
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.5")},
		Prefixes:  []netip.Prefix{block("10.0.0.16/28"), block("fd00::/80")},
	}
	if got, want := n.Used(), 18; got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}
