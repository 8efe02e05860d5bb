package ec2

import (
	"net/netip"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"

	"math/rand/v2"
)

// addressing is what a request says of the addresses of a new interface.
type addressing struct {
	primary      string
	listed       []shape.PrivateIpAddressSpecification
	more         *int64 // secondary addresses, any
	prefixes     []shape.Ipv4PrefixSpecificationRequest
	morePrefixes *int64
	six          sixAddressing
}

// sixAddressing is the IPv6 side of it.
type sixAddressing struct {
	listed       []shape.InstanceIpv6Address
	more         *int64
	prefixes     []shape.Ipv6PrefixSpecificationRequest
	morePrefixes *int64
}

// named reports whether a particular address or prefix is asked for: only one interface can have it.
func (a addressing) named() bool {
	return a.primary != "" || len(a.listed)+len(a.prefixes)+len(a.six.listed)+len(a.six.prefixes) > 0
}

// empty reports whether nothing is asked for.
func (a addressing) empty() bool {
	return !a.named() && a.more == nil && a.morePrefixes == nil && a.six.more == nil && a.six.morePrefixes == nil
}

// ask returns what is wanted of the subnet. The primary address comes first; the zero Addr is any.
func (a addressing) ask(s cloud.Subnet) (ipam.Ask, error) {
	out, err := a.four()
	if err != nil {
		return out, err
	}
	six, err := a.six.ask()
	if err != nil {
		return out, err
	}
	out.IPv6, out.MoreIPv6, out.MorePrefixes = six.IPv6, six.MoreIPv6, six.MorePrefixes
	out.Prefixes = append(out.Prefixes, six.Prefixes...)
	if s.AssignIPv6 && a.six.more == nil && len(six.IPv6)+len(six.Prefixes)+six.MorePrefixes == 0 {
		out.MoreIPv6 = 1
	}
	return out, nil
}

func (a addressing) four() (ipam.Ask, error) {
	out := ipam.Ask{Addresses: make([]netip.Addr, 1)}
	first := a.primary
	var secondary []string
	for k, l := range a.listed {
		switch {
		case yes(l.Primary) && first != "" && first != l.PrivateIpAddress:
			return out, cloud.Errorf("InvalidParameterCombination", "Only one primary private IP address can be specified")
		case yes(l.Primary):
			first = l.PrivateIpAddress
		case k == 0 && l.Primary == nil && first == "" && !slices.ContainsFunc(a.listed, func(o shape.PrivateIpAddressSpecification) bool { return yes(o.Primary) }):
			first = l.PrivateIpAddress // nobody is said to be the primary one
		default:
			secondary = append(secondary, l.PrivateIpAddress)
		}
	}
	var err error
	if first != "" {
		if out.Addresses[0], err = fourAddr(first); err != nil {
			return out, err
		}
	}
	for _, text := range secondary {
		s, err := fourAddr(text)
		if err != nil {
			return out, err
		}
		out.Addresses = append(out.Addresses, s)
	}
	more, err := atLeast0("SecondaryPrivateIpAddressCount", a.more)
	if err != nil {
		return out, err
	}
	if out.More, err = atLeast0("Ipv4PrefixCount", a.morePrefixes); err != nil {
		return out, err
	}
	if !atMostOne(len(secondary) > 0, more > 0, len(a.prefixes) > 0, out.More > 0) {
		return out, cloud.Errorf("InvalidParameterCombination", "Secondary private addresses, a count of them, IPv4 prefixes and a count of them exclude each other: name one of the four")
	}
	out.Addresses = append(out.Addresses, make([]netip.Addr, more)...)
	for _, p := range a.prefixes {
		one, err := parsePrefix("ipv4Prefix", p.Ipv4Prefix)
		if err != nil {
			return out, err
		}
		if !one.Addr().Is4() {
			return out, cloud.Errorf("InvalidParameterValue", "Value (%.50s) for parameter ipv4Prefix is invalid: it is not of IPv4", p.Ipv4Prefix)
		}
		out.Prefixes = append(out.Prefixes, one)
	}
	return out, nil
}

func (a sixAddressing) ask() (out ipam.Ask, err error) {
	if out.MoreIPv6, err = atLeast0("Ipv6AddressCount", a.more); err != nil {
		return out, err
	}
	if out.MorePrefixes, err = atLeast0("Ipv6PrefixCount", a.morePrefixes); err != nil {
		return out, err
	}
	if !atMostOne(len(a.listed) > 0, out.MoreIPv6 > 0, len(a.prefixes) > 0, out.MorePrefixes > 0) {
		return out, cloud.Errorf("InvalidParameterCombination", "IPv6 addresses, a count of them, IPv6 prefixes and a count of them exclude each other: name one of the four")
	}
	for _, l := range a.listed {
		if yes(l.IsPrimaryIpv6) {
			return out, cloud.Errorf("UnsupportedOperation", "IsPrimaryIpv6: primary IPv6 addresses are not there yet: leave the parameter out")
		}
		one, err := netip.ParseAddr(l.Ipv6Address)
		if err != nil || !one.Is6() || one.Is4In6() || one.Zone() != "" {
			return out, cloud.Errorf("InvalidParameterValue", "Value (%.50s) for parameter ipv6Address is invalid: it is not an IPv6 address", l.Ipv6Address)
		}
		out.IPv6 = append(out.IPv6, one)
	}
	for _, p := range a.prefixes {
		one, err := parsePrefix("ipv6Prefix", p.Ipv6Prefix)
		if err != nil {
			return out, err
		}
		if !one.Addr().Is6() || one.Addr().Is4In6() {
			return out, cloud.Errorf("InvalidParameterValue", "Value (%.50s) for parameter ipv6Prefix is invalid: it is not of IPv6", p.Ipv6Prefix)
		}
		out.Prefixes = append(out.Prefixes, one)
	}
	return out, nil
}

func fourAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter privateIpAddress is invalid: it is not an IPv4 address", text)
	}
	return a, nil
}

func parsePrefix(name, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, cloud.Errorf("InvalidParameterValue", "Value (%.50s) for parameter %s is invalid: it is not a prefix", text, name)
	}
	return p, nil
}

// mostAtOnce bounds counts of addresses: no instance type has more of them on an interface.
const mostAtOnce = 1000

func atLeast0(name string, n *int64) (int, error) {
	if n == nil {
		return 0, nil
	}
	if *n < 0 || *n > mostAtOnce {
		return 0, cloud.Errorf("InvalidParameterValue", "%s is 0 to %d, not %d", name, mostAtOnce, *n)
	}
	return int(*n), nil
}

func atMostOne(given ...bool) bool {
	n := 0
	for _, g := range given {
		if g {
			n++
		}
	}
	return n <= 1
}

// space returns what is known of a subnet's addresses, to be searched from a random place on.
func (s *Service) space(snap *store.Snapshot, subnet cloud.Subnet) (*ipam.Space, error) {
	return ledger.Space(snap, subnet, rand.Uint64(), s.Now())
}

// pool returns what is known of the public addresses.
func (s *Service) pool(snap *store.Snapshot) (*ipam.Pool, error) {
	return ledger.Pool(snap, s.Elastic, rand.Uint64(), s.Now())
}

// addressLimit returns the type whose limit of addresses an interface has: its instance's; while it has none, that of
// the type with the most.
func (s *Service) addressLimit(snap *store.Snapshot, n cloud.NetworkInterface) (cloud.InstanceType, error) {
	if n.Instance != "" {
		o, err := store.MirroredGet(snap, store.Instances, n.Instance)
		if err != nil {
			return cloud.InstanceType{}, err
		}
		if t, err := cloud.TypeNamed(s.Types, o.Value.Type); err == nil {
			return t, nil
		}
	}
	return slices.MaxFunc(s.Types, func(a, b cloud.InstanceType) int { return a.Addresses - b.Addresses }), nil
}

// groupsIn returns the groups of a VPC that are named by ID or by name, each once; the default one if none is. The
// transaction relies on them.
func (s *Service) groupsIn(snap *store.Snapshot, t *store.Txn, who cloud.AccountID, vpc cloud.VPCID, ids, names []string) ([]cloud.GroupID, error) {
	all, err := store.Mirrored(snap, store.Groups)
	if err != nil {
		return nil, err
	}
	var out []cloud.GroupID
	add := func(text string, match func(cloud.SecurityGroup) bool) error {
		for _, g := range all {
			if g.Value.VPC != vpc || g.Value.Account != who || !match(g.Value) {
				continue
			}
			if !slices.Contains(out, g.Value.ID) {
				store.Require(t, store.Groups, g.Value.ID, g.Rev)
				out = append(out, g.Value.ID)
			}
			return nil
		}
		return cloud.Errorf("InvalidGroup.NotFound", "The security group '%.255s' does not exist in VPC '%s'", text, vpc)
	}
	for _, text := range ids {
		if err := add(text, func(g cloud.SecurityGroup) bool { return string(g.ID) == text }); err != nil {
			return nil, err
		}
	}
	for _, text := range names {
		if err := add(text, func(g cloud.SecurityGroup) bool { return g.Name == text }); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		if err := add("default", func(g cloud.SecurityGroup) bool { return g.Name == "default" }); err != nil {
			return nil, err
		}
	}
	return out, nil
}
