package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kindOf is what a notice is about.
type kindOf string

const (
	ofLink      kindOf = "link"
	ofRoute     kindOf = "route"
	ofNeighbour kindOf = "neighbour"
	ofAddress   kindOf = "address"
	ofRule      kindOf = "rule"
	ofQueue     kindOf = "queue"
	ofFilter    kindOf = "filter"
	ofSettings  kindOf = "setting" // sysctls of a link: forwarding, rp_filter, proxy_arp
)

// change is one notice of rtnetlink, as far as we look at it.
type change struct {
	kind    kindOf
	gone    bool
	port    uint32
	index   int // of the link; 0 for settings of all
	name    string
	mac     [6]byte
	mtu     int
	alias   string
	group   uint32
	up      bool
	tap     bool
	shaper  bool
	prefix  netip.Prefix // route, address; a neighbour's is of one address
	table   uint32       // route: not the local one
	out     int          // route: its link
	through int          // the same of a host route of the main table
	lasting bool         // neighbour: permanent
	off, on settings     // of a link that should be a tap: not as they should be, and so
}

func (c change) key() string { return fmt.Sprint(c.kind, " ", c.index, " ", c.table, " ", c.prefix) }

func (c change) String() string {
	what := c.name
	if what == "" && c.prefix.IsValid() {
		what = c.prefix.String()
	}
	verb := "changed"
	if c.gone {
		verb = "deleted"
	}
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", c.kind, what, verb)), " ")
}

// parseChange reads a notice; ok is false for those that do not concern us.
func parseChange(m notice.Message) (c change, ok bool) {
	c.port = m.Port
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		c.kind, c.gone = ofLink, m.Type == unix.RTM_DELLINK
		return c, len(m.Data) >= unix.SizeofIfInfomsg && m.Data[0] == unix.AF_UNSPEC && c.link(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c.kind, c.gone = ofRoute, m.Type == unix.RTM_DELROUTE
		return c, len(m.Data) >= unix.SizeofRtMsg && isIP(m.Data[0]) && c.route(m)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		c.kind, c.gone = ofRule, m.Type == unix.RTM_DELRULE
		return c, len(m.Data) >= unix.SizeofRtMsg && m.Data[0] == unix.AF_INET
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		c.kind, c.gone = ofNeighbour, m.Type == unix.RTM_DELNEIGH
		return c, len(m.Data) >= unix.SizeofNdMsg && isIP(m.Data[0]) && c.neighbour(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		c.kind, c.gone = ofAddress, m.Type == unix.RTM_DELADDR
		return c, len(m.Data) >= unix.SizeofIfAddrmsg && isIP(m.Data[0]) && c.address(m)
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		c.kind, c.gone = ofQueue, m.Type == unix.RTM_DELQDISC
		return c, len(m.Data) >= nl.SizeofTcMsg && c.queue(m.Data)
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		c.kind, c.gone = ofFilter, m.Type == unix.RTM_DELTFILTER
		return c, len(m.Data) >= nl.SizeofTcMsg && c.queue(m.Data)
	case unix.RTM_NEWNETCONF:
		c.kind = ofSettings
		return c, len(m.Data) >= 1 && isIP(m.Data[0]) && c.settings(m)
	}
	return c, false
}

func isIP(family byte) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

func (c *change) link(m notice.Message) bool {
	c.index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	c.up = binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0
	for kind, v := range m.Attributes(unix.SizeofIfInfomsg) {
		switch {
		case kind == unix.IFLA_IFNAME:
			c.name = text(v)
		case kind == unix.IFLA_IFALIAS:
			c.alias = text(v)
		case kind == unix.IFLA_ADDRESS && len(v) == 6:
			c.mac = [6]byte(v)
		case kind == unix.IFLA_MTU && len(v) == 4:
			c.mtu = int(binary.NativeEndian.Uint32(v))
		case kind == unix.IFLA_GROUP && len(v) == 4:
			c.group = binary.NativeEndian.Uint32(v)
		case kind == unix.IFLA_LINKINFO:
			c.tap, c.shaper = strings.Contains(string(v), "tun\x00"), strings.Contains(string(v), "ifb\x00")
		}
	}
	c.tap = c.tap || c.group == GroupTap || c.group == groupDoomed
	return true
}

func (c *change) route(m notice.Message) bool {
	bits := int(m.Data[1])
	c.table = uint32(m.Data[4])
	dst := netip.IPv4Unspecified()
	if m.Data[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for kind, v := range m.Attributes(unix.SizeofRtMsg) {
		switch {
		case kind == unix.RTA_DST && len(v) == dst.BitLen()/8:
			dst, _ = netip.AddrFromSlice(v)
		case kind == unix.RTA_OIF && len(v) == 4:
			c.out = int(binary.NativeEndian.Uint32(v))
		case kind == unix.RTA_TABLE && len(v) == 4:
			c.table = binary.NativeEndian.Uint32(v)
		}
	}
	c.prefix = netip.PrefixFrom(dst, bits)
	if c.table == unix.RT_TABLE_MAIN && bits == dst.BitLen() {
		c.through = c.out
	}
	return c.table != unix.RT_TABLE_LOCAL
}

func (c *change) neighbour(m notice.Message) bool {
	c.index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	c.lasting = binary.NativeEndian.Uint16(m.Data[8:])&unix.NUD_PERMANENT != 0
	for kind, v := range m.Attributes(unix.SizeofNdMsg) {
		switch {
		case kind == unix.NDA_DST && (len(v) == 4 || len(v) == 16):
			a, _ := netip.AddrFromSlice(v)
			c.prefix = netip.PrefixFrom(a, a.BitLen())
		case kind == unix.NDA_LLADDR && len(v) == 6:
			c.mac = [6]byte(v)
		}
	}
	return m.Data[10]&unix.NTF_PROXY == 0
}

func (c *change) address(m notice.Message) bool {
	c.index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	for kind, v := range m.Attributes(unix.SizeofIfAddrmsg) {
		if a, ok := netip.AddrFromSlice(v); ok && (kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && a.Is6()) {
			c.prefix = netip.PrefixFrom(a, int(m.Data[1]))
		}
	}
	return true
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// contradicts says what of the memory a change makes untrue, "" if nothing. What comes while we make changes ourselves
// (inside) is ours unless it takes away what we want; at any other time it is a stranger's, and only what the
// kernel does by itself is passed over: carriers that come and go, neighbours that it learns.
func (m *memory) contradicts(c change, inside bool) string {
	switch c.kind {
	case ofLink:
		t, ours := m.expected[c.index]
		switch {
		case ours && (c.gone || c.name != t.Name || c.group != GroupTap || c.mac != RouterMAC || c.mtu != t.MTU || c.alias != t.Alias || !c.up):
			return c.String()
		case !ours && c.tap && !c.gone && m.at[c.name] != c.index:
			return c.String()
		case c.shaper && !m.fits(c, inside):
			return c.String()
		case (c.name == Uplink || c.name == "lo" || c.name == overlayLink) && !inside &&
			(c.gone || !c.up || c.name == Uplink && c.group != GroupUplink || c.name == overlayLink && c.group != GroupPeer):
			return c.String()
		}
	case ofRoute:
		t, toTap := m.expected[c.through]
		wanted := toTap && holds(t, c.prefix.Addr())
		if toTap && wanted == c.gone || !toTap && !inside {
			return c.String()
		}
	case ofNeighbour:
		t, ours := m.expected[c.index]
		if !ours {
			return ""
		}
		wanted := holds(t, c.prefix.Addr()) || t.six() && c.prefix.Addr() == t.guest6()
		if wanted && (c.gone || !c.lasting || c.mac != t.Guest) || !wanted && !c.gone && c.lasting {
			return c.String() + " (" + net.HardwareAddr(c.mac[:]).String() + ")"
		}
	case ofQueue, ofFilter:
		_, shaper := m.shapes.names[c.index]
		if (shaper || m.expected[c.index].Shaper.Name != "") && (c.gone || !inside) {
			return c.String()
		}
	case ofSettings:
		if _, tap := m.expected[c.index]; tap && c.off != 0 || !tap && !inside {
			return c.String()
		}
	case ofAddress:
		if !inside && (c.gone || !m.local(c)) {
			return c.String()
		}
	case ofRule:
		if !inside {
			return c.String()
		}
	}
	return ""
}

// local reports whether an address is one that lo has. Of a new one of IPv6 the kernel tells twice, the second time when
// it gets round to it.
func (m *memory) local(c change) bool {
	a := c.prefix.Addr()
	return c.index == loIndex && c.prefix.IsSingleIP() && (slices.Contains(m.network.Local, a) || slices.Contains(m.network.Local6, a) || a == netip.IPv6Loopback())
}

// loIndex is the number of lo in every namespace.
const loIndex = 1

func holds(t Tap, a netip.Addr) bool {
	return slices.Contains(t.Addresses, a) || slices.Contains(t.Addresses6, a)
}
