package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// PutStatus writes what a host has seen, unless the store holds word of a newer generation:
// then it is ErrStale, and the writer must read its wish again. A value equal to the one in
// the store is not written. generation tells which generation of the wish v speaks of.
//
// The fence is exact: the comparison is made on the revision that was read.
func PutStatus[T any, I ~string](ctx context.Context, c *Client, k Kind[T], id I, v T, generation func(T) int64) error {
	for {
		now, err := Get(ctx, c, k, id)
		t := NewTxn()
		switch {
		case errors.Is(err, ErrNotFound):
			Create(t, k, id, v)
		case err != nil:
			return err
		case generation(now.Value) > generation(v):
			return fmt.Errorf("put %s of generation %d over %d: %w", now.Key, generation(v), generation(now.Value), ErrStale)
		case same(now.Value, v):
			return nil
		default:
			Update(t, k, now, v)
		}
		if _, err := c.Commit(ctx, t); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

func same[T any](a, b T) bool {
	ja, errA := json.Marshal(a)
	jb, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(ja, jb)
}
