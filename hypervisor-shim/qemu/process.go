package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/hypervisor-shim/jail"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Program is the QEMU that is run.
const Program = "/usr/bin/qemu-system-x86_64"

// outputLimit is how much of QEMU's own output Tail returns: a few screens.
const outputLimit = 4 << 10

// Process is a QEMU process: a child, or one that an earlier shim left.
type Process struct {
	shim.Process
	handle *shim.Handle
	cmd    *exec.Cmd // nil if adopted
	gate   *os.File  // closed once open
	output string
}

// Parts are what a QEMU is made of beside its machine.
type Parts struct {
	Accel   Accel
	Console *os.File // opened to append
	Monitor *net.UnixListener
	Port    *net.UnixListener // of the guest's serial port to the gateway
	Taps    []*os.File        // in the order of the machine's interfaces
	Output  string            // path of the file for what QEMU itself prints
}

// Spawn starts a QEMU for m, which waits until Release. If the caller ends before that, so does the
// process.
func Spawn(m bundle.Machine, p Parts) (_ *Process, err error) {
	if len(p.Taps) != len(m.Interfaces) {
		return nil, fmt.Errorf("start QEMU: %d taps for %d interfaces", len(p.Taps), len(m.Interfaces))
	}
	var ours []*os.File // what is closed here once the child has it
	defer func() {
		for _, f := range ours {
			f.Close()
		}
	}()
	open := func(path string, flag int) (*os.File, error) {
		f, err := os.OpenFile(path, flag, 0o600)
		if err == nil {
			ours = append(ours, f)
		}
		return f, err
	}
	monitor, err := p.Monitor.File()
	if err != nil {
		return nil, err
	}
	ours = append(ours, monitor)
	port, err := p.Port.File()
	if err != nil {
		return nil, err
	}
	ours = append(ours, port)
	// The order is that of Files.
	extra := []*os.File{p.Console, monitor, port}
	table := Files(m)
	confined := jail.Config{User: m.User.UID, Group: m.User.GID, KVM: p.Accel == KVM}
	for _, boot := range []struct {
		path string
		fd   int
	}{{m.Kernel, table.Kernel}, {m.Ramdisk, table.Ramdisk}} {
		if boot.path == "" {
			continue
		}
		f, err := open(boot.path, os.O_RDONLY)
		if err != nil {
			return nil, fmt.Errorf("start QEMU: %w", err)
		}
		if err := readable(f, m.User); err != nil {
			return nil, fmt.Errorf("start QEMU: %w", err)
		}
		extra = append(extra, f)
		confined.Files = append(confined.Files, boot.fd)
	}
	extra = append(extra, p.Taps...)
	for _, d := range m.Disks {
		flag := os.O_RDWR
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		f, err := open(d.Path, flag)
		if err != nil {
			return nil, fmt.Errorf("start QEMU: disk %s: %w", d.ID, err)
		}
		extra = append(extra, f)
	}
	output, err := open(p.Output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND)
	if err != nil {
		return nil, err
	}
	hold, gate, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ours = append(ours, hold)
	cmd, err := confined.Command(Program, Args(m, p.Accel))
	if err != nil {
		gate.Close()
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = hold, output, output, extra
	if err := cmd.Start(); err != nil {
		gate.Close()
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	q := &Process{cmd: cmd, gate: gate, output: p.Output}
	if q.Process, err = shim.FindProcess(cmd.Process.Pid); err == nil {
		q.handle, err = q.Process.Open()
	}
	if err != nil {
		gate.Close() // ends it
		return nil, errors.Join(fmt.Errorf("start QEMU: %w", err), cmd.Wait())
	}
	return q, nil
}

// Adopt takes over a QEMU that another shim started. os.ErrProcessDone if it is gone.
func Adopt(p shim.Process, output string) (*Process, error) {
	h, err := p.Open()
	if err != nil {
		return nil, err
	}
	return &Process{Process: p, handle: h, output: output}, nil
}

// Release opens the gate: the process becomes QEMU.
func (p *Process) Release() error {
	defer p.gate.Close()
	if _, err := p.gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	return nil
}

// Wait returns how the process ended, or the context's error. A child is reaped.
func (p *Process) Wait(ctx context.Context) (shim.Exit, error) {
	if err := p.handle.Wait(ctx); err != nil {
		return shim.Exit{}, err
	}
	exit := shim.Exit{Output: Tail(p.output)}
	if p.cmd == nil {
		return exit, nil
	}
	_ = p.cmd.Wait() // its error is the exit code again
	exit.Known = true
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		exit.Signal = unix.SignalName(ws.Signal())
	} else {
		exit.Code = ws.ExitStatus()
	}
	return exit, nil
}

// Kill ends the process. One that has ended already is no error.
func (p *Process) Kill() error {
	err := p.handle.Signal(unix.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Tail returns the last lines of a file of QEMU's own output.
func Tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(b) > outputLimit {
		b = b[len(b)-outputLimit:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}

// readable says what to do about a kernel or ramdisk that QEMU's user may not read: the directories
// above it do not matter, since it is handed over open, but QEMU opens it once more by number.
func readable(f *os.File, u bundle.MachineUser) error {
	if u.UID == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) == u.UID && mode&0o400 != 0, int(st.Gid) == u.GID && mode&0o040 != 0, mode&0o004 != 0:
		return nil
	}
	return fmt.Errorf("%s is not readable for user %d of the machine: chmod a+r it", filepath.Clean(f.Name()), u.UID)
}
