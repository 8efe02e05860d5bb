package host

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestARunDirectoryLeavesRoomForSockets(t *testing.T) {
	if _, err := NewLayout(t.TempDir(), "/"+strings.Repeat("r", maxRun)); err == nil {
		t.Error("want a refusal of a run directory whose sockets no address can name")
	}
	l, err := NewLayout("state", "/"+strings.Repeat("r", maxRun-1))
	if err != nil || !filepath.IsAbs(l.State) {
		t.Fatalf("got %+v, %v", l, err)
	}
	if n := len(l.root().Instance("i-0123456789abcdef0").Path("shim.sock")); n > 107 {
		t.Errorf("a socket's path has %d bytes, and an address holds 107", n)
	}
}

func TestOneHostPerRunDirectory(t *testing.T) {
	l := Layout{Run: filepath.Join(t.TempDir(), "run")}
	first, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); err == nil || !strings.Contains(err.Error(), "ichiro down") {
		t.Errorf("a second host: got %v, want a refusal that says what to do", err)
	}
	first.Close()
	again, err := l.lock()
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	again.Close()
}

func TestDirectoriesThatDaemonsCannotReachAreRefused(t *testing.T) {
	top, err := os.MkdirTemp("", "reach")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	l := Layout{State: filepath.Join(top, "a", "state"), Run: filepath.Join(top, "a", "run"), Bin: top}
	for _, d := range []string{l.State, l.Run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for mode, want := range map[os.FileMode]bool{0o700: false, 0o750: false, 0o755: true, 0o711: true} {
		if err := os.Chmod(top, mode); err != nil {
			t.Fatal(err)
		}
		if err := l.reachable(Users{}); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "chmod o+x "+top) {
			t.Errorf("%v: got %v, want reachable: %v", mode, err, want)
		}
	}
}

func TestFilesAreAddedToThePoolUnderTheirDigest(t *testing.T) {
	l := Layout{State: t.TempDir()}
	if err := os.Mkdir(l.images(), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.State, "vmlinux")
	if err := os.WriteFile(file, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("kernel"))
	for range 2 { // adding it again is no harm
		name, err := AddToPool(l, file, "kernel")
		if err != nil || name != hex.EncodeToString(sum[:])+".kernel" {
			t.Fatalf("got %q, %v", name, err)
		}
		if kind, err := cloud.KindOfLocation(name); kind != cloud.ImageKernel {
			t.Errorf("register-image does not take %s: %v", name, err)
		}
		info, err := os.Stat(filepath.Join(l.images(), name))
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("got %v, %v", info.Mode(), err)
		}
	}
	for _, kind := range []string{"", "machine", "../x"} {
		if _, err := AddToPool(l, file, kind); err == nil {
			t.Errorf("kind %q: want a refusal", kind)
		}
	}
	if _, err := AddToPool(l, filepath.Join(l.State, "none"), "kernel"); err == nil {
		t.Error("a file that is not there: want an error")
	}
	entries, err := os.ReadDir(l.images())
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want one file and no temporary ones", entries, err)
	}
	if !exists(l.images(), hex.EncodeToString(sum[:])+".kernel") || exists(l.images(), "") || exists(l.images(), "x") {
		t.Error("exists does not tell what is there")
	}
}

func TestDownLeavesNothingOfOursAndAllOfOthers(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	fill := func(names ...string) {
		t.Helper()
		if err := os.MkdirAll(run, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(run, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill("network.json", ".network.json-2817224327", "up.json") // the second was being written when its daemon was killed
	if err := (Layout{Run: run}).clean(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(run); !os.IsNotExist(err) {
		t.Errorf("the run directory: got %v, want it gone", err)
	}
	fill("network.json", ".keep")
	if err := (Layout{Run: run}).clean(); err == nil {
		t.Error("a file of somebody else was not told of")
	}
	if _, err := os.Stat(filepath.Join(run, ".keep")); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
}
