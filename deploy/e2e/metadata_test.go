//go:build vm

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const trustEC2 = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`

// profile makes a role that may describe, in an instance profile of the same name.
func (h *host) profile(t *testing.T, name string) {
	t.Helper()
	ctx := noCancel(t)
	h.role(t, name)
	if _, err := h.iam.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: &name}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.iam.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{InstanceProfileName: &name, RoleName: &name}); err != nil {
		t.Fatal(err)
	}
}

func (h *host) role(t *testing.T, name string) {
	t.Helper()
	ctx := noCancel(t)
	if _, err := h.iam.CreateRole(ctx, &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(trustEC2)}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.iam.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("own"),
		PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:DescribeInstances","Resource":"*"}]}`)}); err != nil {
		t.Fatal(err)
	}
}

// given are a role's credentials as the metadata service writes them.
type given struct {
	Code, Type, AccessKeyId, SecretAccessKey, Token string //nolint:staticcheck // the names are EC2's
	LastUpdated, Expiration                         time.Time
}

// credentials reads the role's credentials in a guest, once there are some.
func (h *host) credentials(t *testing.T, id, role string) given {
	t.Helper()
	var g given
	await(t, "credentials of "+role, func() error {
		text := h.sh(t, id, "curl -s http://169.254.169.254/latest/meta-data/iam/security-credentials/"+role)
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			return errors.New(text)
		}
		if g.Code != "Success" {
			return errors.New(g.Code)
		}
		return nil
	})
	return g
}

// TestMetadata asks in a guest what it may know about itself.
func TestMetadata(t *testing.T) {
	h := the(t)
	profile, other := unique("guests"), unique("others")
	h.profile(t, profile)
	i := h.guest(t, func(in *ec2.RunInstancesInput) {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &profile}
	})
	id := *i.InstanceId
	h.becomes(t, id, types.InstanceStateNameRunning)

	t.Run("in both versions", func(t *testing.T) {
		if got := h.sh(t, id, "curl -s http://169.254.169.254/latest/meta-data/instance-id"); got != id {
			t.Errorf("version 1: %q", got)
		}
		got := h.sh(t, id, `T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
			for p in instance-id local-ipv4 placement/availability-zone; do curl -s -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/latest/meta-data/$p; echo; done`)
		if want := strings.Join([]string{id, *i.PrivateIpAddress, *i.Placement.AvailabilityZone}, "\n"); got != want {
			t.Errorf("version 2: %q, want %q", got, want)
		}
		if got := h.sh(t, id, "curl -s http://169.254.169.254/latest/user-data"); got != strings.TrimSpace(remember) {
			t.Errorf("user data: %q", got)
		}
	})
	t.Run("version 1 can be refused", func(t *testing.T) {
		if out := h.result(t, id, h.send(t, id, "curl -s -f -H 'X-aws-ec2-metadata-token: wrong' http://169.254.169.254/latest/meta-data/instance-id")); out.Status != "Failed" {
			t.Errorf("a wrong token is %s", out.Status)
		}
	})
	t.Run("the identity document is verified as AWS documents it", func(t *testing.T) { h.verify(t, id) })
	t.Run("maintenance is announced to the guest and its owner", func(t *testing.T) { h.maintenance(t, id) })
	t.Run("the role's credentials work and expire", func(t *testing.T) {
		g := h.credentials(t, id, profile)
		if left := time.Until(g.Expiration); left < 20*time.Minute || left > 6*time.Hour || g.Type != "AWS-HMAC" {
			t.Errorf("%s credentials have %v left", g.Type, left)
		}
		c := h.as(g.AccessKeyId, g.SecretAccessKey, g.Token)
		who, err := c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil || !strings.HasSuffix(*who.Arn, ":assumed-role/"+profile+"/"+id) {
			t.Errorf("they are of %+v, %v", who, err)
		}
		if _, err := c.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{}); err != nil {
			t.Error(err)
		}
		_, err = c.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		refused(t, err, "UnauthorizedOperation")
		h.recorded(t, id, *i.PrivateIpAddress, g)
	})
	t.Run("without the control plane all answers go on", func(t *testing.T) { h.away(t, id, profile) })
	t.Run("a revoked session is refused everywhere", func(t *testing.T) { h.revoked(t, id, profile) })
	t.Run("no log holds a secret", func(t *testing.T) {
		g := h.credentials(t, id, profile)
		token := h.sh(t, id, "curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token")
		jwt := h.sh(t, id, "curl -s -H 'X-aws-ec2-metadata-token: "+token+"' 'http://169.254.169.254/latest/ichiro/token?audience=vault'")
		h.unlogged(t, g.SecretAccessKey, g.Token, token, jwt, remember)
	})
	t.Run("another role in the profile is taken over", func(t *testing.T) {
		ctx := t.Context()
		h.role(t, other)
		if _, err := h.iam.RemoveRoleFromInstanceProfile(ctx, &iam.RemoveRoleFromInstanceProfileInput{InstanceProfileName: &profile, RoleName: &profile}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.iam.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{InstanceProfileName: &profile, RoleName: &other}); err != nil {
			t.Fatal(err)
		}
		first := h.credentials(t, id, other)
		if again := h.credentials(t, id, other); again != first {
			t.Errorf("the credentials are made again and again: %v, %v", first.LastUpdated, again.LastUpdated)
		}
	})
	t.Run("nobody else's, and nothing of the host's", func(t *testing.T) {
		if got := h.sh(t, id, "curl -s -H 'X-Forwarded-For: 172.31.0.9' http://169.254.169.254/latest/meta-data/instance-id || true"); got != id && !strings.Contains(got, "403") {
			t.Errorf("who says to be somebody else gets %q", got)
		}
		u, err := url.Parse(h.url)
		if err != nil {
			t.Fatal(err)
		}
		// The API is on the host's loopback; the guest tries every address by which it could mean the host.
		got := h.sh(t, id, "for a in 127.0.0.1 172.31.0.1 169.254.169.254 100.64.0.0 100.64.0.1; do curl -s -m 1 http://$a:"+u.Port()+"/ && echo reached $a; done; true")
		if strings.Contains(got, "reached") {
			t.Errorf("the guest reaches the API: %s", got)
		}
	})
}

// verify checks the signatures over a guest's identity document with openssl, as a program outside would.
func (h *host) verify(t *testing.T, id string) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	get := func(what string) string {
		text, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(h.sh(t, id, "curl -s http://169.254.169.254/latest/dynamic/instance-identity/"+what+" | base64"), "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	document, cert := put("document", get("document")), h.run("control", "identity.crt")
	var told struct{ InstanceId, Region, AccountId, PrivateIp string } //nolint:staticcheck // the names are EC2's
	data, err := os.ReadFile(document)
	if err == nil {
		err = json.Unmarshal(data, &told)
	}
	if err != nil || told.InstanceId != id || told.Region != h.region {
		t.Errorf("the document says %+v, %v", told, err)
	}
	openssl := func(args ...string) error {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	}
	signature, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(get("signature"), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := openssl("x509", "-pubkey", "-noout", "-in", cert, "-out", key); err != nil {
		t.Fatal(err)
	}
	public, err := exec.Command("openssl", "x509", "-pubkey", "-noout", "-in", cert).Output()
	if err != nil {
		t.Fatal(err)
	}
	key = put("key", string(public))
	forged := put("forged", strings.Replace(string(data), id, "i-0123456789abcdef0", 1))
	for _, c := range []struct {
		document string
		good     bool
	}{{document, true}, {forged, false}} {
		if err := openssl("dgst", "-sha256", "-verify", key, "-signature", put("signature", string(signature)), c.document); (err == nil) != c.good {
			t.Errorf("signature over %s: %v", filepath.Base(c.document), err)
		}
		for _, kind := range []string{"rsa2048", "pkcs7"} {
			p7 := put(kind, "-----BEGIN PKCS7-----\n"+strings.TrimSpace(get(kind))+"\n-----END PKCS7-----\n")
			err := openssl("smime", "-verify", "-in", p7, "-inform", "PEM", "-content", c.document, "-certfile", cert, "-noverify", "-nointern")
			if (err == nil) != c.good {
				t.Errorf("%s over %s: %v", kind, filepath.Base(c.document), err)
			}
		}
	}
}
