package provision

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const pemOne = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

func TestCertificatesAreTheCloudsOrThoseOfBefore(t *testing.T) {
	var body string
	status := 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/ichiro/identity.pem" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	defer s.Close()
	c := Certificates{API: netip.MustParseAddrPort(s.Listener.Addr().String()), File: filepath.Join(t.TempDir(), "etc", "ichiro", "identity.pem")}
	for _, step := range []struct {
		name   string
		status int
		body   string
		good   bool
		want   string
	}{
		{"the API is not there yet", 503, "later", false, ""},
		{"one certificate", 200, pemOne, true, pemOne},
		{"the same again", 200, pemOne, true, pemOne},
		{"two, at a rotation", 200, pemOne + pemOne, true, pemOne + pemOne},
		{"nothing", 200, "", false, pemOne + pemOne},
		{"a page", 200, "<html></html>", false, pemOne + pemOne},
		{"a key among them", 200, pemOne + strings.ReplaceAll(pemOne, "CERTIFICATE", "PRIVATE KEY"), false, pemOne + pemOne},
		{"words before them", 200, "hello\n" + pemOne, false, pemOne + pemOne},
		{"half of one", 200, pemOne[:40], false, pemOne + pemOne},
		{"too much", 200, strings.Repeat(pemOne, 2000), false, pemOne + pemOne},
		{"an error", 500, pemOne, false, pemOne + pemOne},
	} {
		t.Run(step.name, func(t *testing.T) {
			status, body = step.status, step.body
			if err := c.Refresh(t.Context()); err == nil != step.good {
				t.Errorf("got %v", err)
			}
			have, _ := os.ReadFile(c.File)
			if string(have) != step.want {
				t.Errorf("the file has %q", have)
			}
		})
	}
	if list, err := os.ReadDir(filepath.Dir(c.File)); err != nil || len(list) != 1 {
		t.Errorf("left beside it: %v, %v", list, err)
	}
	if info, err := os.Stat(c.File); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}

// Who keeps them asks again after a refusal, and ends when it is told to.
func TestCertificatesAreKeptFromTheFirstAnswerOn(t *testing.T) {
	asked := make(chan struct{}, 10)
	var times atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if times.Add(1) == 1 {
			w.WriteHeader(503)
		} else {
			w.Write([]byte(pemOne))
		}
		asked <- struct{}{}
	}))
	defer s.Close()
	c := Certificates{API: netip.MustParseAddrPort(s.Listener.Addr().String()), File: filepath.Join(t.TempDir(), "identity.pem")}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		c.Keep(ctx, func(err error) { t.Errorf("told of %v", err) })
		close(done)
	}()
	for range 2 {
		select {
		case <-asked:
		case <-ctx.Done():
			t.Fatal("it does not ask again")
		}
	}
	cancel()
	<-done
}
