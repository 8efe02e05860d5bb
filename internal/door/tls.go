package door

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Between machines both sides of a door know each other by their public keys, which the store tells: that of the control
// plane every host, that of a host the control plane. There is no authority that could be asked to vouch for another, so
// what certificates say beside their key is not looked at.

// Identity is who one side of a door is.
type Identity struct{ cert tls.Certificate }

// NewIdentity makes the identity of a key.
func NewIdentity(key ed25519.PrivateKey) (Identity, error) {
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ichiro"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no end
	}
	der, err := x509.CreateCertificate(nil, &template, &template, key.Public(), key)
	if err != nil {
		return Identity{}, fmt.Errorf("certify a door's key: %w", err)
	}
	return Identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

// Public is the key that the other side must be told.
func (i Identity) Public() []byte {
	key, ok := i.cert.PrivateKey.(ed25519.PrivateKey)
	if !ok {
		return nil
	}
	return key.Public().(ed25519.PublicKey)
}

// Serve returns the side that is asked. caller returns the key of whom it answers, or nothing as long as that is not known.
func (i Identity) Serve(caller func() []byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.cert}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error { return known(s, caller()) },
	}
}

// ask returns the side that asks.
func (i Identity) ask(host []byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.cert},
		InsecureSkipVerify: true, // of names and authorities; the key is verified
		VerifyConnection:   func(s tls.ConnectionState) error { return known(s, host) },
	}
}

var errStranger = errors.New("the other side has another key than the store tells")

// known reports whether the other side, which has proven to have its key, has the one that it must have.
func known(s tls.ConnectionState, want []byte) error {
	if len(want) != ed25519.PublicKeySize || len(s.PeerCertificates) == 0 {
		return errStranger
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || !bytes.Equal(key, want) {
		return errStranger
	}
	return nil
}

// Dial opens a connection to a host's door: by TLS where the host is reached over the network, else by its socket.
func (c Client) Dial(ctx context.Context, h cloud.Host) (net.Conn, error) {
	var d net.Dialer
	if h.FarDoor.IsValid() {
		if c.Identity.cert.PrivateKey == nil {
			return nil, fmt.Errorf("open the door of %s: the control plane has no key", h.ID)
		}
		t := tls.Dialer{NetDialer: &d, Config: c.Identity.ask(h.DoorKey)}
		conn, err := t.DialContext(ctx, "tcp", h.FarDoor.String())
		if err != nil {
			return nil, fmt.Errorf("open the door of %s: %w", h.ID, err)
		}
		return conn, nil
	}
	socket, ok := strings.CutPrefix(h.Door, "unix:")
	if !ok {
		return nil, fmt.Errorf("open the door of %s: %q is not unix:PATH", h.ID, h.Door)
	}
	return d.DialContext(ctx, "unix", socket)
}
