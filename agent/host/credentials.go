package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// credentials puts the role credentials of an instance where its metadata service reads them. They are
// sealed in the store; the key is the control plane's, and read when it is first needed.
func (h *Host) credentials(dir bundle.Dir) error {
	kind := store.Credentials(h.ID)
	o, err := store.MirroredGet(h.Mirror, kind, dir.ID())
	if errors.Is(err, store.ErrNotFound) {
		if err := os.Remove(dir.Path("credentials.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	if h.sealer == nil {
		key, err := os.ReadFile(filepath.Join(h.Keys, "hosts"))
		if err != nil {
			return err
		}
		if h.sealer, err = store.NewSealer(key); err != nil {
			return err
		}
	}
	c, err := store.Unseal[cloud.Credentials](h.sealer, kind, dir.ID(), o.Value)
	if err != nil {
		h.sealer = nil // the key may have been replaced
		return err
	}
	return put(dir.Path("credentials.json"), c, h.IMDSGroup)
}
