//go:build linux

package bundle

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The files of commands are read and written by plain system calls. Package os asks of each file that it opens how it may be
// waited for, which is half of all the calls that ten thousand commands at once make, and for files there is nothing to wait.

// Write stores v as JSON at path so that a reader sees the old content or the new, never a part.
func Write(path string, v any, mode fs.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %v", path, err)
	}
	return WriteBytes(path, append(data, '\n'), mode)
}

// WriteBytes is Write for content that is already encoded.
func WriteBytes(path string, data []byte, mode fs.FileMode) error {
	temp := temporary(path)
	err := putAt(unix.AT_FDCWD, temp, data, unix.O_CREAT|unix.O_EXCL, mode, true)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		unix.Unlink(temp)
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// Plain is a regular file's content.
type Plain struct {
	Data     []byte
	Modified time.Time
}

// ReadPlain reads a regular file of at most so many bytes. A last element that is a link, a pipe or a device is an error, and
// none is waited for.
func ReadPlain(path string, most int64) (Plain, error) { return readAt(unix.AT_FDCWD, path, most) }

// PutPlain makes a file or replaces its content in place. It is for files that nobody reads meanwhile; Write is for the others.
func PutPlain(path string, data []byte, mode fs.FileMode) error {
	return putAt(unix.AT_FDCWD, path, data, unix.O_CREAT|unix.O_TRUNC, mode, false)
}

func readAt(dir int, name string, most int64) (Plain, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Plain{}, err
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := again(func() error { return unix.Fstat(fd, &info) }); err != nil {
		return Plain{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if info.Mode&unix.S_IFMT != unix.S_IFREG || info.Size > most {
		return Plain{}, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it is no file of at most %d bytes", most)}
	}
	// One byte more than it has: a read that does not fill this has met the end.
	data, n := make([]byte, info.Size+1), 0
	for n < len(data) {
		var m int
		err := again(func() (err error) { m, err = unix.Read(fd, data[n:]); return err })
		if err != nil {
			return Plain{}, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n += m; m == 0 || n == int(info.Size) {
			break
		}
	}
	return Plain{data[:min(n, int(info.Size))], time.Unix(info.Mtim.Unix())}, nil
}

// putAt writes a file whole, and to the disk if sync is set.
func putAt(dir int, name string, data []byte, flags int, mode fs.FileMode, sync bool) error {
	fd, err := openAt(dir, name, unix.O_WRONLY|flags, uint32(mode.Perm()))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for len(data) > 0 {
		var n int
		if err := again(func() (err error) { n, err = unix.Write(fd, data); return err }); err != nil {
			return &fs.PathError{Op: "write", Path: name, Err: err}
		}
		data = data[n:]
	}
	if flags&unix.O_EXCL != 0 { // it is new: whatever the umask says
		if err := again(func() error { return unix.Fchmod(fd, uint32(mode.Perm())) }); err != nil {
			return &fs.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	if sync {
		if err := again(func() error { return unix.Fsync(fd) }); err != nil {
			return &fs.PathError{Op: "sync", Path: name, Err: err}
		}
	}
	return nil
}

// openAt opens a file or directory, and follows no link in the last element.
func openAt(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// syncDirectory makes the names in a directory survive a loss of power. What is in a tmpfs does not, and costs nothing.
func syncDirectory(dir string) error {
	fd, err := openAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := again(func() error { return unix.Fsync(fd) }); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}

// again repeats a system call that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// temporary returns a name that nobody else writes to beside path.
func temporary(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"-"+strconv.FormatUint(rand.Uint64(), 36))
}
