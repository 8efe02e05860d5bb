package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/control/identity"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/ticket"
)

// Where verifiers of tokens look (OpenID Connect Discovery 1.0, 4), below the issuer's URL.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keySetPath    = "/.well-known/ichiro/jwks.json"
)

// issuer makes tokens in the name of instances, for hosts that show an instance's ticket. What a token states comes from
// the wish that the host itself follows, at the time of asking.
type issuer struct {
	*notary
	url    string // who tokens are from: where discovery is, without a slash at its end
	hosts  []byte // the key that tickets are made of
	wish   func(context.Context, cloud.InstanceID) (cloud.Assignment, error)
	issued *prometheus.CounterVec
}

func newIssuer(n *notary, url string, hosts []byte, wish func(context.Context, cloud.InstanceID) (cloud.Assignment, error)) *issuer {
	return &issuer{n, strings.TrimSuffix(url, "/"), hosts, wish, prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "ichiro", Subsystem: "identity", Name: "tokens_total",
		Help: "Requests of hosts for instances' tokens by result: issued, forged, malformed, absent (no such instance runs), failed.",
	}, []string{"result"})}
}

// checkIssuer refuses what no verifier would take for the name of an issuer.
func checkIssuer(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return service.Usagef("--issuer %q: a URL that leads verifiers to this API, such as https://cloud.example", text)
	}
	return nil
}

// public returns what anybody may read, by path.
func (s *issuer) public() map[string]http.Handler {
	return map[string]http.Handler{
		certificatesPath: s.notary,
		discoveryPath:    http.HandlerFunc(s.discovery),
		keySetPath:       http.HandlerFunc(s.keySet),
		ticket.Path:      http.HandlerFunc(s.token),
	}
}

// discovery says what verifiers must know. There is no authorization endpoint: nobody logs in here, and the
// field, which clients of OpenID Connect insist on, leads nowhere.
func (s *issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	text, err := json.Marshal(map[string]any{
		"issuer":                                s.url,
		"jwks_uri":                              s.url + keySetPath,
		"authorization_endpoint":                "urn:ichiro:no-login",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid"},
		"claims_supported": []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "nonce", "instance_id", "account_id", "region",
			"availability_zone", "image_id", "instance_type", "instance_profile_arn", "role", "private_ip", "launched_at"},
	})
	reply(w, text, err)
}

func (s *issuer) keySet(w http.ResponseWriter, _ *http.Request) {
	text, err := s.keys.Load().KeySet(s.now())
	reply(w, text, err)
}

func reply(w http.ResponseWriter, text []byte, err error) {
	if err != nil {
		http.Error(w, "The keys cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=300") // far below the overlap at a rotation
	w.Write(text)
}

// token answers a host.
func (s *issuer) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	text, code, err := s.issue(r)
	if err != nil {
		s.issued.WithLabelValues(map[int]string{
			http.StatusForbidden: "forged", http.StatusBadRequest: "malformed", http.StatusNotFound: "absent",
			http.StatusInternalServerError: "failed", http.StatusServiceUnavailable: "failed",
		}[code]).Inc()
		http.Error(w, err.Error(), code)
		return
	}
	s.issued.WithLabelValues("issued").Inc()
	w.Header().Set("Content-Type", "application/jwt")
	w.Write([]byte(text))
}

// issue returns a token, or what is wrong with the request.
func (s *issuer) issue(r *http.Request) (text string, code int, err error) {
	now := s.now()
	asked, err := ticket.Verify(s.hosts, r.URL.RawQuery, r.Header.Get("Authorization"), now)
	if err != nil {
		return "", http.StatusForbidden, err
	}
	if err := asked.Check(); err != nil {
		return "", http.StatusBadRequest, err
	}
	a, err := s.wish(r.Context(), asked.Instance)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.log.Error("token not made", "instance", asked.Instance, "err", err)
		return "", http.StatusServiceUnavailable, errors.New("the token cannot be made now")
	}
	if err != nil || a.Instance.ID != asked.Instance || a.Instance.Power != cloud.PowerRunning {
		return "", http.StatusNotFound, fmt.Errorf("no instance %s runs here", asked.Instance)
	}
	c := identity.ClaimsOf(a).For(s.url, asked.Audience, now, asked.Life)
	c.Nonce = asked.Nonce
	if c.ID, err = cloud.NewUUID(rand.Reader); err == nil {
		text, err = s.keys.Load().Signing(now).Token(c)
	}
	if err != nil {
		s.log.Error("token not made", "instance", asked.Instance, "err", err)
		return "", http.StatusInternalServerError, errors.New("the token cannot be made")
	}
	return text, http.StatusOK, nil
}

// Verify returns what a token of this issuer states. Tokens from before --issuer was changed are another's.
func (s *issuer) Verify(text string) (identity.Claims, error) {
	c, err := s.keys.Load().Verify(text, s.now())
	if err == nil && c.Issuer != s.url {
		return identity.Claims{}, fmt.Errorf("it is from %.200q, and instances' tokens are from %s", c.Issuer, s.url)
	}
	return c, err
}

// wishOf finds what an instance's host follows, with the power and the role of this moment, which perhaps the host has not
// been told yet: a role that was taken from the instance is in no token any more.
func wishOf(mirror *store.Mirror, profile func(context.Context, cloud.ProfileRef) (cloud.ProfileRef, error)) func(context.Context, cloud.InstanceID) (cloud.Assignment, error) {
	return func(ctx context.Context, id cloud.InstanceID) (cloud.Assignment, error) {
		snap := mirror.Snapshot()
		i, err := store.MirroredGet(snap, store.Instances, id)
		if err != nil {
			return cloud.Assignment{}, err
		}
		o, err := store.MirroredGet(snap, store.Assignments(i.Value.Host), id)
		if err != nil {
			return cloud.Assignment{}, err
		}
		a := o.Value
		a.Instance.Power, a.Instance.Profile = i.Value.Power, nil
		if i.Value.Profile == nil {
			return a, nil
		}
		now, err := profile(ctx, *i.Value.Profile)
		switch {
		case err == nil:
			a.Instance.Profile = &now
		case cloud.Code(err) == "" || cloud.Code(err) == "ServiceUnavailable":
			return a, err // not known, which is not: none
		}
		return a, nil
	}
}
