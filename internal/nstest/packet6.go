package nstest

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// IPv6 makes a packet whose first header behind the fixed one, or whose payload, is of the type next.
func IPv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

// OnLink gives an IPv6 packet the 255 hops of one that has crossed no router.
func OnLink(packet []byte) []byte {
	b := append([]byte{}, packet...)
	b[7] = 255
	return b
}

// ICMPv6 makes a message with the checksum that it has between these two addresses.
func ICMPv6(src, dst netip.Addr, kind, code byte, body []byte) []byte {
	b := append([]byte{kind, code, 0, 0}, body...)
	binary.BigEndian.PutUint16(b[2:], ^Sum6(src, dst, 58, b))
	return b
}

// UDP6 is UDP with the checksum that IPv6 asks for.
func UDP6(src, dst netip.AddrPort, payload []byte) []byte {
	b := UDP(src.Port(), dst.Port(), payload)
	binary.BigEndian.PutUint16(b[6:], ^Sum6(src.Addr(), dst.Addr(), 17, b))
	return b
}

// Sum6 is the sum over a payload and the pseudo-header of its packet.
func Sum6(src, dst netip.Addr, protocol byte, b []byte) uint16 {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	return Sum(uint32(Sum(0, append(pseudo, 0, 0, 0, protocol))), b)
}

// Fragment6 is a fragment header and what follows it: offset counts in eight bytes.
func Fragment6(next byte, offset uint16, more bool, id uint32, part []byte) []byte {
	offset <<= 3
	if more {
		offset |= 1
	}
	b := binary.BigEndian.AppendUint16([]byte{next, 0}, offset)
	return append(binary.BigEndian.AppendUint32(b, id), part...)
}

// Extension is an extension header whose options are padding, filled up to n times eight bytes.
func Extension(next byte, n int, following []byte) []byte {
	b := make([]byte, 8*n)
	b[0], b[1] = next, byte(n-1)
	b[2], b[3] = 1, byte(8*n-4) // PadN
	return append(b, following...)
}

// Multicast6 is the Ethernet address of an IPv6 multicast address.
func Multicast6(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}
