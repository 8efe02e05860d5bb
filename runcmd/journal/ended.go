package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
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
	old, err := os.ReadFile(file) // 50 bytes of each command
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now, young := time.Now(), []byte(nil)
	for line := range strings.Lines(string(old)) {
		var id cloud.CommandID
		var at int64
		// The last line may be cut short: its command is in the journal still.
		if n, _ := fmt.Sscan(line, &id, &at); n == 2 && now.Sub(time.Unix(at, 0)) < kept {
			e.ids[id] = true
			young = fmt.Appendln(young, id, at)
		}
	}
	if err := bundle.WriteBytes(file, young, 0o600); err != nil { // the old list, or the whole new one
		return err
	}
	if e.file, err = os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	j.ended = e
	return nil
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
