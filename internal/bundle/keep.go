package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Keep returns what a file holds; when it does not exist yet, it holds want from then on, with mode 0600. Of
// several processes that make it at the same time one wins, and all get what it made. For keys, which are made once.
func Keep(path string, want []byte) ([]byte, error) {
	if have, err := os.ReadFile(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return have, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // CreateTemp makes it 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(want)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	// A link fails when the name is taken, so of two processes one wins.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}
