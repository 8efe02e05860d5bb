package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process names one process for good: a number may be used again, together with the start time it
// is not.
type Process struct {
	PID   int
	Start uint64 // field 22 of /proc/PID/stat: clock ticks since the host's boot
}

// FindProcess returns the process that has the number pid now.
func FindProcess(pid int) (Process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	// The name, field 2, may hold anything, blanks and brackets included; what follows its last
	// bracket is regular: field 3 is the state, field 22 the start time.
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("find process %d: its stat is short", pid)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return Process{}, fmt.Errorf("find process %d: %w", pid, os.ErrProcessDone)
	}
	return Process{pid, start}, nil
}

// Alive reports whether p exists and is not a zombie.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := FindProcess(p.PID)
	return err == nil && now == p
}

// Open returns a handle on p that no later process of the same number can take the place of, or
// os.ErrProcessDone.
func (p Process) Open() (*Handle, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil, os.ErrProcessDone
		}
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.Alive() { // checked after opening: the handle is on p, or p is gone
		f.Close()
		return nil, os.ErrProcessDone
	}
	return &Handle{p, f}, nil
}

// Handle is an open process (pidfd).
type Handle struct {
	Process
	file *os.File
}

// Wait returns when the process has ended, or with the context's error. One at a time.
func (h *Handle) Wait(ctx context.Context) error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { h.file.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			h.file.SetReadDeadline(time.Time{})
		}
	}()
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != nil && err != unix.EINTR {
			pollErr = err
			return true
		}
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, pollErr)
}

// Signal sends sig; os.ErrProcessDone if there is nobody to take it.
func (h *Handle) Signal(sig unix.Signal) error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return errors.Join(err, sent)
}

// Close lets go of the handle; the process goes on.
func (h *Handle) Close() error { return h.file.Close() }

// Extent returns the offsets of the first byte that f still holds and of its end.
func Extent(f *os.File) (first, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	end = info.Size()
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var seekErr error
	err = raw.Control(func(fd uintptr) { first, seekErr = unix.Seek(int(fd), 0, unix.SEEK_DATA) })
	if errors.Is(seekErr, unix.ENXIO) { // nothing but a hole, or empty
		return end, end, err
	}
	if seekErr != nil {
		return 0, 0, fmt.Errorf("find data in %s: %w", f.Name(), seekErr)
	}
	return first, max(first, end), errors.Join(err, resetOffset(f))
}

func resetOffset(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}
