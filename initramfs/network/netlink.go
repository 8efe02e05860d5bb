package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/initramfs/lease"
)

// Up sets an interface up, and its MTU when mtu is not 0.
func Up(index, mtu int) error {
	b := header(unix.RTM_NEWLINK, 0)
	b = append(b, unix.AF_UNSPEC, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP)
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP) // the one flag to change
	if mtu > 0 {
		b = attribute(b, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	}
	if err := ask(b); err != nil {
		return fmt.Errorf("set interface %d up: %v", index, err)
	}
	return nil
}

// Configure gives the interface the address and the routes of an answer.
func Configure(i Interface, a lease.Answer) error {
	mtu := a.MTU
	if mtu < 576 || mtu > 9216 { // RFC 791's least; the largest that our hosts carry
		mtu = 0
	}
	if err := Up(i.Index, mtu); err != nil {
		return err
	}
	if err := address(i.Index, a.Address); err != nil {
		return fmt.Errorf("give %s the address %s: %v", i.Name, a.Address, err)
	}
	for _, r := range a.Routes {
		if err := route(i.Index, r); err != nil {
			return fmt.Errorf("route %s of %s: %v", r.To, i.Name, err)
		}
	}
	return nil
}

func address(index int, p netip.Prefix) error {
	b := header(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	b = append(b, unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = attribute(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	b = attribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
	return ask(b)
}

// route declares every router on-link, because with a /32 address none would be.
func route(index int, r lease.Route) error {
	scope, flags := byte(unix.RT_SCOPE_LINK), uint32(0)
	if r.Via.IsValid() {
		scope, flags = unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK
	}
	b := header(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	b = append(b, unix.AF_INET, byte(r.To.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, scope, unix.RTN_UNICAST)
	b = binary.NativeEndian.AppendUint32(b, flags)
	if r.To.Bits() > 0 {
		b = attribute(b, unix.RTA_DST, r.To.Addr().AsSlice())
	}
	if r.Via.IsValid() {
		b = attribute(b, unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return ask(b)
}

func header(kind, flags uint16) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, 128)
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return b
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// ask sends one request to the kernel and returns what its acknowledgement says.
func ask(b []byte) error {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %v", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send: %v", err)
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return fmt.Errorf("receive: %v", err)
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("kernel sent something that is no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
