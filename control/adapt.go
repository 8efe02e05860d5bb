package main

import (
	"context"
	"errors"

	"github.com/ichiro-metal/ichiro/control/api"
	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// profiles is what launches need of IAM: to find a profile, and to ask whether its role may be passed.
type profiles struct {
	*iam.Engine
	authority *iamapi.Authority
}

func (p profiles) MayPassRole(ctx context.Context, ref cloud.ProfileRef) error {
	return p.authority.MayPassRole(ctx, ref)
}

// minter makes the credentials of instances.
type minter struct{ *iam.Engine }

// Current reports whether credentials are of the role that the profile holds now: not of another, and not of
// one that was made anew under the same name, and not revoked: whoever revokes a role's sessions ends those that were
// stolen, and the instance goes on with a new one.
func (m minter) Current(ctx context.Context, p cloud.ProfileRef, had cloud.Credentials) (bool, error) {
	now, err := m.ProfileNow(ctx, p)
	if err == nil && now.RoleName == had.Role && had.Profile == p.ID {
		var who *iam.Principal
		who, _, err = m.Lookup(had.AccessKeyID, had.Token)
		if err == nil {
			return !m.Reissue(who), nil
		}
	}
	if cloud.Code(err) == "ServiceUnavailable" {
		return false, err
	}
	return false, nil // the minter says why, if it cannot make others
}

// mayIn asks whether a request's caller may also do something that only the carrying out shows to be needed.
func mayIn(region string, authority *iamapi.Authority) func(ctx context.Context, action, resource string) error {
	return func(ctx context.Context, action, resource string) error {
		who := api.CallerFrom(ctx)
		arn := api.ARN("ssm", region, who.Account, resource)
		err := authority.Authorize(ctx, who, action, arn)
		if errors.Is(err, api.ErrDenied) {
			return cloud.Errorf("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s", who.ARN, action, arn)
		}
		return err
	}
}
