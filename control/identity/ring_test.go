package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"
)

var born = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

func rotate(t testing.TB, r Ring, signs, now time.Time) Ring {
	t.Helper()
	r, err := r.Rotate(rand.Reader, "ichiro-1", signs, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// names are the keys of certificates, in the letters that a test gives them.
func names(t *testing.T, r Ring, certificates []byte) string {
	t.Helper()
	var out strings.Builder
	for rest := certificates; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out.String()
		}
		k := slices.IndexFunc(r.keys, func(k Key) bool { return bytes.Equal(k.certificate.Raw, block.Bytes) })
		if block.Type != "CERTIFICATE" || k < 0 {
			t.Fatalf("a block of type %s that is no key's certificate", block.Type)
		}
		out.WriteByte("abcdef"[k])
	}
}

func TestWhichKeySignsAndWhichCertificatesAreThere(t *testing.T) {
	day := 24 * time.Hour
	r := NewRing(generate(t))                            // a signs from day 0
	r = rotate(t, r, born.Add(11*day), born.Add(10*day)) // b from day 11
	r = rotate(t, r, born.Add(21*day), born.Add(20*day)) // c from day 21
	if text, err := r.PEM(); err != nil {
		t.Fatal(err)
	} else if r, err = ParseRing(text); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		now       time.Duration
		published string // the one that signs comes first
	}{
		{"a slow clock, before the first", -time.Hour, "abc"},
		{"when the ring was made", 10 * day, "abc"},
		{"one second before the next one signs", 11*day - time.Second, "abc"},
		{"the next one signs", 11 * day, "bca"},
		{"the third one signs", 21 * day, "cba"},
		{"the first was followed so long ago", 41*day - time.Second, "cba"},
		{"the first is withdrawn", 41 * day, "cb"},
		{"the second is withdrawn", 51 * day, "c"},
		{"ten years later", 3650 * day, "c"},
	} {
		now := born.Add(c.now)
		got := names(t, r, r.Certificates(now))
		if got != c.published || "abc"[slices.IndexFunc(r.keys, func(k Key) bool { return k.ID() == r.Signing(now).ID() })] != c.published[0] {
			t.Errorf("%s: published are %s, want %s; %s signs", c.name, got, c.published, r.Signing(now).ID())
		}
	}
	if next := rotate(t, r, born.Add(51*day), born.Add(50*day)); len(next.keys) != 3 {
		t.Errorf("after the first was withdrawn the ring keeps %d keys, want its own two and the new one", len(next.keys))
	}
	if _, err := r.Rotate(rand.Reader, "ichiro-1", born.Add(20*day), born.Add(20*day)); err == nil {
		t.Error("a key that signs before the last one does is added, and the last one would win")
	}
}

// A guest's document verifies with what is published when it is read and with what a verifier has fetched a day before, at
// every step of a rotation; and one that the guest has kept verifies while its certificate is there.
func TestOpenSSLVerifiesAcrossARotation(t *testing.T) {
	began := born.Add(-365 * 24 * time.Hour) // openssl's clock is ours: by now all of it has happened
	k, err := Generate(rand.Reader, "ichiro-1", began)
	if err != nil {
		t.Fatal(err)
	}
	first := NewRing(k)
	r := rotate(t, first, began.Add(Overlap), began)
	kept, err := first.Signing(began).Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	for name, now := range map[string]time.Time{
		"before the next key signs": began.Add(Overlap - time.Second), "when it signs": began.Add(Overlap), "long after": began.Add(Overlap + Kept + time.Hour),
	} {
		d, err := r.Signing(now).Sign(demo)
		if err != nil {
			t.Fatal(err)
		}
		v := newVerifier(t, d, r.Certificates(now))
		if out, err := v.signature("document"); err != nil {
			t.Errorf("%s: signature: %v\n%s", name, err, out)
		}
		for _, certificates := range [][]byte{r.Certificates(now), r.Certificates(now.Add(-Overlap))} {
			v := newVerifier(t, d, certificates)
			for _, kind := range []string{"rsa2048", "pkcs7"} {
				if out, err := v.message(kind); err != nil {
					t.Errorf("%s: %s: %v\n%s", name, kind, err, out)
				}
			}
		}
		out, err := newVerifier(t, kept, r.Certificates(now)).message("rsa2048")
		if there := now.Before(began.Add(Overlap + Kept)); (err == nil) != there {
			t.Errorf("%s: a document of before verifies: %v, want %t\n%s", name, err, there, out)
		}
	}
}

func TestARingThatCannotBeReadIsRefused(t *testing.T) {
	k := generate(t)
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	key, certificate, _ := bytes.Cut(text, []byte("-----BEGIN CERTIFICATE"))
	certificate = append([]byte("-----BEGIN CERTIFICATE"), certificate...)
	for name, text := range map[string][]byte{
		"nothing":                   nil,
		"no PEM at all":             []byte("hello"),
		"a certificate only":        certificate,
		"a key only":                key,
		"a second key only":         slices.Concat(text, key),
		"a second certificate only": slices.Concat(text, certificate),
		"another key's certificate": slices.Concat(key, generate(t).Certificate()),
	} {
		if _, err := ParseRing(text); err == nil {
			t.Errorf("%s is taken for a ring", name)
		}
	}
	if r, err := ParseRing(text); err != nil || r.Signing(born).ID() != k.ID() {
		t.Errorf("the key of before there were rings: %v", err)
	}
}

func FuzzParseRing(f *testing.F) {
	text, err := NewRing(generate(f)).PEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRing(text); err == nil {
			r.Signing(born)
			r.Certificates(born)
		}
	})
}
