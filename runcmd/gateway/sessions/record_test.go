package sessions

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// started is a session that began at a moment of the control plane's clock.
func started(at time.Time) cloud.Session {
	return cloud.Session{ID: "tester-1", Target: "i-0123456789abcdef0", Started: at}
}

func record(t *testing.T, path string, s cloud.Session, limit int64) *recorder {
	t.Helper()
	r, err := newRecorder(path, s, limit)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recorded checks that a file is an asciicast of version 2 with the digest, and returns what its terminal showed.
func recorded(t *testing.T, path, digest string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); digest != hex.EncodeToString(sum[:]) {
		t.Errorf("the digest is not the file's")
	}
	if !bytes.HasSuffix(data, []byte("\n")) {
		t.Errorf("the last line is cut: %q", data[max(0, len(data)-40):])
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	var head struct{ Version, Width, Height int }
	if err := json.Unmarshal([]byte(lines[0]), &head); err != nil || head.Version != 2 || head.Width < 1 || head.Height < 1 {
		t.Errorf("the first line is %q: %v", lines[0], err)
	}
	var shown strings.Builder
	last := 0.0
	for _, line := range lines[1:] {
		var event []any
		if err := json.Unmarshal([]byte(line), &event); err != nil || len(event) != 3 {
			t.Fatalf("the line %q is no event: %v", line, err)
		}
		at, ok1 := event[0].(float64)
		kind, ok2 := event[1].(string)
		text, ok3 := event[2].(string)
		if !ok1 || !ok2 || !ok3 || at < last || !slices.Contains([]string{"o", "r", "m"}, kind) {
			t.Errorf("the line %q comes after %v", line, last)
		}
		if last = at; kind == "o" {
			shown.WriteString(text)
		}
	}
	return shown.String()
}

func TestARecordingWhateverTheClockSays(t *testing.T) {
	for name, began := range map[string]time.Time{
		"the clocks agree":               time.Now(),
		"the control plane's is ahead":   time.Now().Add(time.Hour),
		"the host's was set back, later": time.Now().Add(-time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.cast")
			r := record(t, path, started(began), 1<<20)
			r.output([]byte("before "))
			r.resize("100x30")
			r.close()
			// Its gateway was killed, and the clock was set by two hours meanwhile.
			r = record(t, path, started(began.Add(2*time.Hour)), 1<<20)
			r.output([]byte("after"))
			if got := recorded(t, path, r.close()); got != "before after" {
				t.Errorf("it shows %q", got)
			}
		})
	}
}

func TestAFullRecordingWhoseGatewayWasStartedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.cast")
	const limit = 500
	r := record(t, path, started(time.Now()), limit)
	for range 100 {
		r.output([]byte("line\r\n"))
	}
	r.close()
	r = record(t, path, started(time.Now()), limit)
	r.output([]byte("more"))
	if got := recorded(t, path, r.close()); strings.Contains(got, "more") {
		t.Errorf("it goes on beyond its limit: %q", got)
	}
}

func TestARecordingOnADiskThatIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "x.cast")
	r := record(t, path, started(time.Now()), 1<<20)
	piece := strings.Repeat("x", 1000)
	for range 100 {
		r.output([]byte(piece))
	}
	if got := recorded(t, path, r.close()); len(got) < 50_000 || strings.Trim(got, "x") != "" {
		t.Errorf("it shows %d bytes", len(got))
	}
	// A machine that went down in the middle of a line.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`[12.5,"o","ha`)
	f.Close()
	r = record(t, path, started(time.Now()), 1<<20)
	if got := recorded(t, path, r.close()); strings.Contains(got, "ha") {
		t.Errorf("it shows half a line")
	}
}
