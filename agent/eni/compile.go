package eni

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
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
	Hosts   []dhcp.Host
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
func Compile(c Config) (Plan, error) {
	pool := c.Pool
	if !pool.IsValid() {
		pool = DefaultPool
	}
	p := Plan{Link: link.Config{Outside: c.Uplink, Pool: pool}, Firewall: map[string]firewall.Config{}}
	var errs []error
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
		errs = append(errs, p.vpc(c, v)...)
	}
	for _, i := range c.Interfaces {
		if _, ok := p.Firewall[string(i.VPC)]; !ok {
			errs = append(errs, refuse(i.ID, "compile %s: its VPC %q is not in the configuration", i.ID, i.VPC))
		}
	}
	return p, errors.Join(errs...)
}

func (p *Plan) vpc(c Config, v cloud.HostNetwork) (errs []error) {
	name := string(v.VPC.ID)
	prefixes := slices.DeleteFunc(v.VPC.Prefixes(), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	network := link.Network{Name: name, Local: []netip.Addr{Metadata.Addr()}, Closed: prefixes}
	rules := firewall.Config{Prefixes: prefixes, Services: []netip.AddrPort{Metadata, Gateway}}
	leases := Leases{Network: name}
	mine := slices.DeleteFunc(slices.Clone(c.Interfaces), func(i Interface) bool { return i.VPC != v.VPC.ID })
	slices.SortFunc(mine, func(a, b Interface) int {
		return cmp.Or(a.AttachTime.Compare(b.AttachTime), cmp.Compare(a.ID, b.ID))
	})
	used := claims{prefixes, map[netip.Addr]cloud.InterfaceID{}, map[netip.Prefix]cloud.InterfaceID{}, map[string]cloud.InterfaceID{}}
	var real []Interface
	for _, i := range mine {
		mac, err := used.check(i)
		if err != nil {
			errs = append(errs, refuse(i.ID, "compile interface %s: %w", i.ID, err))
			continue
		}
		used.take(i)
		real = append(real, i)
		router := i.Network.Router()
		if !slices.Contains(rules.Gateways, router) {
			rules.Gateways = append(rules.Gateways, router)
			network.Local = append(network.Local, router)
		}
		mtu := cmp.Or(i.MTU, DefaultMTU)
		network.Taps = append(network.Taps, link.Tap{
			Name: TapName(i.ID), Alias: string(i.ID), MTU: mtu, Owner: i.Owner, Guest: mac, Addresses: i.Addresses,
			Prefixes: delegated(i),
		})
		rules.Interfaces = append(rules.Interfaces, firewall.Interface{
			Name: TapName(i.ID), MAC: mac, Subnet: string(i.Subnet), Instance: speaker(c, i), Addresses: i.Addresses, Prefixes: delegated(i),
			Groups: texts(i.Groups), Mark: mark(i.ID), Unchecked: !i.SourceDestCheck,
		})
		leases.Taps = append(leases.Taps, TapName(i.ID))
		leases.Hosts = append(leases.Hosts, lease(c, v, i, mac, mtu))
	}
	errs = append(errs, publish(real, &rules, &network)...)
	errs = append(errs, compileSubnets(v, real, &rules, &network)...)
	groups, groupErrs := compileGroups(v.VPC.ID, v.Groups, mine)
	rules.Groups = groups
	p.Link.Networks = append(p.Link.Networks, network)
	p.Firewall[name] = rules
	p.DHCP = append(p.DHCP, leases)
	return append(errs, groupErrs...)
}

// claims are what the interfaces of a VPC have, each once.
type claims struct {
	vpc       []netip.Prefix
	addresses map[netip.Addr]cloud.InterfaceID
	prefixes  map[netip.Prefix]cloud.InterfaceID
	taps      map[string]cloud.InterfaceID
}

func (c claims) take(i Interface) {
	c.taps[TapName(i.ID)] = i.ID
	for _, a := range i.Addresses {
		c.addresses[a] = i.ID
	}
	for _, p := range delegated(i) {
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
	return mac, nil
}

func (c claims) address(i Interface, a netip.Addr) error {
	if !i.Network.CIDR.Contains(a) || a == i.Network.Router() {
		return fmt.Errorf("address %s is not one for guests of %s", a, i.Network.CIDR)
	}
	if !slices.ContainsFunc(c.vpc, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return fmt.Errorf("address %s is not of its VPC", a)
	}
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

// compileGroups translates the groups of a VPC that its interfaces are in, and those their rules name.
func compileGroups(vpc cloud.VPCID, groups []cloud.HostGroup, mine []Interface) (out []firewall.Group, errs []error) {
	used := map[cloud.GroupID]bool{}
	for _, i := range mine {
		for _, g := range i.Groups {
			used[g] = true
		}
	}
	for _, g := range groups {
		if used[g.ID] {
			for _, r := range slices.Concat(g.Ingress, g.Egress) {
				if r.Group != "" {
					used[r.Group] = true // only its members matter, its rules are not followed further
				}
			}
		}
	}
	for _, g := range slices.SortedFunc(slices.Values(groups), func(a, b cloud.HostGroup) int { return cmp.Compare(a.ID, b.ID) }) {
		if !used[g.ID] || g.VPC != vpc {
			continue
		}
		in, inErrs := compileRules(g.ID, g.Ingress)
		egress, outErrs := compileRules(g.ID, g.Egress)
		errs = append(append(errs, inErrs...), outErrs...)
		members := slices.SortedFunc(slices.Values(g.Members), netip.Addr.Compare)
		out = append(out, firewall.Group{ID: string(g.ID), In: in, Out: egress, Members: slices.Compact(members)})
	}
	return out, errs
}

func compileRules(group cloud.GroupID, rules []cloud.GroupRule) (out []firewall.Rule, errs []error) {
	for _, r := range rules {
		f, err := compileRule(r)
		switch {
		case err != nil:
			errs = append(errs, refuse("", "compile group %s: rule %s: %w", group, r.ID, err))
		case f.Group == "" && f.Prefix.Addr().Is6():
			// Guests have no IPv6 yet: nothing to allow.
		default:
			out = append(out, f)
		}
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
	case 1:
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
