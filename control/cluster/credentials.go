package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Role credentials live six hours, as EC2's do, and are replaced at half of that: a control plane may be
// away for three hours without any guest holding expired ones. SDKs take less than 20 minutes left for an
// outage (botocore adds a random 2 to 10 to its 10), so that is the least that is ever left in service.
const (
	credentialsLife  = 6 * time.Hour
	credentialsRenew = credentialsLife / 2
)

// atOnce is how many instances' credentials are made at the same time: the store writes what comes together in one go, and
// of a thousand that are due at once the last should not wait for all others. One instance is never done twice in a run.
const atOnce = 16

// minter makes a session of an instance profile's role, and knows whether one still stands for the role
// that the profile holds now.
type minter interface {
	Current(ctx context.Context, p cloud.ProfileRef, had cloud.Credentials) (bool, error)
	MintForInstance(ctx context.Context, p cloud.ProfileRef, id cloud.InstanceID, life time.Duration) (cloud.Credentials, error)
}

// Credentials keeps the role credentials of all instances fresh. It runs beside the planner, so that
// making keys never delays a launch, and never in a request's path.
type Credentials struct {
	Config
	Minter minter
	Sealer *store.Sealer // what the hosts' agents open the credentials with
}

// Reconcile makes what is missing or past half of its life. An instance whose role is gone is told so in
// EC2's words; any other failure leaves the last good set in service.
func (c *Credentials) Reconcile(ctx context.Context) error {
	snap := c.Mirror.Snapshot()
	instances, err := store.Mirrored(snap, store.Instances)
	if err != nil {
		return err
	}
	var minting sync.WaitGroup
	errs := make([]error, len(instances))
	slots := make(chan struct{}, atOnce)
	for k, o := range instances {
		if o.Value.Host == "" || o.Value.Power != cloud.PowerRunning {
			continue
		}
		slots <- struct{}{}
		minting.Go(func() {
			defer func() { <-slots }()
			if err := c.instance(ctx, snap, o, c.Now()); err != nil && !errors.Is(err, store.ErrConflict) {
				errs[k] = err
			}
		})
	}
	minting.Wait()
	return errors.Join(errs...)
}

func (c *Credentials) instance(ctx context.Context, snap *store.Snapshot, o store.Object[cloud.Instance], now time.Time) error {
	i := o.Value
	kind := store.Credentials(i.Host)
	sealed, err := store.MirroredGet(snap, kind, i.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	t := store.NewTxn()
	if i.Profile == nil {
		if sealed.Rev == 0 {
			return nil
		}
		store.Delete(t, kind, sealed)
		_, err := c.Store.Commit(ctx, t)
		return err
	}
	var had cloud.Credentials
	if sealed.Rev != 0 {
		if had, err = store.Unseal[cloud.Credentials](c.Sealer, kind, i.ID, sealed.Value); err != nil {
			return err
		}
	}
	next, err := c.renew(ctx, i, had, now)
	if err != nil || next == had {
		return err
	}
	box, err := store.Seal(c.Sealer, kind, i.ID, next)
	if err != nil {
		return err
	}
	store.Require(t, store.Instances, i.ID, o.Rev)
	if sealed.Rev == 0 {
		store.Create(t, kind, i.ID, box)
	} else {
		store.Update(t, kind, sealed, box)
	}
	_, err = c.Store.Commit(ctx, t)
	return err
}

// renew returns the credentials that the instance should have now: those that it has, when they are good.
func (c *Credentials) renew(ctx context.Context, i cloud.Instance, had cloud.Credentials, now time.Time) (cloud.Credentials, error) {
	mine := had.Profile == i.Profile.ID // what was made for another profile is not theirs for one moment longer
	if mine && had.Expiration.Sub(now) > credentialsLife-credentialsRenew {
		if current, err := c.Minter.Current(ctx, *i.Profile, had); err != nil || current {
			return had, err
		}
	}
	next, err := c.Minter.MintForInstance(ctx, *i.Profile, i.ID, credentialsLife)
	if cloud.Code(err) == "" {
		return next, err
	}
	const refused = "AssumeRoleUnauthorizedAccess"
	if mine && had.Code == refused && now.Sub(had.LastUpdated) < time.Minute {
		return had, nil
	}
	return cloud.Credentials{
		Role: i.Profile.RoleName, Profile: i.Profile.ID, Code: refused, LastUpdated: now.UTC().Truncate(time.Second),
		Message: "EC2 cannot assume the role " + i.Profile.RoleName + ": see that it exists and trusts ec2.amazonaws.com",
	}, nil
}
