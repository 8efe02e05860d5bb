package spool

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What prints line by line must not cost a turn of the agent, a frame and a write of the host for each of its lines.
func TestLinesAreTakenTogether(t *testing.T) {
	var turns atomic.Int64
	s, err := Open(t.TempDir(), "stdout", 1<<30, func() { turns.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Writer()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run() }()
	const lines = 50_000
	began := time.Now()
	for range lines {
		if _, err := out.WriteString("123456\n"); err != nil {
			t.Fatal(err)
		}
	}
	out.Close()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if most := 2 + int64(time.Since(began)/rest) + 7*lines/little; turns.Load() > most {
		t.Errorf("%d lines were taken in %d turns, want at most %d in %v", lines, turns.Load(), most, time.Since(began))
	}
	got := make([]byte, 8*lines)
	n, err := s.ReadAt(got, 0)
	if want := strings.Repeat("123456\n", lines); err != nil || !bytes.Equal(got[:n], []byte(want)) {
		t.Errorf("%d bytes are kept, %v, want the %d that were printed", n, err, len(want))
	}
}
