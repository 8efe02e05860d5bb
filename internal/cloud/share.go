package cloud

import (
	"slices"
	"strings"
)

// DocumentShare is an account, or all, that a document is shared with.
type DocumentShare struct {
	Account string
	Version string // the one that they see; $DEFAULT, $LATEST or $ALL
}

// Everybody is what a document is shared with that is public.
const Everybody = "all"

// maxShares is how many accounts a document may be shared with: Systems Manager's limit.
const maxShares = 1000

// Share returns the document shared with some accounts more, at a version, and with some no longer. That one is removed with
// which it was not shared is no error.
func (d Document) Share(add, remove []string, version string) (Document, error) {
	var next []DocumentShare
	for _, s := range d.Shared {
		if !slices.Contains(remove, s.Account) && !slices.Contains(add, s.Account) {
			next = append(next, s)
		}
	}
	for _, account := range add {
		if !slices.Contains(remove, account) {
			next = append(next, DocumentShare{account, version})
		}
	}
	slices.SortFunc(next, func(a, b DocumentShare) int { return strings.Compare(a.Account, b.Account) })
	next = slices.CompactFunc(next, func(a, b DocumentShare) bool { return a.Account == b.Account })
	if len(next) > maxShares {
		return d, Errorf("DocumentPermissionLimit", "Document %s would be shared with %d accounts, at most %d are allowed: share it with all", d.Name, len(next), maxShares)
	}
	d.Shared = next
	return d, nil
}

// Public reports whether the document is shared with everybody.
func (d Document) Public() bool {
	return slices.ContainsFunc(d.Shared, func(s DocumentShare) bool { return s.Account == Everybody })
}
