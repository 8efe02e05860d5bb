package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// gateways forgets NAT gateways that were deleted long enough ago. Routes to them stay: they are black holes.
func (c *Cluster) gateways(ctx context.Context, v *view, now time.Time) error {
	all, err := store.Mirrored(v.snap, store.NATGateways)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range all {
		if !o.Value.Over(now) {
			continue
		}
		t := store.NewTxn()
		store.Delete(t, store.NATGateways, o)
		if _, err := c.Store.Commit(ctx, t); err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
