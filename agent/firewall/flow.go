package firewall

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/delta"
)

// Flow is a tracked connection: as its first packet came, and as answers to it come.
type Flow struct {
	Protocol                      uint8
	Source, Destination           netip.AddrPort
	ReplySource, ReplyDestination netip.AddrPort
}

// Judge says whether tracked connections would be let in by a configuration.
type Judge struct {
	cfg     Config
	uplink  netip.Addr
	owners  map[netip.Addr]*Interface
	behind  []*Interface // those with prefixes
	groups  map[string]judged
	public  map[netip.Addr]netip.Addr // private of public
	sources map[netip.Addr]netip.Addr // public of private
	far     map[netip.Addr]bool
}

// judged is a group whose members are found at once.
type judged struct {
	Group
	members map[netip.Addr]bool
}

// NewJudge returns the judge of a configuration; uplink is the namespace's own address on its uplink.
func NewJudge(cfg Config, uplink netip.Addr) *Judge {
	j := &Judge{
		cfg: cfg, uplink: uplink, owners: map[netip.Addr]*Interface{}, groups: map[string]judged{},
		public: map[netip.Addr]netip.Addr{}, sources: map[netip.Addr]netip.Addr{},
	}
	for n := range cfg.Interfaces {
		i := cfg.Interfaces[n]
		for _, a := range slices.Concat(i.Addresses, i.Addresses6) {
			j.owners[a] = i
		}
		if len(i.Prefixes)+len(i.Prefixes6) > 0 {
			j.behind = append(j.behind, i)
		}
		for _, p := range i.Public {
			j.public[p.Public], j.sources[p.Private] = p.Private, p.Public
		}
	}
	if len(cfg.Far) > 0 {
		j.far = make(map[netip.Addr]bool, len(cfg.Far))
	}
	for _, a := range cfg.Far {
		j.far[a] = true
	}
	for _, g := range cfg.Groups {
		members := map[netip.Addr]bool{}
		for _, a := range slices.Concat(g.Members, g.Members6) {
			members[a] = true
		}
		j.groups[g.ID] = judged{g, members}
	}
	return j
}

// Allows reports whether the flow's first packet would be let through now, from and to the same ends under the same
// addresses. ICMP is taken for an echo, the one kind that lasts. What sees every packet has no part in this: network
// ACLs, and the rules for what is forwarded in another's name.
func (j *Judge) Allows(f Flow) bool {
	peer := f.ReplySource // the destination, once translated
	if from := j.owner(f.Source.Addr()); from != nil {
		if !j.local(peer.Addr()) && j.owner(peer.Addr()) == nil && !j.vpc(peer.Addr()) && !j.leaves(f) {
			return false
		}
		if !j.local(peer.Addr()) && !j.some(from.Groups, false, f.Protocol, peer.Addr(), peer.Port()) {
			return false
		}
	} else if j.vpc(f.Source.Addr()) && !j.local(f.Source.Addr()) && !j.elsewhere(f.Source.Addr()) {
		return false
	}
	if !j.leads(f.Destination.Addr(), peer.Addr()) {
		return false
	}
	return j.admits(f, peer)
}

// leads reports whether what is for one address is, or has been, for the other: as the private one of a public one, or
// because a guest did not know the one and has it as its first. What was led there stays there when the guest gets to
// know it.
func (j *Judge) leads(to, peer netip.Addr) bool {
	if private, ok := j.public[to]; ok {
		to = private
	}
	if to == peer {
		return true
	}
	i := j.owners[to]
	return i != nil && i.Addresses[0] == peer
}

// admits reports whether the groups of the destination, if it is a guest, let the flow in.
func (j *Judge) admits(f Flow, peer netip.AddrPort) bool {
	to := j.owner(peer.Addr())
	if to == nil {
		t := j.target(f.Source.Addr(), peer.Addr())
		if t.mark != 0 {
			return j.through(t.mark, f)
		}
		return !j.vpc(peer.Addr()) || j.local(peer.Addr()) || j.elsewhere(peer.Addr())
	}
	return j.some(to.Groups, true, f.Protocol, f.Source.Addr(), peer.Port())
}

// through reports whether the instance that the flow goes to on its way lets it in. That of another host is judged there.
func (j *Judge) through(mark uint32, f Flow) bool {
	k := slices.IndexFunc(j.cfg.Interfaces, func(i *Interface) bool { return i.Mark == mark })
	return k < 0 || j.some(j.cfg.Interfaces[k].Groups, true, f.Protocol, f.Source.Addr(), f.ReplySource.Port())
}

// elsewhere reports whether a guest of another host has the address.
func (j *Judge) elsewhere(a netip.Addr) bool { return j.far[a] || inAny(j.cfg.Far6, a) }

// leaves reports whether a guest's flow out of the VPC has the way and the source that it would get now.
func (j *Judge) leaves(f Flow) bool {
	t := j.target(f.Source.Addr(), f.ReplySource.Addr())
	now := f.ReplyDestination.Addr()
	public, published := j.sources[f.Source.Addr()]
	switch {
	case t.mark != 0:
		return now == f.Source.Addr() // it goes to an instance as it is
	case t.nat.IsValid():
		return now == t.nat
	case !t.internet:
		return false
	case now.Is6(): // nobody translates it
		return now == f.Source.Addr()
	case published:
		return now == public
	}
	return now == j.uplink
}

// target is where the longest route of the source's subnet leads.
func (j *Judge) target(from, to netip.Addr) (t target) {
	bits := -1
	for _, s := range j.cfg.Subnets {
		if !s.CIDR.Contains(from) && !s.CIDR6.Contains(from) {
			continue
		}
		for _, r := range slices.Concat(s.Routes, s.Routes6) {
			if r.Destination.Contains(to) && r.Destination.Bits() > bits {
				bits, t = r.Destination.Bits(), r.target()
			}
		}
	}
	return t
}

func (j *Judge) owner(a netip.Addr) *Interface {
	if i := j.owners[a]; i != nil {
		return i
	}
	for _, i := range j.behind {
		if inAny(i.Prefixes, a) || inAny(i.Prefixes6, a) {
			return i
		}
	}
	return nil
}

func (j *Judge) vpc(a netip.Addr) bool {
	return inAny(j.cfg.Prefixes, a) || inAny(j.cfg.Prefixes6, a)
}

// local is what the namespace itself answers: no group is asked.
func (j *Judge) local(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsMulticast() || a == j.uplink || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		slices.Contains(j.cfg.Gateways, a) || slices.Contains(j.cfg.Gateways6, a) || slices.ContainsFunc(j.cfg.Services, func(s Service) bool { return s.At.Addr() == a })
}

// some reports whether one of the groups allows it.
func (j *Judge) some(groups []string, in bool, protocol uint8, peer netip.Addr, port uint16) bool {
	return slices.ContainsFunc(groups, func(id string) bool {
		list := j.groups[id].Out
		if in {
			list = j.groups[id].In
		}
		return slices.ContainsFunc(list, func(r Rule) bool { return j.matches(r, protocol, peer, port) })
	})
}

func (j *Judge) member(group string, a netip.Addr) bool {
	g := j.groups[group]
	return g.members[a] || inAny(g.Behind6, a)
}

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// holdsEcho reports whether a rule of ICMP lets an echo request pass.
func holdsEcho(r Rule, kind uint16) bool {
	s, echo := icmpSpan(r.From, r.To), kind<<8
	return s.lo <= echo && echo <= s.hi
}

func (j *Judge) matches(r Rule, protocol uint8, peer netip.Addr, port uint16) bool {
	if r.Group != "" && !j.member(r.Group, peer) || r.Group == "" && !r.Prefix.Contains(peer) {
		return false
	}
	switch {
	case r.Protocol == AnyProtocol:
		return true
	case r.Protocol != int(protocol):
		return false
	case protocol == protoICMP:
		return holdsEcho(r, 8)
	case protocol == protoICMPv6:
		return holdsEcho(r, echoRequest6)
	}
	s := portSpan(r)
	return protocol != protoTCP && protocol != protoUDP || s.lo <= port && port <= s.hi
}

// Narrows reports whether something that the old configuration allows may not be allowed by the new one, so that there
// may be connections to end. It errs on the side of yes.
func Narrows(before, after Config) bool {
	if !contains(after.Far, before.Far) || !contains(after.Far6, before.Far6) || !contains(after.Prefixes, before.Prefixes) || !contains(after.Prefixes6, before.Prefixes6) ||
		!contains(after.Gateways, before.Gateways) || !contains(after.Gateways6, before.Gateways6) || !contains(after.Services, before.Services) {
		return true
	}
	from, endWas, endIs := delta.Middle(before.Interfaces, after.Interfaces, equalInterfaces)
	now := make(map[string]*Interface, endIs-from)
	for k := from; k < endIs; k++ {
		now[after.Interfaces[k].Name] = after.Interfaces[k]
	}
	for k := range before.Interfaces[from:endWas] {
		was := before.Interfaces[from+k]
		is := now[was.Name]
		if is == nil || is.MAC != was.MAC || !contains(is.Addresses, was.Addresses) || !contains(is.Prefixes, was.Prefixes) ||
			!contains(is.Addresses6, was.Addresses6) || !contains(is.Prefixes6, was.Prefixes6) ||
			!contains(is.Groups, was.Groups) || !same(is.Public, was.Public) || was.Unchecked && !is.Unchecked {
			return true
		}
	}
	groups := map[string]Group{}
	for _, g := range after.Groups {
		groups[g.ID] = g
	}
	for _, was := range before.Groups {
		is := groups[was.ID]
		if !contains(is.In, was.In) || !contains(is.Out, was.Out) || !contains(is.Members, was.Members) ||
			!contains(is.Members6, was.Members6) || !contains(is.Behind6, was.Behind6) {
			return true
		}
	}
	return routesNarrow(before.Subnets, after.Subnets)
}

func routesNarrow(before, after []Subnet) bool {
	now := map[string]Subnet{}
	for _, s := range after {
		now[s.ID] = s
	}
	return slices.ContainsFunc(before, func(was Subnet) bool {
		is, ok := now[was.ID]
		return ok && !(same(is.Routes, was.Routes) && same(is.Routes6, was.Routes6)) || !ok && len(was.Routes)+len(was.Routes6) > 0
	})
}

// equalInterfaces is quick for what was compiled once and kept.
func equalInterfaces(x, y **Interface) bool {
	a, b := *x, *y
	return a == b || a.Name == b.Name && a.MAC == b.MAC && a.Subnet == b.Subnet && a.Instance == b.Instance && a.Mark == b.Mark && a.Unchecked == b.Unchecked &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Prefixes, b.Prefixes) &&
		slices.Equal(a.Addresses6, b.Addresses6) && slices.Equal(a.Prefixes6, b.Prefixes6) && slices.Equal(a.Public, b.Public) && slices.Equal(a.Groups, b.Groups)
}

func contains[T comparable](all, some []T) bool {
	from, _, rest := delta.Middle(all, some, func(x, y *T) bool { return *x == *y })
	if from == rest {
		return true
	}
	have := map[T]bool{}
	for _, a := range all {
		have[a] = true
	}
	return !slices.ContainsFunc(some, func(s T) bool { return !have[s] })
}

func same[T comparable](a, b []T) bool {
	if slices.Equal(a, b) {
		return true
	}
	count := map[T]int{}
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
	}
	return !slices.ContainsFunc(slices.Collect(maps.Values(count)), func(n int) bool { return n != 0 })
}
