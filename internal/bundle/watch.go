package bundle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Watcher tells what changed below the instance directories. It follows directories to a given depth
// as they come and go, with one inotify instance for all of them.
//
// Names are hints: a consumer reads the files again and acts on what they say. After an overflow the
// channel delivers "" once, which means: look at everything.
type Watcher struct {
	w     *fsnotify.Watcher
	top   string
	depth int
	c     chan string
}

// NewWatcher watches below top to the given depth: 1 is files in top, 3 is instances/ID/commands/ID's
// parents, and so on. The top directory must exist.
func NewWatcher(top string, depth int) (*Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	// The buffer only smooths bursts; a slow consumer blocks Run, and the kernel's queue holds the rest.
	return &Watcher{w: w, top: top, depth: depth, c: make(chan string, 256)}, nil
}

// C delivers the path of each file or directory that was created, renamed into place, written or removed.
func (w *Watcher) C() <-chan string { return w.c }

// Run watches until ctx ends. The directories that exist when it starts are reported first.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.w.Close()
	if err := w.add(ctx, w.top, w.depth); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.w.Events:
			if !ok {
				return errors.New("watch ended")
			}
			if Temporary(filepath.Base(ev.Name)) || ev.Op == fsnotify.Chmod {
				continue
			}
			if ev.Has(fsnotify.Create) {
				if err := w.add(ctx, ev.Name, w.depth-w.level(ev.Name)); err != nil {
					return err
				}
			}
			if !w.send(ctx, ev.Name) {
				return nil
			}
		case err := <-w.w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			if err := w.add(ctx, w.top, w.depth); err != nil {
				return err
			}
			if !w.send(ctx, "") {
				return nil
			}
		}
	}
}

func (w *Watcher) send(ctx context.Context, name string) bool {
	select {
	case w.c <- name:
		return true
	case <-ctx.Done():
		return false
	}
}

// level returns how many directories below the top a path is.
func (w *Watcher) level(path string) int {
	n := 0
	for p := path; len(p) > len(w.top); p = filepath.Dir(p) {
		n++
	}
	return n
}

// add watches dir and what is in it, and reports the entries: one may have been made before the watch was.
func (w *Watcher) add(ctx context.Context, dir string, depth int) error {
	if depth < 1 {
		return nil
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	if err := w.w.Add(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && dir != w.top {
			return nil // gone again, or not ours to read
		}
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone again: its removal is reported
	}
	for _, e := range entries {
		if Temporary(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !w.send(ctx, path) {
			return nil
		}
		if e.IsDir() {
			if err := w.add(ctx, path, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}
