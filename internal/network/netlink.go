package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/lease"
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

// MTU returns the size of packets that an answer asks for; 0 if it asks for none that can be.
func MTU(a lease.Answer) int {
	if a.MTU < 576 || a.MTU > 9216 { // RFC 791's least; the largest that our hosts carry
		return 0
	}
	return a.MTU
}

// Configure gives the interface the address and the routes of an answer.
func Configure(i Interface, a lease.Answer) error {
	if err := Up(i.Index, MTU(a)); err != nil {
		return err
	}
	if err := (Address{Index: i.Index, Prefix: a.Address}).Add(); err != nil {
		return err
	}
	for _, r := range a.Routes {
		err := Route{Index: i.Index, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_DHCP, To: r.To, Via: r.Via}.Add()
		if err != nil {
			return err
		}
	}
	return nil
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
