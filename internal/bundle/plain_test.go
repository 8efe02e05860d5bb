//go:build linux

package bundle_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

func TestPlainFilesAreReadAndNothingElseIs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, data := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("0123456789abcdef"), 1<<12)} {
		if err := bundle.PutPlain(file, data, 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := bundle.ReadPlain(file, 1<<16)
		if err != nil || !bytes.Equal(got.Data, data) || got.Modified.IsZero() {
			t.Errorf("%d bytes: got %d, %v", len(data), len(got.Data), err)
		}
	}
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a file of more than is read": file, "a pipe that nobody writes to": pipe, "a link": link, "a directory": dir, "a device": "/dev/zero",
	} {
		if got, err := bundle.ReadPlain(path, 1<<16-1); err == nil {
			t.Errorf("%s: got %d bytes", name, len(got.Data))
		}
	}
	if _, err := bundle.ReadPlain(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
	if err := bundle.PutPlain(link, []byte("y"), 0o640); err == nil {
		t.Error("a link was written through")
	}
}

func TestARequestIsNotWrittenWhereTheGatewayPutALink(t *testing.T) {
	root := bundle.Root(t.TempDir())
	dir := root.Instance("i-00000000000000001")
	if err := errors.Join(os.MkdirAll(string(dir), 0o755), dir.MakeCommands(os.Getgid())); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	req := bundle.CommandRequest{}
	const aCommand = "0a1b2c3d-0000-4000-8000-000000000001"
	req.Command, req.Instance = aCommand, dir.ID()
	if err := os.Symlink(elsewhere, dir.Path("commands", "."+aCommand)); err != nil {
		t.Fatal(err)
	}
	if err := dir.PutCommand(req); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v in the directory that the link names", entries, err)
	}
	if info, err := os.Lstat(dir.Path("commands", aCommand)); err != nil || !info.IsDir() || info.Mode()&os.ModeSetgid == 0 {
		t.Errorf("got %v, %v", info, err)
	}
}
