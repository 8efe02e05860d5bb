package console

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFollowersMissNothingWhileTheFileIsBounded writes many times the limit.
func TestFollowersMissNothingWhileTheFileIsBounded(t *testing.T) {
	const limit, lines = 64 << 10, 20000
	path := filepath.Join(t.TempDir(), "console.log")
	l, err := Open(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()

	pr, pw := io.Pipe()
	followed := make(chan error, 1)
	go func() {
		err := l.Follow(t.Context(), pw, 0, func() error { return nil })
		pw.Close()
		followed <- err
	}()
	w, err := l.Writer()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	line := func(i int) string { return fmt.Sprintf("%08d%s\n", i, strings.Repeat("x", 55)) }
	const batch = 500 // 32 KB: the reader is never further behind than what is kept
	size := len64([]byte(line(0)))
	buf := make([]byte, batch*size)
	for i := 0; i < lines; i += batch {
		var text strings.Builder
		for n := range batch {
			text.WriteString(line(i + n))
		}
		if _, err := w.WriteString(text.String()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pr, buf); err != nil || string(buf) != text.String() {
			t.Fatalf("follower did not get lines %d to %d (%v)", i, i+batch-1, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(pr); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil {
		t.Errorf("follower ended with %v", err)
	}
	var kept bytes.Buffer
	next, err := l.Copy(&kept, 0)
	if err != nil || next != lines*size || kept.Len() < limit || kept.Len() > 2*limit || bytes.IndexByte(kept.Bytes(), 0) >= 0 {
		t.Errorf("kept %d bytes up to %d (%v), want %d to %d", kept.Len(), next, err, limit, 2*limit)
	}
	// Opened again, it goes on where it was.
	again, err := Open(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Mark("boot 2"); err != nil {
		t.Fatal(err)
	}
	var tail bytes.Buffer
	if _, err := again.Copy(&tail, next); err != nil || tail.String() != "\r\n--- boot 2 ---\r\n" {
		t.Errorf("got %q, %v", tail.String(), err)
	}
}

func len64(b []byte) int64 { return int64(len(b)) }

func TestLocate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for ask, want := range map[int64]int64{0: 0, 4: 4, 10: 10, 99: 10, -1: 9, -10: 0, -99: 0} {
		if got, err := l.Locate(ask); err != nil || got != want {
			t.Errorf("locate %d: got %d, %v, want %d", ask, got, err, want)
		}
	}
}
