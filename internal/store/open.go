package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says where the store is and how to be let in.
type Config struct {
	Endpoints []string // unix:///run/ichiro/etcd.sock, http://127.0.0.1:2379, https://...
	CA        string   // PEM file of who signed the servers' certificates; needed with https
	Cert, Key string   // PEM files of this client's certificate: its name is its etcd user
}

// Open returns a Client. It does not wait for the server: a host must come up while the
// store is away. Certificate files are read again for every connection, so that they can
// be renewed. Endpoints beyond this machine must be https.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	secure, err := cfg.Check()
	if err != nil {
		return nil, fmt.Errorf("open the store: %v", err)
	}
	ec := clientv3.Config{
		Context:              ctx,
		Endpoints:            cfg.Endpoints,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(), // it would repeat what its errors say
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC's own goes up to two minutes: a host would sleep through the store's return.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
	}
	ec.TLS = secure
	etcd, err := clientv3.New(ec)
	if err != nil {
		return nil, fmt.Errorf("open the store at %s: %v", strings.Join(cfg.Endpoints, ", "), err)
	}
	return New(etcd), nil
}

// Check refuses what cannot be right, whether the server is there or not, and returns what TLS needs; nil where there is none.
func (cfg Config) Check() (*tls.Config, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("no endpoint is given")
	}
	secure := false
	for _, e := range cfg.Endpoints {
		s, err := checkEndpoint(e)
		if err != nil {
			return nil, err
		}
		secure = secure || s
	}
	if !secure {
		return nil, nil
	}
	return cfg.tls()
}

// checkEndpoint reports whether e is reached by TLS; without, it must be on this machine.
func checkEndpoint(e string) (secure bool, err error) {
	u, err := url.Parse(e)
	if err != nil {
		return false, fmt.Errorf("endpoint %q: %v", e, err)
	}
	switch u.Scheme {
	case "https":
		return true, nil
	case "unix":
		return false, nil
	case "http":
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
			return false, nil
		}
		return false, fmt.Errorf("endpoint %s is beyond this machine: use https", e)
	}
	return false, fmt.Errorf("endpoint %q: want unix:///PATH, http://127.0.0.1:PORT or https://HOST:PORT", e)
}

func (cfg Config) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %v", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authority %s holds no certificate in PEM", cfg.CA)
	}
	t := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cfg.Cert == "" {
		return t, nil
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %v", err)
		}
		return &c, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return t, nil
}
