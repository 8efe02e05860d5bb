package cluster

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"strconv"

	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// mostVNI is the largest VXLAN network identifier: it has 24 bits (RFC 7348 section 5).
const mostVNI = 1<<24 - 1

// overlays gives each VPC that is on several hosts a number, and takes it from those that are gone. Numbers are drawn: one
// that was just given back is nearly never the next, so a host that has not heard of the end of a VPC meets no other one
// under its number.
func (c *Cluster) overlays(ctx context.Context, v *view) error {
	var errs []error
	for _, id := range placement.Apart(v.world, v.specs) {
		if v.world.Overlays[id] != 0 {
			continue
		}
		n := 1 + mathrand.Uint32N(mostVNI)
		t := store.NewTxn()
		store.Create(t, store.Overlays, id, n)
		store.Create(t, store.VNIs, strconv.Itoa(int(n)), id) // taken: the next round draws again
		if _, err := c.Store.Commit(ctx, t); err != nil {
			errs = append(errs, err)
			continue
		}
		v.world.Overlays[id] = n
		c.Log.Info("VPC has interfaces on several hosts", "vpc", id, "vni", n)
	}
	for id, n := range v.world.Overlays {
		if _, ok := v.world.VPCs[id]; ok {
			continue
		}
		t := store.NewTxn()
		store.Remove(t, store.Overlays, id)
		store.Remove(t, store.VNIs, strconv.Itoa(int(n)))
		if _, err := c.Store.Commit(ctx, t); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(v.world.Overlays, id)
	}
	return errors.Join(withoutConflicts(errs)...)
}
