// Package firewall keeps the nftables rules of a host's guests.
//
// Inside the namespace of each VPC there are three tables. `inet eni` lets a guest speak only as itself
// (the set src4: interface, MAC and address in one lookup, before connection tracking), gives it only what
// its security groups allow, and shows it nothing of the host but DHCP, the link-local services and a ping
// to its gateway. `arp eni` does the same for ARP. `ip enat` translates addresses at the uplink. In the root
// namespace one table, named by the host's prefix, masquerades the uplinks and keeps guests off the host itself.
//
// The number of rules does not grow with the number of interfaces: an interface is an element of a few sets
// and maps. A list of security groups is a chain (a profile), a group is a chain, and the rules of a group are
// the elements of interval sets, or rules while they are few. Chains are named by a hash of their content, so a chain
// that has the right name has the right rules, and a change is one transaction: new chains, moved map elements, old
// chains out. The tables are a sum over the interfaces, so what two wishes have in common cancels and is not compiled
// (parts.go).
//
//	pre (before defragmentation) -> spoof?   inp -> host
//	fo -> v_out -> out_PROFILE -> SG_o_...   fi -> leave -> v_route -> rt_TABLE   or -> v_in -> in_PROFILE -> SG_i_...
//
// For each element with a chain that a map gets, the kernel looks for loops: through all that can be reached, each time that
// it can be, and so through the chains of all elements (1.4 ms beside 4,000 interfaces, Linux 6.18). So a map of chains
// stands in one rule, and v_out has no chain where a group lets everything out. To have v_in lead to the number of a profile,
// and a short map from there, would spare an attachment another millisecond and cost each packet some 40 ns.
//
// What only some VPCs need costs nothing in the others: the chains for routes to instances (steer), for guests that take
// packets by another interface only (mend) and for network ACLs (ao, ai) are there when there are such routes,
// guests or rules. Where a packet leaves, and under which address, is
// chosen by the subnet that owns its source: identity is proven by then. The exception are interfaces that forward for
// others; what they send in another's name is marked, and judged each time although the same connection has passed
// before, on its way to them.
//
// What comes from another host has passed that host's rules for what leaves a guest; here it passes those for what comes to
// one (overlay.go).
//
// IPv6 has chains of its own in the same table, where the VPC has a block of it (six.go).
//
// Every drop has a reason, counted in a named counter and for each interface (see Drops). Compile-time decisions are
// in ruleset.go, routes.go, acl.go, group.go and intervals.go (pure), flow.go judges tracked connections by the same
// configuration; kernel.go reads, compares and writes.
// Only the tables named here are ever touched. nft(8) is not executed.
package firewall

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
)

// Config is the whole wanted state of one VPC's namespace.
type Config struct {
	Prefixes   []netip.Prefix // the VPC's own addresses, of IPv4
	Prefixes6  []netip.Prefix // and of IPv6; none: nothing of it passes
	Gateways   []netip.Addr   // answer ping
	Gateways6  []netip.Addr
	Services   []Service // of the host, for guests
	Subnets    []Subnet  // those of the interfaces
	Interfaces []*Interface
	Groups     []Group // all groups that an interface is in or a rule names
	Moved      []Moved // in order of From
	Ways       []Way   // in order of To; of an address that has some, all

	Overlay bool           // other hosts have guests of the VPC, or have had
	Far     []netip.Addr   // those guests' addresses of IPv4, in order
	Far6    []netip.Prefix // and of IPv6
}

// Way leads what comes from some network for an address to another interface of the instance, where the guest takes it. The
// longest prefix wins.
type Way struct {
	To   netip.Addr
	From netip.Prefix
	Name string // of the other interface; "": its own
	Mark uint32 // that agent/link knows the other by
}

// Moved leads what is for one address of an interface to its first one: the guest does not know the other.
type Moved struct{ From, To netip.Addr }

// Service is what guests may ask at an address of the host, by TCP or UDP.
type Service struct {
	UDP  bool
	At   netip.AddrPort
	Bulk bool // moves more than the limit of packets to link-local services lets through: it is not held to that
}

// Subnet is what holds for packets that leave a subnet or come into it.
type Subnet struct {
	ID     string
	CIDR   netip.Prefix
	CIDR6  netip.Prefix // zero: it has no IPv6
	Routes []Route      // beside the VPC's own addresses; the longest prefix wins
	ACL    []Entry      // in order; none: everything may pass

	Routes6 []Route // those of IPv6, to the internet or nowhere
}

// Route leads a destination out of the VPC or to an instance. One without a target drops.
type Route struct {
	Destination netip.Prefix
	Internet    bool       // out of the uplink, under the public address of the source, or masqueraded
	NAT         netip.Addr // out of the uplink under this address
	Mark        uint32     // to the interface that agent/link knows by this mark
}

// Entry is one rule of a network ACL. Ports are as in Rule.
type Entry struct {
	Egress   bool
	Allow    bool
	Protocol int
	Prefix   netip.Prefix
	From, To int
}

// Interface is one tap and who may speak on it.
type Interface struct {
	Name      string
	MAC       [6]byte
	Subnet    string
	Instance  string // interfaces of one instance may speak as each other; empty: only as itself
	Addresses []netip.Addr
	Prefixes  []netip.Prefix // delegated: whoever is behind the guest

	Addresses6 []netip.Addr // of IPv6
	Prefixes6  []netip.Prefix

	Public    []Public
	Groups    []string
	Mark      uint32 // of packets that routes lead to it
	Unchecked bool   // source/destination check is off: it may forward for others
}

// Public is a public address and the private one that it stands for.
type Public struct{ Public, Private netip.Addr }

// Group is a security group: what is not listed is dropped.
type Group struct {
	ID      string
	In, Out []Rule
	Members []netip.Addr // addresses of all members in the VPC, on any host

	Members6 []netip.Addr   // those of IPv6
	Behind6  []netip.Prefix // prefixes that are delegated to members
}

// AnyProtocol in a rule means all of them.
const AnyProtocol = -1

// Rule allows one protocol with one peer, a prefix or the members of a group. For TCP, UDP and others From and
// To are ports; for ICMP they are type and code, -1 meaning all.
type Rule struct {
	Protocol int
	From, To int
	Prefix   netip.Prefix
	Group    string
}

// Host is the wanted state of the root namespace's table.
type Host struct {
	Table   string
	Uplinks []Uplink
	// The namespace tracks at most so many connections of one uplink, in either direction; zero: as many as there are.
	Connections uint32

	Overlay bool         // other hosts may send what their guests send
	Peers   []netip.Addr // those that do
}

// Uplink leads to one VPC's namespace.
type Uplink struct {
	Name   string       // in the root namespace
	Range  netip.Prefix // a /31: the odd address is inside
	Public []netip.Addr // reach the VPC from anywhere, and leave it as they are

	Routed6 []netip.Prefix // so do all addresses of these
}

// Apply makes the rules of the namespace fd what cfg wants, without a memory, and reports whether anything was changed.
func Apply(fd int, cfg Config) (changed bool, err error) {
	r := NewRules(func(f func(int) error) error { return f(fd) })
	defer r.Close()
	c, err := r.Apply(cfg)
	return c.Changed, err
}

// ApplyHost does the same for the calling process's own namespace.
func ApplyHost(h Host) (changed bool, err error) {
	r := NewRules(nil)
	defer r.Close()
	c, err := r.ApplyHost(h)
	return c.Changed, err
}

// RemoveHost deletes the host's table from the root namespace. It is not an error if there is none.
func RemoveHost(name string) error {
	c, err := dial(0)
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			c.DelTable(t)
			if err := c.Flush(); err != nil {
				return fmt.Errorf("delete table %s: %w", name, err)
			}
		}
	}
	return nil
}

// Counters returns the packets that a namespace's rules refused, by reason; ARP's reasons begin with arp_.
func Counters(fd int) (map[string]uint64, error) {
	got := map[string]uint64{}
	return got, errors.Join(
		counters(fd, got, "", &nftables.Table{Name: "eni", Family: nftables.TableFamilyINet}),
		counters(fd, got, "arp_", &nftables.Table{Name: "eni", Family: nftables.TableFamilyARP}),
	)
}

// HostCounters returns the packets that the root namespace's table refused, by reason.
func HostCounters(name string) (map[string]uint64, error) {
	got := map[string]uint64{}
	return got, counters(0, got, "", &nftables.Table{Name: name, Family: nftables.TableFamilyINet})
}

func counters(fd int, got map[string]uint64, prefix string, t *nftables.Table) error {
	c, err := dial(fd)
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	objs, err := c.GetObjects(t)
	if err != nil {
		return fmt.Errorf("read counters of %s: %w", t.Name, err)
	}
	for _, o := range objs {
		if k, ok := o.(*nftables.CounterObj); ok {
			got[prefix+k.Name] = k.Packets
		}
	}
	return nil
}
