package cluster

import (
	"context"
	"errors"
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

// minter makes a session of an instance profile's role, and knows whether one still stands for the role
// that the profile holds now.
type minter interface {
	Current(ctx context.Context, profile string, had cloud.Credentials) (bool, error)
	MintForInstance(ctx context.Context, profile string, id cloud.InstanceID, life time.Duration) (cloud.Credentials, error)
}

// Credentials keeps the role credentials of all instances fresh. It runs beside the planner, so that
// making keys never delays a launch, and never in a request's path.
type Credentials struct {
	Config
	Minter minter
}

// Reconcile makes what is missing or past half of its life. An instance whose role is gone is told so in
// EC2's words; any other failure leaves the last good set in service.
func (c *Credentials) Reconcile(ctx context.Context) error {
	snap := c.Mirror.Snapshot()
	instances, err := store.Mirrored(snap, store.Instances)
	if err != nil {
		return err
	}
	now := c.Now()
	var errs []error
	for _, o := range instances {
		i := o.Value
		if i.Host == "" || i.Power != cloud.PowerRunning {
			continue
		}
		kind := store.Credentials(i.Host)
		had, err := store.MirroredGet(snap, kind, i.ID)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		case i.Profile == nil && had.Rev == 0:
			continue
		case i.Profile == nil:
			t := store.NewTxn()
			store.Delete(t, kind, had)
			_, err := c.Store.Commit(ctx, t)
			errs = append(errs, err)
			continue
		}
		if had.Rev != 0 && had.Value.Expiration.Sub(now) > credentialsLife-credentialsRenew {
			current, err := c.Minter.Current(ctx, i.Profile.ARN, had.Value)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if current {
				continue
			}
		}
		next, err := c.Minter.MintForInstance(ctx, i.Profile.ARN, i.ID, credentialsLife)
		switch {
		case cloud.Code(err) != "":
			next = cloud.Credentials{Role: i.Profile.RoleName, Code: "AssumeRoleUnauthorizedAccess", LastUpdated: now.UTC().Truncate(time.Second),
				Message: "EC2 cannot assume the role " + i.Profile.RoleName + ": see that it exists and trusts ec2.amazonaws.com"}
			if had.Value.Code == next.Code && now.Sub(had.Value.LastUpdated) < time.Minute {
				continue
			}
		case err != nil:
			errs = append(errs, err)
			continue
		}
		t := store.NewTxn()
		store.Require(t, store.Instances, i.ID, o.Rev)
		if had.Rev == 0 {
			store.Create(t, kind, i.ID, next)
		} else {
			store.Update(t, kind, had, next)
		}
		if _, err := c.Store.Commit(ctx, t); err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
