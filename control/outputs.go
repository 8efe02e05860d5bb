package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/objects"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// actingFor is how long the credentials of a grant live: longer than the largest output takes.
const actingFor = 6 * time.Hour

// buckets puts objects in the name of callers: their rights are asked for when a command is sent, and again by the object store
// whenever something is written.
type buckets struct {
	engine    *iam.Engine
	authority *iamapi.Authority
	store     *objects.Store
}

// Grant returns what lets the control plane put an object as the caller, or S3's word why it may not. With the store away
// nobody can ask a bucket's policy; what the caller's own policies forbid is refused all the same.
func (b buckets) Grant(ctx context.Context, bucket, key string) (string, error) {
	who, err := b.authority.Principal(api.CallerFrom(ctx))
	if err != nil {
		return "", err
	}
	resource := "arn:aws:s3:::" + bucket + "/" + key
	denied := cloud.Errorf("AccessDenied", "User: %s is not authorized to perform: s3:PutObject on resource: %s", who.ARN, resource)
	grant, err := b.engine.Delegate(who)
	if err != nil {
		return "", err
	}
	as, err := b.signer(grant)
	if err != nil {
		return "", err
	}
	err = b.store.Probe(ctx, as, bucket, key)
	var refused objects.Refused
	switch {
	case errors.As(err, &refused) && refused.Code == "AccessDenied":
		return "", denied
	case errors.As(err, &refused):
		return "", cloud.Errorf(refused.Code, "%s", refused.Message)
	case err != nil && b.engine.Decide(who, "s3:PutObject", resource, nil) == iam.Denied:
		return "", denied
	}
	return grant, nil
}

// Put writes an object as whom a grant is from.
func (b buckets) Put(ctx context.Context, grant, bucket, key string, size int64, body io.Reader) error {
	as, err := b.signer(grant)
	if err != nil {
		return err
	}
	err = b.store.Put(ctx, as, bucket, key, size, body)
	var refused objects.Refused
	if errors.As(err, &refused) {
		return cloud.Errorf(refused.Code, "%s", refused.Message)
	}
	return err
}

func (b buckets) signer(grant string) (objects.Signer, error) {
	c, err := b.engine.Act(grant, actingFor)
	return objects.Signer{AccessKeyID: c.AccessKeyID, Secret: c.SecretAccessKey, Token: c.SessionToken}, err
}
