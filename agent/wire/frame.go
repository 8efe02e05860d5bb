package wire

import (
	"encoding/binary"
	"math/bits"
)

// Sizes of headers.
const (
	EthernetSize = 14
	IPv4Size     = 20
	IPv6Size     = 40
	UDPSize      = 8
)

// EtherTypes and protocols.
const (
	TypeIPv4 = 0x0800
	TypeIPv6 = 0x86dd

	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// Broadcast is the Ethernet address of everybody.
var Broadcast = [6]byte{255, 255, 255, 255, 255, 255}

// AppendEthernet appends the header of a frame.
func AppendEthernet(b []byte, to, from [6]byte, kind uint16) []byte {
	b = append(append(b, to[:]...), from[:]...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// AppendIPv6 appends the header of a packet; hops 255 is what neighbour discovery demands.
func AppendIPv6(b []byte, from, to [16]byte, protocol, hops byte) []byte {
	b = append(b, 0x60, 0, 0, 0, 0, 0, protocol, hops)
	return append(append(b, from[:]...), to[:]...)
}

// FinishIPv6 writes length and checksum of the frame b, whose packet's payload is UDP or ICMPv6 and is all there.
func FinishIPv6(b []byte) {
	ip := b[EthernetSize:]
	payload := ip[IPv6Size:]
	binary.BigEndian.PutUint16(ip[4:], uint16(len(payload)))
	at := 2 // ICMPv6
	if ip[6] == ProtocolUDP {
		binary.BigEndian.PutUint16(payload[4:], uint16(len(payload)))
		at = 6
	}
	payload[at], payload[at+1] = 0, 0
	check := ^Sum(uint32(Sum(uint32(ip[6])+uint32(len(payload)), ip[8:40])), payload)
	if check == 0 && ip[6] == ProtocolUDP {
		check = 0xffff // zero would mean none
	}
	binary.BigEndian.PutUint16(payload[at:], check)
}

// FinishIPv4 writes lengths and checksums of the frame b, which is UDP in IPv4 without options.
func FinishIPv4(b []byte) {
	ip := b[EthernetSize:]
	udp := ip[IPv4Size:]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^Sum(0, ip[:IPv4Size]))
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[6], udp[7] = 0, 0
	check := ^Sum(uint32(Sum(uint32(ProtocolUDP+len(udp)), ip[12:20])), udp)
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}

// Sum is the ones' complement sum of the Internet checksum, continued from start.
func Sum(start uint32, b []byte) uint16 {
	// Eight bytes at a time: a sum of words of any size folds to the same sixteen bits (RFC 1071).
	sum, carry := uint64(start), uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
	}
	for ; len(b) > 1; b = b[2:] {
		sum, carry = bits.Add64(sum, uint64(b[0])<<8|uint64(b[1]), carry)
	}
	if len(b) == 1 {
		sum, carry = bits.Add64(sum, uint64(b[0])<<8, carry)
	}
	sum, carry = bits.Add64(sum, carry, 0)
	sum += carry
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
