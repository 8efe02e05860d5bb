package cloud

import (
	"fmt"
	"net/netip"
	"testing"
)

func block(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// ids makes identifiers in order.
func ids() func(string) string {
	n := 0
	return func(prefix string) string { n++; return fmt.Sprintf("%s-%017x", prefix, n) }
}

func TestBlocksAreReadAsEC2ReadsThem(t *testing.T) {
	for _, c := range []struct{ name, in, four, six string }{
		{"a block", "10.0.0.0/16", "10.0.0.0/16", ""},
		{"the bits of a host are taken away", "100.68.0.18/18", "100.68.0.0/18", ""},
		{"a block of IPv6", "fd00:1::/64", "", "fd00:1::/64"},
		{"the bits of a host of IPv6", "fd00:1::7/64", "", "fd00:1::/64"},
		{"IPv4 dressed as IPv6 is neither", "::ffff:10.0.0.0/112", "", ""},
		{"an address is no block", "10.0.0.1", "", ""},
		{"more bits than there are", "10.0.0.0/33", "", ""},
		{"a zone", "fe80::1%eth0/64", "", ""},
		{"nothing", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(what, want string, got netip.Prefix, err error) {
				if want == "" {
					if Code(err) != "InvalidParameterValue" {
						t.Errorf("%s: got %v, %v, want InvalidParameterValue", what, got, err)
					}
				} else if err != nil || got.String() != want {
					t.Errorf("%s: got %v, %v, want %s", what, got, err, want)
				}
			}
			p, err := ParseIPv4Block("cidrBlock", c.in)
			check("IPv4", c.four, p, err)
			p, err = ParseIPv6Block("ipv6CidrBlock", c.in)
			check("IPv6", c.six, p, err)
		})
	}
}

func TestTheFirstBlockOfAVPC(t *testing.T) {
	for _, c := range []struct{ cidr, code string }{
		{"10.0.0.0/16", ""}, {"10.0.0.0/28", ""}, {"8.8.8.0/24", ""}, {"100.64.0.0/16", ""}, {"198.19.0.0/16", ""},
		{"10.0.0.0/15", "InvalidVpc.Range"}, {"10.0.0.0/29", "InvalidVpc.Range"}, {"127.0.0.0/16", "InvalidVpc.Range"},
		{"169.254.0.0/16", "InvalidVpc.Range"}, {"169.254.169.0/24", "InvalidVpc.Range"}, {"224.0.0.0/24", "InvalidVpc.Range"}, {"239.1.0.0/16", "InvalidVpc.Range"}, {"0.0.0.0/16", "InvalidVpc.Range"},
	} {
		if got := Code(CheckVPCBlock(block(c.cidr))); got != c.code {
			t.Errorf("%s: got %q, want %q", c.cidr, got, c.code)
		}
	}
}

func TestFurtherBlocksOfAVPC(t *testing.T) {
	for _, c := range []struct{ name, primary, further, code string }{
		{"of the same private range", "10.2.0.0/16", "10.3.0.0/16", ""},
		{"the same again", "10.2.0.0/16", "10.2.0.0/16", "InvalidVpc.Range"},
		{"a part of what is there", "10.2.0.0/16", "10.2.3.0/24", "InvalidVpc.Range"},
		{"too large", "10.2.0.0/16", "10.4.0.0/15", "InvalidVpc.Range"},
		{"10 with 172.16", "10.2.0.0/16", "172.16.0.0/16", "InvalidVpc.Range"},
		{"10 with 192.168", "10.2.0.0/16", "192.168.0.0/24", "InvalidVpc.Range"},
		{"10 with 198.19", "10.2.0.0/16", "198.19.0.0/24", "InvalidVpc.Range"},
		{"10 with 100.64", "10.2.0.0/16", "100.64.0.0/16", ""},
		{"10 with a public one", "10.2.0.0/16", "203.0.112.0/20", ""},
		{"10.1 with 10.0", "10.1.0.0/16", "10.0.0.0/24", "InvalidVpc.Range"},
		{"10.2 with 10.0", "10.2.0.0/16", "10.0.0.0/24", ""},
		{"172.16 with 172.31", "172.16.0.0/16", "172.31.1.0/24", "InvalidVpc.Range"},
		{"172.16 with 172.20", "172.16.0.0/16", "172.20.0.0/16", ""},
		{"a public one with 10", "203.0.112.0/20", "10.0.0.0/16", "InvalidVpc.Range"},
		{"a public one with 198.19", "203.0.112.0/20", "198.19.0.0/16", "InvalidVpc.Range"},
		{"100.64 with more of it", "100.64.0.0/16", "100.65.0.0/16", ""},
		{"198.19 with 10", "198.19.0.0/17", "10.0.0.0/16", "InvalidVpc.Range"},
		{"link-local", "10.2.0.0/16", "169.254.0.0/16", "InvalidVpc.Range"},
		{"where a route leads", "10.2.0.0/16", "10.9.0.0/16", "InvalidVpc.Range"},
		{"a part of where a route leads", "10.2.0.0/16", "10.9.1.0/28", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := NewVPC("1", block(c.primary), ids())
			tables := []RouteTable{{ID: "rtb-1", Routes: []Route{{Destination: block("0.0.0.0/0")}, {Destination: block("10.9.1.0/24")}}}}
			next, err := v.Associate(CIDRBlock{ID: "vpc-cidr-assoc-1", CIDR: block(c.further)}, tables)
			if got := Code(err); got != c.code || err == nil && len(next.Blocks) != 1 || len(v.Blocks) != 0 {
				t.Errorf("got %q, blocks %v, want %q", got, next.Blocks, c.code)
			}
		})
	}
}

func TestAVPCHasFiveBlocksOfEachFamily(t *testing.T) {
	v := NewVPC("1", block("10.2.0.0/16"), ids())
	add := func(cidr string) string {
		next, err := v.Associate(CIDRBlock{ID: AssociationID("vpc-cidr-assoc-" + cidr), CIDR: block(cidr)}, nil)
		v = next
		return Code(err)
	}
	for k := range 5 {
		want := map[bool]string{true: "CidrLimitExceeded"}[k == 4]
		if got := add(fmt.Sprintf("10.1%d.0.0/16", k)); got != want {
			t.Errorf("block %d: got %q, want %q", k+2, got, want)
		}
	}
	for k := range 6 {
		want := map[bool]string{true: "CidrLimitExceeded"}[k == 5]
		if got := add(IPv6Block([6]byte{byte(k)}).String()); got != want {
			t.Errorf("IPv6 block %d: got %q, want %q", k+1, got, want)
		}
	}
	subnets := []Subnet{{ID: "subnet-1", VPC: v.ID, CIDR: block("10.11.0.0/24")}, {VPC: "vpc-other", CIDR: block("10.10.0.0/24")}}
	for _, c := range []struct {
		name string
		id   AssociationID
		code string
	}{
		{"a free block", "vpc-cidr-assoc-10.10.0.0/16", ""},
		{"one with a subnet in it", "vpc-cidr-assoc-10.11.0.0/16", "InvalidCidrBlock.InUse"},
		{"one of IPv6", "vpc-cidr-assoc-" + AssociationID(IPv6Block([6]byte{3}).String()), ""},
		{"the primary one", v.PrimaryAssociation(), "OperationNotPermitted"},
		{"nobody's", "vpc-cidr-assoc-9", "InvalidVpcCidrBlockAssociationID.NotFound"},
	} {
		next, b, err := v.Disassociate(c.id, subnets)
		if Code(err) != c.code || err == nil && (b.ID != c.id || len(next.Blocks) != len(v.Blocks)-1) {
			t.Errorf("%s: got %v, %v, want %q", c.name, b, err, c.code)
		}
	}
}

func TestIPv6BlocksAreUniqueLocal(t *testing.T) {
	got := IPv6Block([6]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc})
	if want := block("fd12:3456:789a:bc00::/56"); got != want || got.Masked() != got || !got.Addr().IsPrivate() {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGatewaysAndVPCsAreJoinedOnce(t *testing.T) {
	g, v := InternetGateway{ID: "igw-1"}, VPC{ID: "vpc-1"}
	g1, v1, err := g.AttachTo(v)
	if err != nil || g1.VPC != "vpc-1" || v1.Gateway != "igw-1" {
		t.Fatalf("got %v %v %v", g1, v1, err)
	}
	_, _, err = g1.AttachTo(VPC{ID: "vpc-2"})
	if got, want := Code(err), "Resource.AlreadyAssociated"; got != want {
		t.Errorf("a gateway twice: got %q, want %q", got, want)
	}
	_, _, err = InternetGateway{ID: "igw-2"}.AttachTo(v1)
	if got, want := Code(err), "InvalidParameterValue"; got != want {
		t.Errorf("a VPC twice: got %q, want %q", got, want)
	}
	_, _, err = g1.DetachFrom(v1, []netip.Addr{netip.MustParseAddr("203.0.113.7")})
	if got, want := Code(err), "DependencyViolation"; got != want {
		t.Errorf("with public addresses: got %q, want %q", got, want)
	}
	_, _, err = g.DetachFrom(v, nil)
	if got, want := Code(err), "Gateway.NotAttached"; got != want {
		t.Errorf("not attached: got %q, want %q", got, want)
	}
	if g2, v2, err := g1.DetachFrom(v1, nil); err != nil || g2.VPC != "" || v2.Gateway != "" {
		t.Errorf("got %v %v %v", g2, v2, err)
	}
}

func TestWhatDependsIsNamed(t *testing.T) {
	if err := Depended("vpc", VPCID("vpc-1"), nil); err != nil {
		t.Error(err)
	}
	err := Depended("vpc", VPCID("vpc-1"), []string{"a", "b", "c", "d", "e", "f", "g"})
	if got, want := err.Error(), "DependencyViolation: The vpc 'vpc-1' has dependencies and cannot be deleted: a, b, c, d, e, and 2 more"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
