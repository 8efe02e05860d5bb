package store

import (
	"bytes"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestASealedValueOpensOnlyInItsPlaceAndWithItsKey(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	k := Credentials("h-1")
	want := cloud.Credentials{Role: "r", SecretAccessKey: "very secret"}
	b, err := Seal(s, k, "i-1", want)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Box, []byte("very secret")) {
		t.Error("the secret can be read in the sealed value")
	}
	if got, err := Unseal[cloud.Credentials](s, k, "i-1", b); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	stranger, err := NewSealer(other)
	if err != nil {
		t.Fatal(err)
	}
	broken := Sealed{append([]byte(nil), b.Box...)}
	broken.Box[len(broken.Box)-1] ^= 1
	for _, c := range []struct {
		name string
		s    *Sealer
		k    Kind[Sealed]
		id   string
		b    Sealed
	}{
		{"another instance", s, k, "i-2", b},
		{"another host", s, Credentials("h-2"), "i-1", b},
		{"another key", stranger, k, "i-1", b},
		{"a changed value", s, k, "i-1", broken},
		{"nothing", s, k, "i-1", Sealed{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Unseal[cloud.Credentials](c.s, c.k, c.id, c.b); err == nil {
				t.Errorf("got %+v, want an error", got)
			}
		})
	}
	if _, err := NewSealer(key[:16]); err == nil {
		t.Error("a key of 16 bytes is taken")
	}
}
