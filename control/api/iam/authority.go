package iam

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/ichiro-metal/ichiro/control/api"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Authority is the engine as the front asks it.
type Authority struct {
	engine *engine.Engine

	// Who has been authenticated lately, by access key: an api.Identity has not
	// all that a decision needs. Two generations, so that a request under way
	// finds its caller: that many others would have to come between its gates.
	mu        sync.Mutex
	now, last map[string]*engine.Principal
}

const generation = 4096

// NewAuthority returns the authority over an engine.
func NewAuthority(e *engine.Engine) *Authority {
	return &Authority{engine: e, now: map[string]*engine.Principal{}}
}

var _ api.Authority = (*Authority)(nil)

// Authenticate returns who holds the access key and the key that their signatures are made with.
func (a *Authority) Authenticate(_ context.Context, c api.Credential) (api.Identity, []byte, error) {
	who, secret, err := a.engine.Lookup(c.AccessKeyID, c.SessionToken)
	switch {
	case errors.Is(err, engine.ErrUnknownKey):
		return api.Identity{}, nil, fmt.Errorf("authenticate %.32q: %w", c.AccessKeyID, api.ErrUnknownKey)
	case errors.Is(err, engine.ErrBadToken):
		return api.Identity{}, nil, fmt.Errorf("authenticate %.32q: %w", c.AccessKeyID, api.ErrBadToken)
	case errors.Is(err, engine.ErrExpired):
		return api.Identity{}, nil, fmt.Errorf("authenticate %.32q: %w", c.AccessKeyID, api.ErrTokenExpired)
	case err != nil:
		return api.Identity{}, nil, err
	}
	a.remember(who)
	id := api.Identity{
		Account: who.Account, ARN: who.ARN, UserID: who.UserID, AccessKeyID: who.AccessKeyID, Role: who.RoleName(), Root: who.Root(),
	}
	if id.Role != "" {
		_, id.Session, _ = strings.Cut(who.UserID, ":")
	}
	return id, sigv4.Key(secret, c.Date, c.Region, c.Service), nil
}

func (a *Authority) remember(who *engine.Principal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.now) >= generation {
		a.last, a.now = a.now, make(map[string]*engine.Principal, generation)
	}
	a.now[who.AccessKeyID] = who
}

// Principal returns the caller whom Authenticate has seen.
func (a *Authority) Principal(id api.Identity) (*engine.Principal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	who := a.now[id.AccessKeyID]
	if who == nil {
		who = a.last[id.AccessKeyID]
	}
	if who == nil || who.ARN != id.ARN || who.UserID != id.UserID {
		return nil, cloud.Errorf("ServiceUnavailable", "the caller is not known here any more: send the request again")
	}
	return who, nil
}

// free are actions that need nobody's permission: the first two tell callers only
// of themselves, and whether AssumeRole is allowed is for the role's trust policy
// to say together with the caller's own.
var free = map[string]bool{"sts:GetCallerIdentity": true, "sts:GetSessionToken": true, "sts:AssumeRole": true}

// Authorize returns nil if the caller may do action with resource, else api.ErrDenied.
func (a *Authority) Authorize(_ context.Context, id api.Identity, action, resource string) error {
	if id.Root || free[action] {
		return nil
	}
	if resource == callersUser {
		resource = "*"
		if id.Role == "" {
			resource = id.ARN
		}
	}
	who, err := a.Principal(id)
	if err != nil {
		return err
	}
	if a.engine.Decide(who, action, resource, nil) != engine.Allowed {
		return fmt.Errorf("%s, %s on %s: %w", who.ARN, action, resource, api.ErrDenied)
	}
	return nil
}

// ResolveProfile finds an instance profile by its name or ARN.
func (a *Authority) ResolveProfile(ctx context.Context, nameOrARN string) (cloud.ProfileRef, error) {
	return a.engine.ResolveProfile(ctx, nameOrARN)
}

// MayPassRole returns nil if the caller of an action may hand the role of an
// instance profile to EC2, as a launch with the profile does; else EC2's UnauthorizedOperation.
func (a *Authority) MayPassRole(ctx context.Context, p cloud.ProfileRef) error {
	who, err := a.Principal(api.CallerFrom(ctx))
	if err != nil {
		return err
	}
	r, err := a.engine.Role(p.RoleName)
	if err != nil {
		return cloud.Errorf("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. IAM Instance Profile has no associated IAM Roles", p.Name)
	}
	return a.engine.MayPassRole(who, r.ARN, engine.EC2)
}
