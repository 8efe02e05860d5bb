package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestWhatWasForgottenIsRemembered(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ended")
	remember := func() *Journal {
		j, err := Open(filepath.Join(dir, "commands"))
		if err == nil {
			err = j.Remember(file)
		}
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	forget := func(j *Journal, id cloud.CommandID) {
		if err := j.Forget(id); err != nil {
			t.Fatal(err)
		}
	}
	j := remember()
	forget(j, "a")
	forget(j, "a")
	if _, err := j.ended.file.WriteString("cut 17"); err != nil { // by a full disk
		t.Fatal(err)
	}
	forget(j, "b")
	old, young := time.Now().Add(-kept-time.Hour).Unix(), time.Now().Add(-kept+time.Hour).Unix()
	fmt.Fprintf(j.ended.file, "\n%s\n", make([]byte, 128<<10)) // what a loss of power may leave
	fmt.Fprintf(j.ended.file, "old %d\nyoung %d\ntorn 17", old, young)
	j = remember()
	for id, want := range map[cloud.CommandID]bool{"a": true, "b": true, "young": true, "old": false, "torn": false, "cut": false, "c": false} {
		if got := j.Forgotten(id); got != want {
			t.Errorf("%s: got %t, want %t", id, got, want)
		}
	}
	// What cannot be remembered is not forgotten.
	j.ended.file.Close()
	if err := os.MkdirAll(j.Dir("d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := j.Forget("d"); err == nil {
		t.Error("forgotten without a word of it")
	}
	if _, err := os.Stat(j.Dir("d")); err != nil {
		t.Errorf("its directory: %v", err)
	}
}
