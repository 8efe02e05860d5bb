package zone

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func network() *bundle.Network {
	return &bundle.Network{
		VPC: "vpc-1", Region: "ichiro-1", Resolver: true,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/20"), netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("198.18.4.0/24")},
		Public:   []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: netip.MustParseAddr("172.31.0.11")}},
	}
}

func TestLookup(t *testing.T) {
	const inside, outside = "ichiro-1.compute.internal.", "ichiro-1.compute.amazonaws.com."
	address := func(zone, a string) Answer { return Answer{Kind: Known, Zone: zone, Address: netip.MustParseAddr(a)} }
	pointer := func(zone, name string) Answer { return Answer{Kind: Known, Zone: zone, Name: name} }
	there := func(zone string) Answer { return Answer{Kind: Known, Zone: zone} }
	nowhere := func(zone string) Answer { return Answer{Kind: Unknown, Zone: zone} }
	for _, c := range []struct {
		name, question string
		want           Answer
	}{
		{"an address of the first block has a name", "ip-172-31-0-11." + inside, address(inside, "172.31.0.11")},
		{"one of a further block too", "ip-10-9-255-254." + inside, address(inside, "10.9.255.254")},
		{"letter case does not matter", "IP-10-9-0-1.Ichiro-1.Compute.INTERNAL.", address(inside, "10.9.0.1")},
		{"an address that is not the VPC's has none", "ip-172-31-16-1." + inside, nowhere(inside)},
		{"nor has one of a VPC elsewhere", "ip-10-0-0-5." + inside, nowhere(inside)},
		{"an address with a leading zero is none", "ip-10-9-0-01." + inside, nowhere(inside)},
		{"an address of three numbers is none", "ip-10-9-0." + inside, nowhere(inside)},
		{"an address of IPv6 is none", "ip-2001:db8::1." + inside, nowhere(inside)},
		{"words have no address", "metadata." + inside, nowhere(inside)},
		{"there is nothing below a name", "a.ip-10-9-0-1." + inside, nowhere(inside)},
		{"the zone itself exists", inside, there(inside)},
		{"another region's zone is not ours", "ip-10-9-0-1.ichiro-2.compute.internal.", Answer{}},
		{"a zone that only ends alike is not ours", "ip-10-9-0-1.xichiro-1.compute.internal.", Answer{}},
		{"a public name leads to the private address", "ec2-203-0-113-7." + outside, address(outside, "172.31.0.11")},
		{"a public name of somebody else is not ours", "ec2-203-0-113-8." + outside, Answer{}},
		{"a private address has no public name", "ec2-172-31-0-11." + outside, Answer{}},
		{"the public zone is not ours", outside, Answer{}},
		{"an address of the VPC is found in reverse", "11.0.31.172.in-addr.arpa.", pointer("172.in-addr.arpa.", "ip-172-31-0-11."+inside)},
		{"one of a further block too, in reverse", "4.3.9.10.In-Addr.ARPA.", pointer("10.in-addr.arpa.", "ip-10-9-3-4."+inside)},
		{"a block that is not private is the VPC's all the same", "1.4.18.198.in-addr.arpa.", pointer("198.in-addr.arpa.", "ip-198-18-4-1."+inside)},
		{"a public address is found in reverse", "7.113.0.203.in-addr.arpa.", pointer("203.in-addr.arpa.", "ec2-203-0-113-7."+outside)},
		{"a public address of somebody else is not ours, in reverse", "8.113.0.203.in-addr.arpa.", Answer{}},
		{"a private address outside the VPC is never asked for elsewhere", "1.16.31.172.in-addr.arpa.", nowhere("172.in-addr.arpa.")},
		{"nor is one of another private block", "1.0.168.192.in-addr.arpa.", nowhere("192.in-addr.arpa.")},
		{"nor are the hosts' uplinks", "1.0.64.100.in-addr.arpa.", nowhere("100.in-addr.arpa.")},
		{"nor are link-local addresses", "254.169.254.169.in-addr.arpa.", nowhere("169.in-addr.arpa.")},
		{"nor is the loopback", "1.0.0.127.in-addr.arpa.", nowhere("127.in-addr.arpa.")},
		{"the beginning of an address exists", "31.172.in-addr.arpa.", there("172.in-addr.arpa.")},
		{"and so does its first number", "172.in-addr.arpa.", there("172.in-addr.arpa.")},
		{"a part of a block exists", "3.9.10.in-addr.arpa.", there("10.in-addr.arpa.")},
		{"a part of a private block that is not the VPC's does not", "8.10.in-addr.arpa.", nowhere("10.in-addr.arpa.")},
		{"an address with a leading zero is none, in reverse", "01.3.9.10.in-addr.arpa.", nowhere("10.in-addr.arpa.")},
		{"there is nothing below an address", "a.4.3.9.10.in-addr.arpa.", nowhere("10.in-addr.arpa.")},
		{"the reverse zone itself is not ours", "in-addr.arpa.", Answer{}},
		{"neither are words in it", "a.in-addr.arpa.", Answer{}},
		{"a public address beside a private block is not ours", "1.0.15.172.in-addr.arpa.", Answer{}},
		{"the world is not ours", "www.example.com.", Answer{}},
		{"the root is not ours", ".", Answer{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Lookup(network(), c.question); got != c.want {
				t.Errorf("%s: got %+v, want %+v", c.question, got, c.want)
			}
		})
	}
}

// What a name leads to leads back to it, for all addresses of a block.
func TestNamesAndAddressesAreEachOthersReverse(t *testing.T) {
	n := network()
	for a := n.Prefixes[2].Addr(); n.Prefixes[2].Contains(a); a = a.Next() {
		name := cloud.PrivateDNSName(a, n.Region) + "."
		if got := Lookup(n, name); got.Address != a {
			t.Errorf("%s: got %+v, want %s", name, got, a)
		}
		b := a.As4()
		reverse := netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String() + ".in-addr.arpa."
		if got := Lookup(n, reverse); got.Name != name {
			t.Errorf("%s: got %+v, want %s", reverse, got, name)
		}
	}
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"ip-10-9-0-1.ichiro-1.compute.internal.", "1.0.9.10.in-addr.arpa.", ".", "", `ip-10-9-0-1\.ichiro-1.compute.internal.`} {
		f.Add(s)
	}
	n := network()
	f.Fuzz(func(t *testing.T, name string) {
		a := Lookup(n, name)
		if a.Address.IsValid() && !owns(n, a.Address) {
			t.Errorf("%q leads to %s, which is not the VPC's", name, a.Address)
		}
		if a.Kind != Elsewhere && (a.Zone == "" || !strings.HasSuffix(strings.ToLower(name), a.Zone)) {
			t.Errorf("%q is not in the zone %q that speaks of it", name, a.Zone)
		}
	})
}
