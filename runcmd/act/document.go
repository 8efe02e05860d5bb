package act

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// grace is between SIGTERM and SIGKILL of a step that takes too long.
const grace = 5 * time.Second

// state is how far a document has come that has asked for a reboot. It is written only then.
type state struct {
	Next int // the step that runs next, or again
	Code int // of the first step that has failed; 0
}

// runDocument runs the steps of a document within a command. Its exit code is that of the first step which failed.
func runDocument(s wire.Step, file, work string) (int, error) {
	steps := s.Document.Steps
	if s.Document.Path != "" {
		var err error
		if steps, err = local(*s.Document, work); err != nil {
			return 1, err
		}
	}
	var at state
	text, err := os.ReadFile(file + ".state")
	if err == nil {
		err = json.Unmarshal(text, &at)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 1, fmt.Errorf("read how far the document has come: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("become the reaper of what steps leave: %w", err)
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, unix.SIGTERM)
	on := true
	for n := at.Next; n < len(steps); n++ {
		step := wire.NewStep(steps[n])
		if !on && !step.Finally {
			continue
		}
		r, ended := runStep(step, Place{File: file + "." + strconv.Itoa(n), Work: work, Environment: os.Environ()}, terms)
		if ended {
			return 128 + int(unix.SIGTERM), nil
		}
		if r.Outcome == wire.Failed && r.Code == wire.Reboot {
			at.Next = n
			text, err := json.Marshal(at)
			if err == nil {
				err = writeSynced(file+".state", text)
			}
			if err != nil {
				return 1, fmt.Errorf("record how far the document has come: %w", err)
			}
			return wire.Reboot, nil
		}
		on = GoOn(step, &r) && on
		if r.Outcome != wire.Success && at.Code == 0 {
			at.Code = max(r.Code, 1)
		}
	}
	return at.Code, nil
}

// local reads a document that lies in the guest.
func local(d cloud.StepDocument, work string) ([]cloud.Step, error) {
	name := d.Path
	if !filepath.IsAbs(name) {
		name = filepath.Join(work, name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	doc, err := document.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return doc.Fill(d.Parameters)
}

// runStep runs one step to its end. ended means that this process is to end as well.
func runStep(step wire.Step, p Place, terms <-chan os.Signal) (r wire.StepResult, ended bool) {
	fail := func(err error) (wire.StepResult, bool) {
		fmt.Fprintln(os.Stderr, err)
		return wire.StepResult{Outcome: wire.Failed, Code: 127}, false
	}
	if err := p.Write(step); err != nil {
		return fail(err)
	}
	cmd, err := Command(step, p)
	if err != nil {
		return fail(err)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Setpgid = true
	before := children()
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	over := make(chan struct{})
	go func() { defer close(over); cmd.Wait() }()
	timeout := time.NewTimer(step.Timeout)
	defer timeout.Stop()
	late := false
	select {
	case <-over:
	case <-terms:
		ended = true
	case <-timeout.C:
		late = true
	}
	if ended || late {
		stop(cmd, over)
		endOthers(before)
	}
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 128 + int(cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	}
	switch {
	case late:
		return wire.StepResult{Outcome: wire.TimedOut, Code: 128 + int(unix.SIGKILL)}, ended
	case code == 0:
		return wire.StepResult{Outcome: wire.Success}, ended
	}
	return wire.StepResult{Outcome: wire.Failed, Code: code}, ended
}

// stop ends the process group of a step: by asking, and after a while for good.
func stop(cmd *exec.Cmd, over <-chan struct{}) {
	unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-over:
	case <-time.After(grace):
	}
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	<-over
}

// children are the processes whose parent this one is: a step's own, and, as this is their reaper, those whose parents have ended.
func children() map[int]bool {
	all := map[int]bool{}
	parent := fmt.Appendf(nil, "\nPPid:\t%d\n", os.Getpid())
	names, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if pid, bad := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bad == nil && bytes.Contains(text, parent) {
			all[pid] = true
		}
	}
	return all
}

// endOthers kills what a step has started, however far that has gone from its process group, but for the children of before it.
// Who loses its parent by that becomes a child here, and is next.
func endOthers(before map[int]bool) {
	const most = 100 // generations: who forks faster than it is killed is left to the end of the command
	for range most {
		left := false
		for pid := range children() {
			if before[pid] {
				continue
			}
			left = true
			unix.Kill(pid, unix.SIGKILL)
			unix.Wait4(pid, nil, 0, nil)
		}
		if !left {
			return
		}
	}
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
