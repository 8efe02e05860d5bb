package eni

import (
	"cmp"
	"encoding/hex"
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

// Compile is pure: the same Config always gives the same Plan. It refuses what would make two guests one.
func Compile(c Config) (Plan, error) {
	pool := c.Pool
	if !pool.IsValid() {
		pool = DefaultPool
	}
	p := Plan{Link: link.Config{Outside: c.Uplink, Pool: pool}, Firewall: map[string]firewall.Config{}}
	vpcs := slices.SortedFunc(slices.Values(c.VPCs), func(a, b VPC) int { return cmp.Compare(a.ID, b.ID) })
	for _, v := range vpcs {
		if _, ok := p.Firewall[string(v.ID)]; ok {
			return Plan{}, fmt.Errorf("compile %s: it is there twice", v.ID)
		}
		if err := p.vpc(c, v); err != nil {
			return Plan{}, fmt.Errorf("compile %s: %w", v.ID, err)
		}
	}
	for _, i := range c.Interfaces {
		if _, ok := p.Firewall[string(i.VPC)]; !ok {
			return Plan{}, fmt.Errorf("compile %s: its VPC %q is not in the configuration", i.ID, i.VPC)
		}
	}
	return p, nil
}

func (p *Plan) vpc(c Config, v VPC) error {
	name := string(v.ID)
	if name == "" || strings.ContainsAny(name, "/.") {
		return fmt.Errorf("%q cannot name a namespace", name)
	}
	network := link.Network{Name: name, Local: []netip.Addr{Metadata.Addr()}, Closed: v.Prefixes}
	rules := firewall.Config{Prefixes: v.Prefixes, Services: []netip.AddrPort{Metadata, Gateway}}
	if v.Internet {
		rules.Translate = v.Prefixes
	}
	leases := Leases{Network: name}
	mine := slices.DeleteFunc(slices.Clone(c.Interfaces), func(i Interface) bool { return i.VPC != v.ID })
	slices.SortFunc(mine, func(a, b Interface) int { return cmp.Compare(a.ID, b.ID) })
	owner := map[netip.Addr]cloud.InterfaceID{}
	taps := map[string]cloud.InterfaceID{}
	for _, i := range mine {
		mac, err := check(v, i, owner, taps)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.ID, err)
		}
		router := i.Network.Router()
		if !slices.Contains(rules.Gateways, router) {
			rules.Gateways = append(rules.Gateways, router)
			network.Local = append(network.Local, router)
		}
		mtu := cmp.Or(i.MTU, DefaultMTU)
		network.Taps = append(network.Taps, link.Tap{
			Name: TapName(i.ID), Alias: string(i.ID), MTU: mtu, Owner: i.Owner, Guest: mac, Addresses: i.Addresses,
		})
		rules.Interfaces = append(rules.Interfaces, firewall.Interface{
			Name: TapName(i.ID), MAC: mac, Addresses: i.Addresses, Groups: texts(i.Groups), Unchecked: !i.SourceDestCheck,
		})
		leases.Taps = append(leases.Taps, TapName(i.ID))
		leases.Hosts = append(leases.Hosts, dhcp.Host{
			MAC: mac, Source: link.RouterMAC, Address: i.Primary(), Subnet: i.Network.CIDR.Masked(), Router: router, MTU: mtu,
			Hostname: i.Hostname, Domain: c.Domain, Resolvers: c.Resolvers,
		})
	}
	groups, err := compileGroups(v.ID, c.Groups, mine)
	if err != nil {
		return err
	}
	rules.Groups = groups
	p.Link.Networks = append(p.Link.Networks, network)
	p.Firewall[name] = rules
	p.DHCP = append(p.DHCP, leases)
	return nil
}

// check refuses interfaces that cannot be, and returns the MAC.
func check(v VPC, i Interface, owner map[netip.Addr]cloud.InterfaceID, taps map[string]cloud.InterfaceID) (mac [6]byte, err error) {
	if other, ok := taps[TapName(i.ID)]; ok {
		return mac, fmt.Errorf("it has the same tap as %s", other)
	}
	taps[TapName(i.ID)] = i.ID
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
		if !i.Network.CIDR.Contains(a) || a == i.Network.Router() {
			return mac, fmt.Errorf("address %s is not one for guests of %s", a, i.Network.CIDR)
		}
		if !slices.ContainsFunc(v.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return mac, fmt.Errorf("address %s is not of its VPC", a)
		}
		if other, ok := owner[a]; ok {
			return mac, fmt.Errorf("address %s belongs to %s", a, other)
		}
		owner[a] = i.ID
	}
	return mac, nil
}

func parseMAC(s string) (mac [6]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != 6 || len(s) != 17 || b[0]&1 != 0 {
		return mac, fmt.Errorf("MAC %q is not a unicast address with colons", s)
	}
	return [6]byte(b), nil
}

// compileGroups translates the groups of a VPC that its interfaces are in, and those their rules name.
func compileGroups(vpc cloud.VPCID, groups []cloud.HostGroup, mine []Interface) ([]firewall.Group, error) {
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
	var out []firewall.Group
	for _, g := range slices.SortedFunc(slices.Values(groups), func(a, b cloud.HostGroup) int { return cmp.Compare(a.ID, b.ID) }) {
		if !used[g.ID] || g.VPC != vpc {
			continue
		}
		in, err := compileRules(g.Ingress)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", g.ID, err)
		}
		egress, err := compileRules(g.Egress)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", g.ID, err)
		}
		members := slices.SortedFunc(slices.Values(g.Members), netip.Addr.Compare)
		out = append(out, firewall.Group{ID: string(g.ID), In: in, Out: egress, Members: slices.Compact(members)})
	}
	return out, nil
}

func compileRules(rules []cloud.GroupRule) ([]firewall.Rule, error) {
	var out []firewall.Rule
	for _, r := range rules {
		protocol, err := parseProtocol(r.Protocol)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", r.ID, err)
		}
		f := firewall.Rule{Protocol: protocol, From: r.FromPort, To: r.ToPort, Group: string(r.Group)}
		if r.Group == "" {
			if f.Prefix, err = netip.ParsePrefix(r.CIDR); err != nil {
				return nil, fmt.Errorf("rule %s: %w", r.ID, err)
			}
			if f.Prefix.Addr().Is6() {
				continue // guests have no IPv6 yet: nothing to allow
			}
		}
		if err := checkPorts(f); err != nil {
			return nil, fmt.Errorf("rule %s: %w", r.ID, err)
		}
		out = append(out, f)
	}
	return out, nil
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
