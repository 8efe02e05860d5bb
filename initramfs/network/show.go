package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
)

// Address is one IPv4 address of this machine.
type Address struct {
	Index  int
	Prefix netip.Prefix
}

// Addresses lists the IPv4 addresses of all interfaces.
func Addresses() ([]Address, error) {
	table, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %v", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return nil, fmt.Errorf("read the list of addresses: %v", err)
	}
	var list []Address
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWADDR || len(m.Data) < syscall.SizeofIfAddrmsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, fmt.Errorf("read an address: %v", err)
		}
		for _, a := range attributes {
			if a.Attr.Type == syscall.IFA_LOCAL && len(a.Value) == 4 {
				list = append(list, Address{
					Index:  int(binary.NativeEndian.Uint32(m.Data[4:])),
					Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte(a.Value)), int(m.Data[1])),
				})
			}
		}
	}
	return list, nil
}
