// Package delta finds what differs between two long lists that are nearly the same.
//
// The agent's deciders write a whole wish each time, in an order that depends on nothing but the wish. Of two in
// succession all but a little is equal and in its place, so what both begin with and what both end with is passed
// over by comparing in place, and only the rest in the middle needs the care (and the maps) of its owner.
package delta

// Middle returns the indexes between which a and b differ: a[from:endA] and b[from:endB]. All before and after are
// equal in pairs; both are empty if a and b are equal.
func Middle[T any](a, b []T, equal func(x, y *T) bool) (from, endA, endB int) {
	n := min(len(a), len(b))
	if n > 0 && len(a) == len(b) && &a[0] == &b[0] {
		return n, n, n // the same list
	}
	for from < n && equal(&a[from], &b[from]) {
		from++
	}
	endA, endB = len(a), len(b)
	for endA > from && endB > from && equal(&a[endA-1], &b[endB-1]) {
		endA--
		endB--
	}
	return from, endA, endB
}
