package iam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/ichiro-metal/ichiro/control/api"
	"github.com/ichiro-metal/ichiro/control/api/iam"
	ec2 "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/sts"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const (
	ec2Trust  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	rootTrust = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "sts:AssumeRole"}]}`
	mayLook   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:DescribeRegions","Resource":"*"}]}`
	mayNot    = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"ec2:*","Resource":"*"}]}`
)

// account is a front with the real engine and a real etcd behind it.
type account struct {
	t      testing.TB
	url    string
	engine *engine.Engine
	ahead  atomic.Int64 // how far the engine's clock is ahead of the front's, in seconds
	issuer *issuer
}

func newAccount(t testing.TB) *account {
	a := &account{t: t, issuer: newIssuer(t)}
	e, err := engine.New(storetest.New(t), engine.Config{KeyDir: t.TempDir(), Account: "123456789012", Now: func() time.Time {
		return time.Now().Add(time.Duration(a.ahead.Load()) * time.Second)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	<-e.Ready()
	authority := iam.NewAuthority(e)
	front, err := api.New(api.Config{
		Authority: authority, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Services: []api.Service{iam.Service(e, authority, issuerURL), sts.Service(e, authority, a.issuer), {
			Name: "ec2", Protocol: wire.EC2, Version: ec2.Version, Namespace: ec2.Namespace,
			Actions: []api.Action{
				api.Do("DescribeRegions", func(context.Context, *ec2.DescribeRegionsInput) (*ec2.DescribeRegionsOutput, error) { return nil, nil }),
				api.Do("RunInstances", func(ctx context.Context, in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
					ref, err := authority.ResolveProfile(ctx, in.IamInstanceProfile.Name)
					if err != nil {
						return nil, err
					}
					return nil, authority.MayPassRole(ctx, ref)
				}),
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(front)
	t.Cleanup(server.Close)
	a.url, a.engine = server.URL, e
	return a
}

// keys are credentials of some caller.
type keys struct{ id, secret, token string }

func (a *account) root() keys {
	k := a.engine.RootKey()
	return keys{k.AccessKeyId, k.SecretAccessKey, ""}
}

func (a *account) iam(k keys) *awsiam.Client {
	return awsiam.New(awsiam.Options{
		BaseEndpoint: &a.url, Region: "ichiro-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.id, k.secret, k.token),
	})
}

func (a *account) sts(k keys) *awssts.Client {
	return awssts.New(awssts.Options{
		BaseEndpoint: &a.url, Region: "ichiro-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.id, k.secret, k.token),
	})
}

// user makes a user with a key.
func (a *account) user(name string) keys {
	a.t.Helper()
	c := a.iam(a.root())
	_, err := c.CreateUser(a.t.Context(), &awsiam.CreateUserInput{UserName: &name})
	ok(a.t, err)
	out, err := c.CreateAccessKey(a.t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	ok(a.t, err)
	return keys{*out.AccessKey.AccessKeyId, *out.AccessKey.SecretAccessKey, ""}
}

// ask signs a query request and sends it; spoil may change it between. The
// answer is the error's code, "" for success.
func (a *account) ask(k keys, service, version, action string, spoil func(*http.Request), when time.Time) string {
	a.t.Helper()
	body := "Action=" + action + "&Version=" + version
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, a.url+"/", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sigv4.Signer{AccessKeyID: k.id, Secret: k.secret, SessionToken: k.token, Region: "ichiro-1", Service: service}.Sign(
		sigv4.Request{Method: r.Method, Path: "/", Host: r.URL.Host, Header: r.Header, Body: []byte(body)}, when)
	if spoil != nil {
		spoil(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "<Code>")
	code, _, _ := strings.Cut(rest, "</Code>")
	return fmt.Sprint(resp.StatusCode, " ", code)
}

func (a *account) regions(k keys) string {
	a.t.Helper()
	return a.ask(k, "ec2", ec2.Version, "DescribeRegions", nil, time.Now())
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) || e.ErrorCode() != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// must returns a call's result; the call may not fail.
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

func TestEveryRequestIsAuthenticated(t *testing.T) {
	a := newAccount(t)
	alice := a.user("alice")
	now := time.Now()
	who := func(k keys, spoil func(*http.Request), when time.Time) string {
		return a.ask(k, "sts", "2011-06-15", "GetCallerIdentity", spoil, when)
	}
	session := must[*awssts.GetSessionTokenOutput](t)(a.sts(alice).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})).Credentials
	temporary := keys{*session.AccessKeyId, *session.SecretAccessKey, *session.SessionToken}
	other := func(k keys, change func(*keys)) keys { change(&k); return k }
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		}
	}
	for name, c := range map[string]struct {
		got, want string
	}{
		"a user":                   {who(alice, nil, now), ""},
		"a session":                {who(temporary, nil, now), ""},
		"the root":                 {who(a.root(), nil, now), ""},
		"unsigned":                 {who(alice, func(r *http.Request) { r.Header.Del("Authorization") }, now), "403 MissingAuthenticationToken"},
		"unknown key":              {who(other(alice, func(k *keys) { k.id = "AKIAAAAAAAAAAAAAAAAA" }), nil, now), "403 InvalidClientTokenId"},
		"wrong secret":             {who(other(alice, func(k *keys) { k.secret += "x" }), nil, now), "403 SignatureDoesNotMatch"},
		"session without token":    {who(other(temporary, func(k *keys) { k.token = "" }), nil, now), "403 InvalidClientTokenId"},
		"session with a bad token": {who(other(temporary, func(k *keys) { k.token = "AAAA" + k.token[4:] }), nil, now), "403 InvalidClientTokenId"},
		"key of a user with token": {who(other(alice, func(k *keys) { k.token = temporary.token }), nil, now), "403 InvalidClientTokenId"},
		"clock an hour behind":     {who(alice, nil, now.Add(-time.Hour)), "400 RequestExpired"},
		"clock an hour ahead":      {who(alice, nil, now.Add(time.Hour)), "400 RequestExpired"},
		"replayed, body changed":   {who(alice, body("Action=GetSessionToken&Version=2011-06-15"), now), "403 SignatureDoesNotMatch"},
		"replayed, another service": {who(alice, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/sts/", "/iam/", 1))
		}, now), "403 SignatureDoesNotMatch"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}

	a.ahead.Store(13 * 3600)
	if got := who(temporary, nil, now); got != "403 ExpiredToken" {
		t.Errorf("expired session: got %q", got)
	}
	a.ahead.Store(0)
	user := "alice"
	must[*awsiam.DeleteAccessKeyOutput](t)(a.iam(a.root()).DeleteAccessKey(t.Context(), &awsiam.DeleteAccessKeyInput{UserName: &user, AccessKeyId: &alice.id}))
	if got := who(alice, nil, now); got != "403 InvalidClientTokenId" {
		t.Errorf("deleted key: got %q", got)
	}
}

func TestEveryRequestIsAuthorized(t *testing.T) {
	a := newAccount(t)
	alice, root := a.user("alice"), a.iam(a.root())
	ctx, user := t.Context(), "alice"
	put := func(name, document string) {
		t.Helper()
		must[*awsiam.PutUserPolicyOutput](t)(root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: &user, PolicyName: &name, PolicyDocument: &document}))
	}
	expect := func(when, want string) {
		t.Helper()
		if got := a.regions(alice); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	expect("without a policy", "403 UnauthorizedOperation")
	put("look", mayLook)
	expect("allowed", "")
	put("deny", mayNot)
	expect("explicitly denied", "403 UnauthorizedOperation")

	_, err := a.iam(alice).ListUsers(ctx, &awsiam.ListUsersInput{})
	wantCode(t, err, "AccessDenied")
	if err != nil && !strings.Contains(err.Error(), "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: iam:ListUsers on resource: *") {
		t.Errorf("the sentence is %v", err)
	}
	// A policy that speaks of the caller works without a UserName, and for nobody else.
	put("self", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:*AccessKey*","Resource":"arn:aws:iam::123456789012:user/${aws:username}"}]}`)
	keys := must[*awsiam.ListAccessKeysOutput](t)(a.iam(alice).ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{}))
	if len(keys.AccessKeyMetadata) != 1 || *keys.AccessKeyMetadata[0].AccessKeyId != alice.id {
		t.Errorf("alice has keys %v", keys.AccessKeyMetadata)
	}
	a.user("bob")
	_, err = a.iam(alice).CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: aws.String("bob")})
	wantCode(t, err, "AccessDenied")
}

func TestLifeOfARoleAndItsProfile(t *testing.T) {
	a := newAccount(t)
	c, ctx := a.iam(a.root()), t.Context()
	role, profile, policy := aws.String("web"), aws.String("web-profile"), aws.String("look")

	made := must[*awsiam.CreateRoleOutput](t)(c.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: role, Path: aws.String("/app/"), AssumeRolePolicyDocument: aws.String(ec2Trust), Description: aws.String("serves"),
		Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v w")}},
	})).Role
	got := must[*awsiam.GetRoleOutput](t)(c.GetRole(ctx, &awsiam.GetRoleInput{RoleName: role})).Role
	trust, err := url.PathUnescape(*got.AssumeRolePolicyDocument)
	ok(t, err)
	if trust != ec2Trust || *got.Arn != "arn:aws:iam::123456789012:role/app/web" || *got.RoleId != *made.RoleId || *got.MaxSessionDuration != 3600 ||
		len(got.Tags) != 1 || *got.Tags[0].Value != "v w" || *got.Description != "serves" || !got.CreateDate.Equal(*made.CreateDate) {
		show, _ := json.Marshal(got)
		t.Errorf("role is %s", show)
	}
	_, err = c.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: role, AssumeRolePolicyDocument: aws.String(ec2Trust)})
	wantCode(t, err, "EntityAlreadyExists")
	_, err = c.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("x"), AssumeRolePolicyDocument: aws.String("{")})
	wantCode(t, err, "MalformedPolicyDocument")
	_, err = c.GetRole(ctx, &awsiam.GetRoleInput{RoleName: aws.String("x")})
	wantCode(t, err, "NoSuchEntity")

	must[*awsiam.PutRolePolicyOutput](t)(c.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: role, PolicyName: policy, PolicyDocument: aws.String(mayLook)}))
	inline := must[*awsiam.GetRolePolicyOutput](t)(c.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: role, PolicyName: policy}))
	if text, _ := url.PathUnescape(*inline.PolicyDocument); text != mayLook {
		t.Errorf("inline policy is %s", text)
	}
	managed := must[*awsiam.CreatePolicyOutput](t)(c.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: policy, PolicyDocument: aws.String(mayLook)})).Policy
	must[*awsiam.AttachRolePolicyOutput](t)(c.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: role, PolicyArn: managed.Arn}))
	core := aws.String("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")
	must[*awsiam.AttachRolePolicyOutput](t)(c.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: role, PolicyArn: core}))
	attached := must[*awsiam.ListAttachedRolePoliciesOutput](t)(c.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: role})).AttachedPolicies
	if len(attached) != 2 || *attached[0].PolicyName != "AmazonSSMManagedInstanceCore" || *attached[1].PolicyArn != *managed.Arn {
		t.Errorf("attached are %v", attached)
	}
	version := must[*awsiam.GetPolicyVersionOutput](t)(c.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: managed.Arn, VersionId: aws.String("v1")})).PolicyVersion
	if text, _ := url.PathUnescape(*version.Document); text != mayLook || !version.IsDefaultVersion {
		t.Errorf("version 1 is %s", text)
	}

	must[*awsiam.CreateInstanceProfileOutput](t)(c.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: profile}))
	must[*awsiam.AddRoleToInstanceProfileOutput](t)(c.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{InstanceProfileName: profile, RoleName: role}))
	_, err = c.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{InstanceProfileName: profile, RoleName: role})
	wantCode(t, err, "LimitExceeded")
	held := must[*awsiam.GetInstanceProfileOutput](t)(c.GetInstanceProfile(ctx, &awsiam.GetInstanceProfileInput{InstanceProfileName: profile})).InstanceProfile
	if len(held.Roles) != 1 || *held.Roles[0].RoleId != *made.RoleId || !strings.HasPrefix(*held.InstanceProfileId, "AIPA") {
		t.Errorf("profile is %v", held)
	}
	for _, one := range []*string{role} {
		l := must[*awsiam.ListInstanceProfilesForRoleOutput](t)(c.ListInstanceProfilesForRole(ctx, &awsiam.ListInstanceProfilesForRoleInput{RoleName: one}))
		if len(l.InstanceProfiles) != 1 || *l.InstanceProfiles[0].InstanceProfileName != "web-profile" {
			t.Errorf("profiles of the role are %v", l.InstanceProfiles)
		}
	}

	deleteRole := func() error { _, err := c.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: role}); return err }
	wantCode(t, deleteRole(), "DeleteConflict")
	_, err = c.DeleteInstanceProfile(ctx, &awsiam.DeleteInstanceProfileInput{InstanceProfileName: profile})
	wantCode(t, err, "DeleteConflict")
	must[*awsiam.RemoveRoleFromInstanceProfileOutput](t)(c.RemoveRoleFromInstanceProfile(ctx, &awsiam.RemoveRoleFromInstanceProfileInput{InstanceProfileName: profile, RoleName: role}))
	wantCode(t, deleteRole(), "DeleteConflict")
	_, err = c.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: managed.Arn})
	wantCode(t, err, "DeleteConflict")
	for _, arn := range []*string{managed.Arn, core} {
		must[*awsiam.DetachRolePolicyOutput](t)(c.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: role, PolicyArn: arn}))
	}
	wantCode(t, deleteRole(), "DeleteConflict")
	must[*awsiam.DeleteRolePolicyOutput](t)(c.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: role, PolicyName: policy}))
	ok(t, deleteRole())
	wantCode(t, deleteRole(), "NoSuchEntity")
	must[*awsiam.DeletePolicyOutput](t)(c.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: managed.Arn}))
	must[*awsiam.DeleteInstanceProfileOutput](t)(c.DeleteInstanceProfile(ctx, &awsiam.DeleteInstanceProfileInput{InstanceProfileName: profile}))
	if l := must[*awsiam.ListRolesOutput](t)(c.ListRoles(ctx, &awsiam.ListRolesInput{})); l.Roles == nil || len(l.Roles) != 0 || l.IsTruncated {
		t.Errorf("roles left: %v", l.Roles)
	}
}

func TestListsArePaged(t *testing.T) {
	a := newAccount(t)
	c, ctx := a.iam(a.root()), t.Context()
	names := []string{"a", "B", "c", "d+e", "d,e"}
	for _, name := range []string{"d,e", "c", "a", "d+e", "B"} {
		must[*awsiam.CreateRoleOutput](t)(c.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(ec2Trust)}))
	}
	var got []string
	pages := awsiam.NewListRolesPaginator(c, &awsiam.ListRolesInput{MaxItems: aws.Int32(2)})
	for pages.HasMorePages() {
		p := must[*awsiam.ListRolesOutput](t)(pages.NextPage(ctx))
		if len(p.Roles) > 2 {
			t.Errorf("a page has %d roles, want 2 at most", len(p.Roles))
		}
		for _, r := range p.Roles {
			got = append(got, *r.RoleName)
		}
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("pages show %q, want %q", got, names)
	}
	_, err := c.ListRoles(ctx, &awsiam.ListRolesInput{MaxItems: aws.Int32(0)})
	wantCode(t, err, "ValidationError")
}

func TestAssumeRoleByTheClient(t *testing.T) {
	a := newAccount(t)
	ctx := t.Context()
	must[*awsiam.CreateRoleOutput](t)(a.iam(a.root()).CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("ops"), AssumeRolePolicyDocument: aws.String(rootTrust)}))
	must[*awsiam.PutRolePolicyOutput](t)(a.iam(a.root()).PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: aws.String("ops"), PolicyName: aws.String("look"), PolicyDocument: aws.String(mayLook)}))
	arn := aws.String("arn:aws:iam::123456789012:role/ops")
	alice := a.user("alice")
	_, err := a.sts(alice).AssumeRole(ctx, &awssts.AssumeRoleInput{RoleArn: arn, RoleSessionName: aws.String("s1")})
	wantCode(t, err, "AccessDenied")
	may := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"` + *arn + `"}]}`
	must[*awsiam.PutUserPolicyOutput](t)(a.iam(a.root()).PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: aws.String("alice"), PolicyName: aws.String("assume"), PolicyDocument: &may}))
	out := must[*awssts.AssumeRoleOutput](t)(a.sts(alice).AssumeRole(ctx, &awssts.AssumeRoleInput{RoleArn: arn, RoleSessionName: aws.String("s1"), DurationSeconds: aws.Int32(900)}))
	session := keys{*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken}
	me := must[*awssts.GetCallerIdentityOutput](t)(a.sts(session).GetCallerIdentity(ctx, &awssts.GetCallerIdentityInput{}))
	if *me.Arn != "arn:aws:sts::123456789012:assumed-role/ops/s1" || *me.Arn != *out.AssumedRoleUser.Arn || *me.UserId != *out.AssumedRoleUser.AssumedRoleId || *me.Account != "123456789012" {
		t.Errorf("the session is %s, %s", *me.Arn, *me.UserId)
	}
	if got := a.regions(session); got != "" {
		t.Errorf("the role may look: got %q", got)
	}
	_, err = a.iam(session).ListRoles(ctx, &awsiam.ListRolesInput{})
	wantCode(t, err, "AccessDenied")
	_, err = a.sts(alice).AssumeRole(ctx, &awssts.AssumeRoleInput{RoleArn: arn, RoleSessionName: aws.String("s1"), DurationSeconds: aws.Int32(60)})
	wantCode(t, err, "ValidationError")
}

// BenchmarkGates is what identity costs one request, beside the front's own work.
func BenchmarkGates(b *testing.B) {
	a := newAccount(b)
	alice := a.user("alice")
	_, err := a.iam(a.root()).PutUserPolicy(b.Context(), &awsiam.PutUserPolicyInput{UserName: aws.String("alice"), PolicyName: aws.String("look"), PolicyDocument: aws.String(mayLook)})
	ok(b, err)
	authority := iam.NewAuthority(a.engine)
	c := api.Credential{AccessKeyID: alice.id, Date: "20261123", Region: "ichiro-1", Service: "ec2"}
	id, _, err := authority.Authenticate(b.Context(), c)
	ok(b, err)
	b.Run("authenticate", func(b *testing.B) {
		for b.Loop() {
			authority.Authenticate(b.Context(), c)
		}
	})
	b.Run("authorize", func(b *testing.B) {
		for b.Loop() {
			authority.Authorize(b.Context(), id, "ec2:DescribeRegions", "*")
		}
	})
	b.Run("request", func(b *testing.B) {
		for b.Loop() {
			if got := a.regions(alice); got != "" {
				b.Fatal(got)
			}
		}
	})
}
