package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
)

// Sealed is a secret as the store may hold it: AES-256-GCM under a key that is not in the store, and bound to
// where it is kept, so that it opens nowhere else.
type Sealed struct{ Box []byte } // nonce, ciphertext, tag

// Sealer seals and opens. All who write or read the same secrets have the same key.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns a Sealer; the key has 32 bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("seal key has %d bytes, want 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Sealer{aead}, err
}

// Seal returns v for the place where an id of the kind is kept.
func Seal[I ~string](s *Sealer, k Kind[Sealed], id I, v any) (Sealed, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return Sealed{}, err
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return Sealed{}, err
	}
	return Sealed{s.aead.Seal(nonce, nonce, plain, []byte(k.Key(string(id))))}, nil
}

// Unseal opens what Seal made for the same place.
func Unseal[T any, I ~string](s *Sealer, k Kind[Sealed], id I, b Sealed) (T, error) {
	var v T
	n := s.aead.NonceSize()
	if len(b.Box) < n {
		return v, errors.New("open a sealed value: it is too short")
	}
	plain, err := s.aead.Open(nil, b.Box[:n], b.Box[n:], []byte(k.Key(string(id))))
	if err != nil {
		return v, fmt.Errorf("open the sealed value at %s: it was sealed with another key, or for another place", k.Key(string(id)))
	}
	return v, unmarshal(plain, &v)
}
