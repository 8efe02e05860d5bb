package firewall

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// profiles compiles groups as interfaces ask for them, each once.
type profiles struct {
	groups      map[string]Group
	six         bool              // there is IPv6
	done        map[string]string // direction and group or list of groups -> chain
	asked       []byte
	lists       map[string]string // direction and groups as they were asked for -> chain
	members     map[string]bool
	sets        []set
	groupChains []chain
	chains      []chain
}

func newProfiles(groups []Group, six bool) *profiles {
	p := &profiles{six: six, groups: map[string]Group{}, done: map[string]string{}, lists: map[string]string{}, members: map[string]bool{}}
	for _, g := range groups {
		p.groups[g.ID] = g
	}
	return p
}

// profile returns the chain that accepts what any of the groups accepts and drops the rest.
// The order of the groups has no meaning, so it makes no second chain.
func (p *profiles) profile(direction string, groups []string) string {
	asked := append(p.asked[:0], direction...)
	for _, g := range groups {
		asked = append(append(asked, 0), g...)
	}
	p.asked = asked
	if name, ok := p.lists[string(asked)]; ok {
		return name // thousands of interfaces have few lists between them
	}
	name := p.compile(direction, groups)
	p.lists[string(asked)] = name
	return name
}

// accepted stands for the chain where there is nothing to look at.
const accepted = "accept"

// leaving is what becomes of packets of one IP version that leave an interface of these groups: the name of a chain, or that
// they are accepted, as a group allows all of them to leave, which a new one does.
func (p *profiles) leaving(groups []string, anywhere netip.Prefix) string {
	for _, id := range groups {
		for _, r := range p.groups[id].Out {
			if r.Protocol == AnyProtocol && r.Group == "" && r.Prefix == anywhere {
				return accepted
			}
		}
	}
	return p.profile("out", groups)
}

func (p *profiles) compile(direction string, groups []string) string {
	groups = slices.Compact(slices.Sorted(slices.Values(groups)))
	groups = slices.DeleteFunc(groups, func(id string) bool { _, ok := p.groups[id]; return !ok })
	var rs []rule
	for _, id := range groups {
		rs = append(rs, verdict(expr.VerdictJump, p.group(direction, p.groups[id])))
	}
	rs = append(rs, drop("sg"+direction))
	name := direction + "_" + digest(rs)
	if p.done[name] == "" {
		p.done[name] = name
		p.chains = append(p.chains, chain{name: name, rules: rs})
	}
	return name
}

// group returns the chain of one direction of a group, with the sets that hold its rules.
func (p *profiles) group(direction string, g Group) string {
	key := direction + "/" + g.ID
	if name := p.done[key]; name != "" {
		return name
	}
	stem, list, peer := object(g.ID)+"_i", g.In, saddr
	if direction == "out" {
		stem, list, peer = object(g.ID)+"_o", g.Out, daddr
	}
	var rs []rule
	byPeer := map[string][]Rule{}
	for _, r := range list {
		byPeer[r.Group] = append(byPeer[r.Group], r)
	}
	for _, ref := range slices.Sorted(maps.Keys(byPeer)) {
		if ref == "" {
			rs = append(rs, p.cidrRules(stem, four(byPeer[""]), peer)...)
		} else {
			rs = append(rs, p.referenceRules(stem, ref, byPeer[ref], peer)...)
		}
	}
	rs = append(rs, p.rules6(stem, direction, byPeer)...)
	name := stem + "_" + digest(rs)
	p.done[key] = name
	p.groupChains = append(p.groupChains, chain{name: name, rules: rs})
	return name
}

// few is how many ports of prefixes cost less as rules than a look into an interval set does: the look costs 100 ns (pipapo
// for three fields), a rule up to 30.
const few = 3

func (b box) entry() Entry {
	return Entry{Protocol: int(b.proto), Prefix: b.prefix, From: int(b.span.lo), To: int(b.span.hi)}
}

// cidrRules makes at most five rules however long the list: one for all protocols, few or one for ports, one for ICMP.
func (p *profiles) cidrRules(stem string, list []Rule, peer func(uint32) rule) []rule {
	var everything []netip.Prefix
	var ports, icmp []box
	for _, r := range list {
		switch {
		case r.Protocol == AnyProtocol:
			everything = append(everything, r.Prefix)
		case r.Protocol == protoICMP:
			icmp = append(icmp, box{r.Prefix, protoICMP, icmpSpan(r.From, r.To)})
		default:
			ports = append(ports, box{r.Prefix, uint8(r.Protocol), portSpan(r)})
		}
	}
	var rs []rule
	ip4 := family(nfprotoIPv4)
	if len(everything) == 1 {
		rs = append(rs, rules(within(peer, Entry{Prefix: everything[0].Masked()}), accept()))
	} else if len(everything) > 0 {
		s := prefixSet(stem+"_all", everything)
		s.skeleton = false
		p.sets = append(p.sets, s)
		rs = append(rs, rules(ip4, peer(reg1), in(s.name), accept()))
	}
	ports = disjoint(ports)
	if len(ports) <= few {
		for _, b := range ports {
			rs = append(rs, rules(within(peer, b.entry()), layer4(b.entry()), accept()))
		}
	} else {
		s := set{name: stem, key: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, interval: true}
		for _, b := range ports {
			a := bounds(b.prefix)
			s.elements = append(s.elements, element{
				key: slices.Concat(bytes4(a.lo), pad(b.proto), pad(port(b.span.lo)...)),
				end: slices.Concat(bytes4(a.hi), pad(b.proto), pad(port(b.span.hi)...)),
			})
		}
		p.sets = append(p.sets, s)
		rs = append(rs, rules(ip4, peer(reg1), meta(expr.MetaKeyL4PROTO, word1), dport(word2), in(s.name), accept()))
	}
	if len(icmp) > 0 {
		s := set{name: stem + "_icmp", key: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeICMPType, nftables.TypeICMPCode}, interval: true}
		for _, b := range disjoint(icmp) {
			a := bounds(b.prefix)
			for _, r := range icmpBoxes(b.span) {
				s.elements = append(s.elements, element{
					key: slices.Concat(bytes4(a.lo), pad(r[0]), pad(r[2])),
					end: slices.Concat(bytes4(a.hi), pad(r[1]), pad(r[3])),
				})
			}
		}
		p.sets = append(p.sets, s)
		rs = append(rs, rules(l4proto(protoICMP), ip4, peer(reg1), payload(thHeader, 0, 1, word1), payload(thHeader, 1, 1, word2), in(s.name), accept()))
	}
	return rs
}

// referenceRules makes the rules for the members of another group, or of the group itself.
func (p *profiles) referenceRules(stem, ref string, list []Rule, peer func(uint32) rule) []rule {
	member := p.memberSet(ref)
	match := rules(family(nfprotoIPv4), peer(reg1), in(member))
	var ports, icmp []box
	for _, r := range list {
		switch r.Protocol {
		case AnyProtocol:
			return []rule{rules(match, accept())}
		case protoICMP:
			icmp = append(icmp, box{anywhere, protoICMP, icmpSpan(r.From, r.To)})
		default:
			ports = append(ports, box{anywhere, uint8(r.Protocol), portSpan(r)})
		}
	}
	stem += "_ref_" + object(ref)
	var rs []rule
	ports = disjoint(ports)
	if len(ports) <= few {
		for _, b := range ports {
			rs = append(rs, rules(match, layer4(b.entry()), accept()))
		}
	} else {
		s := set{name: stem, key: []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, interval: true}
		for _, b := range ports {
			s.elements = append(s.elements, element{
				key: slices.Concat(pad(b.proto), pad(port(b.span.lo)...)),
				end: slices.Concat(pad(b.proto), pad(port(b.span.hi)...)),
			})
		}
		p.sets = append(p.sets, s)
		rs = append(rs, rules(match, meta(expr.MetaKeyL4PROTO, reg1), dport(word1), in(s.name), accept()))
	}
	if len(icmp) > 0 {
		s := set{name: stem + "_icmp", key: []nftables.SetDatatype{nftables.TypeICMPType, nftables.TypeICMPCode}, interval: true}
		for _, b := range disjoint(icmp) {
			for _, r := range icmpBoxes(b.span) {
				s.elements = append(s.elements, element{key: slices.Concat(pad(r[0]), pad(r[2])), end: slices.Concat(pad(r[1]), pad(r[3]))})
			}
		}
		p.sets = append(p.sets, s)
		rs = append(rs, rules(match, l4proto(protoICMP), payload(thHeader, 0, 1, reg1), payload(thHeader, 1, 1, word1), in(s.name), accept()))
	}
	return rs
}

// memberSet returns the name of the set of a group's members; a group nobody knows has none.
func (p *profiles) memberSet(id string) string {
	name := "sgm_" + object(id)
	if !p.members[id] {
		p.members[id] = true
		p.sets = append(p.sets, addressSet(name, p.groups[id].Members, false))
	}
	return name
}

var (
	anywhere  = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	anywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// portSpan is the rule's ports; protocols without ports, and -1, mean all.
func portSpan(r Rule) span {
	if r.From < 0 || (r.Protocol != protoTCP && r.Protocol != protoUDP) {
		return span{0, 0xffff}
	}
	return span{uint16(r.From), uint16(max(r.From, r.To))}
}

// pad fills a field of a concatenated key up to four bytes.
func pad(b ...byte) []byte { return append(b, make([]byte, 4-len(b))...) }
