// Package managed lets machines that are no guests come to a host's gateway: bare-metal servers, or those of another cloud.
//
// They come over TLS, from any network that the operator has the gateway listen in. Each side knows the other by its key: the
// machine was given this gateway's certificate, and the gateway knows the keys of those that have registered. A machine that
// registers is passed on to the control plane, over the socket by which guests' requests go there, since the gateway has no right
// to admit anybody.
package managed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
	"github.com/ichiro-metal/ichiro/internal/origin"
)

// Config is what a gateway needs for it.
type Config struct {
	Listen string // HOST:PORT
	Dir    string // where its key and certificate are kept
	Host   string // file that holds this host's ID
	API    string // socket for requests that are carried to the API
	Log    *slog.Logger
}

// gateway serves the agents of machines.
type gateway interface {
	ServeMachines(net.Listener, *tls.Config, http.Handler) error
}

// Run serves machines until ctx ends.
func Run(ctx context.Context, cfg Config, g gateway) error {
	certificate, err := identity(cfg.Dir)
	if err != nil {
		return err
	}
	l, err := listen(ctx, cfg)
	if err != nil {
		return nil // ctx has ended
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := bundle.WriteBytes(filepath.Join(cfg.Dir, addressFile), []byte(l.Addr().String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("say where machines come: %w", err)
	}
	cfg.Log.Info("machines may come", "addr", l.Addr(), "certificate", filepath.Join(cfg.Dir, certificateFile))
	err = g.ServeMachines(l, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequireAnyClientCert, // whose it is, is asked of the key
	}, &registrar{cfg: cfg, tokens: burst})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// retry is between two tries to listen.
const retry = 5 * time.Second

// listen waits until it can: an address that is taken, or not there yet, must not take Run Command from the guests.
func listen(ctx context.Context, cfg Config) (net.Listener, error) {
	for {
		l, err := net.Listen("tcp", cfg.Listen)
		if err == nil {
			return l, nil
		}
		cfg.Log.Error("machines can not come: choose another address with --machines, or free this one", "addr", cfg.Listen, "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retry):
		}
	}
}

const (
	certificateFile = "certificate.pem"
	keyFile         = "key.pem"
	addressFile     = "address" // where it listens: the port may have been left to the kernel
	life            = 20 * 365 * 24 * time.Hour
)

// identity reads this gateway's key and certificate, or makes them. They last: machines know the gateway by nothing else.
func identity(dir string) (tls.Certificate, error) {
	certificate, key := filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			err = fmt.Errorf("read the identity of the gateway: %w", err)
		}
		return pair, err
	}
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ichiro gateway"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &secret.PublicKey, secret)
	if err != nil {
		return pair, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		return pair, err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       fs.FileMode
	}{{key, "PRIVATE KEY", private, 0o600}, {certificate, "CERTIFICATE", der, 0o644}} { // the certificate last: with it both are there
		if err := bundle.WriteBytes(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return pair, fmt.Errorf("keep the identity of the gateway: %w", err)
		}
	}
	return tls.LoadX509KeyPair(certificate, key)
}

// registrar passes registrations on, so many a second whoever asks: each leaves a line in the audit log, also where it is refused,
// and whoever knows the address may ask.
type registrar struct {
	cfg Config

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

// burst and refill bound registrations: a rack is registered in a minute.
const (
	burst  = 20
	refill = time.Second
)

// admit reports whether one more may be passed on now.
func (g *registrar) admit(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.at.IsZero() {
		g.tokens = min(burst, g.tokens+float64(now.Sub(g.at))/float64(refill))
	}
	g.at = now
	if g.tokens < 1 {
		return false
	}
	g.tokens--
	return true
}

// patience is how long the control plane may take.
const patience = 15 * time.Second

func (g *registrar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.admit(time.Now()) {
		http.Error(w, "many machines register now: try again in a minute", http.StatusTooManyRequests)
		return
	}
	key, shown := enrol.Shown(r.TLS)
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	var req enrol.Request
	if !shown || err != nil || json.NewDecoder(http.MaxBytesReader(w, r.Body, enrol.MaxRequest)).Decode(&req) != nil {
		http.Error(w, "this is no registration", http.StatusBadRequest)
		return
	}
	req.Key = key
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	status, answer, err := g.pass(ctx, from, req)
	if err != nil {
		g.cfg.Log.Warn("a registration is not passed on", "addr", from.Addr(), "err", err)
		http.Error(w, "the control plane is away: try again", http.StatusServiceUnavailable)
		return
	}
	g.cfg.Log.Info("a machine asked to be registered", "addr", from.Addr(), "status", status)
	w.WriteHeader(status)
	w.Write(answer)
}

// pass asks the control plane.
func (g *registrar) pass(ctx context.Context, from netip.AddrPort, req enrol.Request) (int, []byte, error) {
	host, err := os.ReadFile(g.cfg.Host)
	if err != nil {
		return 0, nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", g.cfg.API)
			if err != nil {
				return nil, err
			}
			id := cloud.InstanceID(strings.TrimSpace(string(host)))
			if err := origin.Write(c, origin.Guest{Instance: id, VPC: origin.Gateway, From: from}); err != nil {
				c.Close()
				return nil, err
			}
			return c, nil
		},
	}}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control"+enrol.Path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(post)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, enrol.MaxRequest))
	return resp.StatusCode, answer, err
}
