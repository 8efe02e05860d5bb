package etcd

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lock takes the directory for this process. The kernel lets go of it when the process ends,
// however it ends. etcd itself would wait for the lock for ever, or panic.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the directory: %w", err)
		}
		owner, _ := os.ReadFile(path)
		return nil, fmt.Errorf("process %s uses this directory: stop it first, or give --state another directory",
			strings.TrimSpace(string(owner)))
	}
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("sign the lock: %w", err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, fmt.Errorf("sign the lock: %w", err)
	}
	return f, nil
}
