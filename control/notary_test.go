package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// registry is a notary with files of its own and a clock that the test moves.
type registry struct {
	*notary
	state string
	at    time.Time
	woken int
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	n, err := openNotary(filepath.Join(dir, "keys"), filepath.Join(dir, "identity.crt"), "ichiro-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{notary: n, state: dir, at: time.Now()}
	n.now = func() time.Time { return r.at }
	n.wake = func() { r.woken++ }
	return r
}

// published is what anybody reads, by HTTP and as a file: both are one.
func (r *registry) published(t *testing.T) string {
	t.Helper()
	if err := r.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", certificatesPath, nil))
	text, err := os.ReadFile(filepath.Join(r.state, "identity.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(w.Result().Body); w.Code != http.StatusOK || string(body) != string(text) {
		t.Errorf("HTTP gives %d %s, the file holds %s", w.Code, body, text)
	}
	if strings.Contains(string(text), "PRIVATE") {
		t.Error("a private key is published")
	}
	return string(text)
}

func TestAKeyIsRotatedBesideARunningProcess(t *testing.T) {
	r := newRegistry(t)
	a := cloud.Assignment{Region: "ichiro-1", Instance: cloud.Instance{ID: "i-1"}}
	was, err := r.Sign(a)
	if err != nil {
		t.Fatal(err)
	}
	before := r.published(t)
	if err := rotate([]string{"--state", r.state, "--overlap", "1h"}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(ringFile(filepath.Join(r.state, "keys"))); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keys' file: %v, %v", info.Mode(), err)
	}
	during := r.published(t)
	if !strings.HasPrefix(during, before) || strings.Count(during, "BEGIN CERTIFICATE") != 2 || !r.Current(a, was) || r.woken != 0 {
		t.Errorf("before the new key signs: current %t, woken %d, published\n%s", r.Current(a, was), r.woken, during)
	}
	r.at = r.at.Add(time.Hour + time.Minute)
	after := r.published(t)
	if strings.HasPrefix(after, before) || !strings.HasSuffix(after, before) || r.Current(a, was) || r.woken != 1 {
		t.Errorf("when the new key signs: current %t, woken %d, published\n%s", r.Current(a, was), r.woken, after)
	}
	next, err := r.Sign(a)
	if err != nil || next.Key == was.Key || !r.Current(a, next) || next.Document != was.Document {
		t.Errorf("signed anew: key %s, current %t, %v", next.Key, r.Current(a, next), err)
	}
	other := a
	other.Instance.Type = "m5.large"
	if r.Current(other, next) {
		t.Error("a document that says something else is current")
	}
}

func TestAStolenKeyIsWithdrawnAtOnce(t *testing.T) {
	r := newRegistry(t)
	a := cloud.Assignment{Instance: cloud.Instance{ID: "i-1"}}
	was, err := r.Sign(a)
	if err != nil {
		t.Fatal(err)
	}
	before := r.published(t)
	if err := rotate([]string{"--state", r.state, "--stolen"}); err != nil {
		t.Fatal(err)
	}
	if after := r.published(t); strings.Contains(after, before) || strings.Count(after, "BEGIN CERTIFICATE") != 1 || r.Current(a, was) || r.woken != 1 {
		t.Errorf("current %t, woken %d, published\n%s", r.Current(a, was), r.woken, after)
	}
}

func TestKeysThatCannotBeReadLeaveTheOldInForce(t *testing.T) {
	r := newRegistry(t)
	was, err := r.Sign(cloud.Assignment{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Reconcile(t.Context()); err == nil {
		t.Error("half a file is no mistake")
	}
	if !r.Current(cloud.Assignment{}, was) {
		t.Error("nothing can be signed any more")
	}
	if err := rotate([]string{"--state", r.state}); err == nil {
		t.Error("what cannot be read is rotated, and would be lost")
	}
}

func TestARotationKeepsKeysInOrder(t *testing.T) {
	r := newRegistry(t)
	if err := rotate([]string{"--state", r.state, "--overlap", "48h"}); err != nil {
		t.Fatal(err)
	}
	if err := rotate([]string{"--state", r.state, "--overlap", "1h"}); err == nil {
		t.Error("a key which signs before the one that is to come is added")
	}
	ring, err := readRing(r.path)
	if err != nil || strings.Count(string(ring.Certificates(r.at)), "BEGIN CERTIFICATE") != 2 {
		t.Errorf("afterwards there are other keys: %v", err)
	}
	if err := rotate([]string{"--state", r.state, "--overlap", "-1h"}); err == nil {
		t.Error("an overlap that is over is taken")
	}
}
