package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// authority signs certificates into a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", true)
	return a
}

// sign writes NAME.pem and NAME.key.
func (a *authority) sign(t *testing.T, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: ca, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := tmpl, key
	if !ca {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".pem", "CERTIFICATE", der)
	a.write(t, name+".key", "PRIVATE KEY", raw)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(t *testing.T, name, typ string, der []byte) {
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// A cluster elsewhere: https, every client known by its certificate, access control on.
func TestAClusterBehindTLSConfinesHostsByCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, name := range []string{"server", "root", "h-1"} {
		a.sign(t, name, false)
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.ListenPeerUrls = t.TempDir(), "fatal", nil
	cfg.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: a.path("server.pem"), KeyFile: a.path("server.key"),
		TrustedCAFile: a.path("ca.pem"), ClientCertAuth: true}
	cfg.TickMs, cfg.ElectionMs, cfg.EnableGRPCGateway = 10, 100, false
	srv, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	<-srv.Server.ReadyNotify()

	open := func(name string) *store.Client {
		c, err := store.Open(t.Context(), store.Config{Endpoints: []string{"https://" + srv.Clients[0].Addr().String()},
			CA: a.path("ca.pem"), Cert: a.path(name + ".pem"), Key: a.path(name + ".key")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	root := open("root")
	if err := store.ConfineHost(t.Context(), root, "h-1"); err != nil {
		t.Fatal(err)
	}
	etcd := root.Etcd()
	for _, f := range []func() error{
		func() error { _, err := etcd.UserAdd(t.Context(), "root", "r"); return err },
		func() error { _, err := etcd.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := etcd.AuthEnable(t.Context()); return err },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	wish := store.NewKind[thing](store.WishPrefix("h-1", "instance"))
	commit(t, root, func(tx *store.Txn) {
		store.Create(tx, wish, "i-1", thing{"mine", 1})
		store.Create(tx, things, "secret", thing{})
	})
	host := open("h-1")
	if o, err := store.Get(t.Context(), host, wish, "i-1"); err != nil || o.Value.Name != "mine" {
		t.Errorf("its own wish: got %+v, %v", o, err)
	}
	if _, err := store.Get(t.Context(), host, things, "secret"); !errors.Is(err, store.ErrDenied) {
		t.Errorf("a spec: got %v, want ErrDenied", err)
	}
	m := store.NewMirror(host, store.WishPrefix("h-1"))
	runMirror(t, m)
	rev := commit(t, root, func(tx *store.Txn) { store.Create(tx, wish, "i-2", thing{"more", 1}) })
	wait(t, m, rev)

	stranger := newAuthority(t)
	stranger.sign(t, "root", false)
	c, err := store.Open(t.Context(), store.Config{Endpoints: []string{"https://" + srv.Clients[0].Addr().String()},
		CA: a.path("ca.pem"), Cert: stranger.path("root.pem"), Key: stranger.path("root.key")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := store.Get(ctx, c, things, "secret"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a certificate of another authority: got %v, want no answer", err)
	}
}
