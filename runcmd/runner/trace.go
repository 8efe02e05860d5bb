package runner

import (
	"errors"
	"runtime"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"golang.org/x/sys/unix"
)

// trace learns how a process ends that neither this agent nor its keeper is the parent of: both have been restarted while
// it ran. The kernel tells the end of a process to its parent and to its tracer, so this is one, of no other event: the
// process is not stopped, and its signals are passed on. A tracer that dies lets its process go on. False is the
// answer where tracing is not allowed, the process is not there, or somebody traces it already; then nothing was done to it.
// attached is called when its end can not be missed any more.
func trace(p journal.Process, attached func()) (code int, ok bool) {
	runtime.LockOSThread() // the kernel takes requests from the thread that attached
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(p.PID); err != nil {
		return 0, false
	}
	if s, err := keeper.Stat(p.PID); err != nil || s.Start != p.Start { // another has its number
		unix.PtraceDetach(p.PID)
		return 0, false
	}
	attached()
	for {
		var status unix.WaitStatus
		// WALL: also when it was made by clone with another signal for its parent.
		_, err := unix.Wait4(p.PID, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, false
		case status.Exited():
			return status.ExitStatus(), true
		case status.Signaled():
			return 128 + int(status.Signal()), true
		case status.Stopped():
			passOn(p.PID, status)
		}
	}
}

// passOn lets a traced process go on with what made it stop.
func passOn(pid int, status unix.WaitStatus) {
	const eventStop = 128 // PTRACE_EVENT_STOP: not a signal's delivery, but the process is stopped or goes on again
	if int(status)>>16 != eventStop {
		unix.PtraceCont(pid, int(status.StopSignal()))
		return
	}
	switch status.StopSignal() {
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(pid), 0, 0, 0, 0) // stay stopped, until SIGCONT
	default:
		unix.PtraceCont(pid, 0)
	}
}
