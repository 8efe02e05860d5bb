package journal

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A guest dies with its host. A machine that is no guest goes on, and when the host is there again, with what the control plane
// knows, it may be asked for a command that has ended and whose end was lost with the host's memory. So its journal keeps a line of
// each command that it has forgotten, for longer than any is asked for.

// kept is longer than the control plane knows a command.
const kept = 35 * 24 * time.Hour

// ended is the list.
type ended struct {
	mu   sync.Mutex
	file *os.File
	ids  map[cloud.CommandID]bool
}

// Remember has the journal keep in a file which commands it has forgotten.
func (j *Journal) Remember(file string) error {
	e := &ended{ids: map[cloud.CommandID]bool{}}
	old, err := os.Open(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := file + ".new"
	if e.file, err = os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600); err != nil {
		return err
	}
	now := time.Now()
	if old != nil {
		defer old.Close()
		w := bufio.NewWriter(e.file)
		for lines := bufio.NewScanner(old); lines.Scan(); {
			var id cloud.CommandID
			var at int64
			// The last line may be cut short: its command is in the journal still.
			if n, _ := fmt.Sscan(lines.Text(), &id, &at); n == 2 && now.Sub(time.Unix(at, 0)) < kept {
				e.ids[id] = true
				fmt.Fprintln(w, id, at)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if err := e.file.Sync(); err != nil {
		return err
	}
	j.ended = e
	return os.Rename(temp, file)
}

// Forgotten reports whether a command was there once, as far as that is remembered.
func (j *Journal) Forgotten(id cloud.CommandID) bool {
	if j.ended == nil {
		return false
	}
	j.ended.mu.Lock()
	defer j.ended.mu.Unlock()
	return j.ended.ids[id]
}

func (e *ended) add(id cloud.CommandID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ids[id] {
		return nil
	}
	// An empty line first: a full disk may have cut the one before.
	if _, err := fmt.Fprintf(e.file, "\n%s %d\n", id, time.Now().Unix()); err != nil {
		return err
	}
	if err := e.file.Sync(); err != nil {
		return err
	}
	e.ids[id] = true
	return nil
}
