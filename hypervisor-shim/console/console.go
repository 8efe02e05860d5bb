// Package console keeps what a guest writes to its serial port.
//
// QEMU appends to the file by itself, so nothing is lost while no shim is there. A Log watches the
// file: it wakes those who follow it, and bounds it. Bounding punches a hole where the oldest
// output was: the newest stays at its offset, QEMU's appending goes on undisturbed, and an offset
// means the same byte for as long as the instance lives. The file's size grows for ever; the space
// that it takes does not. What begins a boot is marked by a line of ours, so that the output of
// earlier boots can be told apart.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/shim"
)

// pause is how long a change may go unnoticed. A serial port writes byte by byte: without a pause
// the shim would wake for each.
const pause = 20 * time.Millisecond

// Log is one console file.
type Log struct {
	file  *os.File
	limit int64

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	ended   bool
}

// Open opens or creates the file at path, of which about the newest limit bytes are kept.
func Open(path string, limit int64) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	return &Log{file: f, limit: limit, changed: make(chan struct{})}, nil
}

// Writer opens what QEMU inherits, to append and nothing else: it matches a file that it is given
// by the very access mode.
func (l *Log) Writer() (*os.File, error) {
	return os.OpenFile(l.file.Name(), os.O_WRONLY|os.O_APPEND, 0)
}

// Mark appends a line of its own, on a new line.
func (l *Log) Mark(text string) error {
	_, err := l.file.WriteString("\r\n--- " + text + " ---\r\n")
	return err
}

// Run wakes readers and keeps the file within its limit until ctx ends, and then lets the readers
// reach the end.
func (l *Log) Run(ctx context.Context) error {
	defer l.end()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch console: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	if _, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", l.file.Fd()), unix.IN_MODIFY); err != nil {
		return fmt.Errorf("watch console: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { watch.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	buf := make([]byte, 4096)
	for {
		if err := l.trim(); err != nil {
			return err
		}
		l.wake()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := watch.Read(buf); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch console: %w", err)
		}
		tick.Reset(pause)
	}
}

// trim punches the hole. It lets a quarter more than the limit come together, so that it has
// something to do only once in a while.
func (l *Log) trim() error {
	first, end, err := shim.Extent(l.file)
	if err != nil {
		return err
	}
	if end-first <= l.limit+l.limit/4 {
		return nil
	}
	const block = 4096 // smaller holes free nothing
	upTo := (end - l.limit) / block * block
	err = unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, upTo)
	if err != nil {
		return fmt.Errorf("drop old console output: %w", err)
	}
	return nil
}

func (l *Log) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Log) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.wake()
}

// Locate returns the offset of the first byte that a reader who asks for offset gets: a negative
// one counts from the end, and what is dropped is skipped.
func (l *Log) Locate(offset int64) (int64, error) {
	first, end, err := shim.Extent(l.file)
	if err != nil {
		return 0, err
	}
	if offset < 0 {
		offset += end
	}
	return min(max(offset, first), end), nil
}

// Copy writes the console from offset on to w, up to its present end.
func (l *Log) Copy(w io.Writer, offset int64) (next int64, err error) {
	offset, err = l.Locate(offset)
	if err != nil {
		return offset, err
	}
	n, err := io.Copy(w, io.NewSectionReader(l.file, offset, 1<<62))
	return offset + n, err
}

// Follow is Copy which goes on until ctx or Run ends. flush is called when the reader is level.
func (l *Log) Follow(ctx context.Context, w io.Writer, offset int64, flush func() error) error {
	for {
		l.mu.Lock()
		changed, ended := l.changed, l.ended
		l.mu.Unlock()
		next, err := l.Copy(w, offset)
		if next > offset && err == nil {
			err = flush()
		}
		if err != nil || ended {
			return err
		}
		offset = next
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Close lets go of the file. QEMU has its own handle on it.
func (l *Log) Close() error {
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
