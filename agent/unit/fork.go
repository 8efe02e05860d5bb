package unit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// logLimit is when a shim's log is begun anew: it writes a few lines for each boot.
const logLimit = 1 << 20

// fork starts shims as children in sessions of their own. When the agent ends they are init's.
type fork struct {
	root    bundle.Root
	program string
}

func (f *fork) start(_ context.Context, id cloud.InstanceID, taps []*os.File) (*running, error) {
	run, err := filepath.Abs(string(f.root))
	if err != nil {
		return nil, err
	}
	// Not our stderr: that may be a pipe which breaks when we end, and take the shim along.
	log, err := openLog(f.root.Instance(id).Path("shim.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(f.program, "-run", run, "-taps", strconv.Itoa(len(taps)), string(id))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, taps
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	reap := func() { _ = cmd.Wait() } // how it ended does not matter: status.json tells of the machine
	p, err := shim.FindProcess(cmd.Process.Pid)
	if err == nil {
		var h *shim.Handle
		if h, err = p.Open(); err == nil {
			return &running{h, reap}, nil
		}
	}
	reap()
	return nil, fmt.Errorf("start shim: %w", err)
}

func openLog(path string) (*os.File, error) {
	flag := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		flag |= os.O_TRUNC
	}
	return os.OpenFile(path, flag, 0o640)
}
