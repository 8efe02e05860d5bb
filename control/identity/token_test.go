package identity

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// verify checks a token as a relying party does: by the key set alone, with another's library.
func verify(set []byte, token, audience string, now time.Time) (jwt.MapClaims, error) {
	var keys struct {
		Keys []struct {
			Kty, Use, Alg, Kid, N, E string
			X5c                      []string
		}
	}
	if err := json.Unmarshal(set, &keys); err != nil {
		return nil, err
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		for _, k := range keys.Keys {
			if k.Kid != t.Header["kid"] || k.Kty != "RSA" || k.Use != "sig" || k.Alg != "RS256" {
				continue
			}
			n, err1 := base64.RawURLEncoding.DecodeString(k.N)
			e, err2 := base64.RawURLEncoding.DecodeString(k.E)
			public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
			der, err3 := base64.StdEncoding.DecodeString(k.X5c[0])
			certificate, err4 := x509.ParseCertificate(der)
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				return nil, err
			}
			if !public.Equal(certificate.PublicKey) {
				return nil, errors.New("x5c is the certificate of another key")
			}
			return public, nil
		}
		return nil, fmt.Errorf("no key %v in the set", t.Header["kid"])
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(audience), jwt.WithIssuer("https://cloud.example"), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }))
	return claims, err
}

func claims() Claims {
	return ClaimsOf(cloud.Assignment{Region: "ichiro-1", Instance: cloud.Instance{
		ID: demo.Instance, Account: demo.Account, Image: demo.Image, Type: demo.Type, Zone: demo.Zone, Launched: demo.Launched,
		Profile: &cloud.ProfileRef{ARN: "arn:aws:iam::123456789012:instance-profile/web", RoleName: "web"},
	}})
}

func token(t *testing.T, r Ring, now time.Time) string {
	t.Helper()
	c := claims().For("https://cloud.example", "vault", now, time.Hour)
	c.Nonce = "n-1"
	text, err := r.Signing(now).Token(c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keySet(t *testing.T, r Ring, now time.Time) []byte {
	t.Helper()
	set, err := r.KeySet(now)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(set), `"d"`) || strings.Contains(string(set), `"p"`) {
		t.Fatal("a private number is published")
	}
	return set
}

func TestATokenVerifiesByTheKeySetAlone(t *testing.T) {
	r := NewRing(generate(t))
	text, set := token(t, r, born), keySet(t, r, born)
	got, err := verify(set, text, "vault", born.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"sub": "arn:aws:ec2:ichiro-1:123456789012:instance/i-0123456789abcdef0", "aud": "vault", "nonce": "n-1", "role": "web",
		"instance_id": "i-0123456789abcdef0", "account_id": "123456789012", "region": "ichiro-1", "image_id": "ami-0bbbbbbbbbbbbbbbb",
		"exp": float64(born.Add(time.Hour).Unix()), "iat": float64(born.Unix()),
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	head, body, _ := strings.Cut(text, ".")
	forged := strings.Replace(claimsText(t, body), "0123456789abcdef0", "0123456789abcdef1", 1)
	_, signature, _ := strings.Cut(body, ".")
	for _, c := range []struct {
		name, text, audience string
		now                  time.Time
	}{
		{"after its end", text, "vault", born.Add(time.Hour)},
		{"before its beginning", text, "vault", born.Add(-time.Minute)},
		{"for another audience", text, "ceph", born},
		{"of another instance", head + "." + base64.RawURLEncoding.EncodeToString([]byte(forged)) + "." + signature, "vault", born},
		{"without a signature", head + "." + body[:strings.Index(body, ".")+1], "vault", born},
		{"of another cloud", token(t, NewRing(generate(t)), born), "vault", born},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := verify(set, c.text, c.audience, c.now); err == nil {
				t.Error("it is taken")
			}
		})
	}
}

func claimsText(t *testing.T, body string) string {
	t.Helper()
	part, _, _ := strings.Cut(body, ".")
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestARotationBreaksNoVerifierWhoReadsTheKeySetDaily(t *testing.T) {
	day := 24 * time.Hour
	r := NewRing(generate(t))
	r = rotate(t, r, born.Add(10*day+Overlap), born.Add(10*day))
	for now := born.Add(10*day + time.Hour); now.Before(born.Add(13 * day)); now = now.Add(time.Hour) {
		text := token(t, r, now)
		for _, read := range []time.Duration{0, -23 * time.Hour} { // the verifier's copy
			if at := now.Add(read); at.After(born.Add(10 * day)) {
				if _, err := verify(keySet(t, r, at), text, "vault", now); err != nil {
					t.Fatalf("%s after the rotation, with a key set of %s: %v", now.Sub(born.Add(10*day)), at.Sub(born.Add(10*day)), err)
				}
			}
		}
	}
	kept := token(t, r, born.Add(11*day-time.Second))
	if _, err := verify(keySet(t, r, born.Add(11*day)), kept, "vault", born.Add(11*day)); err != nil {
		t.Errorf("signed just before the next key: %v", err)
	}
}

// A document and a token are signed by one key, and neither may pass for the other.
func TestADocumentIsNoToken(t *testing.T) {
	k := generate(t)
	d, err := k.Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	signature := strings.NewReplacer("\n", "", "+", "-", "/", "_", "=", "").Replace(d.Signature)
	for _, text := range []string{d.Document + "." + signature, "." + d.Document + "." + signature} {
		if _, err := verify(keySet(t, NewRing(k), born), text, "vault", born); err == nil {
			t.Errorf("%q is taken for a token", text)
		}
	}
}
