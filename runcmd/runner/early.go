package runner

import (
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

// early is a shell that was started before its command was known, and waits to be told (initramfs/tools says how). Under
// emulation the start of a shell is nearly all that a short command takes.
//
// Its process is on record in its room from the beginning. Whoever dies between accepting a command and telling the
// shell leaves a shell that sees the end of its pipe and exits as untold; one that was told is adopted like any other.
type early struct {
	*process
	tell *os.File
}

// untold is the code of a shell that was never told what to run. A script may end so, too: the code counts only
// where no start was recorded.
const untold = 125

// startEarly starts a shell in advance.
func startEarly(shell string, out [wire.Streams]*os.File, groups *cgroups) (*early, error) {
	told, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer told.Close()
	cmd := &exec.Cmd{Path: shell, Args: []string{shell, "--await"}, Dir: "/", ExtraFiles: []*os.File{told}}
	group := groups.take()
	p, err := launch(cmd, out, group)
	if err != nil {
		tell.Close()
		if group != nil {
			groups.release(group)
		}
		return nil, err
	}
	return &early{p, tell}, nil
}

// run tells the shell what to run. After an error it runs nothing.
func (e *early) run(path, dir string, env []string) error {
	var b strings.Builder
	for _, s := range append([]string{path, dir}, env...) {
		if s == "" || strings.ContainsRune(s, 0) {
			e.tell.Close()
			return errors.New("a zero byte or an empty string can not be told to a shell")
		}
		b.WriteString(s)
		b.WriteByte(0)
	}
	b.WriteByte(0)
	_, err := e.tell.WriteString(b.String())
	return errors.Join(err, e.tell.Close())
}

// ready reports whether the shell waits, and for a script that it can run in dir.
func (e *early) ready(step wire.Step, dir string) bool {
	var end unix.Siginfo // Signo stays zero while it lives; asked here, as who waits for its end may not have heard of it yet
	if err := unix.Waitid(unix.P_PID, e.PID, &end, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil || end.Signo != 0 {
		return false
	}
	if !step.Plain() || strings.HasPrefix(step.Script, "#!") {
		return false // the script names its own interpreter
	}
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// leave ends a shell that is not needed, and gives back its group.
func (e *early) leave(groups *cgroups) {
	e.tell.Close()
	e.kill()
	<-e.ended
	e.reap()
	if e.group != nil {
		groups.release(e.group)
	}
}

// begin starts the first step in the shell that waits, if there is one and the step can be run by it; nil if not. From then
// on the command has no such shell.
func (j *Job) begin(step wire.Step, path string, cmd *exec.Cmd) *process {
	e := j.early
	if e == nil {
		return nil
	}
	j.early = nil
	if e.ready(step, cmd.Dir) && e.run(path, cmd.Dir, cmd.Env) == nil {
		return e.process
	}
	// Off the record before another process takes its place: a successor must not take this one for the command's.
	if err := j.r.cfg.Journal.NotEarly(j.req.ID); err != nil {
		j.r.cfg.Log.Error("forget a shell that waits", "command", j.req.ID, "err", err)
	}
	e.leave(j.r.groups)
	return nil
}

// told is how an earlier agent's process ended, as exit says or a note in dir.
func told(e journal.Entry, dir string, exit func(int, uint64) (int, bool)) func(int, uint64) (int, bool) {
	return func(pid int, start uint64) (int, bool) {
		code, ok := exit(pid, start)
		if !ok && pid != 0 {
			code, ok = noted(dir, journal.Process{PID: pid, Start: start})
		}
		return meaning(e, code), ok
	}
}

// meaning is what an earlier agent's process says with a code: where no start was recorded, that nothing was run at all.
func meaning(e journal.Entry, code int) int {
	if code == untold && e.Progress == nil && e.Early != nil {
		return unknownCode
	}
	return code
}
