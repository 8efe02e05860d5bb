package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// confine takes from this process, for good, all of the file system but the objects and the directories of its sockets:
// names of objects come from guests, and a mistake in what becomes of them must not reach the host's files. A kernel that
// cannot is told in the log.
func confine(log *slog.Logger, objects string, sockets ...string) error {
	rules := []landlock.Rule{
		landlock.RWDirs(objects).WithRefer(), // an object moves from where it is written to where it is, and then to its versions
		landlock.RODirs("/proc/self"),        // a file without a name gets one by its number there
		landlock.ROFiles("/dev/null", "/dev/urandom"),
	}
	for _, s := range sockets {
		rules = append(rules, landlock.PathAccess(makeSocket|removeFile, filepath.Dir(s)))
	}
	if abi, err := ll.LandlockGetABIVersion(); err != nil || abi < 2 { // 2 brought moves between directories: without them there is no domain
		log.Warn("the kernel cannot keep the object store to its files", "landlock", max(abi, 0))
	}
	if err := landlock.V6.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("keep to the objects: %w", err)
	}
	return nil
}

// Rights of Landlock (landlock(7)), for the directories of sockets.
const (
	removeFile landlock.AccessFSSet = ll.AccessFSRemoveFile
	makeSocket landlock.AccessFSSet = ll.AccessFSMakeSock
)
