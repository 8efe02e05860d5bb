// Package machine is what an agent does otherwise in a machine that is no guest.
//
// It registers once, with an activation. From then on it knows its gateway by the key in the certificate that it was given, and is
// known by its own; both are in one file of the agent's state, beside its name. All else is as in a guest, a layer above: connections
// that Dialer makes are TLS to that gateway and no other.
package machine

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
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// file is where a registration is kept, in the directory of the agent's state.
const file = "machine.json"

// Machine is a registration.
type Machine struct {
	Instance cloud.InstanceID // "" until it is registered
	Gateway  string           // HOST:PORT
	Key      []byte           // the machine's own, PKCS #8
	Server   string           // of the gateway's key, enrol.KeyOf
}

// Load returns the registration in the agent's state directory; fs.ErrNotExist if the machine has not registered.
func Load(state string) (*Machine, error) {
	m, err := read(state)
	if err == nil && m.Instance == "" {
		return nil, fmt.Errorf("read the registration: %w: register again", fs.ErrNotExist)
	}
	return m, err
}

func read(state string) (*Machine, error) {
	data, err := os.ReadFile(filepath.Join(state, file))
	if err != nil {
		return nil, err
	}
	m := new(Machine)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("decode %s: %v", filepath.Join(state, file), err)
	}
	return m, nil
}

func (m *Machine) keep(state string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	name := filepath.Join(state, file)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Register registers this machine with an activation, by the gateway whose certificate is given in PEM, and keeps what came of it. The
// key is kept before: a machine whose answer was lost asks again with the same, and is told the same name.
func Register(ctx context.Context, state, gateway string, certificate []byte, activation, code string) (cloud.InstanceID, error) {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return "", errors.New("the gateway's certificate is not PEM: copy STATE/gateway/certificate.pem of its host")
	}
	server, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("read the gateway's certificate: %w", err)
	}
	m, err := read(state)
	switch {
	case err == nil && m.Instance != "":
		return m.Instance, fmt.Errorf("this machine is registered as %s: remove %s to register it anew", m.Instance, filepath.Join(state, file))
	case errors.Is(err, fs.ErrNotExist):
		m = new(Machine)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return "", err
		}
		if m.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	}
	m.Gateway, m.Server = gateway, enrol.KeyOf(server)
	if err := m.keep(state); err != nil {
		return "", fmt.Errorf("keep the machine's key: %w", err)
	}
	if m.Instance, err = m.ask(ctx, activation, code); err != nil {
		return "", err
	}
	return m.Instance, m.keep(state)
}

// ask shows the activation to the gateway.
func (m *Machine) ask(ctx context.Context, activation, code string) (cloud.InstanceID, error) {
	name, _ := os.Hostname()
	body, err := json.Marshal(enrol.Request{Activation: activation, Code: code, Name: name})
	if err != nil {
		return "", err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.Gateway+enrol.Path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: m.Dialer()}}
	resp, err := client.Do(post)
	if err != nil {
		return "", fmt.Errorf("register at %s: %w", m.Gateway, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, enrol.MaxRequest))
	if err != nil {
		return "", fmt.Errorf("register at %s: %w", m.Gateway, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("register at %s: %s", m.Gateway, printable.Word(strings.TrimSpace(string(data)), 300))
	}
	var a enrol.Answer
	if err := json.Unmarshal(data, &a); err != nil || !cloud.WellFormed(a.Instance, cloud.ManagedPrefix) {
		return "", fmt.Errorf("register at %s: the answer is none", m.Gateway)
	}
	return a.Instance, nil
}

// URL is where the machine's agent connects to. Its connections are TLS below what this says: Dialer sees to it.
func (m *Machine) URL() string { return "ws://" + m.Gateway + wire.Path }

// errOther is the error of a gateway that is not the one that was given.
var errOther = errors.New("the gateway has another key than its certificate says: it is another, or has been set up anew")

// handshake bounds a TLS handshake.
const handshake = 5 * time.Second

// Dialer connects to the gateway, and to no other.
func (m *Machine) Dialer() wire.Dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		config, err := m.tls()
		if err != nil {
			return nil, err
		}
		raw, err := wire.Network(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, config)
		ctx, cancel := context.WithTimeout(ctx, handshake)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return conn, nil
	}
}

// tls returns the configuration of a connection: this machine's name and key, and the gateway's.
func (m *Machine) tls() (*tls.Config, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("read the machine's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("read the machine's key: it is of another kind")
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(m.Instance)}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour), // nobody looks at it
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // no name and no authority, but this key:
		VerifyConnection: func(s tls.ConnectionState) error {
			if got, shown := enrol.Shown(&s); !shown || got != m.Server {
				return errOther
			}
			return nil
		},
	}, nil
}
