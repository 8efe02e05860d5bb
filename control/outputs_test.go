package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/iam"
	objectdoor "github.com/ichiro-metal/ichiro/control/iam/door"
	"github.com/ichiro-metal/ichiro/control/objects"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// yard is an object store with the door that it asks at.
type yard struct {
	*testing.T
	buckets
	root    bundle.Root
	program string
}

func newYard(t *testing.T) *yard {
	dir, err := os.MkdirTemp("", "out") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	y := &yard{T: t, root: bundle.Root(dir), program: filepath.Join(dir, "ichiro-s3")}
	if out, err := exec.Command("go", "build", "-o", y.program, "../deploy/s3").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, d := range []string{"objects", "control", "admin/s3", "state/objects"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	engine, err := iam.New(storetest.New(t), iam.Config{KeyDir: t.TempDir(), Account: "000000000000"})
	if err != nil {
		t.Fatal(err)
	}
	d := objectdoor.New(engine, y.root.ObjectDoor(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{engine.Run, d.Run} {
		go func() { run(ctx); done <- struct{}{} }()
	}
	t.Cleanup(func() { cancel(); <-done; <-done })
	<-engine.Ready()
	<-d.Ready()
	y.buckets = buckets{engine, iamapi.NewAuthority(engine), objects.New(y.root.Objects(), "ichiro-1")}
	return y
}

// start has the object store serve until the returned function is called.
func (y *yard) start() (stop func()) {
	y.Helper()
	cmd := exec.Command(y.program, "--run", string(y.root), "--state", filepath.Join(string(y.root), "state"))
	said, err := cmd.StderrPipe()
	if err != nil {
		y.Fatal(err)
	}
	os.Remove(y.root.Objects())
	if err := cmd.Start(); err != nil {
		y.Fatal(err)
	}
	drained := make(chan struct{})
	go func() { io.Copy(io.Discard, said); close(drained) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Kill()
			<-drained
			cmd.Wait()
		}
	}
	y.Cleanup(stop)
	for _, err := os.Stat(y.root.Objects()); err != nil; _, err = os.Stat(y.root.Objects()) {
		select {
		case <-drained:
			y.Fatal("the object store has ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return stop
}

// as returns the context of a request that the holder of a key has signed.
func (y *yard) as(access, token string) context.Context {
	y.Helper()
	id, _, err := y.authority.Authenticate(y.Context(), api.Credential{AccessKeyID: access, SessionToken: token})
	if err != nil {
		y.Fatal(err)
	}
	return api.WithCaller(y.Context(), id)
}

// asRoot sends a request of the account's root to the object store.
func (y *yard) asRoot(method, path, body string) (status int, answer string) {
	y.Helper()
	key := y.engine.RootKey()
	r, _ := http.NewRequestWithContext(y.Context(), method, "http://objects"+path, strings.NewReader(body))
	signer := sigv4.Signer{AccessKeyID: key.AccessKeyId, Secret: key.SecretAccessKey, Region: "ichiro-1", Service: "s3"}
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	signer.Sign(sigv4.Request{Method: method, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Host: r.URL.Host, Header: r.Header}, time.Now())
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", y.root.Objects())
	}}}
	resp, err := client.Do(r)
	if err != nil {
		y.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// user makes a user with a policy that allows s3:PutObject on a resource, and returns a context of theirs.
func (y *yard) user(name string, resources ...string) context.Context {
	y.Helper()
	ctx := y.Context()
	_, err := y.engine.CreateUser(ctx, iam.User{Name: name})
	if err == nil && len(resources) > 0 {
		list, _ := json.Marshal(resources)
		err = y.engine.PutUserPolicy(ctx, name, iam.Inline{Name: "p", Document: fmt.Sprintf(
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:PutObject","Resource":%s}]}`, list)})
	}
	if err != nil {
		y.Fatal(err)
	}
	key, _, err := y.engine.CreateAccessKey(ctx, name)
	if err != nil {
		y.Fatal(err)
	}
	return y.as(key.ID, "")
}

// An output is written as its caller, by the real object store: whom policies, a bucket's own included, let in when the
// command is sent, and still when it has ended.
func TestOutputsAreWrittenAsTheirCallers(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	stop := y.start()
	for _, bucket := range []string{"open", "given"} {
		if status, answer := y.asRoot("PUT", "/"+bucket, ""); status != 200 {
			t.Fatal(answer)
		}
	}
	ann, bob := y.user("ann", "arn:aws:s3:::open/logs/*"), y.user("bob")
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/bob"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::given/*"}]}`
	if status, answer := y.asRoot("PUT", "/given?policy", policy); status/100 != 2 {
		t.Fatal(answer)
	}
	root := y.as(y.engine.RootKey().AccessKeyId, "")
	for _, c := range []struct {
		name        string
		who         context.Context
		bucket, key string
		code        string
	}{
		{"a key that the policy has", ann, "open", "logs/a b/ü+1/stdout", ""},
		{"one that it has not", ann, "open", "else/stdout", "AccessDenied"},
		{"another's bucket", ann, "given", "logs/x", "AccessDenied"},
		{"no policy", bob, "open", "logs/x", "AccessDenied"},
		{"the bucket's own policy", bob, "given", "logs/x", ""},
		{"root", root, "open", "anything", ""},
		{"no bucket", root, "missing", "x", "NoSuchBucket"},
		{"no bucket that one could see", ann, "missing", "x", "NoSuchBucket"},
	} {
		grant, err := y.Grant(c.who, c.bucket, c.key)
		if cloud.Code(err) != c.code || (err == nil) != (grant != "") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.code)
			continue
		}
		if err != nil {
			continue
		}
		if status, _ := y.asRoot("HEAD", "/"+c.bucket+"/"+strings.ReplaceAll(c.key, " ", "%20"), ""); status != 404 {
			t.Errorf("%s: to ask has left an object, or %d", c.name, status)
		}
		if err := y.Put(t.Context(), grant, c.bucket, c.key, 5, strings.NewReader("hello")); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if status, got := y.asRoot("GET", "/"+c.bucket+"/"+strings.ReplaceAll(c.key, " ", "%20"), ""); status != 200 || got != "hello" {
			t.Errorf("%s: the object is %d %q", c.name, status, got)
		}
	}

	grant, err := y.Grant(ann, "open", "logs/later")
	if err != nil {
		t.Fatal(err)
	}
	short := y.Put(t.Context(), grant, "open", "logs/short", 5, strings.NewReader("he"))
	if status, _ := y.asRoot("HEAD", "/open/logs/short", ""); short == nil || status != 404 {
		t.Errorf("a source that ends early: %v, and the object is %d", short, status)
	}
	stop()
	if err := y.Put(t.Context(), grant, "open", "logs/later", 5, strings.NewReader("hello")); err == nil || cloud.Code(err) != "" {
		t.Errorf("to a store that is away: %v, want an error that passes", err)
	}
	if _, err := y.Grant(ann, "open", "logs/x"); err != nil {
		t.Errorf("asked of a store that is away: %v, want that it is left open", err)
	}
	y.start()
	if err := y.Put(t.Context(), grant, "open", "logs/later", 5, strings.NewReader("hello")); err != nil {
		t.Errorf("to a store that is back: %v", err)
	}
	if err := y.engine.DeleteUserPolicy(t.Context(), "ann", "p"); err != nil {
		t.Fatal(err)
	}
	if err := y.Put(t.Context(), grant, "open", "logs/later", 5, strings.NewReader("hello")); cloud.Code(err) != "AccessDenied" {
		t.Errorf("after the right was taken: %v, want AccessDenied", err)
	}
	if err := y.Put(t.Context(), grant[:len(grant)-8]+"AAAAAAA=", "open", "logs/later", 5, strings.NewReader("hello")); err == nil {
		t.Error("a forged grant is taken")
	}
}
