package runner

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

const (
	// maxReboots is how often a step may ask for one: as often as Systems Manager's agent goes on with a document.
	maxReboots = 15
	// settle is how long the outputs may take to be on the disk before a reboot. They wait for the gateway when they are
	// far ahead of it.
	settle = 10 * time.Second
)

// reboot reboots the guest for a step that has ended with 194. That it is to run again is on the disk before. It returns
// when this agent ends, or the command was cancelled; an error means that there is no reboot.
func (j *Job) reboot(ctx context.Context, g journal.Progress) error {
	if g.Reboots == maxReboots {
		return fmt.Errorf("the step has asked for a reboot %d times: no more", maxReboots)
	}
	if j.r.cfg.Reboot == nil {
		return fmt.Errorf("the step asks for a reboot, which this agent can not do")
	}
	for n := range wire.Streams {
		if s := j.Stream(n); s != nil {
			s.Settle(settle)
		}
	}
	if d, err := os.Open(j.r.cfg.Journal.Dir(j.req.ID)); err == nil {
		unix.Syncfs(int(d.Fd())) // the outputs
		d.Close()
	}
	g.Reboots++
	g.Process, g.Cgroup, g.Rebooting = journal.Process{}, "", true
	if err := j.r.cfg.Journal.Checkpoint(j.req.ID, g); err != nil {
		return fmt.Errorf("record that the step runs again after a reboot: %w", err)
	}
	return j.awaitReboot(ctx)
}

func (j *Job) awaitReboot(ctx context.Context) error {
	j.r.cfg.Log.Info("rebooting for a command", "command", j.req.ID)
	j.mu.Lock()
	j.parked = true
	j.mu.Unlock()
	if err := j.r.cfg.Reboot(); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-j.cancelled:
	}
	return nil
}

// resumeReboot goes on with a command that an earlier agent has left with a reboot asked for, in a boot: after the
// reboot the step runs again, and that it does is on the disk before. An agent of the same boot asks once more.
func (j *Job) resumeReboot(ctx context.Context, g journal.Progress, boot string) {
	fail := func(err error) {
		j.r.cfg.Log.Error("run a step again after a reboot", "command", j.req.ID, "err", err)
		j.end(g.Steps, wire.StepResult{Outcome: wire.Interrupted, Code: unknownCode, Started: Uptime(), Ended: Uptime()})
	}
	if boot == j.r.cfg.Boot {
		if err := j.awaitReboot(ctx); err != nil {
			fail(err)
		} else if j.isCancelled() {
			j.end(g.Steps, notRun(wire.Cancelled))
		}
		return
	}
	g.Rebooting, g.Boot = false, j.r.cfg.Boot
	if err := j.r.cfg.Journal.Checkpoint(j.req.ID, g); err != nil {
		fail(err)
		return
	}
	j.steps(ctx, g, nil)
}
