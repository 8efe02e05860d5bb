// Package identity decides what an instance's identity document says, and signs it.
//
// The document is text that EC2 made up: fields in one order, a space on both sides of the colon,
// null for what is absent. The signatures cover the exact bytes, so they are made once for each key, when an instance
// is launched or started, and travel with them. The same key and the same facts always give the same
// four texts: any control process may make them again, and a guest sees no difference.
//
// The keys are RSA-2048 with self-signed certificates, which is what verifiers are given. A region has one that signs, and
// around it those to come and those of before (Ring). They are kept by the control plane, and never go to a host.
package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Subject is what the document states.
type Subject struct {
	Account      cloud.AccountID
	Architecture string
	Zone         string
	Region       string
	Image        cloud.ImageID
	Instance     cloud.InstanceID
	Type         string
	Kernel       cloud.ImageID // empty: null
	Ramdisk      cloud.ImageID // empty: null
	Launched     time.Time     // the latest launch or start
	PrivateIP    netip.Addr
}

// SubjectOf returns the subject of an assignment.
func SubjectOf(a cloud.Assignment) Subject {
	i := a.Instance
	s := Subject{
		Account: i.Account, Architecture: i.Architecture, Zone: i.Zone, Region: a.Region, Image: i.Image, Instance: i.ID,
		Type: i.Type, Kernel: i.Kernel, Ramdisk: i.Ramdisk, Launched: i.Launched,
	}
	for _, n := range a.Interfaces {
		if n.DeviceIndex == 0 {
			s.PrivateIP = n.Primary()
		}
	}
	return s
}

// Document returns the text that states s, as EC2 would write it, with no line feed at the end.
func Document(s Subject) string {
	var address string
	if s.PrivateIP.IsValid() {
		address = s.PrivateIP.String()
	}
	fields := []struct{ name, value string }{
		{"accountId", string(s.Account)},
		{"architecture", s.Architecture},
		{"availabilityZone", s.Zone},
		{"billingProducts", ""},
		{"devpayProductCodes", ""},
		{"marketplaceProductCodes", ""},
		{"imageId", string(s.Image)},
		{"instanceId", string(s.Instance)},
		{"instanceType", s.Type},
		{"kernelId", string(s.Kernel)},
		{"pendingTime", s.Launched.UTC().Format("2006-01-02T15:04:05Z")},
		{"privateIp", address},
		{"ramdiskId", string(s.Ramdisk)},
		{"region", s.Region},
		{"version", "2017-09-30"}, // of the document's form, which has not changed since
	}
	lines := make([]string, len(fields))
	for k, f := range fields {
		value := "null"
		if f.value != "" {
			quoted, _ := json.Marshal(f.value) // a string always encodes
			value = string(quoted)
		}
		lines[k] = fmt.Sprintf("  %q : %s", f.name, value)
	}
	return "{\n" + strings.Join(lines, ",\n") + "\n}"
}

// Key signs for a region.
type Key struct {
	private     *rsa.PrivateKey
	certificate *x509.Certificate
}

// validFor is the life of a certificate. EC2's own are good for some 180 years: verifiers pin them. A key is replaced by
// rotation and not by its end, which nobody would see coming.
const validFor = 100 * 365 * 24 * time.Hour

// Generate makes a key of a region which begins to sign at the time given.
func Generate(random io.Reader, region string, signs time.Time) (Key, error) {
	private, err := rsa.GenerateKey(random, 2048)
	if err != nil {
		return Key{}, fmt.Errorf("generate the identity key: %w", err)
	}
	serial := make([]byte, 16) // RFC 5280, 4.1.2.2: positive and at most 20 bytes
	if _, err := io.ReadFull(random, serial); err != nil {
		return Key{}, fmt.Errorf("generate the identity key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{Organization: []string{"ichiro"}, CommonName: "instance identity " + region},
		NotBefore:             signs.Add(-early),
		NotAfter:              signs.Add(validFor),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(random, template, template, private.Public(), private)
	if err != nil {
		return Key{}, fmt.Errorf("certify the identity key: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return Key{}, fmt.Errorf("certify the identity key: %w", err)
	}
	return Key{private, certificate}, nil
}

// Parse reads what PEM wrote.
func Parse(text []byte) (Key, error) {
	var k Key
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return Key{}, fmt.Errorf("parse the identity key: %v", err)
			}
			k.private, _ = private.(*rsa.PrivateKey)
		case "CERTIFICATE":
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return Key{}, fmt.Errorf("parse the identity certificate: %v", err)
			}
			k.certificate = certificate
		}
	}
	if k.private == nil || k.certificate == nil {
		return Key{}, errors.New("parse the identity key: an RSA private key and its certificate are wanted, in PEM")
	}
	if !k.private.PublicKey.Equal(k.certificate.PublicKey) {
		return Key{}, errors.New("parse the identity key: the certificate is that of another key")
	}
	return k, nil
}

// PEM returns the key and its certificate. It is a secret of the control plane.
func (k Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode the identity key: %w", err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), k.Certificate()...), nil
}

// Certificate returns the certificate in PEM: what verifiers need.
func (k Key) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.certificate.Raw})
}

// Sign returns the document of s with its signatures.
func (k Key) Sign(s Subject) (cloud.IdentityDocument, error) {
	document := Document(s)
	digest := sha256.Sum256([]byte(document))
	// PKCS #1 v1.5 takes nothing from the random source but blinding.
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.private, crypto.SHA256, digest[:])
	if err != nil {
		return cloud.IdentityDocument{}, fmt.Errorf("sign the identity of %s: %w", s.Instance, err)
	}
	message, err := k.message(document)
	if err != nil {
		return cloud.IdentityDocument{}, fmt.Errorf("sign the identity of %s: %w", s.Instance, err)
	}
	return cloud.IdentityDocument{
		Key:       k.ID(),
		Document:  document,
		Signature: wrap(signature, 76),
		RSA2048:   message,
		// EC2 signs this one with DSA and SHA-1, which no maintained library does any more; verifiers take the
		// algorithm from the message.
		PKCS7: message,
	}, nil
}

// message returns a CMS SignedData that holds the document. It has no signed attributes (RFC 5652, 5.3: they
// are optional for plain data): a signing time in them would make each message another.
func (k Key) message(document string) (string, error) {
	m, err := pkcs7.NewSignedData([]byte(document))
	if err != nil {
		return "", err
	}
	m.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	m.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	if err := m.SignWithoutAttr(k.certificate, k.private, pkcs7.SignerInfoConfig{}); err != nil {
		return "", err
	}
	der, err := m.Finish()
	if err != nil {
		return "", err
	}
	return wrap(der, 64), nil
}

// wrap returns base64 in lines of the given width, with no line feed after the last: the documented way to verify
// adds its own, and openssl fails on two.
func wrap(data []byte, width int) string {
	text := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	for len(text) > width {
		b.WriteString(text[:width] + "\n")
		text = text[width:]
	}
	return b.String() + text
}
