package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// ImageManifest is a file NAME.json in the image pool: an image that is registered because the operator
// put it there. Kernel and Ramdisk name files beside it.
type ImageManifest struct {
	Name        string
	Description string
	Kernel      string
	Ramdisk     string
	CommandLine string
	Inputs      string
}

// Names of images in use, by account.
func ImageNames(id cloud.AccountID) store.Kind[cloud.ImageID] {
	return store.NewKind[cloud.ImageID](store.NamePrefix("image", id))
}

// RegisterPool registers the images whose manifests are in the directory. An image whose files have
// changed is registered anew, and the name moves to the new one.
func RegisterPool(ctx context.Context, c *store.Client, dir string, account cloud.AccountID, now time.Time) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		m, err := bundle.Read[ImageManifest](f)
		if err == nil {
			err = register(ctx, c, m, account, now)
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, fmt.Errorf("register %s: %w", filepath.Base(f), err))
		}
	}
	return errors.Join(errs...)
}

func register(ctx context.Context, c *store.Client, m ImageManifest, account cloud.AccountID, now time.Time) error {
	if err := cloud.ValidateImageName(m.Name); err != nil {
		return err
	}
	names := ImageNames(account)
	t := store.NewTxn()
	base := cloud.Image{Account: account, Architecture: "x86_64", Virtualization: "paravirtual", RootDeviceType: "ebs", Created: now}
	part := func(location string, kind cloud.ImageKind) (cloud.ImageID, error) {
		k, err := cloud.KindOfLocation(location)
		if err != nil {
			return "", err
		}
		if k != kind {
			return "", cloud.Errorf("InvalidParameterValue", "%s is a %s, and a %s is wanted", location, k, kind)
		}
		// The same file is the same image, however often it is registered.
		id := cloud.ImageID(kind.Prefix() + "-" + location[:17])
		if _, err := store.Get(ctx, c, store.Images, id); !errors.Is(err, store.ErrNotFound) {
			return id, err
		}
		i := base
		i.ID, i.Kind, i.Location, i.Name = id, kind, location, m.Name+"-"+string(kind)+"-"+location[:12]
		store.Create(t, store.Images, id, i)
		return id, nil
	}
	image := base
	image.Kind, image.Name, image.Description, image.CommandLine = cloud.ImageMachine, m.Name, m.Description, m.CommandLine
	var err error
	if image.Kernel, err = part(m.Kernel, cloud.ImageKernel); err != nil {
		return err
	}
	if image.Ramdisk, err = part(m.Ramdisk, cloud.ImageRamdisk); err != nil {
		return err
	}
	image.ID = poolID(m.Kernel[:8], m.Ramdisk[:9])
	held, err := store.Get(ctx, c, names, m.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		store.Create(t, names, m.Name, image.ID)
	case err != nil:
		return err
	case held.Value == image.ID:
		if had, err := store.Get(ctx, c, store.Images, image.ID); err == nil && had.Value.CommandLine == image.CommandLine {
			return nil
		} else if err == nil {
			image.Created, image.Tags = had.Value.Created, had.Value.Tags
		}
	default:
		if old, err := store.Get(ctx, c, store.Images, held.Value); err == nil && !fromPool(old.Value) {
			return cloud.Errorf("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s, which was not put into the pool: deregister that, or name this another", m.Name, held.Value)
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		store.Update(t, names, held, image.ID)
		store.Remove(t, store.Images, held.Value)
	}
	store.Put(t, store.Images, image.ID, image)
	_, err = c.Commit(ctx, t)
	return err
}

// poolID is the image of two files of the pool. Half of the digits are from each: changing either makes
// another image.
func poolID(kernel, ramdisk string) cloud.ImageID { return cloud.ImageID("ami-" + kernel + ramdisk) }

// fromPool reports whether the image was registered by its manifest, not by a client of the API.
func fromPool(i cloud.Image) bool {
	k, r := cloud.Digits(i.Kernel), cloud.Digits(i.Ramdisk)
	return len(k) >= 8 && len(r) >= 9 && i.ID == poolID(k[:8], r[:9])
}
