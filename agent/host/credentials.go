package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/ticket"
)

// readKey reads a key from a directory that belongs to the control plane: only a file, never what a link leads to.
func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is not a file", path)
	}
	return io.ReadAll(io.LimitReader(f, 64))
}

func (h *Host) key() ([]byte, error) { return readKey(filepath.Join(h.Keys, "hosts")) }

// ticket puts the secret by which the metadata service asks for tokens in the instance's name where it reads it. It
// follows from the key and the instance, so there is nothing of it in the store.
func (h *Host) ticket(dir bundle.Dir) error {
	key, err := h.key()
	if err != nil {
		return err
	}
	return put(dir.Path(bundle.TicketFile), ticket.Of(key, dir.ID()), h.IMDSGroup)
}

// credentials puts the role credentials of an instance where its metadata service reads them. They are
// sealed in the store; the key is the control plane's, and read when it is first needed.
func (h *Host) credentials(dir bundle.Dir) error {
	kind := store.Credentials(h.ID)
	o, err := store.MirroredGet(h.wishes, kind, dir.ID())
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
		key, err := h.key()
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
