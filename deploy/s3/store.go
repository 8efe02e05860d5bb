package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"golang.org/x/sys/unix"
)

// Directories below STATE/objects: what is there, what was there in buckets with versions, and, where the file system
// has no extended attributes, what else is known of an object.
const (
	current  = "data"
	versions = "versions"
	beside   = "meta"
)

// open opens the store in dir, which must exist, and makes what is below it.
func open(dir string) (*posix.Posix, error) {
	opt := posix.PosixOpts{
		VersioningDir:       filepath.Join(dir, versions),
		CopyObjectThreshold: 5 << 30,   // S3's limit of what one copy copies
		Concurrency:         256,       // threads that wait for the disk
		IOBufferSize:        128 << 10, // each stream has one; a megabyte is no faster
	}
	opt.SetNewDirPerm(0o700)
	opt.SetNewFilePerm(0o600)
	for _, d := range []string{current, versions} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make the object store's directory: %w", err)
		}
	}
	facts, err := storer(dir, &opt)
	if err != nil {
		return nil, err
	}
	store, err := posix.New(filepath.Join(dir, current), facts, opt)
	if err != nil {
		return nil, fmt.Errorf("open the object store in %s: %v", dir, err)
	}
	return store, nil
}

// storer chooses where an object's attributes are kept. What was chosen once stays: in a state directory that was moved
// to a better file system they are where they were.
func storer(dir string, opt *posix.PosixOpts) (meta.MetadataStorer, error) {
	side := filepath.Join(dir, beside)
	_, err := os.Stat(side)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return sidecar(side, opt, err)
	}
	switch err := unix.Setxattr(filepath.Join(dir, current), "user.ichiro", []byte("1"), 0); {
	case err == nil:
		return meta.XattrMeta{}, nil
	case errors.Is(err, syscall.ENOTSUP):
		return sidecar(side, opt, os.Mkdir(side, 0o700))
	default:
		return nil, fmt.Errorf("try extended attributes in %s: %w", dir, err)
	}
}

func sidecar(side string, opt *posix.PosixOpts, err error) (meta.MetadataStorer, error) {
	if err != nil {
		return nil, fmt.Errorf("make the object store's directory: %w", err)
	}
	opt.SideCarDir = side
	s, err := meta.NewSideCar(side)
	if err != nil {
		return nil, fmt.Errorf("open the objects' attributes: %v", err)
	}
	return s, nil
}
