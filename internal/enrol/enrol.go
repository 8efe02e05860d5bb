// Package enrol is how a machine that is no guest registers with Run Command.
//
// A machine makes a key and shows it, with an activation and its code, to a host's gateway, over TLS whose server it knows by
// the certificate that it was given. The gateway passes on which key that was; the control plane admits the machine and gives it a name.
// From then on the key is who it is.
//
//	machine -- TLS, its key; POST Path {Activation, Code, Name} --> gateway -- the same, Key --> control
package enrol

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Path is where machines register, at the gateway and, for gateways, at the API.
const Path = "/.well-known/ichiro/register"

// MaxRequest bounds a request in bytes.
const MaxRequest = 4096

// Request is what a machine asks with.
type Request struct {
	Activation string // ID
	Code       string
	Name       string // its own
	Key        string // of its key KeyOf; what the machine writes here the gateway replaces
}

// Answer is a registration.
type Answer struct{ Instance cloud.InstanceID }

// KeyOf names the key of a certificate: the SHA-256 of its public key (PKIX), in hex.
func KeyOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Shown returns the name of the key that the other side of a connection has proved to have; false if it has shown none.
func Shown(c *tls.ConnectionState) (string, bool) {
	if c == nil || len(c.PeerCertificates) == 0 {
		return "", false
	}
	return KeyOf(c.PeerCertificates[0]), true
}
