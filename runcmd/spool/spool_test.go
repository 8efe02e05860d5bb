package spool

import (
	"bytes"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What prints line by line must not cost a turn of the agent, a frame and a write of the host for each of its lines, nor wake
// the agent for each: neither end of the pipe may be what Go polls.
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
	const lines = 100_000
	began, switches := time.Now(), switched(t)
	for range lines {
		if _, err := out.WriteString("123456\n"); err != nil {
			t.Fatal(err)
		}
	}
	if n := switched(t) - switches; n > lines/20 { // measured: some 250, and 13,000 with either end polled
		t.Errorf("%d lines made the process wait %d times", lines, n)
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

// switched is how often threads of this process have waited for something.
func switched(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Nvcsw
}

// running opens a stream whose Run has begun, and its writing end.
func running(t *testing.T, changed func()) (s *Stream, out *os.File, ended chan error) {
	t.Helper()
	s, err := Open(t.TempDir(), "stdout", 1<<30, changed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if out, err = s.Writer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	ended = make(chan error, 1)
	go func() { ended <- s.Run() }()
	return s, out, ended
}

func TestFinishTakesWhatIsThereAndNothingElse(t *testing.T) {
	for name, before := range map[string]string{"a stream that waits": "", "a stream that has had something": "first "} {
		t.Run(name, func(t *testing.T) {
			moved := make(chan bool, 10)
			s, out, ended := running(t, func() { moved <- true })
			if out.WriteString(before); before != "" {
				<-moved
			}
			out.WriteString("last")
			if err := s.Finish(); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			out.WriteString(" too late")
			got := make([]byte, 100)
			if n, err := s.ReadAt(got, 0); string(got[:n]) != before+"last" || err != nil {
				t.Errorf("got %q, %v, want %q", got[:n], err, before+"last")
			}
		})
	}
}

// Somebody who is left behind prints on and on: the command has ended all the same, and he is never blocked.
func TestWhoIsLeftBehindPrintsOn(t *testing.T) {
	s, out, ended := running(t, func() {})
	var stop atomic.Bool
	printed := make(chan error, 1)
	piece := bytes.Repeat([]byte("x"), 4096)
	go func() {
		for !stop.Load() {
			if _, err := out.Write(piece); err != nil {
				printed <- err
				return
			}
		}
		printed <- out.Close()
	}()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	kept, _ := s.Sizes()
	drained := make(chan bool)
	go func() { s.Drain(); close(drained) }()
	stop.Store(true)
	if err := <-printed; err != nil {
		t.Fatal(err)
	}
	<-drained // as the last who could print has closed
	if now, _ := s.Sizes(); now != kept {
		t.Errorf("%d bytes are kept, want the %d from before the end", now, kept)
	}
}

func TestCloseEndsWhoeverWaits(t *testing.T) {
	s, _, ended := running(t, func() {})
	s.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s, out, ended := running(t, func() {})
	out.WriteString("x")
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	<-ended
	drained := make(chan bool)
	go func() { s.Drain(); close(drained) }()
	s.Close()
	<-drained
}
