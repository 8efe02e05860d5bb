package bundle_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// watch runs a watcher and returns a function that reads until it has heard of a path.
func watch(t *testing.T, top string, depth int) func(path string) {
	t.Helper()
	w, err := bundle.NewWatcher(top, depth)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(path string) {
		for got := range w.C() {
			if got == path {
				return
			}
		}
	}
}

func TestWatcherFollowsDirectoriesThatCome(t *testing.T) {
	top := t.TempDir()
	before := filepath.Join(top, "a", "commands", "x.json")
	if err := os.MkdirAll(filepath.Dir(before), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := bundle.Write(before, 1, 0o600); err != nil {
		t.Fatal(err)
	}
	heard := watch(t, top+"/", 3) // as an operator may write it
	heard(before)
	// Whole trees made in a moment: whatever the watcher is too late for, it finds when it looks.
	for k := range 50 {
		path := filepath.Join(top, fmt.Sprint("b", k), "commands", "y.json")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := bundle.Write(path, 1, 0o600); err != nil {
			t.Fatal(err)
		}
		heard(path)
	}
	// One that is made aside and renamed into place is followed too, and its removal is told.
	if err := os.MkdirAll(filepath.Join(top, ".c", "commands"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(top, ".c"), filepath.Join(top, "c")); err != nil {
		t.Fatal(err)
	}
	heard(filepath.Join(top, "c", "commands"))
	if err := bundle.Write(filepath.Join(top, "c", "commands", "z.json"), 1, 0o600); err != nil {
		t.Fatal(err)
	}
	heard(filepath.Join(top, "c", "commands", "z.json"))
	if err := os.RemoveAll(filepath.Join(top, "c")); err != nil {
		t.Fatal(err)
	}
	heard(filepath.Join(top, "c"))
	if err := os.Mkdir(filepath.Join(top, "c"), 0o755); err != nil { // and it may come again
		t.Fatal(err)
	}
	if err := bundle.Write(filepath.Join(top, "c", "again"), 1, 0o600); err != nil {
		t.Fatal(err)
	}
	heard(filepath.Join(top, "c", "again"))
}

func TestFilesAreReadStrictlyAndWrittenWhole(t *testing.T) {
	type thing struct{ N int }
	path := filepath.Join(t.TempDir(), "x.json")
	if _, err := bundle.Read[thing](path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
	for _, text := range []string{"", "{", `{"N":1}x`, `{"N":1}{"N":2}`, `{"M":1}`, `{"N":"1"}`, `[]`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := bundle.Read[thing](path); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 20 {
				if err := bundle.Write(path, thing{n}, 0o640); err != nil {
					t.Error(err)
				}
				if _, err := bundle.Read[thing](path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
	if err := bundle.Write(filepath.Dir(path), thing{}, 0o600); err == nil {
		t.Error("a directory was written over")
	}
	if err := bundle.Write(path, make(chan int), 0o600); err == nil {
		t.Error("a channel has no JSON")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want no temporary file left", entries, err)
	}
}
