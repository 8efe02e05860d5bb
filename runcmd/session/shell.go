package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// grace is how long the processes of a session have between SIGHUP and SIGKILL.
const grace = 500 * time.Millisecond

// shell runs a login shell, or a command in one, on a terminal.
func shell(ctx context.Context, s *session) (int, error) {
	u, err := lookUp(s.m.cfg.Etc, s.plan.User)
	if err != nil {
		return 1, err
	}
	master, slave, err := openTerminal(int(u.uid))
	if err != nil {
		return 1, err
	}
	defer master.Close()
	resize(master, 80, 24) // until the client says
	s.sizes.Lock()
	resize(master, s.columns, s.rows)
	s.resized = func(c, r int) { resize(master, c, r) }
	s.sizes.Unlock()
	cmd := s.command(u)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	p, err := s.launch(cmd)
	slave.Close()
	if err != nil {
		return 126, err
	}
	var out sync.WaitGroup
	out.Go(func() { s.pump(master, wire.SessionStdout) })
	go s.feed(master, func() {}) // a terminal's input ends by what is typed
	code := p.wait(ctx)
	// What the process wrote last is in the terminal still; a child in the background may keep it open for ever.
	drained := make(chan struct{})
	go func() { out.Wait(); close(drained) }()
	p.sweep()
	s.drain(drained, master)
	return code, nil
}

// batch runs a command without a terminal, its outputs apart.
func batch(ctx context.Context, s *session) (int, error) {
	u, err := lookUp(s.m.cfg.Etc, s.plan.User)
	if err != nil {
		return 1, err
	}
	cmd := s.command(u)
	stdin, in, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer in.Close()
	stdout, out, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return 1, err
	}
	defer stdout.Close()
	stderr, errs, err := os.Pipe()
	if err != nil {
		stdin.Close()
		out.Close()
		return 1, err
	}
	defer stderr.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, errs
	p, err := s.launch(cmd)
	stdin.Close()
	out.Close()
	errs.Close()
	if err != nil {
		return 126, err
	}
	var both sync.WaitGroup
	var one sync.Mutex // the stream has one writer at a time
	both.Go(func() { s.pumpLocked(stdout, wire.SessionStdout, &one) })
	both.Go(func() { s.pumpLocked(stderr, wire.SessionStderr, &one) })
	go s.feed(in, func() { in.Close() })
	code := p.wait(ctx)
	drained := make(chan struct{})
	go func() { both.Wait(); close(drained) }()
	p.sweep()
	s.drain(drained, stdout, stderr)
	return code, nil
}

// drain waits until the outputs have been read. What has escaped and says nothing does not keep them open; a client
// that reads slowly has all the time of the session.
func (s *session) drain(drained <-chan struct{}, outputs ...*os.File) {
	tick := time.NewTicker(grace)
	defer tick.Stop()
	for {
		select {
		case <-drained:
			return
		case <-tick.C:
			quiet := time.Since(begun) - time.Duration(s.last.Load())
			if quiet < grace || s.stream.Pending() >= wire.SessionWindow {
				continue
			}
			for _, f := range outputs {
				f.Close()
			}
		}
	}
}

// command returns what the plan asks to run.
func (s *session) command(u user) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: u.shell, Args: []string{"-" + filepath.Base(u.shell)}, Dir: u.directory(), Env: u.environment(string(s.id)),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: u.credential()},
	}
	if s.plan.Command != "" {
		cmd.Args = []string{cmd.Args[0], "-c", s.plan.Command}
	}
	return cmd
}

// pump sends what comes out of f until there is no more.
func (s *session) pump(f io.Reader, kind wire.SessionFrame) {
	var one sync.Mutex
	s.pumpLocked(f, kind, &one)
}

func (s *session) pumpLocked(f io.Reader, kind wire.SessionFrame, one *sync.Mutex) {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			s.touch()
			one.Lock()
			lost := s.stream.Write(kind, buf[:n])
			one.Unlock()
			if lost != nil {
				return
			}
		}
		if err != nil {
			return // EIO when the last process has let go of the terminal
		}
	}
}

// feed writes what the client sends into f until the session ends, and calls end when the client says that this was all.
func (s *session) feed(f io.Writer, end func()) {
	for {
		r, err := s.stream.Read()
		if err != nil {
			return
		}
		s.touch()
		if r.Kind == wire.SessionClose {
			end()
		} else {
			f.Write(r.Data) // when nobody reads any more the session ends soon
		}
		s.stream.Done(len(r.Data))
	}
}

// process is the first one of a session.
type process struct {
	cmd  *exec.Cmd
	kill func() // its control group; may be nil
}

func (s *session) launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd}
	if s.m.cfg.Group != nil {
		var fd int
		if fd, p.kill = s.m.cfg.Group(); p.kill != nil {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		}
	}
	if err := cmd.Start(); err != nil {
		if p.kill != nil {
			p.kill()
		}
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// wait returns the code of the process, which it ends when ctx does.
func (p *process) wait(ctx context.Context) int {
	stop := context.AfterFunc(ctx, func() {
		unix.Kill(-p.cmd.Process.Pid, unix.SIGHUP)
		unix.Kill(-p.cmd.Process.Pid, unix.SIGCONT)
		time.AfterFunc(grace, func() { p.cmd.Process.Kill() }) // nothing once it has been waited for
	})
	defer stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		return -1
	}
	if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return exit.ExitCode()
}

// sweep kills all that the process has left behind.
func (p *process) sweep() {
	if p.kill != nil {
		p.kill()
		return
	}
	for _, pid := range left(p.cmd.Process.Pid) {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// left returns the processes of a session of the kernel's.
func left(sid int) []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var out []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if s, err := unix.Getsid(pid); err == nil && s == sid {
			out = append(out, pid)
		}
	}
	return out
}
