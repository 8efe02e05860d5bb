package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var demo = Subject{
	Account: "123456789012", Architecture: "x86_64", Zone: "ichiro-1a", Region: "ichiro-1", Image: "ami-0bbbbbbbbbbbbbbbb",
	Instance: "i-0123456789abcdef0", Type: "t3.micro", Kernel: "aki-0cccccccccccccccc",
	Launched: time.Date(2026, 11, 23, 18, 0, 5, 987, time.UTC), PrivateIP: netip.MustParseAddr("172.31.0.10"),
}

func generate(t testing.TB) Key {
	t.Helper()
	k, err := Generate(rand.Reader, "ichiro-1", time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDocument(t *testing.T) {
	want, err := os.ReadFile("testdata/document.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := Document(demo); got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSubjectOfAnAssignment(t *testing.T) {
	nic := func(index int, addr string) cloud.AssignedInterface {
		return cloud.AssignedInterface{NetworkInterface: cloud.NetworkInterface{DeviceIndex: index, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}}
	}
	got := SubjectOf(cloud.Assignment{
		Instance: cloud.Instance{
			ID: demo.Instance, Account: demo.Account, Image: demo.Image, Kernel: demo.Kernel, Architecture: demo.Architecture, Type: demo.Type,
			Zone: demo.Zone, Launched: demo.Launched,
		},
		Region: demo.Region, Interfaces: []cloud.AssignedInterface{nic(1, "172.31.0.11"), nic(0, "172.31.0.10")},
	})
	if got != demo {
		t.Errorf("got %+v, want %+v", got, demo)
	}
}

func TestAKeyIsReadAsItWasWritten(t *testing.T) {
	k := generate(t)
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	first, err := k.Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	second, err := back.Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Error("the same facts under the same key are signed in two ways")
	}
	other, err := generate(t).PEM()
	if err != nil {
		t.Fatal(err)
	}
	private, _, _ := bytes.Cut(other, []byte("-----BEGIN CERTIFICATE"))
	for name, text := range map[string][]byte{
		"nothing": nil, "a certificate only": k.Certificate(), "another key's certificate": append(private, k.Certificate()...),
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%s is taken for a key", name)
		}
	}
}

func TestLinesAreAsOnEC2(t *testing.T) {
	d, err := generate(t).Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text  string
		width int
	}{"signature": {d.Signature, 76}, "rsa2048": {d.RSA2048, 64}, "pkcs7": {d.PKCS7, 64}} {
		lines := strings.Split(c.text, "\n")
		for k, line := range lines {
			if len(line) == 0 || len(line) > c.width || k < len(lines)-1 && len(line) != c.width {
				t.Errorf("%s: line %d of %d has %d characters", name, k+1, len(lines), len(line))
			}
		}
	}
}

// verifier is a directory with a document as a guest reads it, and the certificates as the region publishes them.
type verifier string

func newVerifier(t *testing.T, d cloud.IdentityDocument, certificates []byte) verifier {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed: it is what users verify with")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"certificate": string(certificates), "document": d.Document, "signature.b64": d.Signature, "rsa2048.body": d.RSA2048, "pkcs7.body": d.PKCS7,
		"tampered": strings.Replace(d.Document, "t3.micro", "m5.large", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return verifier(dir)
}

func (v verifier) sh(script string) (string, error) {
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = string(v)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// signature runs EC2's commands for the detached signature, with the first certificate.
func (v verifier) signature(document string) (string, error) {
	return v.sh("base64 -d signature.b64 > signature; openssl x509 -pubkey -noout -in certificate > key; openssl dgst -sha256 -verify key -signature signature " + document)
}

// message runs EC2's commands for the two messages, which name the certificate that they want.
func (v verifier) message(kind string) (string, error) {
	return v.sh(`echo "-----BEGIN PKCS7-----" > ` + kind + `
		cat ` + kind + `.body >> ` + kind + `
		echo "" >> ` + kind + `
		echo "-----END PKCS7-----" >> ` + kind + `
		openssl smime -verify -in ` + kind + ` -inform PEM -certfile certificate -noverify -out ` + kind + `.out
		openssl smime -verify -in ` + kind + ` -inform PEM -content document -certfile certificate -CAfile certificate -partial_chain -out ` + kind + `.chain
		cmp ` + kind + `.out document && cmp ` + kind + `.chain document`)
}

// The commands of EC2's user guide, word for word but for the file names.
func TestOpenSSLVerifies(t *testing.T) {
	k := generate(t)
	d, err := k.Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, d, k.Certificate())
	if out, err := v.signature("document"); err != nil || !strings.Contains(out, "Verified OK") {
		t.Errorf("signature: %v\n%s", err, out)
	}
	if out, err := v.signature("tampered"); err == nil {
		t.Errorf("another document verifies:\n%s", out)
	}
	for _, kind := range []string{"rsa2048", "pkcs7"} {
		if out, err := v.message(kind); err != nil || !strings.Contains(out, "erification successful") {
			t.Errorf("%s: %v\n%s", kind, err, out)
		}
	}
}

// smallstep/pkcs7 descends from the code that Vault verifies logins with.
func TestTheMessageVerifiesInGo(t *testing.T) {
	k := generate(t)
	d, err := k.Sign(demo)
	if err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(d.PKCS7, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	m, err := pkcs7.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(); err != nil {
		t.Error(err)
	}
	if string(m.Content) != d.Document {
		t.Errorf("content is %q", m.Content)
	}
}

func BenchmarkSign(b *testing.B) {
	k := generate(b)
	for b.Loop() {
		if _, err := k.Sign(demo); err != nil {
			b.Fatal(err)
		}
	}
}
