//go:build vm

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func (g given) credentials() aws.Credentials {
	return aws.Credentials{AccessKeyID: g.AccessKeyId, SecretAccessKey: g.SecretAccessKey, SessionToken: g.Token}
}

// recorded has a guest ask the API by the way that guests have, for what it may not: the audit says which guest it was.
func (h *host) recorded(t *testing.T, id, address string, g given) {
	req, err := http.NewRequest(http.MethodGet, "http://169.254.169.254:8773/?Action=TerminateInstances&Version=2016-11-15&X-Amz-Expires=300&InstanceId.1="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	nothing := sha256.Sum256(nil)
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), g.credentials(), req, hex.EncodeToString(nothing[:]), "ec2", h.region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := h.sh(t, id, "curl -s '"+signed+"'"); !strings.Contains(got, "UnauthorizedOperation") {
		t.Errorf("the guest is answered %s", got)
	}
	text, err := os.ReadFile(h.state("audit", "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var last struct{ Action, AccessKey, Caller, Source, Instance, Code string }
	for line := range bytes.Lines(text) {
		if !bytes.Contains(line, []byte(g.AccessKeyId)) {
			continue
		}
		if err := json.Unmarshal(line, &last); err != nil {
			t.Fatal(err)
		}
	}
	if last.Action != "TerminateInstances" || last.Instance != id || last.Source != address || last.Code != "UnauthorizedOperation" || !strings.HasSuffix(last.Caller, "/"+id) {
		t.Errorf("the audit has %+v, want TerminateInstances of %s from %s", last, id, address)
	}
}

// revoked ends a role's sessions by their age, as AWS's console does: no service takes the credentials that the guest had, and
// the guest gets others.
func (h *host) revoked(t *testing.T, id, role string) {
	put := func(name, document string) {
		t.Helper()
		if _, err := h.iam.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: &role, PolicyName: &name, PolicyDocument: &document}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			h.iam.DeleteRolePolicy(noCancel(t), &iam.DeleteRolePolicyInput{RoleName: &role, PolicyName: &name})
		})
	}
	// every asks each service for something, and returns what was refused.
	every := func(g given) (refused []string) {
		t.Helper()
		c, ctx := h.as(g.AccessKeyId, g.SecretAccessKey, g.Token), t.Context()
		for _, ask := range []func() (string, error){
			func() (string, error) { _, err := c.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}); return "ec2", err },
			func() (string, error) { _, err := c.ssm.ListCommands(ctx, &ssm.ListCommandsInput{}); return "ssm", err },
			func() (string, error) { _, err := c.iam.ListRoles(ctx, &iam.ListRolesInput{}); return "iam", err },
			func() (string, error) {
				_, err := c.sts.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/" + role), RoleSessionName: aws.String("again")})
				return "sts", err
			},
		} {
			if service, err := ask(); err != nil {
				refused = append(refused, service+" "+code(err))
			}
		}
		if got := h.object(t, g.credentials(), http.MethodGet, "/", ""); got.status != http.StatusOK {
			refused = append(refused, "s3 "+got.code)
		}
		return refused
	}
	trust := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root","Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	if _, err := h.iam.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: &role, PolicyDocument: &trust}); err != nil {
		t.Fatal(err)
	}
	put("all", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)
	old := h.credentials(t, id, role)
	if got := every(old); got != nil {
		t.Fatalf("who may all is refused: %q", got)
	}
	put("AWSRevokeOlderSessions", `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"`+
		time.Now().UTC().Format(time.RFC3339)+`"}}}]}`)
	if got, want := fmt.Sprint(every(old)), "[ec2 UnauthorizedOperation ssm AccessDeniedException iam AccessDenied sts AccessDenied s3 AccessDenied]"; got != want {
		t.Errorf("of a revoked session are refused %s, want %s", got, want)
	}
	var anew given
	await(t, "other credentials", func() error {
		if anew = h.credentials(t, id, role); anew.AccessKeyId == old.AccessKeyId {
			return errors.New("those of before")
		}
		return nil
	})
	if got := every(anew); got != nil {
		t.Errorf("with the new credentials are refused: %q", got)
	}
}

// away stops the control plane, and the store in it, and ends the metadata service and the agent meanwhile: a guest goes on
// reading all that it could, with the session token of before.
func (h *host) away(t *testing.T, id, role string) {
	console := func() (answered int) {
		data, err := os.ReadFile(h.run("instances", id, "console.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`asked ([0-9]+): `+id+` yes yes yes`).FindAllSubmatch(data, -1) {
			answered, _ = strconv.Atoi(string(m[1]))
		}
		return answered
	}
	command := h.send(t, id, `M=http://169.254.169.254/latest; T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 600' $M/api/token)
		get() { curl -s -m 5 -H "X-aws-ec2-metadata-token: $T" $M/$1; }
		has() { case "$(get $1)" in *"$2"*) echo yes;; *) echo "no $1";; esac; }
		n=0; until test -f /tmp/back || [ $n = 500 ]; do n=$((n+1))
		echo "asked $n: $(get meta-data/instance-id) $(has meta-data/iam/security-credentials/`+role+` AccessKeyId) $(has dynamic/instance-identity/document `+id+`) $(has user-data 'said by the script')" >/dev/console
		done`)
	more := func(what string) {
		t.Helper()
		was := console()
		await(t, "answers "+what, func() error {
			if now := console(); now < was+3 { // one may have been under way
				return fmt.Errorf("%d, then %d", was, now)
			}
			return nil
		})
	}
	more("before")
	control, err := h.daemon("control")
	if err == nil {
		err = syscall.Kill(control.PID, syscall.SIGSTOP)
	}
	if err != nil {
		t.Fatal(err)
	}
	on := func() { syscall.Kill(control.PID, syscall.SIGCONT) }
	defer on()
	await(t, "the control plane to stop", func() error { // the kernel stops one thread after the other, when it comes to each
		return stopped(control.PID)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{}); err == nil {
		t.Fatal("the control plane is not away")
	}
	more("with the control plane away")
	h.kill(t, "imds")
	more("of another metadata service")
	h.kill(t, "agent")
	h.kill(t, "imds")
	more("of a host whose agent has never seen the store")
	on()
	h.sh(t, id, "touch /tmp/back")
	h.result(t, id, command)
	g := h.credentials(t, id, role)
	c := h.as(g.AccessKeyId, g.SecretAccessKey, g.Token)
	if _, err := c.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{}); err != nil {
		t.Errorf("the credentials of then: %v", err)
	}
}

// stopped says which thread of a process is not.
func stopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("process %d has no threads: %v", pid, err)
	}
	for _, name := range threads {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if rest := data[bytes.LastIndexByte(data, ')')+1:]; !bytes.HasPrefix(rest, []byte(" T")) {
			return fmt.Errorf("%s says%.3s", name, rest)
		}
	}
	return nil
}

// unlogged looks for what is nobody's business in what the host's daemons have written, debug messages among it.
func (h *host) unlogged(t *testing.T, secrets ...string) {
	files, err := filepath.Glob(h.run("instances", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(files, filepath.Join(h.dir, "log"), h.state("audit", "audit.jsonl")) {
		if filepath.Base(path) == "console.log" { // the guest's own
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range append(secrets, h.key[1]) {
			for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s))[:len(s)/3*4]} {
				if len(form) < 16 || bytes.Contains(data, []byte(form)) {
					t.Errorf("%s holds %.10s...", path, form)
				}
			}
		}
	}
	if data, _ := os.ReadFile(filepath.Join(h.dir, "log")); !bytes.Contains(data, []byte("level=DEBUG")) {
		t.Error("there are no debug messages, which may say more than others")
	}
}
