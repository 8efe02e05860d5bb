package iam

import (
	"context"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// WebIdentity is what a token states whose signature, time and issuer have been verified.
type WebIdentity struct {
	Issuer   string // the whole URL
	Subject  string
	Audience string
	Claims   map[string]string // more that conditions may ask for
}

// AssumeByToken makes credentials of a role for the holder of a token, and says by which provider. Nobody has signed such a
// request, so all that admits is the role's trust policy: it must name the provider, and its conditions read the token as
// ISSUER:aud, ISSUER:sub and so on, the issuer without its scheme.
func (e *Engine) AssumeByToken(ctx context.Context, who WebIdentity, a Assume) (Credentials, Provider, error) {
	if !e.isReady() {
		return Credentials{}, Provider{}, errNotReady
	}
	if !sessionPattern.MatchString(a.SessionName) {
		return Credentials{}, Provider{}, invalid("roleSessionName", a.SessionName, `Member must have 2 to 64 characters of [\w+=,.@-]`)
	}
	p, err := e.providerOf(who)
	if err != nil {
		return Credentials{}, Provider{}, err
	}
	refused := cloud.Errorf("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	r := roles.look(e, policyName(a.RoleARN))
	if r == nil || r.ARN != a.RoleARN {
		return Credentials{}, Provider{}, refused // AWS does not tell whether the role exists
	}
	q := question{action: "sts:AssumeRoleWithWebIdentity", resource: r.ARN, facts: e.clockFacts()}
	q.facts["sts:RoleSessionName"] = []string{a.SessionName}
	q.facts["aws:FederatedProvider"] = []string{p.ARN}
	for name, value := range who.Claims {
		q.facts[p.URL+":"+name] = []string{value}
	}
	q.facts[p.URL+":aud"], q.facts[p.URL+":sub"] = []string{who.Audience}, []string{who.Subject}
	if d, _ := trusts(r.Trust, caller{provider: p.ARN}, q); d != Allowed {
		return Credentials{}, Provider{}, refused
	}
	narrow, err := e.sessionPolicy(a)
	if err != nil {
		return Credentials{}, Provider{}, err
	}
	life, err := sessionLife(a.Duration, time.Hour, time.Duration(r.MaxSession)*time.Second)
	if err != nil {
		return Credentials{}, Provider{}, err
	}
	c, err := e.roleSession(ctx, *r, a.SessionName, narrow, life)
	return c, p, err
}

// providerOf finds who is known here for the issuer and speaks to the audience.
func (e *Engine) providerOf(who WebIdentity) (Provider, error) {
	name, err := issuerName(who.Issuer)
	if err != nil {
		return Provider{}, cloud.Errorf("InvalidIdentityToken", "The token's issuer is no URL")
	}
	p, err := e.Provider(e.providerARN(name))
	if err != nil {
		return Provider{}, cloud.Errorf("InvalidIdentityToken", "No OpenIDConnect provider found in your account for %s", who.Issuer)
	}
	if !slices.Contains(p.Clients, who.Audience) {
		return Provider{}, cloud.Errorf("InvalidIdentityToken", "Incorrect token audience")
	}
	return p, nil
}
