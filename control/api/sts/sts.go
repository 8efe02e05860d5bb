// Package sts is the STS service of the API: who am I, and temporary credentials.
//
// Sessions are made by control/iam: for a role whose trust policy admits the
// caller or the token that an instance shows, and for a user. Session tags, source identities and multi-factor devices
// do not exist; a request that wants them is refused, since it would get
// credentials that mean something else than it thinks.
package sts

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/sts"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/identity"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// callers tells the engine's view of who calls.
type callers interface {
	Principal(api.Identity) (*engine.Principal, error)
}

// issuer verifies the tokens of this cloud's instances.
type issuer interface {
	Verify(token string) (identity.Claims, error)
}

type service struct {
	engine  *engine.Engine
	callers callers
	tokens  issuer
}

// Service returns the STS service.
func Service(e *engine.Engine, c callers, tokens issuer) api.Service {
	s := &service{e, c, tokens}
	return api.Service{
		Name: "sts", Protocol: wire.Query, Version: shape.Version, Namespace: shape.Namespace,
		Known: shape.Operations, Ignored: shape.Ignored,
		Actions: []api.Action{
			api.Do("GetCallerIdentity", s.getCallerIdentity, api.ReadOnly()),
			api.Do("AssumeRole", s.assumeRole, api.Resource(func(in *shape.AssumeRoleInput) []string { return []string{in.RoleArn} })),
			api.Do("AssumeRoleWithWebIdentity", s.assumeRoleWithWebIdentity, api.Unsigned(),
				api.Resource(func(in *shape.AssumeRoleWithWebIdentityInput) []string { return []string{in.RoleArn} })),
			api.Do("GetSessionToken", s.getSessionToken),
			api.Do("GetAccessKeyInfo", s.getAccessKeyInfo, api.ReadOnly()),
			api.Do("DecodeAuthorizationMessage", s.decodeAuthorizationMessage, api.ReadOnly()),
		},
	}
}

func (s *service) getCallerIdentity(ctx context.Context, _ *shape.GetCallerIdentityInput) (*shape.GetCallerIdentityOutput, error) {
	id := api.CallerFrom(ctx)
	return &shape.GetCallerIdentityOutput{Account: id.Account, Arn: id.ARN, UserId: id.UserID}, nil
}

func (s *service) assumeRole(ctx context.Context, in *shape.AssumeRoleInput) (*shape.AssumeRoleOutput, error) {
	who, err := s.callers.Principal(api.CallerFrom(ctx))
	if err != nil {
		return nil, err
	}
	switch {
	case len(in.Tags)+len(in.TransitiveTagKeys) > 0:
		return nil, unsupported("Tags")
	case in.SourceIdentity != "":
		return nil, unsupported("SourceIdentity")
	case len(in.ProvidedContexts) > 0:
		return nil, unsupported("ProvidedContexts")
	case in.SerialNumber+in.TokenCode != "":
		return nil, unsupported("SerialNumber")
	}
	ask := engine.Assume{RoleARN: in.RoleArn, SessionName: in.RoleSessionName, ExternalID: in.ExternalId, Policy: in.Policy, Duration: seconds(in.DurationSeconds)}
	ask.PolicyARNs = arns(in.PolicyArns)
	c, err := s.engine.AssumeRole(ctx, who, ask)
	if err != nil {
		return nil, err
	}
	return &shape.AssumeRoleOutput{
		Credentials:     ofCredentials(c),
		AssumedRoleUser: &shape.AssumedRoleUser{Arn: c.AssumedRoleARN, AssumedRoleId: c.AssumedRoleID},
	}, nil
}

// assumeRoleWithWebIdentity takes the tokens that this cloud's own instances get from their metadata. Those of other issuers
// would need their keys fetched from elsewhere, and are refused like any that nobody here has signed.
func (s *service) assumeRoleWithWebIdentity(ctx context.Context, in *shape.AssumeRoleWithWebIdentityInput) (*shape.AssumeRoleWithWebIdentityOutput, error) {
	if in.ProviderId != "" {
		return nil, unsupported("ProviderId")
	}
	said, err := s.tokens.Verify(in.WebIdentityToken)
	switch {
	case errors.Is(err, identity.ErrExpired):
		return nil, cloud.Errorf("ExpiredTokenException", "The web identity token has expired: get a new one, this one was good until %s", time.Unix(said.Expires, 0).UTC().Format(time.RFC3339))
	case err != nil:
		return nil, cloud.Errorf("InvalidIdentityToken", "The web identity token is not valid: %v", err)
	}
	who := engine.WebIdentity{Issuer: said.Issuer, Subject: said.Subject, Audience: said.Audience, Claims: said.Facts()}
	c, provider, err := s.engine.AssumeByToken(ctx, who, engine.Assume{
		RoleARN: in.RoleArn, SessionName: in.RoleSessionName, Policy: in.Policy, PolicyARNs: arns(in.PolicyArns), Duration: seconds(in.DurationSeconds),
	})
	if err != nil {
		return nil, err
	}
	return &shape.AssumeRoleWithWebIdentityOutput{
		Credentials:     ofCredentials(c),
		AssumedRoleUser: &shape.AssumedRoleUser{Arn: c.AssumedRoleARN, AssumedRoleId: c.AssumedRoleID},
		Audience:        said.Audience, Provider: provider.ARN, SubjectFromWebIdentityToken: said.Subject,
	}, nil
}

func (s *service) getSessionToken(ctx context.Context, in *shape.GetSessionTokenInput) (*shape.GetSessionTokenOutput, error) {
	if in.SerialNumber != "" || in.TokenCode != "" {
		return nil, unsupported("SerialNumber")
	}
	who, err := s.callers.Principal(api.CallerFrom(ctx))
	if err != nil {
		return nil, err
	}
	c, err := s.engine.UserSession(ctx, who, seconds(in.DurationSeconds))
	if err != nil {
		return nil, err
	}
	return &shape.GetSessionTokenOutput{Credentials: ofCredentials(c)}, nil
}

func (s *service) getAccessKeyInfo(ctx context.Context, in *shape.GetAccessKeyInfoInput) (*shape.GetAccessKeyInfoOutput, error) {
	issued, err := s.engine.Issued(ctx, in.AccessKeyId)
	if err != nil {
		return nil, err
	}
	if !issued {
		return nil, cloud.Errorf("ValidationError", "access key %.32q is not one of this account's", in.AccessKeyId)
	}
	return &shape.GetAccessKeyInfoOutput{Account: s.engine.Account()}, nil
}

// decodeAuthorizationMessage reads what ours say: nothing is encoded in them.
func (s *service) decodeAuthorizationMessage(_ context.Context, in *shape.DecodeAuthorizationMessageInput) (*shape.DecodeAuthorizationMessageOutput, error) {
	if _, err := base64.RawURLEncoding.DecodeString(in.EncodedMessage); err != nil {
		return nil, cloud.Errorf("InvalidAuthorizationMessageException", "the message cannot be decoded")
	}
	return nil, cloud.Errorf("InvalidAuthorizationMessageException", "the message was not encoded here: refusals of this service name the user, the action and the resource in plain words")
}

func arns(in []shape.PolicyDescriptorType) (out []string) {
	for _, p := range in {
		out = append(out, p.Arn)
	}
	return out
}

func ofCredentials(c engine.Credentials) *shape.Credentials {
	return &shape.Credentials{AccessKeyId: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken, Expiration: &c.Expiration}
}

func seconds(n *int64) time.Duration {
	if n == nil {
		return 0
	}
	return time.Duration(min(max(*n, 1), 1<<31)) * time.Second // 0 is "not given" for the engine, so it must not be made of a wrong figure
}

func unsupported(name string) error {
	return cloud.Errorf("ValidationError", "%s is not supported: leave it out", name)
}
