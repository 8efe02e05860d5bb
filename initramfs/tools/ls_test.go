package tools

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The machine's own ls is the judge.
func TestLsSaysWhatTheMachinesOwnSays(t *testing.T) {
	real, err := exec.LookPath("ls")
	if err != nil {
		t.Skip("there is no ls")
	}
	dir, err := os.MkdirTemp("", "ls") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, size := range map[string]int{"a": 0, "long name": 12, ".hidden": 3, "B": 1000, "k": 1024, "k1": 1025, "ten": 10 * 1024, "big": 10*1024 + 1, "most": 1023 * 1024, "mega": 1023*1024 + 1, "sub/inner": 5, "sub/deeper/x": 1} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if err == nil {
			err = f.Sync() // some file systems take the blocks later, and would change the total meanwhile
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, err := range []error{
		os.Symlink("a", filepath.Join(dir, "link")), os.Symlink("sub", filepath.Join(dir, "way")), os.Symlink("nowhere", filepath.Join(dir, "lost")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "second")),
		os.Chmod(filepath.Join(dir, "a"), 0o755|os.ModeSetuid), os.Chmod(filepath.Join(dir, "B"), 0o604|os.ModeSetgid), os.Chmod(filepath.Join(dir, "sub"), 0o777|os.ModeSticky),
		os.Chtimes(filepath.Join(dir, "k"), time.Now(), time.Now().AddDate(-3, 0, 0)), os.Chtimes(filepath.Join(dir, "k1"), time.Now(), time.Now().AddDate(0, -2, -9)),
		os.Chtimes(filepath.Join(dir, "ten"), time.Now(), time.Now().AddDate(1, 0, 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{
		"", "-1", "-a", "-A", "-l", "-la", "-lA", "-ld", "-ld sub a", "-lh", "-lS", "-lSr", "-t", "-lt", "-R", "-lR sub", "-F", "-n", "-li", "-i a", "-l a B", "a sub", "way", "-l way", "-d way", "sub way a", "-l /dev/null /dev/zero", "-r", "nope",
	} {
		cmd := exec.Command(real, strings.Fields(args)...)
		cmd.Dir, cmd.Env = dir, []string{"LC_ALL=C"}
		want, err := cmd.Output()
		got, code := use(t, dir, "", "ls", strings.Fields(args)...)
		if err != nil {
			if code == 0 || got != "ls: nope: no such file or directory\n" {
				t.Errorf("ls %s: got %d %q, and the machine's fails", args, code, got)
			}
			continue
		}
		if got != string(want) || code != 0 {
			t.Errorf("ls %s: got %d\n%s\nwant\n%s", args, code, got, want)
		}
	}
}
