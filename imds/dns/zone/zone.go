// Package zone decides what a VPC's resolver says by itself, as a pure function of what is known of the VPC.
//
// A VPC has names without anybody giving them: each address of its blocks is called ip-A-B-C-D.REGION.compute.internal,
// and is found by that name in reverse. A public address that stands for a private one is called
// ec2-A-B-C-D.REGION.compute.amazonaws.com, and from inside the VPC that leads to the private one, so the
// packet never leaves. Everything that could speak of another VPC ends here too: the reverse names of private,
// shared and link-local addresses (RFC 6303) are never asked for elsewhere. For all other names the answer is
// Elsewhere, and the caller forwards the question.
//
// Names are compared without regard to case. An unknown name is one that does not exist; a known one
// without a record of the type asked for has none: the difference matters to resolvers (RFC 2308).
package zone

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// TTL of all that is answered here, in seconds, as EC2's.
const TTL = 60

// Kind is what is known of a name.
type Kind int

// The kinds of answers.
const (
	Elsewhere Kind = iota // not a name of the VPC
	Unknown               // a name of the VPC that does not exist
	Known                 // it exists: with Address or Name, or with nothing but being there
)

// Answer is what the zone says of a name.
type Answer struct {
	Kind    Kind
	Zone    string     // the name of the zone, for its SOA record
	Address netip.Addr // the name's A record, if valid
	Name    string     // the name's PTR record, if not empty
}

// Apex reports whether the name asked for is the zone's own.
func (a Answer) Apex(name string) bool { return a.Kind != Elsewhere && strings.EqualFold(name, a.Zone) }

const (
	reverse = "in-addr.arpa."
	public  = ".compute.amazonaws.com."
)

// Lookup answers a fully qualified name, with its final dot, in the VPC.
func Lookup(n *bundle.Network, name string) Answer {
	name = strings.ToLower(name)
	if labels, ok := under(name, reverse); ok {
		return lookupReverse(n, labels)
	}
	inside := strings.ToLower(n.Region) + ".compute.internal."
	if labels, ok := under(name, inside); ok {
		return lookupPrivate(n, inside, labels)
	}
	outside := strings.ToLower(n.Region) + public
	if labels, ok := under(name, outside); ok && len(labels) == 1 {
		if a, ok := dashed(labels[0], "ec2-"); ok {
			for _, p := range n.Public {
				if p.Public == a {
					return Answer{Kind: Known, Zone: outside, Address: p.Private}
				}
			}
		}
	}
	return Answer{} // also a public name of somebody else: whoever publishes the region's zone knows it
}

// under returns the labels of a name before those of a zone.
func under(name, zone string) ([]string, bool) {
	if name == zone {
		return nil, true
	}
	rest, ok := strings.CutSuffix(name, "."+zone)
	if !ok {
		return nil, false
	}
	return strings.Split(rest, "."), true
}

func lookupPrivate(n *bundle.Network, zone string, labels []string) Answer {
	switch len(labels) {
	case 0:
		return Answer{Kind: Known, Zone: zone}
	case 1:
		if a, ok := dashed(labels[0], "ip-"); ok && owns(n, a) {
			return Answer{Kind: Known, Zone: zone, Address: a}
		}
	}
	return Answer{Kind: Unknown, Zone: zone}
}

// dashed reads an address as EC2 writes it into names. What Go would not print in the same way is none: 010 is not 10.
func dashed(label, prefix string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(label, prefix)
	if !ok || strings.Contains(rest, ".") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(rest, "-", "."))
	return a, err == nil && a.Is4()
}

func owns(n *bundle.Network, a netip.Addr) bool {
	return slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// kept are the addresses whose reverse names are answered here alone, whether the VPC has them or not: RFC 6303 and
// 6890, and the block of the hosts' uplinks.
var kept = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("255.255.255.255/32"),
}

// lookupReverse answers in in-addr.arpa, whose labels are an address backwards, or the beginning of one.
func lookupReverse(n *bundle.Network, labels []string) Answer {
	block, rest, ok := backwards(labels)
	if !ok {
		return Answer{}
	}
	a := block.Addr()
	if block.Bits() == 32 && rest == 0 {
		for _, p := range n.Public {
			if p.Public == a {
				return Answer{Kind: Known, Zone: zoneOf(netip.PrefixFrom(a, 24)), Name: publicName(a, n.Region)}
			}
		}
	}
	var within, around bool // the block is inside one of ours, or one of ours is inside it
	for _, p := range slices.Concat(n.Prefixes, kept) {
		within = within || p.Bits() <= block.Bits() && p.Contains(a)
		around = around || block.Bits() < p.Bits() && block.Contains(p.Addr())
	}
	switch {
	case within && block.Bits() == 32 && rest == 0 && owns(n, a):
		return Answer{Kind: Known, Zone: zoneOf(block), Name: cloud.PrivateDNSName(a, n.Region) + "."}
	case within && block.Bits() < 32 && rest == 0 && overlaps(n, block):
		return Answer{Kind: Known, Zone: zoneOf(block)} // names below it exist
	case within:
		return Answer{Kind: Unknown, Zone: zoneOf(block)}
	case around && block.Bits() >= 8 && rest == 0:
		return Answer{Kind: Known, Zone: zoneOf(block)}
	}
	return Answer{}
}

// backwards reads the labels of a reverse name: the block that they name, and how many labels are before it.
func backwards(labels []string) (block netip.Prefix, rest int, ok bool) {
	var b [4]byte
	k := 0
	for ; k < 4 && k < len(labels); k++ {
		l := labels[len(labels)-1-k]
		v, err := strconv.ParseUint(l, 10, 8)
		if err != nil || strconv.FormatUint(v, 10) != l {
			break
		}
		b[k] = byte(v)
	}
	return netip.PrefixFrom(netip.AddrFrom4(b), 8*k), len(labels) - k, k > 0
}

func overlaps(n *bundle.Network, block netip.Prefix) bool {
	return slices.ContainsFunc(n.Prefixes, block.Overlaps)
}

// zoneOf names the zone of an address backwards: that of its first byte. A VPC's blocks begin within one, so one zone is
// enough, and its SOA record is at or above each name.
func zoneOf(p netip.Prefix) string {
	return strconv.Itoa(int(p.Addr().As4()[0])) + "." + reverse
}

func publicName(a netip.Addr, region string) string {
	return "ec2-" + strings.ReplaceAll(a.String(), ".", "-") + "." + region + public
}
