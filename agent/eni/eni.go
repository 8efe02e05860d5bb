// Package eni makes the network interfaces of this host's guests real: devices, rules, DHCP, in that order.
//
// Compile (pure) turns the wish, a Config with everything that this host should have, into the configurations of
// agent/link, agent/firewall and agent/dhcp. Manager.Apply carries a Config out. It can be called at any time
// and any number of times: each engine reads what the kernel has and changes only the difference, so a
// second Apply changes nothing and a new agent adopts what an old one has left, without losing a packet.
//
//	take away: routes, neighbours, taps -> rules -> tracked connections
//	add:       namespace -> rules -> taps, neighbours, routes -> DHCP answers
//
// What a guest does not know of itself the host finds out and makes up for: which of its addresses it has, and by which
// interface it takes what comes (agent/presence, and lead). An Apply that is due to that changes rules and marks only.
//
// At no time is there a tap whose packets the rules do not check. Every name in the root namespace starts with
// the host's prefix (Prefix), so several hosts live on one machine and Remove needs no memory of what was made.
// agent/host calls this package; nothing else on the host changes links, rules or routes of guests.
package eni

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// DefaultPool is where the uplinks' addresses come from unless configured: shared address space (RFC 6598).
var DefaultPool = netip.MustParsePrefix("100.64.0.0/10")

// OverlayMTU is the largest MTU of guests whose packets go to other hosts whole: what the network of the underlay address
// has room for.
func OverlayMTU(underlay netip.Addr) (int, error) { return link.OverlayMTU(underlay) }

// DefaultMTU is the guests' MTU, EC2's. The uplinks have 1500: guests learn the MTU of a path as on EC2.
const DefaultMTU = 9001

// Config is the whole wish: all that this host should have.
type Config struct {
	Prefix     string              // names of this host in the root namespace, see Prefix
	Uplink     string              // link of the root namespace that leads out; empty: the default route's
	Pool       netip.Prefix        // for the uplinks' addresses; zero: DefaultPool
	Underlay   netip.Addr          // where other hosts send what is for guests here; zero: nowhere, and this host stands alone
	Pool6      []netip.Prefix      // blocks of IPv6 of these are routed to this machine from outside
	Domain     string              // DHCP option 15 where the VPC says none, such as ichiro-1.compute.internal
	Strict     bool                // an interface speaks as itself only; else also as the others of its instance
	Resolvers  []netip.Addr        // DHCP option 6 where the VPC says none; none: the option is not given
	VPCs       []cloud.HostNetwork // those that have an interface here
	Interfaces []*Interface        // never changed once handed over: one that is the same here as in the Config before costs nothing

	ClasslessRoutes bool `json:",omitempty"` // DHCP option 121: the default route, and the metadata service on the link
	OneDefaultRoute bool `json:",omitempty"` // DHCP tells a default route to the first interface of an instance only
}

// Interface is one network interface of an instance on this host.
type Interface struct {
	cloud.NetworkInterface
	Network  cloud.Subnet
	Public   []cloud.PublicAddress
	Hostname string // DHCP option 12
	MTU      int    // zero: DefaultMTU
	Owner    uint32 // the uid that QEMU runs under

	Bandwidth Bandwidth // of its instance
}

// Bandwidth is what all interfaces of an instance together may send, and what they may receive, in Mbit/s. The zero value
// has no bounds.
type Bandwidth struct {
	Baseline int // that lasts
	Peak     int // while what was saved below the baseline is spent
}

// Prefix derives a host's prefix from a path or name that is its own, such as the run directory: "ic" and
// six hexadecimal digits.
func Prefix(unique string) string { return "ic" + digest(unique, 3) }

// TapName is the name of an interface's tap, in the namespace of its VPC: 13 of the 15 bytes that Linux allows.
func TapName(id cloud.InterfaceID) string { return "t" + digest(string(id), 6) }

func digest(s string, n int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:n])
}
