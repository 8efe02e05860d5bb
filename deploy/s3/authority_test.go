package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/iamapi/private"
	"github.com/versity/versitygw/s3err"
)

// What the door refuses becomes what S3's clients know: an expired session is not a wrong one, and a control plane that is away
// is asked again.
func TestWhatTheDoorRefuses(t *testing.T) {
	dir, err := os.MkdirTemp("", "s3") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "door")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(private.ProtocolHeader, fmt.Sprint(private.ProtocolVersion))
		var q private.DeriveSigningKeyRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		switch {
		case r.URL.Path == private.VersionPath:
			json.NewEncoder(w).Encode(private.VersionResponse{Protocol: 1, MinClient: 1, AccountID: "210987654321"})
		case q.AccessKeyID == "root":
			json.NewEncoder(w).Encode(private.DeriveSigningKeyResponse{DerivedKey: []byte("k"), PrincipalArn: "arn:aws:iam::210987654321:root"})
		case q.AccessKeyID == "ann":
			json.NewEncoder(w).Encode(private.DeriveSigningKeyResponse{DerivedKey: []byte("k"), PrincipalArn: "arn:aws:iam::210987654321:user/root"})
		default:
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(map[string]string{"code": q.AccessKeyID})
		}
	})}
	go srv.Serve(l)
	defer srv.Close()
	a, err := newAuthority(auth.Account{Access: "ichiro", Secret: "x"}, path, "ichiro-1")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]auth.Role{"root": auth.RoleAdmin, "ann": auth.RoleUser} {
		key, who, err := a.DeriveSigningKey(id, "", "20261123", "ichiro-1", "s3")
		if err != nil || string(key) != "k" || who.Role != want {
			t.Errorf("%s: key %q, %s, %v; want %s", id, key, who.Role, err, want)
		}
	}
	ask := func(code string) error {
		_, _, err := a.DeriveSigningKey(code, "t", "20261123", "ichiro-1", "s3")
		return err
	}
	for code, want := range map[string]error{private.CodeNoSuchIdentity: auth.ErrNoSuchUser, private.CodeInvalidToken: auth.ErrInvalidSessionToken} {
		if got := ask(code); !errors.Is(got, want) {
			t.Errorf("%s: got %v, want %v", code, got, want)
		}
	}
	for code, status := range map[string]int{"ExpiredToken": 400, "ServiceUnavailable": 503} {
		var e s3err.S3Error
		if got := ask(code); !errors.As(got, &e) || e.StatusCode() != status || e.BaseError().Code != code {
			t.Errorf("%s: got %v, want %d", code, got, status)
		}
	}
	srv.Close()
	if got := ask("ExpiredToken"); !errors.Is(got, errAway) {
		t.Errorf("nobody at the door: got %v, want %v", got, errAway)
	}
}
