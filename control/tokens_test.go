package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/ticket"
)

func TestAHostGetsATokenForWhatRunsAndNobodyElseDoes(t *testing.T) {
	r := newRegistry(t)
	hosts := bytes.Repeat([]byte{7}, 32)
	const runs, stopped, absent = cloud.InstanceID("i-00000000000000001"), cloud.InstanceID("i-00000000000000002"), cloud.InstanceID("i-00000000000000003")
	s := newIssuer(r.notary, "https://cloud.example/", hosts, func(_ context.Context, id cloud.InstanceID) (cloud.Assignment, error) {
		power := map[cloud.InstanceID]cloud.Power{runs: cloud.PowerRunning, stopped: cloud.PowerStopped}[id]
		if power == "" {
			return cloud.Assignment{}, store.ErrNotFound
		}
		return cloud.Assignment{Region: "ichiro-1", Instance: cloud.Instance{ID: id, Account: "000000000000", Power: power}}, nil
	})
	get := func(path, authorization string) *httptest.ResponseRecorder {
		w, q := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
		q.Header.Set("Authorization", authorization)
		s.public()[q.URL.Path].ServeHTTP(w, q)
		return w
	}
	for _, c := range []struct {
		name     string
		instance cloud.InstanceID
		key      byte
		audience string
		code     int
	}{
		{"it runs", runs, 7, "vault", 200},
		{"it is stopped", stopped, 7, "vault", 404},
		{"there is none", absent, 7, "vault", 404},
		{"no audience", runs, 7, "", 400},
		{"another cloud's host", runs, 8, "vault", 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			ask := ticket.Request{Instance: c.instance, Audience: c.audience, Nonce: "n", Life: ticket.MinLife, At: r.at}
			query, authorization := ask.Sign(ticket.Of(bytes.Repeat([]byte{c.key}, 32), c.instance))
			w := get(ticket.Path+"?"+query, authorization)
			if w.Code != c.code {
				t.Fatalf("got %d, want %d: %s", w.Code, c.code, w.Body)
			}
			if c.code != 200 {
				return
			}
			claims := jwt.MapClaims{}
			token, _, err := jwt.NewParser().ParseUnverified(w.Body.String(), claims)
			if err != nil {
				t.Fatal(err)
			}
			if claims["iss"] != "https://cloud.example" || claims["instance_id"] != string(runs) || claims["aud"] != "vault" || claims["nonce"] != "n" {
				t.Errorf("claims are %v", claims)
			}
			if said, err := s.Verify(w.Body.String()); err != nil || said.Subject != claims["sub"] {
				t.Errorf("its issuer says %+v, %v", said, err)
			}
			if _, err := newIssuer(r.notary, "https://other.example", hosts, nil).Verify(w.Body.String()); err == nil {
				t.Error("another issuer takes it")
			}
			if set := get(keySetPath, "").Body.String(); !strings.Contains(set, token.Header["kid"].(string)) {
				t.Errorf("the key %v is not in %s", token.Header["kid"], set)
			}
		})
	}
	var found struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(get(discoveryPath, "").Body.Bytes(), &found); err != nil || found.Issuer != "https://cloud.example" || found.Keys != found.Issuer+keySetPath {
		t.Errorf("discovery says %+v, %v", found, err)
	}
	for _, bad := range []string{"cloud.example", "ftp://x", "https://", "https://x/?a=b"} {
		if checkIssuer(bad) == nil {
			t.Errorf("%q is taken for an issuer", bad)
		}
	}
}
