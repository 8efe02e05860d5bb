package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Address is one address of this machine.
type Address struct {
	Index    int
	Prefix   netip.Prefix
	Protocol byte // who has set it, if the kernel keeps that (since Linux 5.18)
	Alone    bool // without a route to its prefix
}

// Key returns what names the address in the kernel.
func (a Address) Key() Address { return Address{Index: a.Index, Prefix: a.Prefix} }

// Route is one IPv4 route of this machine.
type Route struct {
	Index    int
	Table    int
	Protocol byte
	Metric   int
	To       netip.Prefix
	Via      netip.Addr // invalid: straight onto the link
}

// Rule makes packets from an address look into a table.
type Rule struct {
	From     netip.Prefix // invalid: all
	Table    int
	Priority int
	Protocol byte
}

// Hardware lists the Ethernet interfaces that may be a machine's own: not what was built upon another and has its
// hardware address, nor what such a one is built upon.
func Hardware() ([]Interface, error) {
	var list []Interface
	err := dump(unix.AF_UNSPEC, syscall.RTM_GETLINK, syscall.RTM_NEWLINK, syscall.SizeofIfInfomsg, func(head []byte, values map[uint16][]byte) {
		mac := values[syscall.IFLA_ADDRESS]
		if binary.NativeEndian.Uint16(head[2:]) != unix.ARPHRD_ETHER || len(mac) != 6 || word(values[unix.IFLA_MASTER]) != 0 {
			return
		}
		kind := text(attributes(values[unix.IFLA_LINKINFO])[unix.IFLA_INFO_KIND])
		if slices.Contains([]string{"bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "dummy"}, kind) {
			return
		}
		list = append(list, Interface{Name: text(values[syscall.IFLA_IFNAME]), Index: int(binary.NativeEndian.Uint32(head[4:])), MAC: [6]byte(mac)})
	})
	return list, err
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// Addresses lists the addresses of all interfaces.
func Addresses() ([]Address, error) {
	var list []Address
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := dump(family, syscall.RTM_GETADDR, syscall.RTM_NEWADDR, syscall.SizeofIfAddrmsg, func(head []byte, values map[uint16][]byte) {
			v, ok := values[syscall.IFA_LOCAL]
			if !ok { // IPv6 has it where there is a peer
				v = values[syscall.IFA_ADDRESS]
			}
			at, ok := netip.AddrFromSlice(v)
			if !ok || int(head[0]) != family {
				return
			}
			a := Address{Index: int(binary.NativeEndian.Uint32(head[4:])), Prefix: netip.PrefixFrom(at, int(head[1]))}
			if p := values[ifaProto]; len(p) == 1 {
				a.Protocol = p[0]
			}
			a.Alone = word(values[unix.IFA_FLAGS])&unix.IFA_F_NOPREFIXROUTE != 0
			list = append(list, a)
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Routes lists the unicast routes of all tables but the kernel's own.
func Routes() ([]Route, error) {
	var list []Route
	err := dump(unix.AF_INET, syscall.RTM_GETROUTE, syscall.RTM_NEWROUTE, syscall.SizeofRtMsg, func(head []byte, values map[uint16][]byte) {
		r := Route{Table: int(head[4]), Protocol: head[5], Metric: int(word(values[syscall.RTA_PRIORITY])), Index: int(word(values[syscall.RTA_OIF]))}
		if t := values[unix.RTA_TABLE]; len(t) == 4 {
			r.Table = int(word(t))
		}
		if head[7] != unix.RTN_UNICAST || r.Table == unix.RT_TABLE_LOCAL {
			return
		}
		r.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if to := values[syscall.RTA_DST]; len(to) == 4 {
			r.To = netip.PrefixFrom(netip.AddrFrom4([4]byte(to)), int(head[1]))
		}
		if via := values[syscall.RTA_GATEWAY]; len(via) == 4 {
			r.Via = netip.AddrFrom4([4]byte(via))
		}
		list = append(list, r)
	})
	return list, err
}

// Rules lists the IPv4 policy rules.
func Rules() ([]Rule, error) {
	var list []Rule
	err := dump(unix.AF_INET, unix.RTM_GETRULE, unix.RTM_NEWRULE, ruleHeader, func(head []byte, values map[uint16][]byte) {
		r := Rule{Table: int(head[4]), Priority: int(word(values[unix.FRA_PRIORITY]))}
		if t := values[unix.FRA_TABLE]; len(t) == 4 {
			r.Table = int(word(t))
		}
		if from := values[unix.FRA_SRC]; len(from) == 4 {
			r.From = netip.PrefixFrom(netip.AddrFrom4([4]byte(from)), int(head[2]))
		}
		if p := values[unix.FRA_PROTOCOL]; len(p) == 1 {
			r.Protocol = p[0]
		}
		list = append(list, r)
	})
	return list, err
}

const (
	ifaProto   = 11 // IFA_PROTO, include/uapi/linux/if_addr.h
	ruleHeader = 12 // struct fib_rule_hdr, include/uapi/linux/fib_rules.h
)

func word(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// dump asks for all objects of a kind and calls each with the head and the attributes of every one.
func dump(family, ask int, answer uint16, size int, each func(head []byte, values map[uint16][]byte)) error {
	table, err := syscall.NetlinkRIB(ask, family)
	if err != nil {
		return fmt.Errorf("list by netlink request %d: %w", ask, err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return fmt.Errorf("read the list of netlink request %d: %w", ask, err)
	}
	for _, m := range messages {
		if m.Header.Type == answer && len(m.Data) >= size {
			each(m.Data[:size], attributes(m.Data[size:]))
		}
	}
	return nil
}

// attributes takes a list of netlink attributes apart.
func attributes(b []byte) map[uint16][]byte {
	values := map[uint16][]byte{}
	for len(b) >= 4 {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < 4 || n > len(b) {
			break
		}
		values[kind&^uint16(unix.NLA_F_NESTED)] = b[4:n]
		b = b[min((n+3)&^3, len(b)):]
	}
	return values
}
