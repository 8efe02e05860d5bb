package nstest

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Broadcast is the Ethernet broadcast address.
var Broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// Ethernet makes a frame; short ones are padded.
func Ethernet(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst...), src...)
	f = binary.BigEndian.AppendUint16(f, kind)
	f = append(f, payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// VLAN puts an 802.1Q tag into a frame.
func VLAN(frame []byte, id uint16) []byte {
	f := append([]byte{}, frame[:12]...)
	f = binary.BigEndian.AppendUint16(f, 0x8100)
	f = binary.BigEndian.AppendUint16(f, id)
	return append(f, frame[12:]...)
}

// ARP makes the payload of an ARP packet; op 1 asks, 2 answers.
func ARP(op uint16, mac net.HardwareAddr, ip netip.Addr, toMAC net.HardwareAddr, to netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, mac...), ip.AsSlice()...)
	return append(append(b, toMAC...), to.AsSlice()...)
}

// IPv4 makes a packet with a right checksum.
func IPv4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^Sum(0, b))
	return append(b, payload...)
}

// Fragment makes an IPv4 packet without options one fragment of a larger one: offset counts in eight bytes.
func Fragment(packet []byte, offset uint16, more bool) []byte {
	b := append([]byte{}, packet...)
	if more {
		offset |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], offset)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^Sum(0, b[:20]))
	return b
}

// UDP makes a datagram without a checksum, which IPv4 allows.
func UDP(src, dst uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// Echo makes an ICMP echo request.
func Echo(id uint16, payload []byte) []byte {
	b := []byte{8, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(append(b, 0, 1), payload...)
	binary.BigEndian.PutUint16(b[2:], ^Sum(0, b))
	return b
}

// Sum is the ones' complement sum of the Internet checksum.
func Sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
