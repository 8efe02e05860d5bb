package identity

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

// remade returns a token with another header or other claims and the signature of before.
func remade(text, head, body string) string {
	parts := strings.Split(text, ".")
	for i, with := range []string{head, body} {
		if with != "" {
			parts[i] = base64.RawURLEncoding.EncodeToString([]byte(with))
		}
	}
	return strings.Join(parts, ".")
}

func TestWhoVerifiesHereIsAsStrictAsARelyingParty(t *testing.T) {
	k := generate(t)
	r := NewRing(k)
	text := token(t, r, born)
	parts := strings.Split(text, ".")
	got, err := r.Verify(text, born.Add(time.Minute))
	if want := claims(); err != nil || got.Subject != want.Subject || got.Audience != "vault" || got.Role != "web" || got.Issuer != "https://cloud.example" {
		t.Fatalf("%+v, %v", got, err)
	}
	noInstance, err := k.Token(Claims{Subject: "me", Audience: "vault", NotBefore: born.Unix(), Expires: born.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	id := k.ID()
	for _, c := range []struct {
		name, text string
		now        time.Time
		want       error
	}{
		{"at its last second", text, born.Add(time.Hour - time.Second), nil},
		{"after its end", text, born.Add(time.Hour), ErrExpired},
		{"by a clock a little behind", text, born.Add(-time.Minute), nil},
		{"before its beginning", text, born.Add(-2 * time.Minute), ErrNotYet},
		{"of another instance", remade(text, "", strings.Replace(claimsText(t, parts[1]), "abcdef0", "abcdef1", 1)), born, ErrForged},
		{"without a signature", parts[0] + "." + parts[1] + ".", born, ErrForged},
		{"with no algorithm", remade(text, `{"alg":"none","kid":"`+id+`"}`, ""), born, ErrNoToken},
		{"with the public key as a secret", remade(text, `{"alg":"HS256","kid":"`+id+`"}`, ""), born, ErrNoToken},
		{"with something critical", remade(text, `{"alg":"RS256","kid":"`+id+`","crit":["b64"]}`, ""), born, ErrNoToken},
		{"with another header", remade(text, `{"alg":"RS256","kid":"`+id+`"}`, ""), born, ErrForged},
		{"of another cloud", token(t, NewRing(generate(t)), born), born, ErrNoToken},
		{"what is signed and no instance's", noInstance, born, ErrNoClaims},
		{"with four parts", text + ".", born, ErrNoToken},
		{"padded", text + "=", born, ErrNoToken},
		{"with a line end", text + "\n", born, ErrNoToken},
		{"nothing", "", born, ErrNoToken},
		{"too long", text + strings.Repeat("A", maxText), born, ErrNoToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := r.Verify(c.text, c.now); !errors.Is(err, c.want) || err == nil != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// A key that was taken from the ring, because somebody has stolen it, verifies nothing from then on.
func TestATokenOfAKeyThatWasTakenAwayIsRefused(t *testing.T) {
	r := rotate(t, NewRing(generate(t)), born.Add(Overlap), born)
	text := token(t, r, born.Add(Overlap-time.Minute))
	if _, err := r.Verify(text, born.Add(Overlap+time.Minute)); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	if _, err := (Ring{r.keys[1:]}).Verify(text, born.Add(Overlap+time.Minute)); !errors.Is(err, ErrNoToken) {
		t.Errorf("got %v", err)
	}
}

// What is taken here is what another's library takes by the key set, and nothing more.
func FuzzVerify(f *testing.F) {
	k := generate(f)
	r := NewRing(k)
	now := k.Signs().Add(time.Minute)
	good, err := k.Token(claims().For("https://cloud.example", "vault", now, time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	set, err := r.KeySet(now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(remade(good, `{"alg":"none"}`, ""))
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := r.Verify(text, now); err != nil {
			return
		}
		if _, err := verify(set, text, "vault", now); err != nil {
			t.Errorf("%q is taken here, and elsewhere %v", text, err)
		}
	})
}
