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
// the elements of interval sets. Chains are named by a hash of their content, so a chain that has the
// right name has the right rules, and a change is one transaction: new chains, moved map elements, old chains out.
//
//	pre (raw) -> spoof?   fo -> v_out -> out_PROFILE -> SG_o_...   fi -> v_in -> in_PROFILE -> SG_i_...   inp -> host
//
// Compile-time decisions are in ruleset.go and intervals.go (pure); kernel.go reads, compares and writes.
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
	Prefixes   []netip.Prefix // the VPC's own addresses
	Translate  []netip.Prefix // addresses that may leave by the uplink, masqueraded
	Gateways   []netip.Addr   // answer ping
	Services   []Service      // of the host, for guests
	Interfaces []Interface
	Groups     []Group // all groups that an interface is in or a rule names
}

// Service is what guests may ask at an address of the host, by TCP or UDP.
type Service struct {
	UDP bool
	At  netip.AddrPort
}

// Interface is one tap and who may speak on it.
type Interface struct {
	Name      string
	MAC       [6]byte
	Addresses []netip.Addr
	Groups    []string
	Unchecked bool // source/destination check is off: it may forward for others
}

// Group is a security group: what is not listed is dropped.
type Group struct {
	ID      string
	In, Out []Rule
	Members []netip.Addr // addresses of all members in the VPC, on any host
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
	Uplinks []string       // names of the uplinks in the root namespace
	Ranges  []netip.Prefix // their addresses
}

// Apply makes the rules of the namespace fd what cfg wants, and reports whether anything was changed.
func Apply(fd int, cfg Config) (changed bool, err error) {
	return apply(fd, compile(cfg))
}

// ApplyHost does the same for the calling process's own namespace.
func ApplyHost(h Host) (changed bool, err error) {
	return apply(0, []table{compileHost(h)})
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
