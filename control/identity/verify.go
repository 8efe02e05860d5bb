package identity

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// Why a token is not believed. None of them repeats a byte of it: a token is a secret of its holder.
var (
	ErrNoToken  = errors.New("it is no JWT of this region's keys: three parts of base64url, RS256, and the ID of a key in the key set")
	ErrForged   = errors.New("its signature is not by the key that it names")
	ErrExpired  = errors.New("it has expired")
	ErrNotYet   = errors.New("it is not valid yet")
	ErrNoClaims = errors.New("its claims are not those of an instance's token")
)

// skew is how far the clock of the control process that has signed a token may be ahead.
const skew = time.Minute

// maxText bounds what is decoded: what STS takes as a web identity.
const maxText = 20000

// Verify returns what a token states, if one of the published keys has signed it and its time is now. Who it is for, and who
// it says that it is from, is for the caller to compare. With ErrExpired there are the claims too, to say since when.
//
// The algorithm is no choice of the token's: there is one.
func (r Ring) Verify(text string, now time.Time) (Claims, error) {
	parts := strings.Split(text, ".")
	if len(text) > maxText || len(parts) != 3 || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return Claims{}, ErrNoToken
	}
	var header struct {
		Algorithm string          `json:"alg"`
		Key       string          `json:"kid"`
		Critical  json.RawMessage `json:"crit"` // what must be understood (RFC 7515, 4.1.11), of which we understand nothing
	}
	if !decode(parts[0], &header) || header.Algorithm != "RS256" || header.Critical != nil {
		return Claims{}, ErrNoToken
	}
	keys := r.published(now)
	k := slices.IndexFunc(keys, func(k Key) bool { return k.ID() == header.Key })
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if k < 0 || err != nil {
		return Claims{}, ErrNoToken
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&keys[k].private.PublicKey, crypto.SHA256, digest[:], signature) != nil {
		return Claims{}, ErrForged
	}
	var c Claims
	switch {
	case !decode(parts[1], &c) || c.Subject == "" || c.Audience == "" || c.Instance == "":
		return Claims{}, ErrNoClaims
	case now.Unix() >= c.Expires:
		return c, ErrExpired
	case now.Add(skew).Unix() < c.NotBefore:
		return Claims{}, ErrNotYet
	}
	return c, nil
}

// Facts returns, by the names that the token has for them, what a policy's conditions may ask beyond EC2: whoever is to trust
// many instances knows their role or image, and not the ID in the subject.
func (c Claims) Facts() map[string]string {
	facts := map[string]string{
		"instance_id": string(c.Instance), "account_id": string(c.Account), "region": c.Region, "availability_zone": c.Zone,
		"image_id": string(c.Image), "instance_type": c.Type, "instance_profile_arn": c.Profile, "role": c.Role, "private_ip": c.PrivateIP,
	}
	maps.DeleteFunc(facts, func(_, value string) bool { return value == "" })
	return facts
}

func decode(part string, v any) bool {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(text, v) == nil
}
