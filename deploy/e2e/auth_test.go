//go:build vm

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const describe = "Action=DescribeInstances&Version=2016-11-15"

// signed makes a request as it comes over the wire, signed at a time.
func (h *host) signed(t *testing.T, at time.Time, service, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.url+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sum := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: h.key[0], SecretAccessKey: h.key[1]}
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, req, hex.EncodeToString(sum[:]), service, h.region, at); err != nil {
		t.Fatal(err)
	}
	return req
}

func answer(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// TestWire sends requests that no SDK would.
func TestWire(t *testing.T) {
	h := the(t)
	image := h.image(t)
	before := len(h.all(t))
	launch := "Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&InstanceType=t2.nano&ImageId=" + image
	now := time.Now()
	changed := h.signed(t, now, "ec2", describe)
	changed.Body, changed.ContentLength = io.NopCloser(strings.NewReader(launch)), int64(len(launch))
	unsigned := h.signed(t, now, "ec2", launch)
	unsigned.Header.Del("Authorization")
	elsewhere := h.signed(t, now, "ec2", launch)
	elsewhere.URL.RawQuery = "x=y"
	badSum := h.signed(t, now, "ec2", launch)
	signature := badSum.Header.Get("Authorization")
	other := map[bool]string{true: "1", false: "0"}[strings.HasSuffix(signature, "0")]
	badSum.Header.Set("Authorization", signature[:len(signature)-1]+other)
	for _, c := range []struct {
		name string
		req  *http.Request
		code string
	}{
		{"unsigned", unsigned, "MissingAuthenticationToken"},
		{"replayed with another body", changed, "AuthFailure"},
		{"with another query", elsewhere, "AuthFailure"},
		{"with another signature", badSum, "AuthFailure"},
		{"from an hour ago", h.signed(t, now.Add(-time.Hour), "ec2", launch), "RequestExpired"},
		{"from an hour ahead", h.signed(t, now.Add(time.Hour), "ec2", launch), "RequestExpired"},
		{"for another service", h.signed(t, now, "dynamodb", launch), ""},
		{"with an unknown action", h.signed(t, now, "ec2", "Action=Explode&Version=2016-11-15"), "InvalidAction"},
		{"with no action", h.signed(t, now, "ec2", "x=y"), ""},
		{"with a body that is none", h.signed(t, now, "ec2", "%zz&=&&\x00"), ""},
		{"with a number that is none", h.signed(t, now, "ec2", strings.Replace(launch, "MinCount=1", "MinCount=one", 1)), "InvalidParameterValue"},
		{"with a huge number", h.signed(t, now, "ec2", strings.Replace(launch, "MaxCount=1", "MaxCount=99999999999999999999", 1)), "InvalidParameterValue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, text := answer(t, c.req)
			if status < 400 || status >= 500 || c.code != "" && !strings.Contains(text, "<Code>"+c.code+"</Code>") {
				t.Errorf("%d %s, want %s", status, text, c.code)
			}
		})
	}
	if status, text := answer(t, h.signed(t, now, "ec2", describe)); status != 200 {
		t.Errorf("a good one: %d %s", status, text)
	}
	if n := len(h.all(t)); n != before {
		t.Errorf("there are %d instances, before there were %d", n, before)
	}
}

// TestRights gives and takes rights and sees them hold.
func TestRights(t *testing.T) {
	h := the(t)
	reader := h.user(t, "reader", `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"ec2:Describe*","Resource":"*"},
		{"Effect":"Deny","Action":"ec2:DescribeKeyPairs","Resource":"*"},
		{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`)
	await(t, "the policy to hold", func() error {
		_, err := reader.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
		return err
	})
	_, err := reader.ec2.DescribeKeyPairs(t.Context(), &ec2.DescribeKeyPairsInput{})
	refused(t, err, "UnauthorizedOperation")
	_, err = reader.ec2.CreateKeyPair(t.Context(), &ec2.CreateKeyPairInput{KeyName: aws.String("not")})
	refused(t, err, "UnauthorizedOperation")
	_, err = reader.ec2.CreateKeyPair(t.Context(), &ec2.CreateKeyPairInput{KeyName: aws.String("not"), DryRun: aws.Bool(true)})
	refused(t, err, "UnauthorizedOperation")
	_, err = reader.ssm.ListCommands(t.Context(), &ssm.ListCommandsInput{})
	refused(t, err, "AccessDeniedException")
	_, err = reader.iam.ListUsers(t.Context(), &iam.ListUsersInput{})
	refused(t, err, "AccessDenied")

	who, err := reader.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || !strings.HasSuffix(*who.Arn, ":user/reader") {
		t.Errorf("reader is %+v, %v", who, err)
	}
	// A session dies with its role.
	trust := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + *who.Arn + `"},"Action":"sts:AssumeRole"}]}`
	role, err := h.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("short"), AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	assumed, err := reader.sts.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: role.Role.Arn, RoleSessionName: aws.String("me")})
	if err != nil {
		t.Fatal(err)
	}
	k := assumed.Credentials
	session := h.as(*k.AccessKeyId, *k.SecretAccessKey, *k.SessionToken)
	if who, err := session.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil || !strings.HasSuffix(*who.Arn, "assumed-role/short/me") {
		t.Errorf("the session is %+v, %v", who, err)
	}
	_, err = session.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	refused(t, err, "UnauthorizedOperation")
	_, err = h.as(*k.AccessKeyId, *k.SecretAccessKey, "").ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	refused(t, err, "AuthFailure")
	_, err = h.as(*k.AccessKeyId, *k.SecretAccessKey, *k.SessionToken+"x").ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	refused(t, err, "AuthFailure")
	if _, err := h.iam.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("short")}); err != nil {
		t.Fatal(err)
	}
	await(t, "the session to die with its role", func() error {
		_, err := session.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if code(err) == "" {
			return io.ErrNoProgress
		}
		return nil
	})
	_, err = h.as("AKIAIOSFODNN7EXAMPLE", "x", "").ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	refused(t, err, "AuthFailure")
	_, err = h.as(h.key[0], "wrong", "").ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	refused(t, err, "AuthFailure")
}
