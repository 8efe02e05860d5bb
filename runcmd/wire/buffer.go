package wire

import "sync"

// A connection holds a buffer for what it has received only while somebody may look at it: ten thousand agents that have
// printed something, and are silent now, would hold a gigabyte. There are two sizes: one in which every frame of a small
// command fits, and one for an output at its largest.
const (
	smallSize = 512
	largeSize = MaxToGateway + 1
)

var small, large sync.Pool

// take returns an empty buffer that holds at least n bytes.
func take(n int) []byte {
	switch {
	case n <= smallSize:
		if b, ok := small.Get().(*[smallSize]byte); ok {
			return b[:0]
		}
		return make([]byte, 0, smallSize)
	case n <= largeSize:
		if b, ok := large.Get().(*[largeSize]byte); ok {
			return b[:0]
		}
		return make([]byte, 0, largeSize)
	}
	return make([]byte, 0, n)
}

// give returns a buffer that nobody looks at any more.
func give(b []byte) {
	switch cap(b) {
	case smallSize:
		small.Put((*[smallSize]byte)(b[:smallSize]))
	case largeSize:
		large.Put((*[largeSize]byte)(b[:largeSize]))
	}
}

// grow returns a larger buffer, of most bytes at the largest, with what is in b, which is given.
func grow(b []byte, most int) []byte {
	n := largeSize
	if cap(b) >= largeSize {
		n = min(cap(b)*4, most)
	}
	grown := append(take(n), b...)
	give(b)
	return grown
}
