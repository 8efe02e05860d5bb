package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/control/identity"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// certificatesPath is where verifiers get the certificates of identity documents, without credentials.
const certificatesPath = "/.well-known/ichiro/identity.pem"

// notary signs identity documents, and publishes what they are verified with. Its keys are a file, which an
// operator changes with `ichiro-control rotate-identity`; which of them signs is a matter of the clock.
type notary struct {
	path   string // of the keys
	public string // of the certificates
	region string
	now    func() time.Time
	keys   atomic.Pointer[identity.Ring]
	shown  []byte // what public holds; only Reconcile touches it
	signs  string // the key that signed last time
	wake   func() // the planner: documents are signed by another key
	log    *slog.Logger
}

// openNotary reads the region's identity keys; the first is made at the first start.
func openNotary(keys, public, region string, log *slog.Logger) (*notary, error) {
	n := &notary{path: ringFile(keys), public: public, region: region, now: time.Now, wake: func() {}, log: log.With("component", "identity")}
	if _, err := os.ReadFile(n.path); errors.Is(err, fs.ErrNotExist) {
		made, err := identity.Generate(rand.Reader, region, n.now().UTC())
		if err != nil {
			return nil, err
		}
		text, err := made.PEM()
		if err != nil {
			return nil, err
		}
		if _, err := bundle.Keep(n.path, text); err != nil {
			return nil, err
		}
	}
	return n, n.Reconcile(context.Background())
}

func ringFile(keys string) string { return filepath.Join(keys, "identity.pem") }

func readRing(path string) (identity.Ring, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return identity.Ring{}, fmt.Errorf("read the identity keys: %w", err)
	}
	return identity.ParseRing(text)
}

// Reconcile reads the keys again, and publishes the certificates when they are others than before.
func (n *notary) Reconcile(context.Context) error {
	ring, err := readRing(n.path)
	if err != nil {
		return err // those that were read before go on signing
	}
	now := n.now()
	n.keys.Store(&ring)
	if text := ring.Certificates(now); !bytes.Equal(text, n.shown) {
		if err := bundle.WriteBytes(n.public, text, 0o644); err != nil {
			return err
		}
		n.shown = text
	}
	if signs := ring.Signing(now).ID(); signs != n.signs {
		n.log.Info("identity documents are signed by", "key", signs)
		n.signs = signs
		n.wake()
	}
	return nil
}

// Current reports whether a document is what Sign would return.
func (n *notary) Current(a cloud.Assignment, had cloud.IdentityDocument) bool {
	return had.Key == n.keys.Load().Signing(n.now()).ID() && had.Document == identity.Document(identity.SubjectOf(a))
}

// Sign returns the document of an assignment, signed by the key whose time it is.
func (n *notary) Sign(a cloud.Assignment) (cloud.IdentityDocument, error) {
	return n.keys.Load().Signing(n.now()).Sign(identity.SubjectOf(a))
}

// ServeHTTP gives the certificates to whoever asks.
func (n *notary) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "max-age=300")
	w.Write(n.keys.Load().Certificates(n.now()))
}

// rotate adds an identity key, beside a control process that runs or not. It belongs to whom the keys belong to, so root
// may do it.
func rotate(args []string) error {
	flags := flag.NewFlagSet("ichiro-control rotate-identity", flag.ContinueOnError)
	state := flags.String("state", "/var/lib/ichiro", "state `directory`")
	region := flags.String("region", "ichiro-1", "name of the region")
	overlap := flags.Duration("overlap", identity.Overlap, "how long the new certificate is published before its key signs")
	stolen := flags.Bool("stolen", false, "somebody else has the keys: sign with the new one at once, and withdraw the certificates of all before")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	if *overlap < 0 {
		return service.Usagef("--overlap %s: no time before now", *overlap)
	}
	path := ringFile(filepath.Join(*state, "keys"))
	ring, err := readRing(path)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	if *stolen {
		k, err := identity.Generate(rand.Reader, *region, now)
		if err != nil {
			return err
		}
		ring = identity.NewRing(k)
	} else if ring, err = ring.Rotate(rand.Reader, *region, now.Add(*overlap), now); err != nil {
		return err
	}
	return writeRing(path, ring)
}

func writeRing(path string, ring identity.Ring) error {
	text, err := ring.PEM()
	if err != nil {
		return err
	}
	was, err := os.Stat(path)
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(path), ".next-identity.pem")
	defer os.Remove(next)
	if err := bundle.WriteBytes(next, text, 0o600); err != nil {
		return err
	}
	if owner, ok := was.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Lchown(next, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return os.Rename(next, path)
}
