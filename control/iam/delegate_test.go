package iam

import (
	"testing"
	"time"
)

// Who acts for a caller is the caller, as they are when it is done: narrowed as their session was, revoked with it, and not
// expired with it.
func TestActingForSomebody(t *testing.T) {
	e, clock := newEngine(t)
	ctx := t.Context()
	k, _ := user(t, e, "alice")
	alice, _, err := e.Lookup(k.ID, "")
	ok(t, err)
	must[Role](t)(e.CreateRole(ctx, Role{Name: "keeper", Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + alice.ARN + `"},"Action":"sts:AssumeRole"}}`}))
	ok(t, e.AttachRolePolicy(ctx, "keeper", builtinPrefix+"AdministratorAccess"))
	c := must[Credentials](t)(e.AssumeRole(ctx, alice, Assume{RoleARN: "arn:aws:iam::000000000000:role/keeper", SessionName: "narrow", Policy: mayRun, Duration: 20 * time.Minute}))
	narrow, _, err := e.Lookup(c.AccessKeyID, c.SessionToken)
	ok(t, err)
	root, _, err := e.Lookup(e.RootKey().AccessKeyId, "")
	ok(t, err)

	act := func(grant string) *Principal {
		t.Helper()
		c := must[Credentials](t)(e.Act(grant, time.Hour))
		who, secret, err := e.Lookup(c.AccessKeyID, c.SessionToken)
		ok(t, err)
		if secret != c.SecretAccessKey {
			t.Error("the secret is not that of the key")
		}
		return who
	}
	grants := map[*Principal]string{}
	for _, who := range []*Principal{alice, narrow, root} {
		grants[who] = must[string](t)(e.Delegate(who))
	}
	clock.Add(24 * time.Hour) // the session has expired
	for who, grant := range grants {
		got := act(grant)
		if got.ARN != who.ARN || got.UserID != who.UserID || got.Root() != who.Root() || got.Narrowed() != who.Narrowed() {
			t.Errorf("for %s acts %s (%s)", who.ARN, got.ARN, got.UserID)
		}
	}
	for action, want := range map[string]Decision{"ec2:RunInstances": Allowed, "iam:CreateUser": Silent} {
		if got := e.Decide(act(grants[narrow]), action, "*", nil); got != want {
			t.Errorf("%s for the narrowed session: got %v, want %v", action, got, want)
		}
	}
	late := must[Credentials](t)(e.Act(grants[alice], time.Hour))
	clock.Add(2 * time.Hour)
	_, _, err = e.Lookup(late.AccessKeyID, late.SessionToken)
	is(t, err, ErrExpired)

	ok(t, e.PutRolePolicy(ctx, "keeper", Inline{"revoke", `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"` +
		clock.Now().UTC().Format(time.RFC3339) + `"}}}}`}))
	if got := e.Decide(act(grants[narrow]), "ec2:RunInstances", "*", nil); got != Denied {
		t.Errorf("for a session that was revoked: got %v, want %v", got, Denied)
	}
	for _, forged := range []string{"", "x", grants[alice][4:], c.SessionToken} {
		if _, err := e.Act(forged, time.Hour); err == nil {
			t.Errorf("%.10q is taken for a grant", forged)
		}
	}
	if _, _, err := e.Lookup(k.ID, grants[alice]); err == nil {
		t.Error("a grant is taken for a session")
	}
}
