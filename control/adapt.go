package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/identity"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// profiles is what launches need of IAM: to find a profile, and to ask whether its role may be passed.
type profiles struct {
	*iam.Engine
	authority *iamapi.Authority
}

func (p profiles) MayPassRole(ctx context.Context, ref cloud.ProfileRef) error {
	return p.authority.MayPassRole(ctx, ref)
}

// minter makes the credentials of instances.
type minter struct{ *iam.Engine }

// Current reports whether credentials are of the role that the profile holds now: not of another, and not of
// one that was made anew under the same name.
func (m minter) Current(ctx context.Context, p cloud.ProfileRef, had cloud.Credentials) (bool, error) {
	now, err := m.ProfileNow(ctx, p)
	if err == nil && now.RoleName == had.Role && had.Profile == p.ID {
		_, _, err = m.Lookup(had.AccessKeyID, had.Token)
		if err == nil {
			return true, nil
		}
	}
	if cloud.Code(err) == "ServiceUnavailable" {
		return false, err
	}
	return false, nil // the minter says why, if it cannot make others
}

// signer signs identity documents with the region's key.
type signer struct{ key identity.Key }

func (s signer) Document(a cloud.Assignment) string {
	return identity.Document(identity.SubjectOf(a))
}

func (s signer) Sign(a cloud.Assignment) (cloud.IdentityDocument, error) {
	return s.key.Sign(identity.SubjectOf(a))
}

// openSigner reads the region's identity key, which is made at the first start.
func openSigner(dir, region string) (signer, error) {
	path := filepath.Join(dir, "identity.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		made, err := identity.Generate(rand.Reader, region, time.Now().UTC())
		if err != nil {
			return signer{}, err
		}
		if text, err = made.PEM(); err != nil {
			return signer{}, err
		}
		if text, err = bundle.Keep(path, text); err != nil {
			return signer{}, err
		}
	} else if err != nil {
		return signer{}, err
	}
	key, err := identity.Parse(text)
	return signer{key}, err
}
