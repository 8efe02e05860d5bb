package eni

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/delta"
)

// compiler is Compile with a memory: its answers are the same, but what went in before is not worked out again. It
// compares what goes in, never what came out. A VPC that is as it was costs a comparison; in one that differs, only the
// interfaces and groups that differ are compiled.
//
// What one of them has given is never changed, and the next plan points to it again: the engines pass over it by that.
type compiler struct{ last map[cloud.VPCID]*compiled }

// compiled is a VPC as it was compiled last.
type compiled struct {
	settings Config // without VPCs and Interfaces
	vpc      cloud.HostNetwork
	asked    []*Interface // in the order of their attachment

	groups []*group // in the order of the VPC

	real  []*Interface // those of them that can be
	parts []*part      // one for each of them
	used  claims
	plan  Plan // of this VPC alone
	errs  []error
}

// part is what one interface gives to a plan, whatever others there are.
type part struct {
	tap  *link.Tap
	rule *firewall.Interface
	host *dhcp.Host
	ipv6 *leased6
}

func newCompiler() *compiler { return &compiler{last: map[cloud.VPCID]*compiled{}} }

// byVPC sorts interfaces into their VPCs, each in the order of attachment.
func byVPC(interfaces []*Interface) map[cloud.VPCID][]*Interface {
	of := map[cloud.VPCID][]*Interface{}
	for from := 0; from < len(interfaces); { // neighbours are mostly of one VPC
		id, to := interfaces[from].VPC, from+1
		for to < len(interfaces) && interfaces[to].VPC == id {
			to++
		}
		of[id] = append(of[id], interfaces[from:to]...)
		from = to
	}
	for _, list := range of {
		if !slices.IsSortedFunc(list, Earlier) {
			slices.SortFunc(list, Earlier)
		}
	}
	return of
}

// Earlier is the order of attachment. A Config in whose list the VPCs stand together, each in this order, need not be sorted.
func Earlier(a, b *Interface) int {
	return cmp.Or(a.AttachTime.Compare(b.AttachTime), cmp.Compare(a.ID, b.ID))
}

// vpc compiles a VPC, from what it was the last time where that still holds.
func (c *compiler) vpc(settings Config, v cloud.HostNetwork, asked []*Interface) *compiled {
	was := c.last[v.VPC.ID]
	if was == nil || !reflect.DeepEqual(was.settings, settings) || !reflect.DeepEqual(withoutGroups(was.vpc), withoutGroups(v)) {
		return newCompiled(settings, v, asked)
	}
	from, endWas, endNow := delta.Middle(was.asked, asked, func(x, y **Interface) bool { return *x == *y || (*x).Equal(*y) })
	if from == endWas && from == endNow && slices.EqualFunc(was.vpc.Groups, v.Groups, equalGroup) && slices.EqualFunc(was.vpc.Peers, v.Peers, equalPeer) {
		return was
	}
	if len(was.real) != len(was.asked) { // whom it refused may be right now, and the other way round
		return newCompiled(settings, v, asked)
	}
	now := &compiled{settings: settings, asked: asked, used: was.used}
	now.own(v, was.groups)
	was.used = claims{} // they go on with us
	for _, i := range was.asked[from:endWas] {
		now.used.drop(*i)
	}
	var middle []*part
	for _, i := range asked[from:endNow] {
		p, err := now.part(*i)
		if err != nil { // who may stay is decided by who came first: all over again
			return newCompiled(settings, v, asked)
		}
		middle = append(middle, p)
	}
	now.real = asked
	now.parts = slices.Concat(was.parts[:from], middle, was.parts[endWas:])
	now.assemble()
	return now
}

// newCompiled compiles a VPC without a memory.
func newCompiled(settings Config, v cloud.HostNetwork, asked []*Interface) *compiled {
	now := &compiled{settings: settings, asked: asked, used: newClaims(v, len(asked))}
	now.own(v, nil)
	for _, i := range asked {
		p, err := now.part(*i)
		if err != nil {
			now.errs = append(now.errs, refuse(i.ID, "compile interface %s: %w", i.ID, err))
			continue
		}
		now.real = append(now.real, i)
		now.parts = append(now.parts, p)
	}
	now.assemble()
	return now
}

// withoutGroups is a network but for its groups and what other hosts have of it, which are long and change often.
func withoutGroups(v cloud.HostNetwork) cloud.HostNetwork {
	v.Groups, v.Peers, v.Generation = nil, nil, 0
	return v
}

// equalGroup compares members in a loop of their own: there are thousands, and the rest is short.
func equalGroup(x, y cloud.HostGroup) bool {
	if !slices.Equal(x.Members, y.Members) {
		return false
	}
	x.Members, y.Members = nil, nil
	return reflect.DeepEqual(x, y)
}

// Equal compares all that this package makes something from.
func (a *Interface) Equal(b *Interface) bool {
	return a.ID == b.ID && a.VPC == b.VPC && a.Subnet == b.Subnet && a.MAC == b.MAC && a.Instance == b.Instance &&
		a.DeviceIndex == b.DeviceIndex && a.SourceDestCheck == b.SourceDestCheck && a.Kind == b.Kind && a.AttachTime.Equal(b.AttachTime) &&
		a.Tracking == b.Tracking && a.Hostname == b.Hostname && a.MTU == b.MTU && a.Owner == b.Owner && a.Bandwidth == b.Bandwidth &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.IPv6, b.IPv6) && slices.Equal(a.Prefixes, b.Prefixes) &&
		slices.Equal(a.Groups, b.Groups) && slices.Equal(a.Public, b.Public) &&
		a.Network.ID == b.Network.ID && a.Network.VPC == b.Network.VPC && a.Network.CIDR == b.Network.CIDR && a.Network.Zone == b.Network.Zone &&
		slices.Equal(a.Network.Blocks, b.Network.Blocks)
}

// own takes a copy of the network, and compiles of its groups those that were not there before.
func (n *compiled) own(v cloud.HostNetwork, before []*group) {
	v.Subnets, v.Groups, v.Peers = slices.Clone(v.Subnets), slices.Clone(v.Groups), slices.Clone(v.Peers)
	for k := range v.Peers {
		p := &v.Peers[k]
		p.Members, p.Prefixes = slices.Clone(p.Members), slices.Clone(p.Prefixes)
	}
	for k := range v.Subnets {
		s := &v.Subnets[k]
		s.Routes, s.ACL = slices.Clone(s.Routes), slices.Clone(s.ACL)
	}
	for k, g := range v.Groups {
		var made *group
		if k < len(before) && before[k].from.ID == g.ID {
			made = before[k]
		}
		if made == nil || !equalGroup(made.from, g) {
			made = compileGroup(g, made)
		}
		n.groups = append(n.groups, made)
		v.Groups[k] = made.from
	}
	n.vpc = v
}
