package wire

import "encoding/binary"

// IPv6 is a packet in a frame, with slices and addresses of what matters of it.
type IPv6 struct {
	ToMAC, FromMAC [6]byte
	From, To       [16]byte
	Protocol, Hops byte
	Payload        []byte
}

// ReadIPv6 reads a frame without extension headers. The checksum of the payload is not looked at: a guest leaves it to its
// network card, which is this host's memory, and what comes out of a tap has only the part that the guest began with.
func ReadIPv6(frame []byte) (p IPv6, ok bool) {
	if len(frame) < EthernetSize+IPv6Size || binary.BigEndian.Uint16(frame[12:]) != TypeIPv6 || frame[EthernetSize]>>4 != 6 {
		return p, false
	}
	ip := frame[EthernetSize:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if size > len(ip)-IPv6Size { // less: padding to Ethernet's smallest frame
		return p, false
	}
	return IPv6{
		ToMAC: [6]byte(frame), FromMAC: [6]byte(frame[6:]), From: [16]byte(ip[8:]), To: [16]byte(ip[24:]),
		Protocol: ip[6], Hops: ip[7], Payload: ip[IPv6Size : IPv6Size+size],
	}, true
}

// LinkLocal is the address that a MAC gives its interface (RFC 4291, modified EUI-64): the router's, from its MAC.
func LinkLocal(mac [6]byte) [16]byte {
	return [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

// IsLinkLocal reports whether an address is one of fe80::/10.
func IsLinkLocal(a [16]byte) bool { return a[0] == 0xfe && a[1]&0xc0 == 0x80 }

// Multicast is the Ethernet address of an IPv6 multicast address.
func Multicast(a [16]byte) [6]byte { return [6]byte{0x33, 0x33, a[12], a[13], a[14], a[15]} }
