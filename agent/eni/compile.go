package eni

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/delta"
)

// Plan is a Config in the terms of the engines.
type Plan struct {
	Link     link.Config
	Firewall map[string]firewall.Config // by network
	DHCP     []Leases
}

// Leases are a network's DHCP answers, each with the tap that it belongs to: indexes are the kernel's to give.
type Leases struct {
	Network string
	Taps    []string
	Hosts   []*dhcp.Host
	IPv6    Leases6
}

// Refused is why a part of the wish cannot be: the error says what of it, the rest of the plan stands.
type Refused struct {
	Interface cloud.InterfaceID // empty: it is not about one interface
	Err       error
}

func (r Refused) Error() string { return r.Err.Error() }
func (r Refused) Unwrap() error { return r.Err }

func refuse(id cloud.InterfaceID, format string, args ...any) error {
	return Refused{id, fmt.Errorf(format, args...)}
}

// Compile is pure: the same Config always gives the same Plan. What would make two guests one, or cannot be read, is
// left out of the plan and named by the error, which joins one Refused for each; of two interfaces that
// want one address, the one attached first has it. A rule that cannot be read allows nothing.
func Compile(c Config) (Plan, error) { return newCompiler().Compile(c) }

// Compile is the package's Compile, quicker for a Config that is nearly the last one.
func (m *compiler) Compile(c Config) (Plan, error) {
	pool := c.Pool
	if !pool.IsValid() {
		pool = DefaultPool
	}
	p := Plan{Link: link.Config{Outside: c.Uplink, Pool: pool, Underlay: c.Underlay}, Firewall: map[string]firewall.Config{}}
	var errs []error
	settings, mine, last := c, byVPC(c.Interfaces), m.last
	settings.VPCs, settings.Interfaces = nil, nil
	m.last = make(map[cloud.VPCID]*compiled, len(c.VPCs))
	old := &compiler{last: last}
	vpcs := slices.SortedFunc(slices.Values(c.VPCs), func(a, b cloud.HostNetwork) int { return cmp.Compare(a.VPC.ID, b.VPC.ID) })
	for _, v := range vpcs {
		id := v.VPC.ID
		if _, ok := p.Firewall[string(id)]; ok {
			errs = append(errs, refuse("", "compile %s: it is there twice", id))
			continue
		}
		if id == "" || strings.ContainsAny(string(id), "/.") {
			errs = append(errs, refuse("", "compile %q: it cannot name a namespace", id))
			continue
		}
		now := old.vpc(settings, v, mine[id])
		m.last[id] = now
		delete(mine, id)
		p.add(now.plan)
		errs = append(errs, now.errs...)
	}
	for id, strays := range mine {
		for _, i := range strays {
			errs = append(errs, refuse(i.ID, "compile %s: its VPC %q is not in the configuration", i.ID, id))
		}
	}
	return p, errors.Join(errs...)
}

// add puts a VPC's plan to that of the host.
func (p *Plan) add(o Plan) {
	p.Link.Networks = append(p.Link.Networks, o.Link.Networks...)
	maps.Copy(p.Firewall, o.Firewall)
	p.DHCP = append(p.DHCP, o.DHCP...)
}

// part compiles one interface, unless it cannot be beside those that are.
func (n *compiled) part(i Interface) (*part, error) {
	mac, err := n.used.check(i)
	if err != nil {
		return nil, err
	}
	p := &part{}
	n.used.take(i)
	name, prefixes, mtu := TapName(i.ID), delegated(i), cmp.Or(i.MTU, DefaultMTU)
	p.tap = &link.Tap{Name: name, Alias: string(i.ID), MTU: mtu, Owner: i.Owner, Guest: mac, Addresses: i.Addresses, Prefixes: prefixes, Shaper: shaper(i)}
	p.rule = &firewall.Interface{
		Name: name, MAC: mac, Subnet: string(i.Subnet), Instance: speaker(n.settings, i), Addresses: i.Addresses, Prefixes: prefixes,
		Groups: texts(i.Groups), Mark: mark(i.ID), Unchecked: !i.SourceDestCheck,
	}
	p.tap.Addresses6, p.tap.Prefixes6 = own6(i)
	p.rule.Addresses6, p.rule.Prefixes6 = p.tap.Addresses6, p.tap.Prefixes6
	p.host = lease(n.settings, n.vpc, i, mac, mtu)
	p.ipv6 = lease6(n.vpc, i, mac, mtu)
	return p, nil
}

// shaper is the bound that an interface shares with all of its instance.
func shaper(i Interface) link.Shaper {
	if i.Bandwidth.Baseline <= 0 {
		return link.Shaper{}
	}
	const mbit = 1_000_000 / 8
	owner := cmp.Or(string(i.Instance), string(i.ID))
	return link.Shaper{Name: digest(owner, 6), Rate: uint64(i.Bandwidth.Baseline) * mbit, Peak: uint64(max(i.Bandwidth.Peak, 0)) * mbit}
}

// assemble makes the plan of what all interfaces give.
func (n *compiled) assemble() {
	v, name := n.vpc, string(n.vpc.VPC.ID)
	local, local6, services := allow(Services(v.VPC))
	network := link.Network{Name: name, Local: local, Local6: local6, Closed: n.used.vpc, Taps: make([]*link.Tap, len(n.parts))}
	rules := firewall.Config{
		Prefixes: n.used.vpc, Services: services, Interfaces: make([]*firewall.Interface, len(n.parts)),
	}
	leases := Leases{Network: name, Taps: make([]string, len(n.parts)), Hosts: make([]*dhcp.Host, len(n.parts)), IPv6: Leases6{Prefixes: blocks6(v.VPC)}}
	network.Closed6, rules.Prefixes6 = blocks6(v.VPC), blocks6(v.VPC)
	network.Routed6 = routed6(n.settings.Pool6, network.Closed6)
	for k := range n.parts {
		p := n.parts[k]
		network.Taps[k], rules.Interfaces[k], leases.Taps[k], leases.Hosts[k] = p.tap, p.rule, p.tap.Name, p.host
		leases.IPv6.add(p.tap.Name, p.ipv6)
		router := n.real[k].Network.Router()
		if !slices.Contains(rules.Gateways, router) {
			rules.Gateways = append(rules.Gateways, router)
			network.Local = append(network.Local, router)
		}
		if router := router6(n.real[k].Network); router.IsValid() && !slices.Contains(rules.Gateways6, router) {
			rules.Gateways6 = append(rules.Gateways6, router)
			network.Local6 = append(network.Local6, router)
		}
	}
	n.errs = append(n.errs, n.apart(&rules, &network)...)
	n.errs = append(n.errs, publish(n.real, &rules, &network)...)
	n.errs = append(n.errs, compileSubnets(v, n.real, &rules, &network)...)
	groups, groupErrs := chooseGroups(v.VPC.ID, n.groups, n.asked)
	rules.Groups = groups
	n.errs = append(n.errs, groupErrs...)
	for k, i := range rules.Interfaces { // the next plan must know this one's interfaces again
		if was := n.parts[k]; was.rule != i {
			n.parts[k] = &part{tap: was.tap, rule: i, host: was.host, ipv6: was.ipv6}
		}
	}
	n.plan = Plan{Link: link.Config{Networks: []link.Network{network}}, Firewall: map[string]firewall.Config{name: rules}, DHCP: []Leases{leases}}
}

// claims are what the interfaces of a VPC have, each once.
type claims struct {
	vpc       []netip.Prefix
	blocks    []netip.Prefix // those of IPv6
	local     []netip.Addr   // what the host itself has in the VPC
	addresses map[netip.Addr]cloud.InterfaceID
	prefixes  map[netip.Prefix]cloud.InterfaceID
	taps      map[string]cloud.InterfaceID
}

func newClaims(v cloud.HostNetwork, n int) claims {
	prefixes := slices.DeleteFunc(v.VPC.Prefixes(), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	local, local6, _ := allow(Services(v.VPC))
	return claims{
		prefixes, blocks6(v.VPC), slices.Concat(local, local6), make(map[netip.Addr]cloud.InterfaceID, n), map[netip.Prefix]cloud.InterfaceID{}, make(map[string]cloud.InterfaceID, n),
	}
}

// drop is the way back of take.
func (c claims) drop(i Interface) {
	delete(c.taps, TapName(i.ID))
	addresses, prefixes := own6(i)
	for _, a := range slices.Concat(i.Addresses, addresses) {
		delete(c.addresses, a)
	}
	for _, p := range slices.Concat(delegated(i), prefixes) {
		delete(c.prefixes, p)
	}
}

func (c claims) take(i Interface) {
	c.taps[TapName(i.ID)] = i.ID
	addresses, prefixes := own6(i)
	for _, a := range slices.Concat(i.Addresses, addresses) {
		c.addresses[a] = i.ID
	}
	for _, p := range slices.Concat(delegated(i), prefixes) {
		c.prefixes[p] = i.ID
	}
}

// check refuses interfaces that cannot be, and returns the MAC.
func (c claims) check(i Interface) (mac [6]byte, err error) {
	if other, ok := c.taps[TapName(i.ID)]; ok {
		return mac, fmt.Errorf("it has the same tap as %s", other)
	}
	if mac, err = parseMAC(i.MAC); err != nil {
		return mac, err
	}
	if mac == link.RouterMAC {
		return mac, fmt.Errorf("MAC %s is the router's", i.MAC)
	}
	if len(i.Addresses) == 0 {
		return mac, fmt.Errorf("it has no address")
	}
	if !i.Network.CIDR.IsValid() || !i.Network.CIDR.Addr().Is4() {
		return mac, fmt.Errorf("subnet %s is not an IPv4 prefix", i.Network.CIDR)
	}
	for _, a := range i.Addresses {
		if err := c.address(i, a); err != nil {
			return mac, err
		}
	}
	for _, p := range delegated(i) {
		if err := c.prefix(i, p); err != nil {
			return mac, err
		}
	}
	return mac, c.six(i)
}

func (c claims) address(i Interface, a netip.Addr) error {
	if !i.Network.CIDR.Contains(a) || a == i.Network.Router() {
		return fmt.Errorf("address %s is not one for guests of %s", a, i.Network.CIDR)
	}
	if !slices.ContainsFunc(c.vpc, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return fmt.Errorf("address %s is not of its VPC", a)
	}
	if slices.Contains(c.local, a) {
		return fmt.Errorf("address %s is the resolver's", a)
	}
	return c.free(a)
}

// free reports whether nobody has the address yet.
func (c claims) free(a netip.Addr) error {
	if other, ok := c.addresses[a]; ok {
		return fmt.Errorf("address %s belongs to %s", a, other)
	}
	for p, other := range c.prefixes {
		if p.Contains(a) {
			return fmt.Errorf("address %s is in prefix %s of %s", a, p, other)
		}
	}
	return nil
}

func (c claims) prefix(i Interface, p netip.Prefix) error {
	if p.Bits() <= i.Network.CIDR.Bits() || !i.Network.CIDR.Contains(p.Addr()) || p.Contains(i.Network.Router()) {
		return fmt.Errorf("prefix %s is not one for guests of %s", p, i.Network.CIDR)
	}
	return c.apart(p)
}

// apart reports whether nobody has anything of the prefix yet.
func (c claims) apart(p netip.Prefix) error {
	for a, other := range c.addresses {
		if p.Contains(a) {
			return fmt.Errorf("address %s of prefix %s belongs to %s", a, p, other)
		}
	}
	for q, other := range c.prefixes {
		if p.Overlaps(q) {
			return fmt.Errorf("prefix %s overlaps %s of %s", p, q, other)
		}
	}
	return nil
}

// delegated returns the IPv4 prefixes of an interface, in order.
func delegated(i Interface) (out []netip.Prefix) {
	for _, p := range i.Prefixes {
		if p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}

// speaker names who an interface may speak as: any of its instance, or itself only.
func speaker(c Config, i Interface) string {
	if c.Strict {
		return ""
	}
	return string(i.Instance)
}

func parseMAC(s string) (mac [6]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != 6 || len(s) != 17 || b[0]&1 != 0 {
		return mac, fmt.Errorf("MAC %q is not a unicast address with colons", s)
	}
	return [6]byte(b), nil
}

// group is a group as it was compiled last.
type group struct {
	from cloud.HostGroup
	to   firewall.Group
	all  []netip.Addr // its members, in order
	errs []error
}

// compileGroup translates a group, whose rules and members may change in the caller's hands. It may have been another
// before.
func compileGroup(g cloud.HostGroup, before *group) *group {
	g.Members, g.Ingress, g.Egress = slices.Clone(g.Members), slices.Clone(g.Ingress), slices.Clone(g.Egress)
	in, inErrs := compileRules(g.ID, g.Ingress)
	egress, outErrs := compileRules(g.ID, g.Egress)
	all := sortMembers(g.Members, before)
	to := firewall.Group{ID: string(g.ID), In: in, Out: egress}
	to.Members, to.Members6 = families(all)
	return &group{from: g, to: to, all: all, errs: append(inErrs, outErrs...)}
}

// sortMembers returns each member once, in order. Where few came or went there is no need to sort thousands.
func sortMembers(members []netip.Addr, before *group) []netip.Addr {
	const few = 16
	if len(members) == 0 {
		return nil
	}
	if before != nil {
		was := []netip.Addr(before.from.Members)
		from, endWas, endIs := delta.Middle(was, members, func(x, y *netip.Addr) bool { return *x == *y })
		if gone, come := was[from:endWas], members[from:endIs]; len(gone) <= few && len(come) <= few {
			sorted := append(make([]netip.Addr, 0, len(before.all)+len(come)), before.all...)
			for _, a := range gone {
				if n, ok := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare); ok && !slices.Contains(members, a) {
					sorted = slices.Delete(sorted, n, n+1)
				}
			}
			for _, a := range come {
				if n, ok := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare); !ok {
					sorted = slices.Insert(sorted, n, a)
				}
			}
			return sorted
		}
	}
	sorted := slices.Clone(members)
	slices.SortFunc(sorted, netip.Addr.Compare)
	return slices.Compact(sorted)
}

// chooseGroups returns the groups of a VPC that its interfaces are in, and those their rules name.
func chooseGroups(vpc cloud.VPCID, groups []*group, mine []*Interface) (out []firewall.Group, errs []error) {
	used := map[cloud.GroupID]bool{}
	var last []cloud.GroupID // neighbours are mostly of the same groups
	for _, i := range mine {
		if slices.Equal(i.Groups, last) {
			continue
		}
		last = i.Groups
		for _, g := range i.Groups {
			used[g] = true
		}
	}
	for _, g := range groups {
		if used[g.from.ID] {
			for _, r := range slices.Concat(g.from.Ingress, g.from.Egress) {
				if r.Group != "" {
					used[r.Group] = true // only its members matter, its rules are not followed further
				}
			}
		}
	}
	for _, g := range slices.SortedFunc(slices.Values(groups), func(a, b *group) int { return cmp.Compare(a.from.ID, b.from.ID) }) {
		if used[g.from.ID] && g.from.VPC == vpc {
			to := g.to
			to.Behind6 = behind6(g.from.ID, mine)
			out, errs = append(out, to), append(errs, g.errs...)
		}
	}
	return out, errs
}

func compileRules(group cloud.GroupID, rules []cloud.GroupRule) (out []firewall.Rule, errs []error) {
	for _, r := range rules {
		f, err := compileRule(r)
		if err != nil {
			errs = append(errs, refuse("", "compile group %s: rule %s: %w", group, r.ID, err))
			continue
		}
		out = append(out, f)
	}
	return out, errs
}

func compileRule(r cloud.GroupRule) (f firewall.Rule, err error) {
	f = firewall.Rule{From: r.FromPort, To: r.ToPort, Group: string(r.Group)}
	if f.Protocol, err = parseProtocol(r.Protocol); err != nil {
		return f, err
	}
	if r.Group == "" {
		if f.Prefix, err = netip.ParsePrefix(r.CIDR); err != nil {
			return f, err
		}
	}
	return f, checkPorts(f)
}

func parseProtocol(s string) (int, error) {
	switch s {
	case "-1", "all":
		return firewall.AnyProtocol, nil
	case "tcp":
		return 6, nil
	case "udp":
		return 17, nil
	case "icmp":
		return 1, nil
	case "icmpv6":
		return 58, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q is not tcp, udp, icmp, -1 or a number up to 255", s)
	}
	return int(n), nil
}

func checkPorts(r firewall.Rule) error {
	limit := 65535
	switch r.Protocol {
	case 1, 58:
		limit = 255
	case 6, 17:
		if r.From > r.To {
			return fmt.Errorf("ports %d to %d are the wrong way round", r.From, r.To)
		}
	default:
		return nil
	}
	if r.From < -1 || r.To < -1 || r.From > limit || r.To > limit {
		return fmt.Errorf("%d to %d are out of range", r.From, r.To)
	}
	return nil
}

func texts[T ~string](ids []T) []string {
	var out []string
	for _, id := range ids {
		out = append(out, string(id))
	}
	return out
}
