package notice

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// typeMask leaves out the flags of an attribute: nested, and in network byte order.
const typeMask = 0x3fff

// align rounds up to netlink's four bytes.
func align(n int) int { return (n + 3) &^ 3 }

// parse reads the first message of a datagram and returns its size with padding.
func parse(b []byte) (m Message, size int, ok bool) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, 0, false
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < unix.SizeofNlMsghdr || n > len(b) {
		return m, 0, false
	}
	m = Message{Type: binary.NativeEndian.Uint16(b[4:]), Port: binary.NativeEndian.Uint32(b[12:]), Data: b[unix.SizeofNlMsghdr:n]}
	return m, align(n), true
}

// Attributes yields types, without flags, and values of a message's attributes, which begin after so many bytes of
// Data. It ends where they make no sense any more.
func (m Message) Attributes(after int) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		if after > len(m.Data) {
			return
		}
		for b := m.Data[after:]; len(b) >= unix.SizeofRtAttr; {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}
