package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Add sets the address; one that is there is no error.
func (a Address) Add() error {
	if err := a.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE); err != nil {
		return fmt.Errorf("add address %s to interface %d: %w", a.Prefix, a.Index, err)
	}
	return nil
}

// Delete takes the address away; one that is not there is no error.
func (a Address) Delete() error {
	if err := a.change(unix.RTM_DELADDR, 0); err != nil && !gone(err) {
		return fmt.Errorf("delete address %s of interface %d: %w", a.Prefix, a.Index, err)
	}
	return nil
}

func (a Address) change(kind, flags uint16) error {
	family, bits := byte(unix.AF_INET), uint32(0)
	if a.Prefix.Addr().Is6() {
		// Nobody else on the link may have it, and an address that is being looked for cannot be used.
		family, bits = unix.AF_INET6, unix.IFA_F_NODAD
	}
	if a.Alone {
		bits |= unix.IFA_F_NOPREFIXROUTE
	}
	b := header(kind, flags)
	b = append(b, family, byte(a.Prefix.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
	b = binary.NativeEndian.AppendUint32(b, uint32(a.Index))
	b = attribute(b, unix.IFA_LOCAL, a.Prefix.Addr().AsSlice())
	b = attribute(b, unix.IFA_ADDRESS, a.Prefix.Addr().AsSlice())
	if kind == unix.RTM_DELADDR {
		return ask(b)
	}
	if bits != 0 {
		b = attribute(b, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, bits))
	}
	if a.Protocol != 0 {
		b = attribute(b, ifaProto, []byte{a.Protocol})
	}
	return ask(b)
}

// Add sets the route. Every router is declared on-link, because with a /32 address none would be.
func (r Route) Add() error {
	if err := r.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE); err != nil {
		return fmt.Errorf("add route %s of table %d: %w", r.To, r.Table, err)
	}
	return nil
}

// Delete takes the route away; one that is not there is no error.
func (r Route) Delete() error {
	if err := r.change(unix.RTM_DELROUTE, 0); err != nil && !gone(err) {
		return fmt.Errorf("delete route %s of table %d: %w", r.To, r.Table, err)
	}
	return nil
}

func (r Route) change(kind, flags uint16) error {
	scope, hop := byte(unix.RT_SCOPE_LINK), uint32(0)
	if r.Via.IsValid() {
		scope, hop = unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK
	}
	b := header(kind, flags)
	b = append(b, unix.AF_INET, byte(r.To.Bits()), 0, 0, unix.RT_TABLE_UNSPEC, r.Protocol, scope, unix.RTN_UNICAST)
	b = binary.NativeEndian.AppendUint32(b, hop)
	if r.To.Bits() > 0 {
		b = attribute(b, unix.RTA_DST, r.To.Addr().AsSlice())
	}
	if r.Via.IsValid() {
		b = attribute(b, unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(r.Index)))
	b = attribute(b, unix.RTA_TABLE, binary.NativeEndian.AppendUint32(nil, uint32(r.Table)))
	if r.Metric != 0 {
		b = attribute(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, uint32(r.Metric)))
	}
	return ask(b)
}

// Add sets the rule; one that is there is no error.
func (r Rule) Add() error {
	if err := r.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule from %s: %w", r.From, err)
	}
	return nil
}

// Delete takes the rule away; one that is not there is no error.
func (r Rule) Delete() error {
	if err := r.change(unix.RTM_DELRULE, 0); err != nil && !gone(err) {
		return fmt.Errorf("delete rule from %s: %w", r.From, err)
	}
	return nil
}

func (r Rule) change(kind, flags uint16) error {
	const toTable = 1 // FR_ACT_TO_TBL
	from, bits := netip.IPv4Unspecified(), 0
	if r.From.IsValid() {
		from, bits = r.From.Addr(), r.From.Bits()
	}
	b := header(kind, flags)
	b = append(b, unix.AF_INET, 0, byte(bits), 0, unix.RT_TABLE_UNSPEC, 0, 0, toTable, 0, 0, 0, 0)
	if bits > 0 {
		b = attribute(b, unix.FRA_SRC, from.AsSlice())
	}
	b = attribute(b, unix.FRA_PRIORITY, binary.NativeEndian.AppendUint32(nil, uint32(r.Priority)))
	b = attribute(b, unix.FRA_TABLE, binary.NativeEndian.AppendUint32(nil, uint32(r.Table)))
	b = attribute(b, unix.FRA_PROTOCOL, []byte{r.Protocol})
	return ask(b)
}

// gone are the kernel's words for what is not there, or was on an interface that is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Watch calls changed whenever an interface or an IPv4 address comes, goes or changes, until ctx ends.
func Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %w", err)
	}
	f := os.NewFile(uintptr(fd), "route netlink")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR}); err != nil {
		return fmt.Errorf("listen to route netlink: %w", err)
	}
	defer context.AfterFunc(ctx, func() { f.Close() })()
	changed() // what there was before
	buf := make([]byte, 16<<10)
	for {
		// A queue that ran over has lost events: whoever looks at everything misses nothing by that.
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read route netlink: %w", err)
		}
		changed()
	}
}
