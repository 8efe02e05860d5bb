package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// SecurityGroup is a list of what may come in and go out; what is not listed is dropped.
type SecurityGroup struct {
	ID          GroupID
	Account     AccountID
	VPC         VPCID
	Name        string
	Description string
	Ingress     []GroupRule
	Egress      []GroupRule
	Tags        Tags `json:",omitempty"`
}

// DefaultGroup is the name of the group that every VPC has, and that nobody can make or delete.
const DefaultGroup = "default"

// GroupsPerRegion and RulesPerGroup are EC2's quotas as an account begins with them. The latter is for each direction,
// and for IPv4 and IPv6 apart: https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
const (
	GroupsPerRegion = 2500
	RulesPerGroup   = 60
)

// DefaultGroupRules returns what EC2 gives a VPC's default group: everything in from its own members,
// everything out.
func DefaultGroupRules(id GroupID, in, out RuleID) (ingress, egress []GroupRule) {
	return []GroupRule{{ID: in, Protocol: "-1", FromPort: -1, ToPort: -1, Group: id}},
		[]GroupRule{{ID: out, Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
}

// NewGroupEgress returns the rules of a new group, which has none for what comes in: everything may go out, by
// IPv6 too if the VPC has a block of it. id makes an identifier for each.
func NewGroupEgress(v VPC, id func() RuleID) []GroupRule {
	out := []GroupRule{{ID: id(), Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
	for _, p := range v.Prefixes() {
		if p.Addr().Is6() {
			return append(out, GroupRule{ID: id(), Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "::/0"})
		}
	}
	return out
}

// OpenIPv6 returns the group as it is when its VPC gets a block of IPv6: like EC2 it then lets IPv6 out, too, if its rules for
// what goes out are those that it was born with.
func (g SecurityGroup) OpenIPv6(id RuleID) (SecurityGroup, bool) {
	if len(g.Egress) != 1 || g.Egress[0].Protocol != "-1" || g.Egress[0].CIDR != "0.0.0.0/0" {
		return g, false
	}
	g.Egress = append(slices.Clip(g.Egress), GroupRule{ID: id, Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "::/0"})
	return g, true
}

// GroupName returns the name as EC2 keeps it, without spaces at its end, or refuses it.
func GroupName(text string) (string, error) {
	name := strings.TrimRight(text, " ")
	switch {
	case name == "":
		return "", Errorf("InvalidParameterValue", "GroupName is empty: give the group a name of 1 to 255 characters")
	case name == DefaultGroup:
		return "", Errorf("InvalidGroup.Reserved", "The name '%s' is reserved for the group that each VPC begins with: choose another", name)
	case strings.HasPrefix(strings.ToLower(name), "sg-"):
		return "", Errorf("InvalidParameterValue", "Group name %.80q begins like an ID: choose one that does not begin with sg-", name)
	}
	return name, groupText("GroupName", name)
}

// ValidateGroupDescription refuses a description that EC2 refuses.
func ValidateGroupDescription(text string) error {
	if text == "" {
		return Errorf("MissingParameter", "The request must contain the parameter GroupDescription")
	}
	return groupText("GroupDescription", text)
}

// groupText checks the characters that names and descriptions of groups and rules may have.
func groupText(parameter, text string) error {
	if len(text) > 255 {
		return Errorf("InvalidParameterValue", "%s has %d characters, and 255 is the most: shorten it", parameter, len(text))
	}
	for _, c := range text {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", c) {
			return Errorf("InvalidParameterValue", "%s %.80q has the character %q: a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$* may be used", parameter, text, c)
		}
	}
	return nil
}

// GroupRule allows one protocol and port range to or from one peer: a prefix or the members of a group.
type GroupRule struct {
	ID          RuleID
	Protocol    string  // tcp, udp, icmp, icmpv6, another's number, or -1 for all
	FromPort    int     // -1 for all; ICMP type
	ToPort      int     // -1 for all; ICMP code
	CIDR        string  `json:",omitempty"` // of IPv4 or IPv6, masked
	Group       GroupID `json:",omitempty"`
	Description string  `json:",omitempty"`
	Tags        Tags    `json:",omitempty"`
}

// Permission is what a rule allows, without its name and what is said of it: two rules with the same one are one.
type Permission struct {
	Protocol         string
	FromPort, ToPort int
	CIDR             string
	Group            GroupID
}

// Permission returns what the rule allows.
func (r GroupRule) Permission() Permission {
	return Permission{r.Protocol, r.FromPort, r.ToPort, r.CIDR, r.Group}
}

// HasPorts reports whether the protocol has ports, or types and codes, that a rule can name. A rule for any other allows
// all of it.
func (r GroupRule) HasPorts() bool {
	switch r.Protocol {
	case "tcp", "udp", "icmp", "icmpv6":
		return true
	}
	return false
}

// String says what the rule allows, for an error.
func (r GroupRule) String() string {
	peer := r.CIDR + string(r.Group)
	switch {
	case !r.HasPorts():
		return fmt.Sprintf("protocol %s with %s", r.Protocol, peer)
	case r.Protocol == "tcp" || r.Protocol == "udp":
		return fmt.Sprintf("%s ports %d to %d with %s", r.Protocol, r.FromPort, r.ToPort, peer)
	}
	return fmt.Sprintf("%s type %d code %d with %s", r.Protocol, r.FromPort, r.ToPort, peer)
}

// IPv6 reports whether the rule is for a prefix of IPv6.
func (r GroupRule) IPv6() bool { return strings.Contains(r.CIDR, ":") }

// NewGroupRule returns a rule that has no peer yet. Without ports (or type and code) ICMPv6 means all, and TCP,
// UDP and ICMP are refused; protocols that have none ignore them, as EC2 documents.
func NewGroupRule(protocol string, from, to *int64) (GroupRule, error) {
	name, err := groupProtocol(protocol)
	r := GroupRule{Protocol: name, FromPort: -1, ToPort: -1}
	if err != nil || !r.HasPorts() || name == "icmpv6" && from == nil && to == nil {
		return r, err
	}
	if from == nil || to == nil {
		return r, Errorf("InvalidPermission.Malformed", "A rule for %s needs both FromPort and ToPort: for ICMP they are type and code, -1 for all", name)
	}
	r.FromPort, r.ToPort = int(*from), int(*to)
	if name == "tcp" || name == "udp" {
		return r, checkPorts(*from, *to)
	}
	return r, checkTypeCode(*from, *to)
}

// groupProtocol returns a protocol as groups show it: by name if EC2 has one for it.
func groupProtocol(text string) (string, error) {
	if text == "" {
		return "", Errorf("MissingParameter", "A rule must name its IpProtocol: tcp, udp, icmp, icmpv6, a number, or -1 for all")
	}
	n, err := ParseProtocol(text)
	if err != nil {
		return "", Errorf("InvalidPermission.Malformed", "%.20q is not an IP protocol: use tcp, udp, icmp, icmpv6, a number from 0 to 255, or -1 for all", text)
	}
	return ProtocolName(n), nil
}

// WithCIDR returns the rule for a prefix of IPv4 or IPv6, whose host bits are taken away.
func (r GroupRule) WithCIDR(text string, ipv6 bool) (GroupRule, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is6() != ipv6 || p.Addr().Is4In6() {
		return r, Errorf("InvalidParameterValue", "CIDR block %.60q cannot be read: write an address, a slash and a prefix length, as in %s", text, example(ipv6))
	}
	r.CIDR = p.Masked().String()
	return r, nil
}

func example(ipv6 bool) string {
	if ipv6 {
		return "2001:db8:1234:1a00::/64"
	}
	return "203.0.113.0/24"
}

// WithDescription returns the rule with what its owner says of it.
func (r GroupRule) WithDescription(text string) (GroupRule, error) {
	r.Description = text
	return r, groupText("The description of a rule", text)
}
