package provision

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/fetch"
)

// CertificatesFile is where a guest has what verifies identity documents: the certificates of its cloud, in PEM, that of the
// key which signs first. Each cloud has keys of its own, so no image can bring them.
const CertificatesFile = "/etc/ichiro/identity.pem"

// certificatesPath is where the API shows them to everybody.
const certificatesPath = "/.well-known/ichiro/identity.pem"

// Certificates keeps that file as the cloud has it. A key is published a day before it signs, so whoever looks four times a
// day has each in time. While the API is away the file stays as it was.
type Certificates struct {
	API  netip.AddrPort
	File string
}

// How often to look, and how long to wait when there was no answer, at most.
const (
	certificatesEvery = 6 * time.Hour
	certificatesRetry = 5 * time.Minute
)

// Keep refreshes until ctx ends, soon and patiently at first. failed is told of what goes wrong once it has gone well, as a
// cloud may well have no API for its guests.
func (c Certificates) Keep(ctx context.Context, failed func(error)) {
	wait, had := time.Second, false
	for {
		pause := certificatesEvery
		if err := c.Refresh(ctx); err == nil {
			wait, had = time.Second, true
		} else if ctx.Err() == nil {
			if had {
				failed(err)
			}
			pause, wait = wait, min(2*wait, certificatesRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Refresh reads the certificates and puts them where they belong, whole or not at all.
func (c Certificates) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := fetch.Client{Server: c.API}
	got, err := client.Do(ctx, fetch.Request{Method: "GET", Path: certificatesPath})
	if err != nil {
		return fmt.Errorf("read the cloud's certificates: %w", err)
	}
	if got[0].Status != 200 {
		return fmt.Errorf("read the cloud's certificates: HTTP %d", got[0].Status)
	}
	if err := onlyCertificates(got[0].Body); err != nil {
		return fmt.Errorf("read the cloud's certificates: %w", err)
	}
	if have, err := os.ReadFile(c.File); err == nil && bytes.Equal(have, got[0].Body) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.File), 0o755); err != nil {
		return fmt.Errorf("keep the cloud's certificates: %w", err)
	}
	next := c.File + unfinished
	err = os.WriteFile(next, got[0].Body, 0o644)
	if err == nil {
		err = os.Rename(next, c.File)
	}
	if err != nil {
		return fmt.Errorf("keep the cloud's certificates: %w", err)
	}
	return nil
}

// onlyCertificates refuses what is not certificates from its first byte to its last.
func onlyCertificates(text []byte) error {
	const most = 64 << 10 // a ring has a handful
	if len(text) > most {
		return errors.New("the answer is too long")
	}
	n := 0
	for rest := text; len(bytes.TrimSpace(rest)) > 0; n++ {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----\n")) {
			return errors.New("the answer is not certificates alone")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("the answer is not certificates alone")
		}
	}
	if n == 0 {
		return errors.New("the answer has none")
	}
	return nil
}
