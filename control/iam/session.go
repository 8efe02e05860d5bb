package iam

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Credentials are a temporary key with its token.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expiration      time.Time
	AssumedRoleID   string // AROA...:session name; empty for a user's session
	AssumedRoleARN  string
}

// Limits of sessions, in AWS's figures.
const (
	minSession     = 15 * time.Minute
	maxUserSession = 36 * time.Hour
	// InstanceSession is how long an instance's credentials live. They are
	// rotated long before, so this is how long a control plane may be away.
	InstanceSession = 6 * time.Hour
)

// claims are what a session token says. The token is sealed, so whoever holds
// the seal key can believe it without a look into the store.
type claims struct {
	ID       string `json:"k"`
	RoleName string `json:"r,omitempty"`
	RoleID   string `json:"i,omitempty"`
	RoleARN  string `json:"a,omitempty"`
	UserName string `json:"u,omitempty"`
	UserID   string `json:"w,omitempty"`
	Name     string `json:"s,omitempty"`
	Policy   string `json:"p,omitempty"`
	Issued   int64  `json:"t"` // 0 in tokens of before it was kept, which makes them the oldest of all
	Expires  int64  `json:"e"`
}

const tokenPurpose = "session-token"

func (v *vault) mintToken(c claims) (string, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode session: %v", err)
	}
	return base64.StdEncoding.EncodeToString(v.seal(tokenPurpose, plain)), nil
}

func (v *vault) readToken(accessKeyID, token string) (claims, bool) {
	sealed, err := base64.StdEncoding.DecodeString(token)
	if err != nil || base64.StdEncoding.EncodeToString(sealed) != token { // the decoder skips line ends
		return claims{}, false
	}
	plain, err := v.open(tokenPurpose, sealed)
	if err != nil {
		return claims{}, false
	}
	var c claims
	if err := json.Unmarshal(plain, &c); err != nil {
		return claims{}, false
	}
	return c, subtle.ConstantTimeCompare([]byte(c.ID), []byte(accessKeyID)) == 1
}

// roleSession mints credentials of a role, if the role is still the one with
// this id when they are written.
func (e *Engine) roleSession(ctx context.Context, r Role, name, policy string, life time.Duration) (Credentials, error) {
	now := e.now()
	c := claims{ID: newID("ASIA", 16), RoleName: r.Name, RoleID: r.ID, RoleARN: r.ARN, Name: name, Policy: policy, Issued: now.Unix(), Expires: now.Add(life).Unix()}
	creds, err := e.keepSession(ctx, c, now, func(t *tx) error {
		have, err := needRole(t, r.Name)
		if err == nil && have.ID != r.ID {
			err = noSuch("The role with name %s cannot be found.", r.Name)
		}
		return err
	})
	if err != nil {
		return Credentials{}, err
	}
	creds.AssumedRoleID, creds.AssumedRoleARN = r.ID+":"+name, e.assumedARN(r.Name, name)
	return creds, nil
}

// keepSession makes the credentials that c speaks of and writes the session's
// record: what can be listed and swept. It has no secret in it.
func (e *Engine) keepSession(ctx context.Context, c claims, now time.Time, require func(*tx) error) (Credentials, error) {
	token, err := e.vault.mintToken(c)
	if err != nil {
		return Credentials{}, err
	}
	s := Session{
		ID: c.ID, RoleName: c.RoleName, RoleID: c.RoleID, RoleARN: c.RoleARN, UserName: c.UserName, UserID: c.UserID,
		Name: c.Name, Token: token, Policy: c.Policy, Created: now, Expires: time.Unix(c.Expires, 0).UTC(),
	}
	_, err = e.commit(ctx, func(t *tx) error {
		if err := require(t); err != nil {
			return err
		}
		return sessions.put(t, s.ID, &s)
	})
	return Credentials{AccessKeyID: c.ID, SecretAccessKey: e.vault.sessionSecret(c.ID), SessionToken: token, Expiration: s.Expires}, err
}

// MintForInstance makes credentials of the role in an instance profile, named
// for the instance. life 0 means InstanceSession. They die with the role.
//
// A cloud.Error means that the instance cannot have any: the profile or its role
// is gone, or does not trust EC2. Whatever may pass by itself is another error.
func (e *Engine) MintForInstance(ctx context.Context, p cloud.ProfileRef, instance cloud.InstanceID, life time.Duration) (cloud.Credentials, error) {
	c, role, err := e.mintForInstance(ctx, p, instance, life)
	switch cloud.Code(err) {
	case "":
	case "ServiceUnavailable", "ConcurrentModification":
		return cloud.Credentials{}, fmt.Errorf("mint credentials for %s: %v", instance, err)
	}
	if err != nil {
		return cloud.Credentials{}, err
	}
	return cloud.Credentials{
		Role: role, Profile: p.ID, Code: "Success", LastUpdated: e.now(), AccessKeyID: c.AccessKeyID,
		SecretAccessKey: c.SecretAccessKey, Token: c.SessionToken, Expiration: c.Expiration,
	}, nil
}

func (e *Engine) mintForInstance(ctx context.Context, p cloud.ProfileRef, instance cloud.InstanceID, life time.Duration) (c Credentials, role string, err error) {
	ref, err := e.ProfileNow(ctx, p)
	if err != nil {
		return c, "", err
	}
	if ref.RoleName == "" {
		return c, "", cloud.Errorf("InstanceProfileNotFound", "instance profile %s holds no role: add one with add-role-to-instance-profile", ref.Name)
	}
	r, err := e.Role(ref.RoleName)
	if err != nil {
		return c, "", err
	}
	q := question{action: "sts:AssumeRole", facts: e.clockFacts()}
	if d, _ := trusts(r.Trust, caller{service: EC2}, q); d != Allowed {
		return c, "", cloud.Errorf("AssumeRoleUnauthorizedAccess", "EC2 cannot assume the role %s: its trust policy must allow the service %s", r.Name, EC2)
	}
	if life == 0 {
		life = InstanceSession
	}
	c, err = e.roleSession(ctx, r, string(instance), "", life)
	return c, r.Name, err
}

// Assume is a request for a session of a role.
type Assume struct {
	RoleARN     string
	SessionName string
	ExternalID  string
	Policy      string   // narrows what the role allows
	PolicyARNs  []string // the same, by managed policies
	Duration    time.Duration
}

// AssumeRole makes credentials of a role for a caller whom its trust policy
// admits. A trust in the account needs the caller's own policies to allow it too.
func (e *Engine) AssumeRole(ctx context.Context, who *Principal, a Assume) (Credentials, error) {
	if !sessionPattern.MatchString(a.SessionName) {
		return Credentials{}, invalid("roleSessionName", a.SessionName, `Member must have 2 to 64 characters of [\w+=,.@-]`)
	}
	narrow, err := e.sessionPolicy(a)
	if err != nil {
		return Credentials{}, err
	}
	refused := cloud.Errorf("AccessDenied", "User: %s is not authorized to perform: sts:AssumeRole on resource: %s", who.ARN, a.RoleARN)
	r := roles.look(e, policyName(a.RoleARN))
	if r == nil || r.ARN != a.RoleARN {
		return Credentials{}, refused // AWS does not tell whether the role exists
	}
	q := question{action: "sts:AssumeRole", resource: r.ARN, facts: e.facts(who)}
	q.facts["sts:RoleSessionName"] = []string{a.SessionName}
	if a.ExternalID != "" {
		q.facts["sts:ExternalId"] = []string{a.ExternalID}
	}
	trust, byName := trusts(r.Trust, caller{account: e.account, arns: who.names()}, q)
	own := e.decide(who, q)
	if trust != Allowed || own == Denied || own == Silent && !byName {
		return Credentials{}, refused
	}
	life, err := sessionLife(a.Duration, time.Hour, time.Duration(r.MaxSession)*time.Second)
	if err != nil {
		return Credentials{}, err
	}
	if who.session && life > time.Hour {
		return Credentials{}, cloud.Errorf("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining")
	}
	return e.roleSession(ctx, *r, a.SessionName, narrow, life)
}

// sessionPolicy joins the documents that narrow a session into one.
func (e *Engine) sessionPolicy(a Assume) (string, error) {
	var documents []string
	if a.Policy != "" {
		if err := checkPolicy(a.Policy, maxSessionText); err != nil {
			return "", err
		}
		documents = append(documents, a.Policy)
	}
	for _, arn := range a.PolicyARNs {
		p, err := e.Policy(arn)
		if err != nil {
			return "", err
		}
		documents = append(documents, p.Document())
	}
	return joinPolicies(documents)
}

func sessionLife(want, fallback, most time.Duration) (time.Duration, error) {
	if want == 0 {
		return min(fallback, most), nil
	}
	if want < minSession {
		return 0, cloud.Errorf("ValidationError", "1 validation error detected: Value '%d' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to %d", int(want.Seconds()), int(minSession.Seconds()))
	}
	if want > most {
		return 0, cloud.Errorf("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role: at most %d seconds", int(most.Seconds()))
	}
	return want, nil
}

// UserSession makes temporary credentials for a user, or for the account's root.
func (e *Engine) UserSession(ctx context.Context, who *Principal, life time.Duration) (Credentials, error) {
	if who.session {
		return Credentials{}, cloud.Errorf("AccessDenied", "Cannot call GetSessionToken with session credentials")
	}
	most := maxUserSession
	if who.root {
		most = time.Hour
	}
	life, err := sessionLife(life, 12*time.Hour, most)
	if err != nil {
		return Credentials{}, err
	}
	now := e.now()
	c := claims{ID: newID("ASIA", 16), UserID: who.UserID, UserName: who.userName, Issued: now.Unix(), Expires: now.Add(life).Unix()}
	return e.keepSession(ctx, c, now, func(t *tx) error {
		if who.root {
			return nil
		}
		u, err := needUser(t, who.userName)
		if err == nil && u.ID != who.UserID {
			err = noSuch("The user with name %s cannot be found.", who.userName)
		}
		return err
	})
}

// sweepBatch is within what etcd takes in one transaction unless told otherwise (128).
const sweepBatch = 100

// Sweep removes the records of sessions that are over and returns how many.
func (e *Engine) Sweep(ctx context.Context) (int, error) {
	list, err := store.List(ctx, e.client, sessions.kind, store.Range{})
	if err != nil {
		return 0, fmt.Errorf("list sessions: %w", err)
	}
	var over []string
	for _, o := range list.Objects {
		if !e.now().Before(o.Value.Expires) {
			over = append(over, o.ID)
		}
	}
	for batch := range slices.Chunk(over, sweepBatch) {
		t := store.NewTxn()
		for _, id := range batch {
			store.Remove(t, sessions.kind, id) // a record never changes, so nothing can be lost
		}
		if _, err := e.client.Commit(ctx, t); err != nil {
			return 0, fmt.Errorf("sweep sessions: %w", err)
		}
	}
	return len(over), nil
}

func (e *Engine) assumedARN(role, session string) string {
	return "arn:aws:sts::" + e.account + ":assumed-role/" + role + "/" + session
}

func isTemporary(accessKeyID string) bool { return strings.HasPrefix(accessKeyID, "ASIA") }
