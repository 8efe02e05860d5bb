package ec2

import (
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// list returns the account's values of a kind, or those named.
func list[T any, ID ~string](snap *store.Snapshot, k store.Kind[T], ids []string, who cloud.AccountID, n noun) ([]T, error) {
	var out []T
	for _, id := range ids {
		o, err := find(snap, k, ID(id), who, n)
		if err != nil {
			return nil, err
		}
		out = append(out, o.Value)
	}
	if len(ids) > 0 {
		return out, nil
	}
	all, err := store.Mirrored(snap, k)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		if owner(o.Value) == who {
			out = append(out, o.Value)
		}
	}
	return out, nil
}
