package provision

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ichiro-metal/ichiro/internal/userdata/config"
)

// files writes those that are deferred, or those that are not.
func (r *run) files(deferred bool) {
	for i, f := range r.plan.Files {
		if f.Deferred == deferred {
			if err := r.file(i, f); err != nil {
				r.trouble("write_files entry %d: %v", i+1, err)
			}
		}
	}
}

// file writes one in place: what is there may be a link, or have others.
func (r *run) file(i int, f config.File) error {
	name := r.path(f.Path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(f.Mode & 0o777)
	for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if f.Mode&bit != 0 {
			mode |= m
		}
	}
	var err error
	if f.Append {
		err = r.appendOnce(r.instance(fmt.Sprintf("sem/begun_write_files_%d", i+1)), name, f.Content)
	} else {
		err = write(name, os.O_TRUNC, f.Content)
	}
	if err != nil {
		return err
	}
	// The owner before the mode: a change of owner takes setuid away.
	uid, gid, err := r.ids(f.Owner, f.Group)
	if err != nil {
		return fmt.Errorf("%s is written, and not given away: %w", f.Path, err)
	}
	if to, err := filepath.EvalSymlinks(name); err == nil {
		name = to // Chown follows no link
	}
	if uid >= 0 || gid >= 0 {
		if err := r.chown(name, uid, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(name, mode); err != nil {
		return err
	}
	r.say("DEBUG", "wrote %s", f.Path)
	return nil
}

// appendOnce appends also when a run that was interrupted may have done it: then there is a mark of its beginning, and
// the content is at the file's end.
func (r *run) appendOnce(begun, name string, content []byte) error {
	if r.marked(begun) {
		if have, err := os.ReadFile(name); err == nil && bytes.HasSuffix(have, content) {
			return nil
		}
	}
	r.remember(begun)
	return write(name, os.O_APPEND, content)
}

// write is not readable by others until its mode is set: the content may be a secret.
func write(name string, how int, content []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|how, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}
