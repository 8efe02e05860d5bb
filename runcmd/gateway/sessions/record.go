package sessions

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Record is what a host keeps of a session that has ended: ID.json beside the recording, ID.cast.
type Record struct {
	Session  cloud.SessionID
	Instance cloud.InstanceID
	Owner    string
	Kind     cloud.SessionKind
	Target   string `json:",omitempty"` // of a port
	Started  time.Time
	End      cloud.SessionEnd
}

// recorder writes a recording in the form asciicast v2: what the terminal showed, when. What was typed is not in it:
// passwords are typed.
//
// Its times are since the recording began, on a clock that nobody sets: a player wants them in order.
type recorder struct {
	f     *os.File
	begun time.Time
	mu    sync.Mutex
	hash  hash.Hash
	size  int64  // of the file
	left  int64  // bytes that may still be written
	tail  []byte // a character of which only a part has come
}

// newRecorder begins a recording. A session whose gateway was killed goes on in its file.
func newRecorder(path string, s cloud.Session, limit int64) (*recorder, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	r := &recorder{f: f, begun: time.Now(), hash: sha256.New(), left: limit}
	if err := r.goOn(s.Started); err != nil {
		f.Close()
		return nil, err
	}
	if r.size > 0 {
		return r, nil
	}
	r.line(map[string]any{
		"version": 2, "width": 80, "height": 24, "timestamp": s.Started.Unix(), "title": string(s.ID) + " on " + string(s.Target),
		"env": map[string]string{"TERM": "xterm-256color"},
	})
	return r, nil
}

// goOn reads what the file has, up to the end of its last whole line.
func (r *recorder) goOn(started time.Time) error {
	last := 0.0
	for lines := bufio.NewReader(r.f); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		r.hash.Write(line)
		r.size += int64(len(line))
		var event []any
		if json.Unmarshal(line, &event) == nil && len(event) > 0 {
			if at, ok := event[0].(float64); ok {
				last = at
			}
		}
	}
	r.left -= r.size
	if r.size > 0 { // the clock may have been set meanwhile
		r.begun = r.begun.Add(-max(time.Since(started), time.Duration(last*float64(time.Second))+time.Microsecond))
	}
	return r.f.Truncate(r.size)
}

// event records what has happened now.
func (r *recorder) event(kind, what string) {
	r.line([]any{time.Since(r.begun).Seconds(), kind, what})
}

func (r *recorder) line(v any) {
	b, err := json.Marshal(v)
	if err != nil || r.left <= 0 {
		return
	}
	if b = append(b, '\n'); int64(len(b)) > r.left {
		b, _ = json.Marshal([]any{time.Since(r.begun).Seconds(), "m", "the recording is full"})
		b = append(b, '\n')
		r.left = int64(len(b))
	}
	r.left -= int64(len(b))
	if _, err := r.f.Write(b); err != nil {
		r.left = 0 // the disk is full: the session goes on
		r.f.Truncate(r.size)
		return
	}
	r.size += int64(len(b))
	r.hash.Write(b)
}

// output records what the terminal showed.
func (r *recorder) output(p []byte) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p = append(r.tail, p...)
	whole := len(p)
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if b := p[len(p)-n]; utf8.RuneStart(b) {
			if !utf8.FullRune(p[len(p)-n:]) {
				whole = len(p) - n
			}
			break
		}
	}
	r.tail = append([]byte(nil), p[whole:]...)
	if whole > 0 {
		r.event("o", string(p[:whole]))
	}
}

// resize records another size of the terminal.
func (r *recorder) resize(size string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event("r", size)
}

// close ends the recording and returns its digest.
func (r *recorder) close() string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = 0
	r.f.Sync()
	r.f.Close()
	return hex.EncodeToString(r.hash.Sum(nil))
}

// read returns the record of a session that has ended; fs.ErrNotExist if there is none.
func (h *Hub) read(id cloud.SessionID) (Record, error) {
	return bundle.Read[Record](filepath.Join(h.cfg.Dir, string(id)+".json"))
}

// sweep removes the oldest records until the rest fits, and those that are too old.
func (h *Hub) sweep(now time.Time) {
	entries, err := os.ReadDir(h.cfg.Dir)
	if err != nil {
		h.cfg.Log.Warn("list the recordings", "err", err)
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		id, kind := strings.CutSuffix(e.Name(), ".cast")
		for _, suffix := range []string{".json", ".open"} {
			if !kind {
				id, kind = strings.CutSuffix(e.Name(), suffix)
			}
		}
		if err != nil || !kind || h.session(cloud.SessionID(id)) != nil {
			continue
		}
		files = append(files, info)
		total += info.Size()
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= h.cfg.Quota && now.Sub(f.ModTime()) < kept {
			break
		}
		if os.Remove(filepath.Join(h.cfg.Dir, f.Name())) == nil {
			total -= f.Size()
		}
	}
}
