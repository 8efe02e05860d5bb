package door_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/versity/versitygw/iamapi/private"

	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/iam/door"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const (
	account = "210987654321"
	trust   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"},{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	reads   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"},{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::b/secret"}]}`
	listing = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*","Condition":{"StringEquals":{"s3:prefix":"${aws:username}/"}}}]}`
)

// house is an engine with a door, and a client at it.
type house struct {
	t      *testing.T
	engine *iam.Engine
	path   string
	client *http.Client
	now    time.Time
}

func open(t *testing.T, peers ...uint32) *house {
	h := &house{t: t, now: time.Now()}
	var err error
	h.engine, err = iam.New(storetest.New(t), iam.Config{KeyDir: t.TempDir(), Account: account, Now: func() time.Time { return h.now }})
	ok(t, err)
	dir, err := os.MkdirTemp("", "iam") // short: a socket's path has 108 bytes
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o755))
	h.path = filepath.Join(dir, "s")
	d := door.New(h.engine, h.path, slog.New(slog.DiscardHandler), peers...)
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, r := range []func(context.Context) error{h.engine.Run, d.Run} {
		go func() { r(run); done <- struct{}{} }()
	}
	h.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.path)
	}}}
	t.Cleanup(func() { h.client.CloseIdleConnections(); cancel(); <-done; <-done })
	<-h.engine.Ready()
	<-d.Ready()
	return h
}

// ask returns the status and, when it is not 200, the code of the refusal.
func (h *house) ask(route string, in, out any) (int, string) {
	h.t.Helper()
	body, err := json.Marshal(in)
	ok(h.t, err)
	resp, err := h.client.Post("http://iam"+route, "application/json", bytes.NewReader(body))
	ok(h.t, err)
	defer resp.Body.Close()
	if got := resp.Header.Get(private.ProtocolHeader); got != fmt.Sprint(private.ProtocolVersion) {
		h.t.Errorf("the protocol's version is %q, want %d as versitygw's client demands", got, private.ProtocolVersion)
	}
	if resp.StatusCode != http.StatusOK {
		var bad struct{ Code string }
		ok(h.t, json.NewDecoder(resp.Body).Decode(&bad))
		return resp.StatusCode, bad.Code
	}
	ok(h.t, json.NewDecoder(resp.Body).Decode(out))
	return resp.StatusCode, ""
}

// role makes a role with a policy and returns a session of it.
func (h *house) role(name, policy, narrow string) iam.Credentials {
	h.t.Helper()
	ctx := h.t.Context()
	_, err := h.engine.CreateRole(ctx, iam.Role{Name: name, Trust: trust})
	ok(h.t, err)
	ok(h.t, h.engine.PutRolePolicy(ctx, name, iam.Inline{Name: "p", Document: policy}))
	root, _, err := h.engine.Lookup(h.engine.RootKey().AccessKeyId, "")
	ok(h.t, err)
	c, err := h.engine.AssumeRole(ctx, root, iam.Assume{RoleARN: "arn:aws:iam::" + account + ":role/" + name, SessionName: "me", Policy: narrow})
	ok(h.t, err)
	return c
}

func TestTheKeyOfASignature(t *testing.T) {
	h := open(t)
	c := h.role("web", reads, "")
	root := h.engine.RootKey()
	for _, one := range []struct {
		name, id, token, secret, arn, role, code string
	}{
		{"a session's", c.AccessKeyID, c.SessionToken, c.SecretAccessKey, "arn:aws:sts::" + account + ":assumed-role/web/me", "arn:aws:iam::" + account + ":role/web", ""},
		{"the root's", root.AccessKeyId, "", root.SecretAccessKey, "arn:aws:iam::" + account + ":root", "", ""},
		{"a session's with a token of nobody", c.AccessKeyID, "x" + c.SessionToken[1:], "", "", "", private.CodeInvalidToken},
		{"a session's without its token", c.AccessKeyID, "", "", "", "", private.CodeInvalidToken},
		{"a stranger's", "AKIANOBODY", "", "", "", "", private.CodeNoSuchIdentity},
	} {
		t.Run(one.name, func(t *testing.T) {
			var got private.DeriveSigningKeyResponse
			_, code := h.ask(private.DerivePath, private.DeriveSigningKeyRequest{
				AccessKeyID: one.id, SessionToken: one.token, Date: "20261123", Region: "ichiro-1", Service: "s3",
			}, &got)
			if code != one.code {
				t.Fatalf("refused with %q, want %q", code, one.code)
			}
			if code != "" {
				return
			}
			if want := sigv4.Key(one.secret, "20261123", "ichiro-1", "s3"); !bytes.Equal(got.DerivedKey, want) {
				t.Errorf("key is %s, want %s", hex.EncodeToString(got.DerivedKey), hex.EncodeToString(want))
			}
			if got.PrincipalArn != one.arn || got.RoleArn != one.role {
				t.Errorf("it is %s of %q, want %s of %q", got.PrincipalArn, got.RoleArn, one.arn, one.role)
			}
		})
	}
	h.now = h.now.Add(2 * time.Hour)
	if status, code := h.ask(private.DerivePath, private.DeriveSigningKeyRequest{AccessKeyID: c.AccessKeyID, SessionToken: c.SessionToken}, nil); status != http.StatusForbidden || code != "ExpiredToken" {
		t.Errorf("a session that is over: got %d %q, want 403 ExpiredToken", status, code)
	}
}

func TestWhatAPolicyAllows(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	plain := h.role("plain", reads, "")
	narrowed := h.role("narrowed", reads, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:PutObject","Resource":"*"}]}`)
	_, err := h.engine.CreateUser(ctx, iam.User{Name: "ann"})
	ok(t, err)
	ok(t, h.engine.PutUserPolicy(ctx, "ann", iam.Inline{Name: "p", Document: listing}))
	key, _, err := h.engine.CreateAccessKey(ctx, "ann")
	ok(t, err)
	root := h.engine.RootKey()
	const allow, deny, silent = private.DecisionAllow, private.DecisionDeny, private.DecisionNoMatch
	for _, c := range []struct {
		name, id, token string
		facts           map[string][]string
		action          string
		resource        string
		want, session   string
	}{
		{"a role may what its policy allows", plain.AccessKeyID, plain.SessionToken, nil, "s3:GetObject", "arn:aws:s3:::b/open", allow, ""},
		{"of the rest its policy says nothing", plain.AccessKeyID, plain.SessionToken, nil, "s3:PutObject", "arn:aws:s3:::b/open", silent, ""},
		{"a denial wins", plain.AccessKeyID, plain.SessionToken, nil, "s3:GetObject", "arn:aws:s3:::b/secret", deny, ""},
		{"a session's own policy is told apart", narrowed.AccessKeyID, narrowed.SessionToken, nil, "s3:GetObject", "arn:aws:s3:::b/open", allow, silent},
		{"and where it allows too", narrowed.AccessKeyID, narrowed.SessionToken, nil, "s3:PutObject", "arn:aws:s3:::b/open", silent, allow},
		{"the root may everything", root.AccessKeyId, "", nil, "s3:DeleteBucket", "arn:aws:s3:::b", allow, ""},
		{"facts of the request count", key.ID, "", map[string][]string{"s3:prefix": {"ann/"}}, "s3:ListBucket", "arn:aws:s3:::b", allow, ""},
		{"but not as the caller's", key.ID, "", map[string][]string{"s3:prefix": {"bob/"}, "AWS:username": {"bob"}}, "s3:ListBucket", "arn:aws:s3:::b", silent, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got private.EvaluatePolicyResponse
			if status, code := h.ask(private.EvaluatePath, private.EvaluatePolicyRequest{
				AccessKeyID: c.id, SessionToken: c.token, Actions: []string{c.action}, Resources: []string{c.resource}, Condition: c.facts,
			}, &got); code != "" {
				t.Fatalf("refused: %d %s", status, code)
			}
			session := ""
			if got.HasSessionPolicy {
				session = got.SessionDecisions[0][0]
			}
			if own := got.Decisions[0][0]; own != c.want || session != c.session {
				t.Errorf("got %s, session %q; want %s, session %q", own, session, c.want, c.session)
			}
		})
	}
}

func TestWhomABucketPolicyMayName(t *testing.T) {
	h := open(t)
	h.role("web", reads, "")
	const iamARN, stsARN = "arn:aws:iam::" + account, "arn:aws:sts::" + account
	there := []string{account, iamARN + ":root", iamARN + ":role/web", stsARN + ":assumed-role/web/i-1"}
	absent := []string{
		"000000000000", iamARN + ":role/nobody", iamARN + ":user/web", iamARN + ":role/WEB", iamARN + ":role/x/web", iamARN + ":role/", iamARN + ":group/web",
		stsARN + ":assumed-role/nobody/i-1", stsARN + ":assumed-role/web", stsARN + ":assumed-role/web/a/b", "arn:aws:iam::000000000000:role/web", "",
	}
	var got private.ResolvePrincipalsResponse
	if status, code := h.ask(private.ResolvePrincipalsPath, private.ResolvePrincipalsRequest{Principals: append(there, absent...)}, &got); code != "" {
		t.Fatalf("refused: %d %s", status, code)
	}
	if !slices.Equal(got.Invalid, absent) {
		t.Errorf("invalid are %q, want %q", got.Invalid, absent)
	}
}

// TestWhoMayAsk needs root: it asks as another user.
func TestWhoMayAsk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to ask as somebody else")
	}
	const python = "/usr/bin/python3" // not one of root's own
	if _, err := os.Stat(python); err != nil {
		t.Skip("needs /usr/bin/python3, a program that another user can run")
	}
	h := open(t, 60704)
	for uid, want := range map[uint32]bool{60704: true, 60702: false} {
		cmd := exec.Command(python, "-c", `import socket,sys
s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"POST /private/version HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
sys.stdout.write(s.recv(12).decode())`, h.path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if got := string(out) == "HTTP/1.1 200"; got != want {
			t.Errorf("user %d: got %q, %v; want an answer: %t", uid, out, err, want)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
