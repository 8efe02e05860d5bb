package ipam

import "math/bits"

// bitmap has one bit for each address of an IPv4 subnet: a /16, the largest, is 8 KiB.
type bitmap []uint64

func newBitmap(n uint32) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }

// free16 reports whether none of the block's 16 bits is set.
func (b bitmap) free16(block uint32) bool {
	return b[block/4]>>(block%4*16)&0xffff == 0
}

// firstFree returns the first bit from a place on, and around, that is set in neither map; also may be nil. What is
// behind a small subnet's end in its only word must not be found: the last address of a subnet is always taken, and
// the search in a word ends there.
func firstFree(taken, also bitmap, from uint32) (uint32, bool) {
	words := uint32(len(taken))
	for k := range words + 1 {
		w := (from/64 + k) % words
		used := taken[w]
		if also != nil {
			used |= also[w]
		}
		if k == 0 {
			used |= 1<<(from%64) - 1 // these come last
		}
		if i := uint32(bits.TrailingZeros64(^used)); i < 64 && w*64+i < uint32(limit(taken)) {
			return w*64 + i, true
		}
	}
	return 0, false
}

// limit is the place of the highest bit that is set: the subnet's last address.
func limit(b bitmap) int {
	last := len(b) - 1
	return last*64 + 63 - bits.LeadingZeros64(b[last])
}
