package iam

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// Files in the key directory.
const (
	rootFile = "root"
	sealFile = "seal"
)

// RootKey is the credential of the account's root, made at the first start.
type RootKey struct {
	AccessKeyId     string
	SecretAccessKey string
}

// LoadRoot returns the root key in dir/root and makes it when there is none.
// Several processes may do this at once: the first file that appears wins.
func LoadRoot(dir string) (RootKey, error) {
	fresh := RootKey{AccessKeyId: newID("AKIA", 16), SecretAccessKey: newSecret()}
	text, err := json.MarshalIndent(fresh, "", "  ")
	if err != nil {
		return RootKey{}, fmt.Errorf("encode root key: %v", err)
	}
	text, err = bundle.Keep(filepath.Join(dir, rootFile), append(text, '\n'))
	if err != nil {
		return RootKey{}, fmt.Errorf("root key: %w", err)
	}
	var key RootKey
	if err := json.Unmarshal(text, &key); err != nil {
		return RootKey{}, fmt.Errorf("read root key %s: %v", filepath.Join(dir, rootFile), err)
	}
	if key.AccessKeyId == "" || key.SecretAccessKey == "" {
		return RootKey{}, fmt.Errorf("root key %s lacks AccessKeyId or SecretAccessKey", filepath.Join(dir, rootFile))
	}
	return key, nil
}

// vault turns secrets into what may lie in etcd, and back. All control
// processes of one cluster share its key file.
type vault struct {
	aead   cipher.AEAD
	derive []byte
}

// sealKeyLen is AES-256's key plus an HMAC-SHA-256 key of the same size.
const sealKeyLen = 32 + 32

func loadVault(dir string) (*vault, error) {
	raw := make([]byte, sealKeyLen)
	rand.Read(raw)
	path := filepath.Join(dir, sealFile)
	text, err := bundle.Keep(path, []byte(base64.StdEncoding.EncodeToString(raw)+"\n"))
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	n, err := base64.StdEncoding.Decode(raw, trimLine(text))
	if err != nil || n != sealKeyLen {
		return nil, fmt.Errorf("seal key %s is not %d bytes of base64", path, sealKeyLen)
	}
	block, err := aes.NewCipher(raw[:32])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &vault{aead: aead, derive: raw[32:]}, nil
}

func trimLine(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	if len(b) > base64.StdEncoding.EncodedLen(sealKeyLen) {
		return nil
	}
	return b
}

// seal encrypts plain; purpose must be the same again when it is opened, so a
// sealed value moved to another key or another use does not open there.
func (v *vault) seal(purpose string, plain []byte) []byte {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(plain)+v.aead.Overhead())
	rand.Read(nonce)
	return v.aead.Seal(nonce, nonce, plain, []byte(purpose))
}

func (v *vault) open(purpose string, sealed []byte) ([]byte, error) {
	n := v.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("sealed value is too short")
	}
	return v.aead.Open(nil, sealed[:n], sealed[n:], []byte(purpose))
}

// sessionSecret is the secret of a temporary key: a function of its id, so it
// is stored nowhere.
func (v *vault) sessionSecret(accessKeyID string) string {
	mac := hmac.New(sha256.New, v.derive)
	mac.Write([]byte("session-secret\x00" + accessKeyID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)[:30]) // 30 bytes are 40 characters, as AWS's
}

// newSecret returns 240 random bits as 40 characters.
func newSecret() string {
	raw := make([]byte, 30)
	rand.Read(raw)
	return base64.StdEncoding.EncodeToString(raw)
}

// newID returns prefix and n random characters of IAM's alphabet (base 32).
func newID(prefix string, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	raw := make([]byte, n)
	rand.Read(raw)
	for i := range raw {
		raw[i] = alphabet[raw[i]%32]
	}
	return prefix + string(raw)
}
