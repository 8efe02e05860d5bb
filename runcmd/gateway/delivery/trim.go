package delivery

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// trim makes room for n bytes by removing the outputs of commands that have ended, the oldest first. That they are gone is
// said in the place where they were. What open commands have printed stays, so there may be less room than that.
func (i *instance) trim(n int64) {
	type ended struct {
		id cloud.CommandID
		at time.Time
	}
	var all []ended
	for id := range i.kept {
		if i.commands[id] != nil {
			continue
		}
		if info, err := os.Lstat(i.dir.Path("commands", string(id)+".json")); err == nil {
			all = append(all, ended{id, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b ended) int { return a.at.Compare(b.at) })
	// More than is asked for, or the next frame would look at all commands again.
	for n = max(n, i.limits.Quota/16); n > 0 && len(all) > 0; all = all[1:] {
		had := i.kept[all[0].id]
		if err := removeOutputs(i.dir, all[0].id); err != nil {
			i.log().Error("make room for output", "command", all[0].id, "err", err)
			continue
		}
		i.keep(all[0].id, -had)
		n -= had
	}
}

// removeOutputs leaves a command's outputs nothing but the word that they are gone, which is there first.
func removeOutputs(dir bundle.Dir, id cloud.CommandID) error {
	root, err := os.OpenRoot(dir.Path("commands", string(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.WriteFile(bundle.Trimmed, nil, 0o640); err != nil {
		return err
	}
	for n := range wire.Streams {
		if err := root.Remove(n.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
