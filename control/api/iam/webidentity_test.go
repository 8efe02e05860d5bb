package iam_test

import (
	"crypto/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/ichiro-metal/ichiro/control/identity"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	issuerURL  = "https://cloud.example/tokens"
	issuerName = "cloud.example/tokens"
	issuerARN  = "arn:aws:iam::123456789012:oidc-provider/" + issuerName
)

// issuer makes and verifies tokens as the control plane does, at a clock of its own.
type issuer struct {
	ring  identity.Ring
	ahead atomic.Int64 // seconds
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	k, err := identity.Generate(rand.Reader, "ichiro-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{ring: identity.NewRing(k)}
}

func (i *issuer) Verify(text string) (identity.Claims, error) {
	return i.ring.Verify(text, time.Now().Add(time.Duration(i.ahead.Load())*time.Second))
}

func (i *issuer) token(t testing.TB, from, audience string) string {
	t.Helper()
	c := identity.ClaimsOf(cloud.Assignment{Region: "ichiro-1", Instance: cloud.Instance{
		ID: "i-0123456789abcdef0", Account: "123456789012", Profile: &cloud.ProfileRef{RoleName: "web"},
	}})
	text, err := i.ring.Signing(time.Now()).Token(c.For(from, audience, time.Now(), time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func trustsIssuer(condition string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"` + issuerARN + `"},"Action":"sts:AssumeRoleWithWebIdentity","Condition":` + condition + `}]}`
}

func TestAnInstanceBecomesARoleByItsToken(t *testing.T) {
	a := newAccount(t)
	ctx := t.Context()
	iam := a.iam(a.root())
	_, err := iam.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: aws.String("https://accounts.example.org")})
	wantCode(t, err, "InvalidInput")
	made, err := iam.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: aws.String(issuerURL), ClientIDList: []string{"sts.amazonaws.com"}})
	if err != nil || aws.ToString(made.OpenIDConnectProviderArn) != issuerARN {
		t.Fatalf("%+v, %v", made, err)
	}
	_, err = iam.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: aws.String(issuerURL)})
	wantCode(t, err, "EntityAlreadyExists")

	subject := "arn:aws:ec2:ichiro-1:123456789012:instance/i-0123456789abcdef0"
	for name, trust := range map[string]string{
		"any":     trustsIssuer(`{}`),
		"this":    trustsIssuer(`{"StringEquals":{"` + issuerName + `:aud":"sts.amazonaws.com","` + issuerName + `:sub":"` + subject + `"}}`),
		"another": trustsIssuer(`{"StringEquals":{"` + issuerName + `:sub":"` + strings.Replace(subject, "def0", "def1", 1) + `"}}`),
		"web":     trustsIssuer(`{"StringEquals":{"` + issuerName + `:role":"web"}}`),
		"db":      trustsIssuer(`{"StringEquals":{"` + issuerName + `:role":"db"}}`),
		"named":   trustsIssuer(`{"StringEquals":{"sts:RoleSessionName":"other"}}`),
		"people":  `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:*"}]}`,
		"denied": strings.Replace(trustsIssuer(`{}`), `"Statement":[`,
			`"Statement":[{"Effect":"Deny","Principal":"*","Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"`+issuerName+`:role":"web"}}},`, 1),
		"noop": strings.Replace(trustsIssuer(`{}`), "sts:AssumeRoleWithWebIdentity", "sts:AssumeRole", 1),
	} {
		if _, err := iam.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if _, err := iam.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: aws.String("this"), PolicyName: aws.String("look"), PolicyDocument: aws.String(mayLook)}); err != nil {
		t.Fatal(err)
	}

	nobody := awssts.New(awssts.Options{BaseEndpoint: &a.url, Region: "ichiro-1", RetryMaxAttempts: 1, Credentials: aws.AnonymousCredentials{}})
	good := a.issuer.token(t, issuerURL, "sts.amazonaws.com")
	head, rest, _ := strings.Cut(good, ".")
	body, _, _ := strings.Cut(rest, ".")
	ask := func(role, token string, seconds int32) (*awssts.AssumeRoleWithWebIdentityOutput, error) {
		in := &awssts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String("arn:aws:iam::123456789012:role/" + role), RoleSessionName: aws.String("i-0123456789abcdef0"), WebIdentityToken: &token}
		if seconds > 0 {
			in.DurationSeconds = &seconds
		}
		return nobody.AssumeRoleWithWebIdentity(ctx, in)
	}
	for _, c := range []struct {
		name, role, token string
		seconds           int32
		code              string
	}{
		{"whom the trust policy names by its subject", "this", good, 0, ""},
		{"whom it names by its instance's role", "web", good, 900, ""},
		{"whom it names by nothing", "any", good, 3600, ""},
		{"another instance", "another", good, 0, "AccessDenied"},
		{"an instance with another role", "db", good, 0, "AccessDenied"},
		{"another session name", "named", good, 0, "AccessDenied"},
		{"a role for everybody who has a name", "people", good, 0, "AccessDenied"},
		{"a role that denies all who are like it", "denied", good, 0, "AccessDenied"},
		{"a role that means another action", "noop", good, 0, "AccessDenied"},
		{"a role that is not there", "nothing", good, 0, "AccessDenied"},
		{"a token for others", "any", a.issuer.token(t, issuerURL, "vault"), 0, "InvalidIdentityToken"},
		{"a token of before the issuer's URL was changed", "any", a.issuer.token(t, "https://old.example", "sts.amazonaws.com"), 0, "InvalidIdentityToken"},
		{"a token of another cloud", "any", newIssuer(t).token(t, issuerURL, "sts.amazonaws.com"), 0, "InvalidIdentityToken"},
		{"a token without its signature", "any", head + "." + body + ".", 0, "InvalidIdentityToken"},
		{"no token", "any", "mine", 0, "InvalidIdentityToken"},
		{"a life too long for the role", "any", good, 7200, "ValidationError"},
		{"a life too short", "any", good, 60, "ValidationError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := ask(c.role, c.token, c.seconds)
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if aws.ToString(out.SubjectFromWebIdentityToken) != subject || aws.ToString(out.Audience) != "sts.amazonaws.com" || aws.ToString(out.Provider) != issuerARN {
				t.Errorf("got %+v", out)
			}
			me, err := a.sts(keys{*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken}).GetCallerIdentity(ctx, nil)
			if want := "arn:aws:sts::123456789012:assumed-role/" + c.role + "/i-0123456789abcdef0"; err != nil || *me.Arn != want {
				t.Errorf("got %+v, %v, want %s", me, err, want)
			}
		})
	}

	a.issuer.ahead.Store(3601)
	_, err = ask("any", good, 0)
	wantCode(t, err, "ExpiredTokenException")
	a.issuer.ahead.Store(0)

	if _, err := iam.AddClientIDToOpenIDConnectProvider(ctx, &awsiam.AddClientIDToOpenIDConnectProviderInput{OpenIDConnectProviderArn: aws.String(issuerARN), ClientID: aws.String("vault")}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("any", a.issuer.token(t, issuerURL, "vault"), 0); err != nil {
		t.Errorf("an audience that was added: %v", err)
	}
	if _, err := iam.RemoveClientIDFromOpenIDConnectProvider(ctx, &awsiam.RemoveClientIDFromOpenIDConnectProviderInput{OpenIDConnectProviderArn: aws.String(issuerARN), ClientID: aws.String("sts.amazonaws.com")}); err != nil {
		t.Fatal(err)
	}
	_, err = ask("any", good, 0)
	wantCode(t, err, "InvalidIdentityToken")
	got, err := iam.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: aws.String(issuerARN)})
	if err != nil || *got.Url != issuerName || strings.Join(got.ClientIDList, " ") != "vault" || got.CreateDate == nil {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 { // twice is no error
		if _, err := iam.DeleteOpenIDConnectProvider(ctx, &awsiam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: aws.String(issuerARN)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = ask("any", a.issuer.token(t, issuerURL, "vault"), 0)
	wantCode(t, err, "InvalidIdentityToken")
	_, err = iam.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: aws.String(issuerARN)})
	wantCode(t, err, "NoSuchEntity")
	list, err := iam.ListOpenIDConnectProviders(ctx, nil)
	if err != nil || len(list.OpenIDConnectProviderList) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
