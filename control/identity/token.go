package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Tokens are for systems that know OpenID Connect and not EC2: JWTs (RFC 7519) by the keys that sign documents. The two cannot
// be taken for each other, as a document begins with a brace and what is signed of a token with base64url.

// Claims is what a token states. The names of what EC2 knows are ours, as EC2 has none.
type Claims struct {
	Issuer    string           `json:"iss"`
	Subject   string           `json:"sub"` // the instance's ARN
	Audience  string           `json:"aud"`
	IssuedAt  int64            `json:"iat"`
	NotBefore int64            `json:"nbf"`
	Expires   int64            `json:"exp"`
	ID        string           `json:"jti"`
	Nonce     string           `json:"nonce,omitempty"`
	Instance  cloud.InstanceID `json:"instance_id"`
	Account   cloud.AccountID  `json:"account_id"`
	Region    string           `json:"region"`
	Zone      string           `json:"availability_zone"`
	Image     cloud.ImageID    `json:"image_id"`
	Type      string           `json:"instance_type"`
	Profile   string           `json:"instance_profile_arn,omitempty"`
	Role      string           `json:"role,omitempty"`
	PrivateIP string           `json:"private_ip,omitempty"`
	Launched  int64            `json:"launched_at"`
}

// ClaimsOf returns what a token of an instance states, but for whom and how long.
func ClaimsOf(a cloud.Assignment) Claims {
	s := SubjectOf(a)
	c := Claims{
		Subject:  fmt.Sprintf("arn:aws:ec2:%s:%s:instance/%s", s.Region, s.Account, s.Instance),
		Instance: s.Instance, Account: s.Account, Region: s.Region, Zone: s.Zone, Image: s.Image, Type: s.Type, Launched: s.Launched.Unix(),
	}
	if p := a.Instance.Profile; p != nil {
		c.Profile, c.Role = p.ARN, p.RoleName
	}
	if s.PrivateIP.IsValid() {
		c.PrivateIP = s.PrivateIP.String()
	}
	return c
}

// For returns the claims for an audience, good from now on for a life.
func (c Claims) For(issuer, audience string, now time.Time, life time.Duration) Claims {
	c.Issuer, c.Audience = issuer, audience
	c.IssuedAt, c.NotBefore, c.Expires = now.Unix(), now.Unix(), now.Add(life).Unix()
	return c
}

// Token returns the JWT that states c.
func (k Key) Token(c Claims) (string, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		Key       string `json:"kid"`
	}{"RS256", "JWT", k.ID()})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := raw(header) + "." + raw(body)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.private, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a token of %s: %w", c.Instance, err)
	}
	return text + "." + raw(signature), nil
}

func raw(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk is a public key as RFC 7517 writes it. Ceph RGW takes the certificate (x5c) and pins its thumbprint.
type jwk struct {
	Type       string   `json:"kty"`
	Use        string   `json:"use"`
	Algorithm  string   `json:"alg"`
	ID         string   `json:"kid"`
	Modulus    string   `json:"n"`
	Exponent   string   `json:"e"`
	Chain      []string `json:"x5c"`
	Thumbprint string   `json:"x5t"`
}

// KeySet returns the JSON Web Key Set: the keys whose certificates are published, so that a verifier knows each before
// anything is signed with it, and as long as what it has signed may be shown.
func (r Ring) KeySet(now time.Time) ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range r.published(now) {
		public := k.private.PublicKey
		thumb := sha1.Sum(k.certificate.Raw) // by RFC 7517, 4.8: a name, not a proof
		set.Keys = append(set.Keys, jwk{
			Type: "RSA", Use: "sig", Algorithm: "RS256", ID: k.ID(),
			Modulus: raw(public.N.Bytes()), Exponent: raw(big.NewInt(int64(public.E)).Bytes()),
			Chain: []string{base64.StdEncoding.EncodeToString(k.certificate.Raw)}, Thumbprint: raw(thumb[:]),
		})
	}
	return json.Marshal(set)
}
