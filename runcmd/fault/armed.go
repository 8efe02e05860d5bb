//go:build faults

package fault

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// At stops the program if the point is armed, once.
func At(point string) {
	dir := os.Getenv("ICHIRO_FAULT_POINTS")
	if dir == "" {
		return
	}
	if os.Rename(filepath.Join(dir, "arm."+point), filepath.Join(dir, "hit."+point)) == nil {
		// To this thread: a signal to the process may be given to another, and this one go on meanwhile.
		runtime.LockOSThread()
		unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
		runtime.UnlockOSThread()
	}
}
