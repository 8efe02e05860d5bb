package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A Ring is the keys of a region. One of them signs; verifiers are given the certificates of all.
//
//	added ---- Overlap ----> signs ---- until the next one signs ----> former ---- Kept ----> gone
//	|<------------------------- its certificate is published ------------------------->|
//
// A verifier who fetches the certificates once in an Overlap has each of them before anything is signed with its key,
// and what guests have kept of the key before verifies as long as its certificate is there. Which key is in
// which state follows from the clock and the ring alone: control processes over copies of one ring agree.
type Ring struct{ keys []Key } // in the order in which they begin to sign

// How long certificates are published beside that of the key that signs.
const (
	Overlap = 24 * time.Hour      // before it signs, unless an operator says otherwise
	Kept    = 30 * 24 * time.Hour // after the next one signs
)

// early is how long before its key signs a certificate becomes valid: for verifiers whose clock is slow. It is also how a
// ring remembers when that is.
const early = 24 * time.Hour

// NewRing returns a ring of one key.
func NewRing(k Key) Ring { return Ring{[]Key{k}} }

// ParseRing reads what PEM wrote, or the key of before there were rings.
func ParseRing(text []byte) (Ring, error) {
	var r Ring
	for rest := text; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "PRIVATE KEY" {
			return Ring{}, fmt.Errorf("parse the identity keys: a certificate without its key, or something else: %q", block.Type)
		}
		certificate, after := pem.Decode(after)
		if certificate == nil {
			return Ring{}, errors.New("parse the identity keys: a key without its certificate")
		}
		k, err := Parse(append(pem.EncodeToMemory(block), pem.EncodeToMemory(certificate)...))
		if err != nil {
			return Ring{}, err
		}
		r.keys, rest = append(r.keys, k), after
	}
	if len(r.keys) == 0 {
		return Ring{}, errors.New("parse the identity keys: there is none")
	}
	slices.SortStableFunc(r.keys, func(a, b Key) int { return a.Signs().Compare(b.Signs()) })
	return r, nil
}

// PEM returns the keys with their certificates. It is a secret of the control plane.
func (r Ring) PEM() ([]byte, error) {
	var out []byte
	for _, k := range r.keys {
		text, err := k.PEM()
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	return out, nil
}

// Rotate returns the ring with another key, which signs from the time given, and without those whose time is over.
func (r Ring) Rotate(random io.Reader, region string, signs, now time.Time) (Ring, error) {
	k, err := Generate(random, region, signs)
	if err != nil {
		return Ring{}, err
	}
	if last := r.keys[len(r.keys)-1]; k.Signs().Before(last.Signs()) {
		return Ring{}, fmt.Errorf("rotate the identity key: the last one signs from %s on: choose a later time", last.Signs().Format(time.RFC3339))
	}
	return Ring{append(r.published(now), k)}, nil
}

// Signing returns the key that signs: the last that has begun, or the first of all.
func (r Ring) Signing(now time.Time) Key { return r.keys[r.signing(now)] }

func (r Ring) signing(now time.Time) int {
	for k := len(r.keys) - 1; k > 0; k-- {
		if !now.Before(r.keys[k].Signs()) {
			return k
		}
	}
	return 0
}

// published returns the keys whose certificates are.
func (r Ring) published(now time.Time) []Key {
	first := r.signing(now)
	for first > 0 && now.Before(r.keys[first].Signs().Add(Kept)) {
		first--
	}
	return slices.Clone(r.keys[first:])
}

// Certificates returns what verifiers need, in PEM: first that of the key that signs, which is the only one that
// openssl x509 reads, then those to come, then the former ones, the latest first.
func (r Ring) Certificates(now time.Time) []byte {
	signing := r.Signing(now)
	var coming, former []Key
	for _, k := range r.published(now) {
		switch at := k.Signs(); {
		case k.ID() == signing.ID():
		case at.After(now):
			coming = append(coming, k)
		default:
			former = append(former, k)
		}
	}
	slices.Reverse(former)
	var out bytes.Buffer
	for _, k := range slices.Concat([]Key{signing}, coming, former) {
		out.Write(k.Certificate())
	}
	return out.Bytes()
}

// Signs returns when the key begins to sign, if another one does before.
func (k Key) Signs() time.Time { return k.certificate.NotBefore.Add(early) }

// ID names the key: the start of the SHA-256 of its certificate, as openssl x509 -fingerprint -sha256 shows it.
func (k Key) ID() string {
	sum := sha256.Sum256(k.certificate.Raw)
	return hex.EncodeToString(sum[:8])
}
