package runner

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

// process is a step's main process and, through its group and cgroup, what it has started.
type process struct {
	journal.Process
	group *cgroup       // nil where there is no cgroup2
	ended chan struct{} // closed when code is known
	code  int           // exit code, or 128 + signal; unknownCode
	reap  func()        // lets go of the zombie once its end is on record
}

// progress is what the journal has to know of the process.
func (p *process) progress() journal.Progress {
	g := journal.Progress{Process: p.Process}
	if p.group != nil {
		g.Cgroup = p.group.path
	}
	return g
}

// unknownCode is the code of a process whose end nobody saw.
const unknownCode = -1

// launch starts a command with the outputs given, as a session of its own.
func launch(cmd *exec.Cmd, out [wire.Streams]*os.File, group *cgroup) (*process, error) {
	cmd.Stdout, cmd.Stderr = out[wire.Stdout], out[wire.Stderr]
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	p := &process{group: group, ended: make(chan struct{}), reap: func() { cmd.Wait() }}
	p.PID = pid
	if s, err := keeper.Stat(pid); err == nil { // also if it has ended already: it is a zombie until it is reaped
		p.Start = s.Start
	}
	go func() {
		defer close(p.ended)
		p.code = await(pid)
	}()
	return p, nil
}

// await waits for a child to end and leaves it a zombie: until its end is on record, its number must
// not be given to another, and whoever inherits it must be able to see how it ended.
func await(pid int) int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return unknownCode
		}
		break
	}
	return codeOf(&info)
}

// codeOf is the code of a child that has ended.
func codeOf(info *unix.Siginfo) int {
	// siginfo_t of SIGCHLD on 64 bit: si_status at byte 24, after three ints, padding, si_pid and si_uid.
	status := *(*int32)(unsafe.Add(unsafe.Pointer(info), 24))
	if info.Code == 1 { // CLD_EXITED
		return int(status)
	}
	return 128 + int(status)
}

// over returns how the process has ended, if that is known already.
func (p *process) over() (code int, ok bool) {
	select {
	case <-p.ended:
		return p.code, p.code != unknownCode
	default:
	}
	var info unix.Siginfo // Signo stays zero while it lives
	err := unix.Waitid(unix.P_PID, p.PID, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	if err != nil || info.Signo == 0 {
		return 0, false
	}
	return codeOf(&info), true
}

// adopt waits for a process that an earlier agent started. exits tells what became of it, if anybody knows; meaning, what the
// code of one means whose end is seen.
func adopt(p journal.Process, group *cgroup, exits func(int, uint64) (int, bool), meaning func(int) int) (*process, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil, err
	}
	if s, err := startTime(p.PID); err != nil || s != p.Start {
		unix.Close(fd)
		return nil, os.ErrProcessDone
	}
	a := &process{Process: p, group: group, ended: make(chan struct{}), reap: func() {}}
	go func() {
		defer close(a.ended)
		defer unix.Close(fd)
		if s, err := keeper.Stat(p.PID); err == nil && s.Parent != os.Getppid() { // else its end comes to our keeper
			var ok bool
			if a.code, ok = trace(p, func() {}); ok {
				a.code = meaning(a.code)
				return
			}
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		a.code = unknownCode
		if code, ok := exits(p.PID, p.Start); ok {
			a.code = code
		}
	}()
	return a, nil
}

// signal sends sig to the group of the process.
func (p *process) signal(sig unix.Signal) {
	unix.Kill(-p.PID, sig)
}

// kill leaves nothing of the process and what it started: all of its cgroup, or its process group where
// there is none.
func (p *process) kill() {
	p.signal(unix.SIGKILL)
	if p.group != nil {
		p.group.kill()
	}
}

// startTime returns when a process was started, in clock ticks since boot; an error if it has ended.
func startTime(pid int) (uint64, error) {
	s, err := keeper.Stat(pid)
	if err == nil && s.Ended {
		err = os.ErrProcessDone
	}
	return s.Start, err
}

// find looks for the leader of a command's session: what was started just before an agent was killed
// is not in the journal yet.
func find(id cloud.CommandID) (journal.Process, bool) {
	want := []byte("\x00SSM_COMMAND_ID=" + string(id) + "\x00")
	stats, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return journal.Process{}, false
	}
	var found journal.Process
	for _, name := range stats {
		env, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(append([]byte{0}, env...), want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			continue
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != pid {
			continue
		}
		if s, err := startTime(pid); err == nil && (found.PID == 0 || s < found.Start) {
			found = journal.Process{PID: pid, Start: s} // children may lead sessions too, but started later
		}
	}
	return found, found.PID != 0
}

// Uptime is the clock that no one can set: time since boot, suspension included.
func Uptime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}
