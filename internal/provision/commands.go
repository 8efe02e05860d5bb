package provision

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Programs are the commands of the machine that we run on.
type Programs struct {
	Output *os.File // what scripts print; they get it itself, and may use it longer than we live
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Look finds a program where an administrator would.
func (Programs) Look(name string) bool {
	for dir := range strings.SplitSeq(searchPath, ":") {
		if info, err := os.Stat(dir + "/" + name); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// Run runs one in a session of its own; when the context ends it gets SIGTERM, and SIGKILL when that does not help.
func (p Programs) Run(ctx context.Context, c Command) (int, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	if !strings.Contains(c.Argv[0], "/") {
		for dir := range strings.SplitSeq(searchPath, ":") { // our own environment may have no PATH
			if info, err := os.Stat(dir + "/" + c.Argv[0]); err == nil && info.Mode().IsRegular() {
				cmd.Path, cmd.Err = dir+"/"+c.Argv[0], nil
				break
			}
		}
	}
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + searchPath, "HOME=/root", "SHELL=/bin/sh", "LANG=C.UTF-8"}, c.Env...)
	// A script that is interrupted runs again: the first must not go on beside it when this process is killed. The kernel
	// means the thread that started it (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if c.Input != "" {
		cmd.Stdin = strings.NewReader(c.Input)
	}
	switch {
	case c.Said != nil:
		limited := &limited{to: c.Said, left: 4 << 10}
		cmd.Stdout, cmd.Stderr = limited, limited
	default:
		cmd.Stdout, cmd.Stderr = p.Output, p.Output
	}
	err := cmd.Run()
	if err == nil {
		return 0, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil // a shell's number for it
		}
		return exit.ExitCode(), nil
	}
	return -1, err
}

// limited takes the beginning of what is written.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}
