package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// The test's own program is confined, tries, and says what it could do.
func TestWhatTheStoreCanReach(t *testing.T) {
	if dir := os.Getenv("S3_CONFINED"); dir != "" {
		confined(dir)
		return
	}
	if abi, err := ll.LandlockGetABIVersion(); err != nil || abi < 2 {
		t.Skipf("the kernel's Landlock is %d, %v; want 2", abi, err)
	}
	dir, err := os.MkdirTemp("", "s3") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"objects/a", "objects/b", "run", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "other/secret"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	door, err := net.Listen("unix", filepath.Join(dir, "other/door"))
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhatTheStoreCanReach$")
	cmd.Env = append(os.Environ(), "S3_CONFINED="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = "write an object: true\nmove it: true\nread it: true\nserve a socket: true\nserve it again: true\ncall the control plane's door: true\n" +
		"read its own state: true\nread another file: false\nlist another directory: false\nwrite beside the objects: false\nwrite beside the socket: false\nlead out by a link: false\n"
	if got, _, _ := strings.Cut(string(out), "PASS"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func confined(dir string) {
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := confine(slog.Default(), at("objects"), at("run/sock")); err != nil {
		fmt.Println(err)
	}
	try := func(what string, err error) {
		if fmt.Printf("%s: %t\n", what, err == nil); err != nil && !errors.Is(err, fs.ErrPermission) {
			fmt.Println(err) // refused, but not for this
		}
	}
	serve := func() error {
		l, err := net.Listen("unix", at("run/sock"))
		if err == nil {
			err = l.Close() // and removes it
		}
		return err
	}
	read := func(name string) error { _, err := os.ReadFile(name); return err }
	try("write an object", os.WriteFile(at("objects/a/x"), []byte("x"), 0o600))
	try("move it", os.Rename(at("objects/a/x"), at("objects/b/x")))
	try("read it", read(at("objects/b/x")))
	try("serve a socket", serve())
	try("serve it again", serve())
	_, err := net.Dial("unix", at("other/door"))
	try("call the control plane's door", err)
	try("read its own state", read("/proc/self/stat"))
	try("read another file", read(at("other/secret")))
	_, err = os.ReadDir(at("other"))
	try("list another directory", err)
	try("write beside the objects", os.WriteFile(at("y"), nil, 0o600))
	try("write beside the socket", os.WriteFile(at("run/y"), nil, 0o600))
	_ = os.Symlink(at("other/secret"), at("objects/link"))
	try("lead out by a link", read(at("objects/link")))
}
