package storer_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/versity/versitygw/iamapi/private"

	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/iam/storer"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const (
	trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	reads = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"},{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::b/secret"}]}`
)

func TestTheObjectStoreAsksForAnInstance(t *testing.T) {
	ctx := t.Context()
	e, err := iam.New(storetest.New(t), iam.Config{KeyDir: t.TempDir(), Account: "000000000000"})
	ok(t, err)
	dir, err := os.MkdirTemp("", "iam") // short: a socket's path has 108 bytes
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	key := iam.RootKey{AccessKeyId: "AKIADOOR", SecretAccessKey: "door"}
	door, err := storer.NewDoor(e, filepath.Join(dir, "s"), key)
	ok(t, err)
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, r := range []func(context.Context) error{e.Run, door.Run} {
		go func() { r(run); done <- struct{}{} }()
	}
	t.Cleanup(func() { cancel(); <-done; <-done })
	<-e.Ready()
	_, err = e.CreateRole(ctx, iam.Role{Name: "web", Trust: trust})
	ok(t, err)
	p, err := e.CreatePolicy(ctx, iam.Policy{Name: "reads"}, reads)
	ok(t, err)
	ok(t, e.AttachRolePolicy(ctx, "web", p.ARN))
	_, err = e.CreateProfile(ctx, iam.Profile{Name: "p"})
	ok(t, err)
	ok(t, e.AddRole(ctx, "p", "web"))
	c, err := e.MintForInstance(ctx, "p", "i-1", 0)
	ok(t, err)

	ask := asker(t, filepath.Join(dir, "s"), key)
	var derived private.DeriveSigningKeyResponse
	scope := private.DeriveSigningKeyRequest{AccessKeyID: c.AccessKeyID, SessionToken: c.Token, Date: "20261123", Region: "ichiro-1", Service: "s3"}
	if status := ask(private.DerivePath, scope, &derived); status != http.StatusOK {
		t.Fatalf("derive: %d", status)
	}
	want := sigv4.Key(c.SecretAccessKey, "20261123", "ichiro-1", "s3")
	if hex.EncodeToString(derived.DerivedKey) != hex.EncodeToString(want) || derived.PrincipalArn != "arn:aws:sts::000000000000:assumed-role/web/i-1" {
		t.Errorf("derived for %s", derived.PrincipalArn)
	}
	scope.SessionToken = "x" + c.Token[1:]
	if status := ask(private.DerivePath, scope, nil); status != http.StatusForbidden {
		t.Errorf("bad token: got %d, want 403", status)
	}
	var judged private.EvaluatePolicyResponse
	if status := ask(private.EvaluatePath, private.EvaluatePolicyRequest{
		AccessKeyID: c.AccessKeyID, SessionToken: c.Token, Actions: []string{"s3:GetObject", "s3:PutObject"},
		Resources: []string{"arn:aws:s3:::b/open", "arn:aws:s3:::b/secret"},
	}, &judged); status != http.StatusOK {
		t.Fatalf("evaluate: %d", status)
	}
	got, _ := json.Marshal(judged.Decisions)
	wanted, _ := json.Marshal([][]string{{private.DecisionAllow, private.DecisionNoMatch}, {private.DecisionDeny, private.DecisionDeny}})
	if !bytes.Equal(got, wanted) {
		t.Errorf("decisions are %s, want %s", got, wanted)
	}
	var invalid private.ResolvePrincipalsResponse
	if status := ask(private.ResolvePrincipalsPath, private.ResolvePrincipalsRequest{Principals: []string{
		"arn:aws:iam::000000000000:role/web", "arn:aws:iam::000000000000:role/nobody", "arn:aws:iam::000000000000:user/nobody",
	}}, &invalid); status != http.StatusOK || len(invalid.Invalid) != 2 {
		t.Errorf("principals: %d, invalid are %v", status, invalid.Invalid)
	}
}

// asker sends signed requests through the socket.
func asker(t *testing.T, path string, key iam.RootKey) func(route string, in, out any) int {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err == nil || ctx.Err() != nil {
				return conn, err
			}
		}
	}}}
	t.Cleanup(client.CloseIdleConnections)
	return func(route string, in, out any) int {
		t.Helper()
		body, err := json.Marshal(in)
		ok(t, err)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://iam"+route, bytes.NewReader(body))
		ok(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(private.ProtocolHeader, "1")
		sigv4.Signer{AccessKeyID: key.AccessKeyId, Secret: key.SecretAccessKey, Region: "us-east-1", Service: "iam"}.Sign(
			sigv4.Request{Method: r.Method, Path: route, Host: "iam", Header: r.Header, Body: body}, time.Now())
		resp, err := client.Do(r)
		ok(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		ok(t, err)
		if out != nil && resp.StatusCode == http.StatusOK {
			ok(t, json.Unmarshal(text, out))
		} else if out != nil {
			t.Log(string(text))
		}
		return resp.StatusCode
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
