package iam

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const (
	ec2Trust  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	someTrust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"sts:AssumeRole"}]}`
	mayRun    = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ec2:Describe*","ec2:RunInstances"],"Resource":"*"},{"Effect":"Deny","Action":"ec2:DescribeVpcs","Resource":"*"}]}`
)

// testClock is a clock that a test moves.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// start runs an engine over a store until the test ends.
func start(t testing.TB, s *storetest.Server, keys string) (*Engine, *testClock) {
	t.Helper()
	clock := &testClock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	e, err := New(s.Client(t), Config{KeyDir: keys, Account: "000000000000", Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	<-e.Ready()
	return e, clock
}

func newEngine(t testing.TB) (*Engine, *testClock) {
	return start(t, storetest.Start(t), t.TempDir())
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, err error, code string) {
	t.Helper()
	if cloud.Code(err) != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func user(t testing.TB, e *Engine, name string) (AccessKey, string) {
	t.Helper()
	must[User](t)(e.CreateUser(t.Context(), User{Name: name}))
	k, secret, err := e.CreateAccessKey(t.Context(), name)
	ok(t, err)
	return k, secret
}

func TestRootKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first := must[RootKey](t)(LoadRoot(dir))
	again := must[RootKey](t)(LoadRoot(dir))
	if first != again {
		t.Errorf("the second start has root key %v, the first had %v", again, first)
	}
	info := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "root")))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("root key has mode %v, want 0600", info.Mode())
	}
	e, _ := newEngine(t)
	k := e.RootKey()
	who, secret, err := e.Lookup(k.AccessKeyId, "")
	ok(t, err)
	if secret != k.SecretAccessKey || who.ARN != "arn:aws:iam::000000000000:root" || who.UserID != "000000000000" {
		t.Errorf("root is %+v", who)
	}
	if got := e.Decide(who, "ec2:RunInstances", "*", nil); got != Allowed {
		t.Errorf("root may not run instances: %v", got)
	}
	_, _, err = e.Lookup(k.AccessKeyId, "a token")
	is(t, err, ErrBadToken)
}

func TestUserIsAllowedImplicitlyDeniedExplicitlyDenied(t *testing.T) {
	e, _ := newEngine(t)
	k, secret := user(t, e, "alice")
	who, got, err := e.Lookup(k.ID, "")
	ok(t, err)
	if got != secret || who.ARN != "arn:aws:iam::000000000000:user/alice" || !strings.HasPrefix(who.UserID, "AIDA") {
		t.Errorf("alice is %+v", who)
	}
	expect := func(action string, want Decision) {
		t.Helper()
		if got := e.Decide(who, action, "*", nil); got != want {
			t.Errorf("%s: got %v, want %v", action, got, want)
		}
	}
	expect("ec2:DescribeInstances", Silent)
	ok(t, e.PutUserPolicy(t.Context(), "alice", Inline{"run", mayRun}))
	expect("ec2:DescribeInstances", Allowed)
	expect("ec2:DescribeVpcs", Denied)
	expect("ec2:TerminateInstances", Silent)
	ok(t, e.AttachUserPolicy(t.Context(), "alice", builtinPrefix+"AdministratorAccess"))
	expect("ec2:TerminateInstances", Allowed)
	expect("ec2:DescribeVpcs", Denied)

	ok(t, e.SetAccessKey(t.Context(), "alice", k.ID, false))
	_, _, err = e.Lookup(k.ID, "")
	is(t, err, ErrUnknownKey)
	ok(t, e.SetAccessKey(t.Context(), "alice", k.ID, true))
	ok(t, e.DeleteAccessKey(t.Context(), "alice", k.ID))
	_, _, err = e.Lookup(k.ID, "")
	is(t, err, ErrUnknownKey)
}

// profileOf is a profile as a launch would name it.
func profileOf(t testing.TB, e *Engine, name string) cloud.ProfileRef {
	t.Helper()
	p, err := e.ResolveProfile(t.Context(), name)
	ok(t, err)
	return p
}

func TestANamesakeOfAProfileIsAnother(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	build := func(role string) cloud.ProfileRef {
		must[Role](t)(e.CreateRole(ctx, Role{Name: role, Trust: ec2Trust}))
		must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "p"}))
		ok(t, e.AddRole(ctx, "p", role))
		return profileOf(t, e, "p")
	}
	was := build("first")
	if c := must[cloud.Credentials](t)(e.MintForInstance(ctx, was, "i-1", 0)); c.Role != "first" || c.Profile != was.ID {
		t.Errorf("made for role %s of profile %s, want first of %s", c.Role, c.Profile, was.ID)
	}
	ok(t, e.RemoveRole(ctx, "p", "first"))
	ok(t, e.DeleteProfile(ctx, "p"))
	now := build("second")
	if now.ARN != was.ARN {
		t.Fatalf("%s and %s are no namesakes", now.ARN, was.ARN)
	}
	_, err := e.MintForInstance(ctx, was, "i-1", 0)
	refused(t, err, "InstanceProfileNotFound")
	if c := must[cloud.Credentials](t)(e.MintForInstance(ctx, now, "i-1", 0)); c.Role != "second" {
		t.Errorf("made for role %s, want second", c.Role)
	}
}

func TestInstanceCredentials(t *testing.T) {
	e, clock := newEngine(t)
	ctx := t.Context()
	must[Role](t)(e.CreateRole(ctx, Role{Name: "web", Path: "/app/", Trust: ec2Trust}))
	must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "web-profile"}))
	_, err := e.MintForInstance(ctx, profileOf(t, e, "web-profile"), "i-0123456789abcdef0", 0)
	refused(t, err, "InstanceProfileNotFound")
	ok(t, e.AddRole(ctx, "web-profile", "web"))
	ok(t, e.PutRolePolicy(ctx, "web", Inline{"run", mayRun}))

	ref := must[cloud.ProfileRef](t)(e.ResolveProfile(ctx, "arn:aws:iam::000000000000:instance-profile/web-profile"))
	if ref.RoleName != "web" || !strings.HasPrefix(ref.ID, "AIPA") {
		t.Errorf("profile resolves to %+v", ref)
	}
	_, err = e.ResolveProfile(ctx, "nothing")
	refused(t, err, "InvalidParameterValue")

	c := must[cloud.Credentials](t)(e.MintForInstance(ctx, profileOf(t, e, "web-profile"), "i-0123456789abcdef0", 0))
	who, secret, err := e.Lookup(c.AccessKeyID, c.Token)
	ok(t, err)
	if want := "arn:aws:sts::000000000000:assumed-role/web/i-0123456789abcdef0"; who.ARN != want || secret != c.SecretAccessKey {
		t.Errorf("the instance is %s, want %s", who.ARN, want)
	}
	if got := e.Decide(who, "ec2:DescribeInstances", "*", nil); got != Allowed {
		t.Errorf("the instance may not describe: %v", got)
	}
	if got := e.Decide(who, "ec2:DescribeVpcs", "*", nil); got != Denied {
		t.Errorf("an explicit deny is %v", got)
	}

	other := must[cloud.Credentials](t)(e.MintForInstance(ctx, profileOf(t, e, "web-profile"), "i-0123456789abcdef1", 0))
	for name, token := range map[string]string{"no token": "", "another's token": other.Token, "garbage": "AAAA", "bad base64": "!!"} {
		_, _, err = e.Lookup(c.AccessKeyID, token)
		if !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: got %v, want %v", name, err, ErrBadToken)
		}
	}
	clock.Add(InstanceSession + time.Second)
	_, _, err = e.Lookup(c.AccessKeyID, c.Token)
	is(t, err, ErrExpired)
	if n := must[int](t)(e.Sweep(ctx)); n != 2 {
		t.Errorf("swept %d sessions, want 2", n)
	}
	if n := must[int](t)(e.Sweep(ctx)); n != 0 {
		t.Errorf("swept %d sessions the second time, want 0", n)
	}
	_, _, err = e.Lookup(c.AccessKeyID, c.Token)
	is(t, err, ErrExpired) // the token itself says so
}

func TestMintingTellsGoneFromAway(t *testing.T) {
	server := storetest.Start(t)
	e, err := New(server.Client(t), Config{KeyDir: t.TempDir(), Account: "000000000000"})
	ok(t, err)
	// The engine does not run, so it knows nothing: that must not read as "the role is gone".
	if _, err := e.MintForInstance(t.Context(), cloud.ProfileRef{ARN: "p"}, "i-1", 0); err == nil || cloud.Code(err) != "" {
		t.Errorf("before the store was seen: got %v, want an error without a code", err)
	}
	e, _ = start(t, server, t.TempDir())
	_, err = e.MintForInstance(t.Context(), cloud.ProfileRef{ARN: "p"}, "i-1", 0)
	refused(t, err, "InvalidParameterValue")
	must[Profile](t)(e.CreateProfile(t.Context(), Profile{Name: "p"}))
	must[Role](t)(e.CreateRole(t.Context(), Role{Name: "people", Trust: someTrust}))
	ok(t, e.AddRole(t.Context(), "p", "people"))
	p := profileOf(t, e, "p")
	_, err = e.MintForInstance(t.Context(), p, "i-1", 0)
	refused(t, err, "AssumeRoleUnauthorizedAccess")
	ok(t, e.UpdateTrust(t.Context(), "people", ec2Trust))
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := e.MintForInstance(ctx, p, "i-1", 0); err == nil || cloud.Code(err) != "" {
		t.Errorf("while the store is away: got %v, want an error without a code", err)
	}
}

func TestSessionsDieWithTheirRole(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	build := func() {
		must[Role](t)(e.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))
		ok(t, e.AddRole(ctx, "p", "web"))
	}
	must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "p"}))
	build()
	c := must[cloud.Credentials](t)(e.MintForInstance(ctx, profileOf(t, e, "p"), "i-1", time.Hour))
	ok(t, e.RemoveRole(ctx, "p", "web"))
	ok(t, e.DeleteRole(ctx, "web"))
	_, _, err := e.Lookup(c.AccessKeyID, c.Token)
	is(t, err, ErrBadToken)
	build() // a namesake
	_, _, err = e.Lookup(c.AccessKeyID, c.Token)
	is(t, err, ErrBadToken)
}

func TestSessionsAreRevokedByTheirAge(t *testing.T) {
	e, clock := newEngine(t)
	ctx := t.Context()
	must[Role](t)(e.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))
	must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "p"}))
	ok(t, e.AddRole(ctx, "p", "web"))
	ok(t, e.PutRolePolicy(ctx, "web", Inline{"run", mayRun}))
	mint := func() *Principal {
		c := must[cloud.Credentials](t)(e.MintForInstance(ctx, profileOf(t, e, "p"), "i-1", 0))
		who, _, err := e.Lookup(c.AccessKeyID, c.Token)
		ok(t, err)
		return who
	}
	before := mint()
	clock.Add(time.Hour)
	cut := clock.Now().Format(time.RFC3339)
	clock.Add(time.Second)
	after := mint()
	deny := func(action, resource, more string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":["` + action + `"],"Resource":["` + resource + `"],"Condition":{"DateLessThan":{"aws:TokenIssueTime":"` + cut + `"}` + more + `}}]}`
	}
	for _, c := range []struct {
		name, policy    string
		denied, revoked bool // the session of before
	}{
		{"no such policy", mayRun, false, false},
		{"everything", deny("*", "*", ""), true, true},
		{"what this test asks for", deny("ec2:Describe*", "*", ""), true, false},
		{"another service", deny("s3:*", "*", ""), false, false},
		{"everything, from an address that is not known", deny("*", "*", `,"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}`), false, false},
		{"everything, from all but an address", deny("*", "*", `,"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}`), true, false},
		{"everything, in another case of letters", strings.Replace(deny("*", "*", ""), "aws:TokenIssueTime", "AWS:tokenissuetime", 1), true, true},
		{"everything, since the future", strings.Replace(deny("*", "*", ""), cut, "2099-01-01T00:00:00Z", 1), true, true},
		{"everything, for a time that is over", deny("*", "*", `,"DateGreaterThan":{"aws:CurrentTime":"2099-01-01T00:00:00Z"}`), false, false},
	} {
		ok(t, e.PutRolePolicy(ctx, "web", Inline{"AWSRevokeOlderSessions", c.policy}))
		if got := e.Decide(before, "ec2:DescribeInstances", "*", nil); (got == Denied) != c.denied {
			t.Errorf("%s: the old session's request is %v, want denied %t", c.name, got, c.denied)
		}
		if got := e.Revoked(before); got != c.revoked {
			t.Errorf("%s: revoked is %t, want %t", c.name, got, c.revoked)
		}
		forged := map[string][]string{"AWS:TokenIssueTime": {"2099-06-01T00:00:00Z"}}
		if own, _ := e.Judge(before, "ec2:DescribeInstances", "*", forged); (own == Denied) != c.denied {
			t.Errorf("%s: the object store, which may not say how old a session is, is told %v, want denied %t", c.name, own, c.denied)
		}
		always := strings.Contains(c.policy, "2099") && c.revoked
		if got := e.Decide(after, "ec2:DescribeInstances", "*", nil); (got == Denied) != always {
			t.Errorf("%s: the new session's request is %v, want denied %t", c.name, got, always)
		}
		if got, want := e.Reissue(before), c.revoked && !always; got != want {
			t.Errorf("%s: another session would help: %t, want %t", c.name, got, want)
		}
		if e.Reissue(after) {
			t.Errorf("%s: the new session would be replaced again and again", c.name)
		}
	}
}

func TestAUsersSessionsAreRevokedAndTheirKeysAreNot(t *testing.T) {
	e, clock := newEngine(t)
	ctx := t.Context()
	k, _ := user(t, e, "alice")
	ok(t, e.PutUserPolicy(ctx, "alice", Inline{"run", mayRun}))
	owner, _, err := e.Lookup(k.ID, "")
	ok(t, err)
	c := must[Credentials](t)(e.UserSession(ctx, owner, 0))
	session, _, err := e.Lookup(c.AccessKeyID, c.SessionToken)
	ok(t, err)
	clock.Add(time.Minute)
	ok(t, e.PutUserPolicy(ctx, "alice", Inline{"revoke", `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"` + clock.Now().Format(time.RFC3339) + `"}}}}`}))
	if got := e.Decide(session, "ec2:DescribeInstances", "*", nil); got != Denied {
		t.Errorf("the session's request is %v, want denied", got)
	}
	if got := e.Decide(owner, "ec2:DescribeInstances", "*", nil); got != Allowed {
		t.Errorf("the key's request is %v, want allowed: it has no issue time", got)
	}
	if e.Reissue(session) {
		t.Error("a user's session is not ours to make anew")
	}
}

func TestLifeCycleWithConflicts(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	r := must[Role](t)(e.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))
	if !strings.HasPrefix(r.ID, "AROA") || len(r.ID) != 21 || r.MaxSession != 3600 {
		t.Errorf("role is %+v", r)
	}
	_, err := e.CreateRole(ctx, Role{Name: "WEB", Trust: ec2Trust})
	refused(t, err, "EntityAlreadyExists")
	_, err = e.CreateRole(ctx, Role{Name: "a b", Trust: ec2Trust})
	refused(t, err, "ValidationError")
	_, err = e.CreateRole(ctx, Role{Name: "x", Trust: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2"},"Action":"sts:AssumeRole"}]}`})
	refused(t, err, "MalformedPolicyDocument")
	_, err = e.CreateRole(ctx, Role{Name: "x", Trust: `{`})
	refused(t, err, "MalformedPolicyDocument")
	_, err = e.CreateRole(ctx, Role{Name: "x", Trust: mayRun})
	refused(t, err, "MalformedPolicyDocument")
	refused(t, e.PutRolePolicy(ctx, "web", Inline{"p", ec2Trust}), "MalformedPolicyDocument")
	refused(t, e.PutRolePolicy(ctx, "nobody", Inline{"p", mayRun}), "NoSuchEntity")

	p := must[Policy](t)(e.CreatePolicy(ctx, Policy{Name: "runs"}, mayRun))
	must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "p"}))
	ok(t, e.AddRole(ctx, "p", "web"))
	refused(t, e.AddRole(ctx, "p", "web"), "LimitExceeded")
	ok(t, e.AttachRolePolicy(ctx, "web", p.ARN))
	ok(t, e.AttachRolePolicy(ctx, "web", p.ARN)) // twice is once
	ok(t, e.PutRolePolicy(ctx, "web", Inline{"p", mayRun}))
	refused(t, e.AttachRolePolicy(ctx, "web", p.ARN+"x"), "NoSuchEntity")
	refused(t, e.AttachRolePolicy(ctx, "web", builtinPrefix+"Nothing"), "NoSuchEntity")

	refused(t, e.DeletePolicy(ctx, p.ARN), "DeleteConflict")
	refused(t, e.DeleteProfile(ctx, "p"), "DeleteConflict")
	refused(t, e.DeleteRole(ctx, "web"), "DeleteConflict")
	ok(t, e.RemoveRole(ctx, "p", "web"))
	refused(t, e.DeleteRole(ctx, "web"), "DeleteConflict")
	ok(t, e.DetachRolePolicy(ctx, "web", p.ARN))
	refused(t, e.DetachRolePolicy(ctx, "web", p.ARN), "NoSuchEntity")
	refused(t, e.DeleteRole(ctx, "web"), "DeleteConflict")
	ok(t, e.DeleteRolePolicy(ctx, "web", "p"))
	ok(t, e.DeleteRole(ctx, "web"))
	refused(t, e.DeleteRole(ctx, "web"), "NoSuchEntity")
	ok(t, e.DeletePolicy(ctx, p.ARN))
	ok(t, e.DeleteProfile(ctx, "p"))
	if l := len(e.Roles("")) + len(e.Profiles("")) + len(e.Policies("")); l != 0 {
		t.Errorf("%d entities are left", l)
	}
}

func TestPolicyVersions(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	k, _ := user(t, e, "alice")
	p := must[Policy](t)(e.CreatePolicy(ctx, Policy{Name: "runs"}, mayRun))
	ok(t, e.AttachUserPolicy(ctx, "alice", p.ARN))
	may := func(want Decision) {
		t.Helper()
		who, _, err := e.Lookup(k.ID, "")
		ok(t, err)
		if got := e.Decide(who, "ec2:RunInstances", "*", nil); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	may(Allowed)
	v := must[PolicyVersion](t)(e.CreatePolicyVersion(ctx, p.ARN, `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}`, true))
	may(Denied)
	refused(t, e.DeletePolicyVersion(ctx, p.ARN, v.ID), "DeleteConflict")
	ok(t, e.SetDefaultPolicyVersion(ctx, p.ARN, "v1"))
	may(Allowed)
	ok(t, e.DeletePolicyVersion(ctx, p.ARN, v.ID))
	refused(t, e.SetDefaultPolicyVersion(ctx, p.ARN, v.ID), "NoSuchEntity")

	ok(t, e.UpdateUser(ctx, "alice", "/staff/", "alicia"))
	who, _, err := e.Lookup(k.ID, "")
	ok(t, err)
	if want := "arn:aws:iam::000000000000:user/staff/alicia"; who.ARN != want {
		t.Errorf("after the change alice is %s, want %s", who.ARN, want)
	}
	may(Allowed)
	must[User](t)(e.CreateUser(ctx, User{Name: "bob"}))
	refused(t, e.UpdateUser(ctx, "bob", "", "Alicia"), "EntityAlreadyExists")
}

func TestAssumeRole(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	k, _ := user(t, e, "alice")
	alice, _, err := e.Lookup(k.ID, "")
	ok(t, err)
	ask := func(role, external string) error {
		_, err := e.AssumeRole(ctx, alice, Assume{RoleARN: "arn:aws:iam::000000000000:role/" + role, SessionName: "try", ExternalID: external})
		return err
	}
	must[Role](t)(e.CreateRole(ctx, Role{Name: "account", Trust: someTrust}))
	must[Role](t)(e.CreateRole(ctx, Role{Name: "service", Trust: ec2Trust}))
	must[Role](t)(e.CreateRole(ctx, Role{Name: "named", Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + alice.ARN + `"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"xyz"}}}}`}))

	refused(t, ask("nothing", ""), "AccessDenied")
	refused(t, ask("service", ""), "AccessDenied")
	refused(t, ask("account", ""), "AccessDenied") // alice's own policies must allow it
	refused(t, ask("named", ""), "AccessDenied")
	refused(t, ask("named", "abc"), "AccessDenied")
	ok(t, ask("named", "xyz"))
	ok(t, e.PutUserPolicy(ctx, "alice", Inline{"assume", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"arn:aws:iam::000000000000:role/account"}}`}))
	ok(t, ask("account", ""))

	ok(t, e.AttachRolePolicy(ctx, "account", builtinPrefix+"AdministratorAccess"))
	c := must[Credentials](t)(e.AssumeRole(ctx, alice, Assume{
		RoleARN: "arn:aws:iam::000000000000:role/account", SessionName: "narrow", Policy: mayRun, Duration: 20 * time.Minute}))
	who, _, err := e.Lookup(c.AccessKeyID, c.SessionToken)
	ok(t, err)
	for action, want := range map[string]Decision{"ec2:RunInstances": Allowed, "ec2:DescribeVpcs": Denied, "iam:CreateUser": Silent} {
		if got := e.Decide(who, action, "*", nil); got != want {
			t.Errorf("narrowed session, %s: got %v, want %v", action, got, want)
		}
	}
	for _, d := range []time.Duration{time.Minute, 2 * time.Hour} {
		_, err = e.AssumeRole(ctx, alice, Assume{RoleARN: "arn:aws:iam::000000000000:role/account", SessionName: "long", Duration: d})
		refused(t, err, "ValidationError")
	}

	s := must[Credentials](t)(e.UserSession(ctx, alice, 0))
	again, _, err := e.Lookup(s.AccessKeyID, s.SessionToken)
	ok(t, err)
	if again.ARN != alice.ARN {
		t.Errorf("alice's session is %s, want %s", again.ARN, alice.ARN)
	}
	_, err = e.UserSession(ctx, again, 0)
	refused(t, err, "AccessDenied")
}

func TestTwoEnginesSeeEachOther(t *testing.T) {
	s, keys := storetest.Start(t), t.TempDir()
	a, _ := start(t, s, keys)
	b, _ := start(t, s, keys)
	ctx := t.Context()
	k, secret := user(t, a, "alice")
	for {
		if _, got, err := b.Lookup(k.ID, ""); err == nil && got == secret {
			break
		}
		<-b.mirror.Changed()
	}
	must[Role](t)(a.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))

	// Both count attachments of one policy at once: none may be lost.
	p := must[Policy](t)(a.CreatePolicy(ctx, Policy{Name: "runs"}, mayRun))
	var group sync.WaitGroup
	for i, e := range []*Engine{a, b, a, b} {
		name := "u" + string(rune('0'+i))
		must[User](t)(a.CreateUser(ctx, User{Name: name}))
		group.Go(func() {
			if err := e.AttachUserPolicy(ctx, name, p.ARN); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	refused(t, b.DeletePolicy(ctx, p.ARN), "DeleteConflict")
	// Reading through a change shows the store, not the mirror.
	ok(t, b.change(ctx, func(t2 *tx) error {
		have, err := policies.get(t2, "runs")
		if err == nil && have.Attachments != 4 {
			t.Errorf("policy counts %d attachments, want 4", have.Attachments)
		}
		return err
	}))
}

func TestNoSecretLiesInTheStore(t *testing.T) {
	e, _ := newEngine(t)
	ctx := t.Context()
	_, secret := user(t, e, "alice")
	must[Role](t)(e.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))
	must[Profile](t)(e.CreateProfile(ctx, Profile{Name: "p"}))
	ok(t, e.AddRole(ctx, "p", "web"))
	c := must[cloud.Credentials](t)(e.MintForInstance(ctx, profileOf(t, e, "p"), "i-1", 0))
	everything := store.NewKind[json.RawMessage](store.All("iam"))
	all := must[store.Listing[json.RawMessage]](t)(store.List(ctx, e.client, everything, store.Range{}))
	if len(all.Objects) != 5 {
		t.Fatalf("the store has %d keys, want 5", len(all.Objects))
	}
	for _, kv := range all.Objects {
		for _, s := range []string{secret, c.SecretAccessKey, e.RootKey().SecretAccessKey} {
			if bytes.Contains(kv.Value, []byte(s)) {
				t.Errorf("%s holds a secret", kv.Key)
			}
		}
	}
}

func TestPassRole(t *testing.T) {
	e, _ := newEngine(t)
	k, _ := user(t, e, "alice")
	who, _, err := e.Lookup(k.ID, "")
	ok(t, err)
	role := "arn:aws:iam::000000000000:role/web"
	refused(t, e.MayPassRole(who, role, "ec2.amazonaws.com"), "UnauthorizedOperation")
	ok(t, e.PutUserPolicy(t.Context(), "alice", Inline{"pass", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iam:PassRole","Resource":"` + role + `","Condition":{"StringEquals":{"iam:PassedToService":"ec2.amazonaws.com"}}}}`}))
	ok(t, e.MayPassRole(who, role, "ec2.amazonaws.com"))
	refused(t, e.MayPassRole(who, role, "ssm.amazonaws.com"), "UnauthorizedOperation")
	refused(t, e.MayPassRole(who, role+"2", "ec2.amazonaws.com"), "UnauthorizedOperation")
}

func BenchmarkAuthenticateAndAuthorize(b *testing.B) {
	e, _ := newEngine(b)
	ctx := b.Context()
	must[Role](b)(e.CreateRole(ctx, Role{Name: "web", Trust: ec2Trust}))
	must[Profile](b)(e.CreateProfile(ctx, Profile{Name: "p"}))
	ok(b, e.AddRole(ctx, "p", "web"))
	ok(b, e.PutRolePolicy(ctx, "web", Inline{"run", mayRun}))
	ok(b, e.AttachRolePolicy(ctx, "web", builtinPrefix+"ReadOnlyAccess"))
	c := must[cloud.Credentials](b)(e.MintForInstance(ctx, profileOf(b, e, "p"), "i-1", 0))
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			e.Lookup(c.AccessKeyID, c.Token)
		}
	})
	who, _, _ := e.Lookup(c.AccessKeyID, c.Token)
	b.Run("decide", func(b *testing.B) {
		for b.Loop() {
			e.Decide(who, "ec2:DescribeInstances", "*", nil)
		}
	})
	b.Run("mint", func(b *testing.B) {
		for b.Loop() {
			must[cloud.Credentials](b)(e.MintForInstance(ctx, profileOf(b, e, "p"), "i-1", 0))
		}
	})
}
