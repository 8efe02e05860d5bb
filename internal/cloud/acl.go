package cloud

import (
	"cmp"
	"net/netip"
	"slices"
)

// NetworkACL filters packets at the border of subnets, without memory of connections: the entry with the lowest number
// that matches decides, and what none matches is dropped.
type NetworkACL struct {
	ID      NetworkACLID
	Account AccountID
	VPC     VPCID
	Entries []ACLEntry // sorted: what comes in first, then by number
	Tags    Tags       `json:",omitempty"`
}

// ACLEntry is one numbered rule of a network ACL.
type ACLEntry struct {
	Number   int // 1..32766
	Egress   bool
	Protocol int // -1 for all
	Allow    bool
	CIDR     netip.Prefix
	FromPort int // TCP and UDP; with ICMP the type, -1 for all
	ToPort   int // with ICMP the code, -1 for all
}

// ACLsPerVPC and EntriesPerACL are EC2's quotas as an account begins with them. The latter is for each direction, and
// for IPv4 and IPv6 apart: https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
const (
	ACLsPerVPC    = 200
	EntriesPerACL = 20
)

// The numbers of the entries that end each list and drop what is left. They are shown and cannot be changed.
const (
	LastACLEntry   = 32767
	LastACLEntryV6 = 32768 // only in a VPC with IPv6
)

// OpenACL returns the entries of the ACL that a VPC begins with: everything may pass.
func OpenACL() []ACLEntry {
	var out []ACLEntry
	for _, egress := range []bool{false, true} {
		out = append(out, ACLEntry{Number: 100, Egress: egress, Protocol: -1, Allow: true, CIDR: netip.PrefixFrom(netip.IPv4Unspecified(), 0), FromPort: -1, ToPort: -1})
	}
	return out
}

// Shown returns the entries as EC2 shows them: with those that drop what none has matched.
func (a NetworkACL) Shown(v VPC) []ACLEntry {
	out := slices.Clone(a.Entries)
	for _, egress := range []bool{false, true} {
		last := ACLEntry{Number: LastACLEntry, Egress: egress, Protocol: -1, CIDR: netip.PrefixFrom(netip.IPv4Unspecified(), 0), FromPort: -1, ToPort: -1}
		out = append(out, last)
		if slices.ContainsFunc(v.Prefixes(), func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			last.Number, last.CIDR = LastACLEntryV6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			out = append(out, last)
		}
	}
	return sortEntries(out)
}

func sortEntries(list []ACLEntry) []ACLEntry {
	slices.SortFunc(list, func(a, b ACLEntry) int {
		if a.Egress != b.Egress {
			if b.Egress {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Number, b.Number)
	})
	return list
}

// EntryRequest is an entry as it is asked for. Ports are those of TCP and UDP, Type and Code those of ICMP; nil was not given.
type EntryRequest struct {
	Number           int64
	Egress           bool
	Protocol, Action string
	CIDR, CIDRv6     string
	From, To         *int64
	Type, Code       *int64
}

// NewACLEntry checks a request. TCP and UDP need ports, ICMP needs a type and code; what a protocol does not have is
// ignored, as EC2 documents.
func NewACLEntry(r EntryRequest) (ACLEntry, error) {
	e := ACLEntry{Number: int(r.Number), Egress: r.Egress, Allow: r.Action == "allow", FromPort: -1, ToPort: -1}
	if r.Number < 1 || r.Number >= LastACLEntry {
		return e, Errorf("InvalidParameterValue", "Rule number %d is out of range: choose one from 1 to %d", r.Number, LastACLEntry-1)
	}
	if r.Action != "allow" && r.Action != "deny" {
		return e, Errorf("InvalidParameterValue", "RuleAction is allow or deny, not %.20q", r.Action)
	}
	if (r.CIDR == "") == (r.CIDRv6 == "") {
		return e, Errorf("MissingParameter", "The request must contain exactly one of CidrBlock and Ipv6CidrBlock")
	}
	with, err := GroupRule{}.WithCIDR(r.CIDR+r.CIDRv6, r.CIDRv6 != "")
	if err != nil {
		return e, err
	}
	e.CIDR = netip.MustParsePrefix(with.CIDR)
	if e.Protocol, err = ParseProtocol(r.Protocol); err != nil {
		return e, err
	}
	return e.within(r)
}

// within adds the ports, or type and code, that the entry's protocol has.
func (e ACLEntry) within(r EntryRequest) (ACLEntry, error) {
	switch {
	case e.Protocol == ProtocolTCP, e.Protocol == ProtocolUDP:
		if r.From == nil || r.To == nil {
			return e, Errorf("MissingParameter", "An entry for %s needs PortRange.From and PortRange.To: 0 and 65535 for all ports", ProtocolName(e.Protocol))
		}
		e.FromPort, e.ToPort = int(*r.From), int(*r.To)
		return e, checkPorts(*r.From, *r.To)
	case e.Protocol == ProtocolICMP, e.Protocol == ProtocolICMPv6 && e.CIDR.Addr().Is6():
		if r.Type == nil || r.Code == nil {
			return e, Errorf("MissingParameter", "An entry for %s needs Icmp.Type and Icmp.Code: -1 for all", ProtocolName(e.Protocol))
		}
		e.FromPort, e.ToPort = int(*r.Type), int(*r.Code)
		return e, checkTypeCode(*r.Type, *r.Code)
	}
	return e, nil
}

func (a NetworkACL) at(egress bool, number int) int {
	return slices.IndexFunc(a.Entries, func(e ACLEntry) bool { return e.Egress == egress && e.Number == number })
}

// Add returns the ACL with a further entry.
func (a NetworkACL) Add(e ACLEntry) (NetworkACL, error) {
	if a.at(e.Egress, e.Number) >= 0 {
		return a, Errorf("NetworkAclEntryAlreadyExists", "%s has an entry with number %d in this direction: replace it, or choose another number", a.ID, e.Number)
	}
	a.Entries = sortEntries(append(slices.Clone(a.Entries), e))
	return a, a.checkCount(e)
}

// checkCount refuses more entries than an ACL may have of one direction and family.
func (a NetworkACL) checkCount(like ACLEntry) error {
	n := 0
	for _, e := range a.Entries {
		if e.Egress == like.Egress && e.CIDR.Addr().Is4() == like.CIDR.Addr().Is4() {
			n++
		}
	}
	if n > EntriesPerACL {
		return Errorf("NetworkAclEntryLimitExceeded", "A network ACL may have %d entries of each family in each direction: delete some first", EntriesPerACL)
	}
	return nil
}

// Replace returns the ACL with another entry in the place of the one that has its number.
func (a NetworkACL) Replace(e ACLEntry) (NetworkACL, error) {
	k := a.at(e.Egress, e.Number)
	if k < 0 {
		return a, a.noEntry(e.Number)
	}
	a.Entries = slices.Clone(a.Entries)
	a.Entries[k] = e
	return a, a.checkCount(e)
}

// Remove returns the ACL without an entry.
func (a NetworkACL) Remove(egress bool, number int64) (NetworkACL, error) {
	k := a.at(egress, int(number))
	if k < 0 && number >= LastACLEntry {
		return a, Errorf("InvalidParameterValue", "Entry %d ends every list and cannot be deleted", number)
	}
	if k < 0 {
		return a, a.noEntry(int(number))
	}
	a.Entries = slices.Delete(slices.Clone(a.Entries), k, k+1)
	return a, nil
}

func (a NetworkACL) noEntry(number int) error {
	return Errorf("InvalidNetworkAclEntry.NotFound", "%s has no entry with number %d in this direction", a.ID, number)
}
