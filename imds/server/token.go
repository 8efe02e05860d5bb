package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Tokens makes and checks session tokens. It remembers none: a token carries its own end, sealed under the
// key file and the instance it was made for, so there is no table to fill, and a restart forgets nothing.
//
// A token is 42 bytes, 56 characters of base64 as on EC2: four bytes that make it start with
// AQAAA, two that name the key, a nonce of 12, the sealed expiry of 8, and a tag of 16.
type Tokens struct{ key []byte }

const (
	tokenHead  = 6
	tokenNonce = 12
	tokenBytes = tokenHead + tokenNonce + 8 + 16
	keyBytes   = 32
)

var errToken = errors.New("the token is not one of ours, or has expired")

// OpenTokens reads the key file, and makes one if there is none.
func OpenTokens(path string) (*Tokens, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("token key %s has %d bytes, want %d: remove it to get a new one", path, len(key), keyBytes)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("token key %s can be read by others: give it mode 0600", path)
	}
	return &Tokens{key}, nil
}

func makeKey(path string) ([]byte, error) {
	key := make([]byte, keyBytes)
	rand.Read(key)
	// A link appears whole and never replaces the key of a process that was quicker.
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// Seal returns a token for the instance that ends at the given time.
func (t *Tokens) Seal(id cloud.InstanceID, expiry time.Time) string {
	token := make([]byte, tokenHead+tokenNonce, tokenBytes)
	copy(token, t.head())
	nonce := token[tokenHead:]
	rand.Read(nonce)
	plain := binary.BigEndian.AppendUint64(nil, uint64(expiry.Unix()))
	token = t.aead(id).Seal(token, nonce, plain, t.data(id))
	return base64.URLEncoding.EncodeToString(token)
}

// Open returns how long a token of the instance is still good for.
func (t *Tokens) Open(token string, id cloud.InstanceID, now time.Time) (time.Duration, error) {
	if len(token) != base64.URLEncoding.EncodedLen(tokenBytes) {
		return 0, errToken
	}
	b, err := base64.URLEncoding.DecodeString(token)
	if err != nil || string(b[:tokenHead]) != string(t.head()) {
		return 0, errToken
	}
	plain, err := t.aead(id).Open(nil, b[tokenHead:tokenHead+tokenNonce], b[tokenHead+tokenNonce:], t.data(id))
	if err != nil {
		return 0, errToken
	}
	left := time.Unix(int64(binary.BigEndian.Uint64(plain)), 0).Sub(now)
	if left <= 0 {
		return 0, errToken
	}
	return left, nil
}

// head is what a token under this key starts with.
func (t *Tokens) head() []byte {
	sum := sha256.Sum256(t.key)
	return []byte{1, 0, 0, 0, sum[0], sum[1]}
}

func (t *Tokens) data(id cloud.InstanceID) []byte { return append(t.head(), "instance="+id...) }

// aead uses a key for each instance: a guest that asks for so many tokens (2^32) that a nonce may come twice
// breaks nothing but its own.
func (t *Tokens) aead(id cloud.InstanceID) cipher.AEAD {
	key, err := hkdf.Expand(sha256.New, t.key, "ichiro imds token "+string(id), keyBytes)
	if err != nil {
		panic(err) // only for lengths over 255 hashes
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for other lengths
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for other block sizes
	}
	return aead
}
