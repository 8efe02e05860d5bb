// Package spool takes what a command prints and keeps it until the gateway has it.
//
// A command writes into a named pipe, opened for reading and writing: so nothing is lost, and the
// command sees no broken pipe, while the agent is away. The agent moves bytes from the pipe into segment
// files with splice, which takes them out of the pipe only as it puts them into the file: the end of
// the segments is always the exact position, also after kill -9. Acknowledged segments are removed.
//
// Two bounds hold. Beyond window unacknowledged bytes the pipe is not read, and the command waits.
// Beyond limit bytes in all, output is counted and dropped.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// segment is the size of a segment file: the unit in which acknowledged bytes are given back.
	segment = 1 << 20
	// window is how far a command may be ahead of the gateway, per output.
	window = 4 << 20
	// pipeSize lets a command that prints much run ahead while the agent is busy: sixteen times what a pipe has by itself, and
	// what everybody may ask for.
	pipeSize = 1 << 20
	// What prints line by line is not read line by line: each would wake the agent, the gateway's connection and the host, and
	// the command waits for none of it, as the pipe has room. Measured: 50,000 lines were taken in 30,000 turns, and are in 30.
	// The rest doubles up to longest while it goes on: where a turn takes milliseconds (an emulated guest) most of the time is
	// the command's.
	rest, longest = 2 * time.Millisecond, 32 * time.Millisecond
	// little is how much there must be for the next read to come at once.
	little = 64 << 10
)

// Stream is one output of one command.
type Stream struct {
	dir, name string
	limit     int64
	changed   func() // called without locks when there is more to read

	pipe *os.File // the agent's reading end; reading it never waits

	moving sync.Mutex // held while bytes are between the pipe and what is counted; taken before mu

	mu    sync.Mutex
	room  *sync.Cond // the window moved, or the stream is closed
	base  int64      // start of the oldest segment that is kept
	end   int64      // bytes kept so far
	total int64      // bytes printed so far; more than end when some were dropped
	acked int64
	open  *os.File // the segment being written
	read  *os.File // the segment being read, and where it starts
	readP int64
	quit  bool
	runs  bool          // Run has begun
	over  bool          // Finish was called: Run is not to begin any more
	done  chan struct{} // closed when Run has returned
	hurry chan struct{} // closed when Run is to return: it rests no more
	ready *os.File      // tells once that the pipe has something (epoll(7), EPOLLONESHOT); made when somebody waits for it
}

// Open makes the stream called name in dir, or continues the one that is there.
func Open(dir, name string, limit int64, changed func()) (*Stream, error) {
	s := &Stream{dir: dir, name: name, limit: limit, changed: changed, done: make(chan struct{}), hurry: make(chan struct{})}
	s.room = sync.NewCond(&s.mu)
	err := unix.Mkfifo(s.fifo(), 0o600)
	if errors.Is(err, fs.ErrExist) { // only then can there be segments
		err = s.recover()
	} else if err != nil {
		err = &fs.PathError{Op: "mkfifo", Path: s.fifo(), Err: err}
	}
	if err != nil {
		return nil, err
	}
	s.pipe, err = openPipe(s.fifo())
	return s, err
}

// openPipe opens the agent's end of a pipe so that reading it does not wait, and no poller of Go's hears of it: that one wakes
// whenever something is written to what it has been told of once, whether anybody wants to read or not.
func openPipe(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	err = unix.SetNonblock(fd, false)
	f := os.NewFile(uintptr(fd), path) // which asks whether it waits
	if err = errors.Join(err, unix.SetNonblock(fd, true)); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "set non-blocking", Path: path, Err: err}
	}
	return f, nil
}

// Move gives a stream that was opened in advance, and has not run, the directory that it lies in now, and what Open
// is told of a stream's use.
func (s *Stream) Move(dir string, limit int64, changed func()) {
	s.dir, s.limit, s.changed = dir, limit, changed
}

func (s *Stream) fifo() string { return filepath.Join(s.dir, s.name) }

func (s *Stream) segment(n int64) string {
	return filepath.Join(s.dir, s.name+"."+strconv.FormatInt(n, 10))
}

// recover finds the positions from the segments that are there.
func (s *Stream) recover() error {
	names, err := filepath.Glob(filepath.Join(s.dir, s.name+".*"))
	if err != nil {
		return err
	}
	first, last := int64(-1), int64(-1)
	for _, name := range names {
		n, err := strconv.ParseInt(strings.TrimPrefix(filepath.Base(name), s.name+"."), 10, 64)
		if err != nil {
			continue
		}
		if first < 0 || n < first {
			first = n
		}
		last = max(last, n)
	}
	if last < 0 {
		return nil
	}
	info, err := os.Stat(s.segment(last))
	if err != nil {
		return err
	}
	s.base, s.end = first*segment, last*segment+info.Size()
	s.total, s.acked = s.end, s.base
	return nil
}

// Pipe returns the agent's reading end.
func (s *Stream) Pipe() *os.File { return s.pipe }

// Hold opens the agent's end of a stream for as long as this process lives, and reads nothing: what is in the pipe stays.
func Hold(dir, name string) {
	unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // without, it may be lost
}

// Writer opens the end that a command's process is given. It waits when the pipe is full, and no poller hears of it either.
func (s *Stream) Writer() (*os.File, error) {
	fd, err := unix.Open(s.fifo(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: s.fifo(), Err: err}
	}
	return os.NewFile(uintptr(fd), s.fifo()), nil
}

// Run moves what is printed until Finish, or until nobody can print any more.
func (s *Stream) Run() error {
	s.mu.Lock()
	s.runs = !s.over
	runs := s.runs
	s.mu.Unlock()
	if !runs {
		return nil
	}
	defer close(s.done)
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) }) // without, it is only slower
	pause := rest
	for {
		n, ok := s.wait()
		if !ok {
			return nil
		}
		var moved int
		var failed error
		if err := raw.Control(func(fd uintptr) { moved, failed = s.move(int(fd), n) }); err != nil {
			return nil // closed
		}
		switch {
		case errors.Is(failed, unix.EAGAIN):
			if again, err := s.await(false); !again {
				return err
			}
			pause = rest
		case failed != nil:
			return failed
		case moved == 0:
			return nil // the last writer has closed
		case moved < little:
			select {
			case <-s.hurry:
			case <-time.After(pause):
			}
			pause = min(2*pause, longest)
		default:
			pause = rest
		}
		select {
		case <-s.hurry: // Finish takes the rest: there may be no end of it
			return nil
		default:
		}
	}
}

// await waits until the pipe has something, or nobody has it open for writing any more. It returns false when Run is to end
// or, if this is Drain's, when the stream is closed.
func (s *Stream) await(draining bool) (again bool, err error) {
	pipe, err := s.pipe.SyscallConn()
	if err != nil {
		return false, nil
	}
	s.mu.Lock()
	if s.quit || s.over && !draining {
		s.mu.Unlock()
		return false, nil
	}
	how := unix.EPOLL_CTL_MOD
	if s.ready == nil {
		how = unix.EPOLL_CTL_ADD
		s.ready, err = newEpoll()
	}
	ready := s.ready
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	poller, err := ready.SyscallConn()
	if err != nil {
		return false, nil
	}
	closed := pipe.Control(func(fd uintptr) {
		closed := poller.Control(func(epoll uintptr) {
			err = unix.EpollCtl(int(epoll), how, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT})
		})
		err = errors.Join(err, closed)
	})
	if closed != nil || err != nil {
		return false, err
	}
	var events [1]unix.EpollEvent
	n, failed := 0, error(nil)
	err = poller.Read(func(epoll uintptr) bool {
		n, failed = unix.EpollWait(int(epoll), events[:], 0)
		return n != 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return false, nil
	}
	if errors.Is(failed, unix.EINTR) {
		failed = nil
	}
	return true, errors.Join(err, failed)
}

func newEpoll() (*os.File, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that waiting for it is no thread's
		unix.Close(fd)
		return nil, fmt.Errorf("set an epoll set to non-blocking: %w", err)
	}
	return os.NewFile(uintptr(fd), "epoll"), nil
}

// stop ends Run's rests; mu is held.
func (s *Stream) stop() {
	if !s.over && !s.quit {
		close(s.hurry)
	}
}

// wait returns how many bytes may be moved now; false when the stream is to end.
func (s *Stream) wait() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.quit && s.end < s.limit && s.end-s.acked >= window {
		s.room.Wait()
	}
	if s.end >= s.limit {
		return segment, !s.quit // to be dropped
	}
	return int(min(s.limit-s.end, window-(s.end-s.acked))), !s.quit
}

// move moves up to n bytes out of the pipe; EAGAIN when there are none yet, 0 when there are none for ever.
// Only one goroutine at a time calls it.
func (s *Stream) move(fd, n int) (int, error) {
	s.moving.Lock()
	moved, err := s.take(fd, n)
	s.moving.Unlock()
	if moved > 0 {
		s.changed()
	}
	return moved, err
}

// take is move while nobody marks.
func (s *Stream) take(fd, n int) (int, error) {
	s.mu.Lock()
	end, out := s.end, s.open
	s.mu.Unlock()
	if end >= s.limit {
		return s.drop(fd, n)
	}
	at := end % segment
	if out == nil {
		// Looking first keeps a command that prints nothing from making a file.
		if ready, err := readable(fd); !ready {
			return 0, err
		}
		var err error
		if out, err = os.OpenFile(s.segment(end/segment), os.O_WRONLY|os.O_CREATE|unix.O_CLOEXEC, 0o600); err != nil {
			return 0, err
		}
	}
	moved, err := splice(fd, int(out.Fd()), at, min(n, int(segment-at)))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		out.Close()
		s.mu.Lock()
		s.limit, s.open = end, nil // the guest's disk is full: go on without keeping
		s.mu.Unlock()
		return s.drop(fd, n)
	}
	if end += int64(moved); end%segment == 0 && moved > 0 {
		out.Close()
		out = nil
	}
	s.mu.Lock()
	s.end, s.open = end, out
	s.total += int64(moved)
	s.mu.Unlock()
	return moved, err
}

func (s *Stream) drop(fd, n int) (int, error) {
	buf := make([]byte, min(n, 64<<10))
	moved, err := unix.Read(fd, buf)
	if moved > 0 {
		s.mu.Lock()
		s.total += int64(moved)
		s.mu.Unlock()
	}
	return max(moved, 0), err
}

// readable reports whether the pipe has bytes; EAGAIN when it may get some, nil when it never will.
func readable(fd int) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		switch {
		case err != nil:
			return false, err
		case n == 0:
			return false, unix.EAGAIN
		}
		return poll[0].Revents&unix.POLLIN != 0, nil
	}
}

// splice moves bytes from a pipe to a file, or copies where the file system can not splice.
func splice(from, to int, at int64, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, &at, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL):
			buf := make([]byte, min(n, 64<<10))
			m, err := unix.Read(from, buf)
			if m <= 0 {
				return 0, err
			}
			return unix.Pwrite(to, buf[:m], at)
		}
		return int(max(moved, 0)), err
	}
}

// Finish ends the stream after the command's own process has ended, whether it has run or not: what is in the pipe
// now is still taken, what processes left behind print later is not. It waits for room, if there is none.
func (s *Stream) Finish() error {
	s.mu.Lock()
	s.stop()
	s.over = true
	runs, ready := s.runs, s.ready
	s.mu.Unlock()
	if ready != nil {
		ready.SetReadDeadline(unixEpoch)
	}
	if runs {
		<-s.done
	}
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return err
	}
	left := 0
	raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	for left > 0 && err == nil {
		n, ok := s.wait()
		if !ok {
			return nil
		}
		moved := 0
		raw.Control(func(fd uintptr) { moved, err = s.move(int(fd), min(n, left)) })
		if left -= moved; moved == 0 {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("take the rest of %s: %w", s.name, err)
	}
	return nil
}

// Settle waits until what was printed is in the segments, at most so long. Run must be running, or begin meanwhile.
func (s *Stream) Settle(most time.Duration) {
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return
	}
	for until := time.Now().Add(most); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		left := 0
		raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if left == 0 || err != nil {
			return
		}
	}
}

// Mark returns how many bytes were printed until now, those that are in the pipe included.
func (s *Stream) Mark() int64 {
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return 0
	}
	s.moving.Lock() // else some bytes could be neither in the pipe any more nor counted yet
	defer s.moving.Unlock()
	left := 0
	raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err != nil {
		left = 0
	}
	_, printed := s.Sizes()
	return printed + int64(left)
}

// Drain throws away what processes that a command left behind still print, so that they do not block.
// It returns when the last of them is gone, or the stream is closed.
func (s *Stream) Drain() {
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return
	}
	s.mu.Lock()
	if s.ready != nil {
		s.ready.SetReadDeadline(noDeadline)
	}
	s.mu.Unlock()
	buf := make([]byte, 4<<10)
	for {
		var n int
		var failed error
		if raw.Control(func(fd uintptr) { n, failed = unix.Read(int(fd), buf) }) != nil {
			return
		}
		switch {
		case errors.Is(failed, unix.EINTR):
		case errors.Is(failed, unix.EAGAIN):
			if again, _ := s.await(true); !again {
				return
			}
		case n <= 0:
			return
		}
	}
}

// ReadAt reads kept bytes from offset; at most to the end of a segment. Zero means that there are none yet.
func (s *Stream) ReadAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset < s.base {
		return 0, fmt.Errorf("%s before %d is gone", s.name, s.base)
	}
	if offset >= s.end {
		return 0, nil
	}
	start := offset - offset%segment
	if s.read == nil || s.readP != start {
		if s.read != nil {
			s.read.Close()
			s.read = nil
		}
		f, err := os.Open(s.segment(start / segment))
		if err != nil {
			return 0, err
		}
		s.read, s.readP = f, start
	}
	n := min(int64(len(p)), s.end-offset, start+segment-offset)
	m, err := s.read.ReadAt(p[:n], offset-start)
	if m > 0 {
		err = nil
	}
	return m, err
}

// Ack says that what is before offset need not be kept.
func (s *Stream) Ack(offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset <= s.acked || offset > s.end {
		return
	}
	s.acked = offset
	// The segment that is being written stays: its name and size are the position.
	for s.base+segment <= offset && s.base+segment < s.end {
		os.Remove(s.segment(s.base / segment))
		s.base += segment
	}
	s.room.Broadcast()
}

// Sizes returns how many bytes are kept (those acknowledged included) and how many were printed.
func (s *Stream) Sizes() (kept, printed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end, s.total
}

// Base returns the oldest offset that can be read.
func (s *Stream) Base() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// Close releases the files; Run, Finish and Drain return. The stream can be opened again.
func (s *Stream) Close() {
	s.mu.Lock()
	s.stop()
	s.quit = true
	if s.open != nil {
		s.open.Close()
		s.open = nil
	}
	if s.read != nil {
		s.read.Close()
		s.read = nil
	}
	if s.ready != nil {
		s.ready.Close()
	}
	s.room.Broadcast()
	s.mu.Unlock()
	s.pipe.Close()
}

var (
	unixEpoch  = time.Unix(1, 0) // a deadline that has always passed
	noDeadline time.Time
)
