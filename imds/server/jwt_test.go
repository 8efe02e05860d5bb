package server

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/ticket"
)

// control answers requests for tokens as the control plane does, with what was asked for and a number.
func control(t *testing.T, hosts []byte) (api *httptest.Server, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := ticket.Verify(hosts, r.URL.RawQuery, r.Header.Get("Authorization"), time.Now())
		if err != nil || r.URL.Path != ticket.Path {
			http.Error(w, "forged", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "%s.%s.%d", got.Instance, got.Audience+got.Nonce, asked.Add(1))
	}))
	t.Cleanup(api.Close)
	return api, asked
}

func TestATokenForAnotherSystem(t *testing.T) {
	hosts := bytes.Repeat([]byte{7}, 32)
	api, asked := control(t, hosts)
	w := newWorld(t, func(s *Server) { s.Issue(strings.TrimPrefix(api.URL, "http://")) })
	w.publish(nil)
	const path = "/latest/ichiro/token"
	_, session := w.do("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")
	mine := "X-aws-ec2-metadata-token: " + session
	get := func(query string, headers ...string) (int, string) {
		t.Helper()
		r, body := w.do("GET", path+query, headers...)
		return r.StatusCode, body
	}
	if code, _ := get("?audience=vault", mine); code != 503 {
		t.Errorf("before the host has a ticket: %d", code)
	}
	if err := bundle.Write(w.root.Instance(testID).Path(bundle.TicketFile), ticket.Of(hosts, testID), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, query string
		headers     []string
		code        int
	}{
		{"no session token, even where none is needed", "?audience=vault", nil, 401},
		{"behind a proxy", "?audience=vault", []string{mine, "X-Forwarded-For: 10.0.0.9"}, 400},
		{"no audience", "", []string{mine}, 400},
		{"two audiences", "?audience=a&audience=b", []string{mine}, 400},
		{"another's name", "?audience=a&instance=i-00000000000000002", []string{mine}, 400},
		{"a life that is too long", "?audience=a&ttl=86400", []string{mine}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, body := get(c.query, c.headers...); code != c.code || asked.Load() != 0 {
				t.Errorf("got %d, asked %d times, want %d: %s", code, asked.Load(), c.code, body)
			}
		})
	}
	for _, c := range []struct{ name, query, want string }{
		{"the first", "?audience=vault", string(testID) + ".vault.1"},
		{"the same again", "?audience=vault", string(testID) + ".vault.1"},
		{"another audience", "?audience=ceph", string(testID) + ".ceph.2"},
		{"a nonce makes it new", "?audience=vault&nonce=x", string(testID) + ".vaultx.3"},
	} {
		if code, body := get(c.query, mine); code != 200 || body != c.want {
			t.Errorf("%s: got %d %q, want %q", c.name, code, body, c.want)
		}
	}
	api.Close()
	if code, body := get("?audience=vault", mine); code != 200 || body != string(testID)+".vault.1" {
		t.Errorf("while the control plane is away: %d %q", code, body)
	}
	if code, _ := get("?audience=other", mine); code != 503 {
		t.Errorf("what was not asked for before, while it is away: %d", code)
	}
	w.publish(func(m *bundle.Metadata) { m.Identity.Document += " " })
	if code, _ := get("?audience=vault", mine); code != 503 {
		t.Errorf("what the instance was, said after it is another: %d", code)
	}
}

func TestOneGuestsTokensAreBounded(t *testing.T) {
	hosts := bytes.Repeat([]byte{7}, 32)
	api, asked := control(t, hosts)
	a := newAuthority(strings.TrimPrefix(api.URL, "http://"))
	m := instance(testID, testAddr)
	root := bundle.Root(t.TempDir())
	w := &world{t: t, root: root}
	w.put(m)
	found := bundle.Found{ID: testID, Dir: root.Instance(testID), Metadata: &m}
	if err := bundle.Write(found.Dir.Path(bundle.TicketFile), ticket.Of(hosts, testID), 0o640); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for k := range 100 {
		a.token(t.Context(), found, ticket.Request{Instance: testID, Audience: fmt.Sprint(k), Life: ticket.MinLife}, now)
	}
	if n := asked.Load(); n != asksRate {
		t.Errorf("a burst of 100 asked %d times, want %d", n, asksRate)
	}
	ask := ticket.Request{Instance: testID, Audience: "0", Life: ticket.MinLife}
	for _, c := range []struct {
		name  string
		after time.Duration
		want  int64
	}{
		{"young", 44 * time.Second, asksRate},
		{"with a quarter of its life left", 45 * time.Second, asksRate + 1},
	} {
		if _, err := a.token(t.Context(), found, ask, now.Add(c.after)); err != nil || asked.Load() != c.want {
			t.Errorf("%s: asked %d times, %v, want %d", c.name, asked.Load(), err, c.want)
		}
	}
	for k := range 20 {
		a.keep(testID, issued{of: fmt.Sprint(k), at: now})
	}
	if n := len(a.tokens[testID]); n != kept {
		t.Errorf("%d tokens are kept, want %d", n, kept)
	}
}
