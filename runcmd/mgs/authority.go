package mgs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Domain is that of the names by which the stock agent calls: ssm.<region>.ichiro.internal and so on. They are in no DNS;
// a guest that is told to use them has them in its /etc/hosts.
const Domain = "ichiro.internal"

// address is where guests find us.
var address = net.IPv4(169, 254, 169, 254)

// serviceName are the names that we speak for.
var serviceName = regexp.MustCompile(`^(ssm|ssmmessages|ec2messages)\.[a-z0-9-]{1,32}\.ichiro\.internal$`)

// Authority is a certificate authority of this host's gateway, for guests of this host: it can vouch for the names of the
// service and its link-local address, and for nothing else.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// LoadAuthority reads the authority in a directory, or makes one there. It lasts as long as the host's guests run: who
// trusts it would not trust another.
func LoadAuthority(dir string) (*Authority, error) {
	file := filepath.Join(dir, "authority.pem") // the certificate and its key: neither is of use alone
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newAuthority(); err != nil {
			return nil, err
		}
		temp := file + ".new"
		if err := os.WriteFile(temp, data, 0o600); err != nil {
			return nil, fmt.Errorf("keep the certificate authority: %w", err)
		}
		err = os.Rename(temp, file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read %s: the key is of another kind", file)
	}
	return &Authority{
		cert: pair.Leaf, key: key, leaves: map[string]*tls.Certificate{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw}),
	}, nil
}

const years = 10 * 365 * 24 * time.Hour

// newAuthority returns the file of a new authority.
func newAuthority() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	host := net.CIDRMask(32, 32)
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "ichiro gateway"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(years), // clocks of guests differ
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{Domain},
		PermittedIPRanges: []*net.IPNet{{IP: address.To4(), Mask: host}},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})...), nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// Certificate is for guests: who trusts it trusts this gateway.
func (a *Authority) Certificate() []byte { return a.pem }

// ServeHTTP answers with the certificate.
func (a *Authority) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Write(a.pem)
}

// TLS returns the configuration of a server that the authority vouches for.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.leaf(h.ServerName)
		},
	}
}

// leaf returns the certificate for a name; of those that are ours a few are kept.
func (a *Authority) leaf(name string) (*tls.Certificate, error) {
	if !serviceName.MatchString(name) {
		name = "" // the address; who wanted another name will see
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[name]; c != nil && time.Now().Before(c.Leaf.NotAfter.Add(-30*24*time.Hour)) {
		return c, nil
	}
	const most = 32 // a region has three names, and a host is in one
	if len(a.leaves) >= most {
		clear(a.leaves)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "ichiro gateway"},
		NotBefore: a.cert.NotBefore, NotAfter: time.Now().Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{address},
	}
	if name != "" {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
	if c.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.leaves[name] = c
	return c, nil
}
