package runner

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/act"
	"github.com/ichiro-metal/ichiro/runcmd/fault"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/spool"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

// pumpAfter is how long a command may print into its pipes before somebody reads them. It is blocked when they are full
// until then.
const pumpAfter = 50 * time.Millisecond

// Job is one command.
type Job struct {
	r   *Runner
	req wire.Request

	cancelOnce sync.Once
	cancelled  chan struct{}
	ended      chan struct{} // closed when the result is there, or the runner ends

	mu      sync.Mutex
	streams [wire.Streams]*spool.Stream // nil until the command is journalled, or for ever if it can not be
	result  *wire.Result
	running *process // the step's, while it runs
	parked  bool     // nothing of it runs, and that is on record: the agent ends, or the guest does
	closed  bool

	kept  string                 // the name under which the outputs are held open elsewhere
	out   [wire.Streams]*os.File // the ends that processes are given, until the first step; nil if they are still to be opened
	early *early                 // until the first step; nil if no shell waits
}

func newJob(r *Runner, req wire.Request) *Job {
	return &Job{r: r, req: req, cancelled: make(chan struct{}), ended: make(chan struct{})}
}

func (j *Job) cancel() { j.cancelOnce.Do(func() { close(j.cancelled) }) }

func (j *Job) isCancelled() bool {
	select {
	case <-j.cancelled:
		return true
	default:
		return false
	}
}

// Stream returns one output; nil while there is none.
func (j *Job) Stream(s wire.Stream) *spool.Stream {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.streams[s]
}

// over reports whether the result is on record.
func (j *Job) over() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

func (j *Job) setRunning(p *process) {
	j.mu.Lock()
	j.running = p
	j.mu.Unlock()
}

// Result returns how the command ended; nil while it runs.
func (j *Job) Result() *wire.Result {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.result
}

func (j *Job) changed() { j.r.cfg.Changed(j.req.ID) }

func (j *Job) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.streams {
		if s != nil && !j.closed {
			s.Close()
		}
	}
	j.closed = true
}

func (j *Job) openStreams() error {
	dir := j.r.cfg.Journal.Dir(j.req.ID)
	var pipes []*os.File
	for n := range wire.Streams {
		s, err := spool.Open(dir, n.String(), j.req.Limit, j.changed)
		if err != nil {
			return err
		}
		pipes = append(pipes, s.Pipe())
		j.mu.Lock()
		j.streams[n] = s
		j.mu.Unlock()
	}
	j.kept = dir
	j.r.cfg.Keep(dir, pipes)
	return nil
}

// enter makes a room the command's own. The journal has renamed it.
func (j *Job) enter(r *room) {
	dir := j.r.cfg.Journal.Dir(j.req.ID)
	j.mu.Lock()
	defer j.mu.Unlock()
	for n, s := range r.streams {
		s.Move(dir, j.req.Limit, j.changed)
		j.streams[n] = s
	}
	j.kept, j.out, j.early = r.Dir, r.out, r.early
}

// run is a command's whole life, from its journal entry on.
func (j *Job) run(ctx context.Context) {
	ran := j.req.Resume || j.r.cfg.Journal.Forgotten(j.req.ID)
	if ran || j.isCancelled() {
		// Another boot may have run it, and its journal is lost; or it was there, and its end was lost elsewhere; or it is not wanted
		// any more.
		outcome := wire.Interrupted
		if !ran {
			outcome = wire.Cancelled
		}
		j.end(nil, wire.StepResult{Outcome: outcome, Code: unknownCode, Started: Uptime(), Ended: Uptime()})
		return
	}
	room, err := j.r.rooms.take()
	if err != nil {
		j.refuse("make a directory", err)
		return
	}
	fault.At("agent journal before")
	if err := j.r.cfg.Journal.Begin(room.Spare, j.req, j.r.cfg.Boot); err != nil {
		j.r.rooms.leave(room)
		if errors.Is(err, fs.ErrExist) {
			return // Adopt could not open it: say nothing rather than something false
		}
		j.refuse("write the journal", err)
		return
	}
	fault.At("agent journalled")
	j.enter(room)
	j.steps(ctx, journal.Progress{}, nil)
}

// refuse ends a command that this guest can not run at all.
func (j *Job) refuse(what string, err error) {
	j.r.cfg.Log.Error(what, "command", j.req.ID, "err", err)
	j.mu.Lock()
	for n, s := range j.streams {
		if s != nil {
			s.Close()
			j.streams[n] = nil
		}
	}
	j.mu.Unlock()
	j.end(nil, wire.StepResult{Outcome: wire.Failed, Code: 1, Started: Uptime(), Ended: Uptime()})
}

// resume continues a command from the journal of an earlier agent.
func (j *Job) resume(ctx context.Context, e journal.Entry) {
	if e.Result != nil {
		j.mu.Lock()
		j.result = e.Result
		j.mu.Unlock()
		close(j.ended)
		j.changed()
		j.drain()
		return
	}
	last := journal.Progress{Started: Uptime()}
	if e.Progress != nil {
		last = *e.Progress
	}
	boot := e.Boot
	if last.Boot != "" {
		boot = last.Boot
	}
	if last.Unstarted && boot == j.r.cfg.Boot {
		last.Unstarted = false
		if err := j.r.cfg.Journal.Start(j.req.ID, last); err == nil { // before it is: or it could be started twice
			j.steps(ctx, last, nil)
			return
		}
	}
	if last.Rebooting {
		j.resumeReboot(ctx, last, boot)
		return
	}
	if boot == j.r.cfg.Boot {
		switch {
		case last.Process.PID != 0:
		case e.Early != nil && boot == e.Boot:
			last.Process, last.Cgroup = e.Early.Process, e.Early.Cgroup
		default:
			last.Process, _ = find(j.req.ID)
		}
		exit := told(e, j.r.cfg.Journal.Dir(j.req.ID), j.r.cfg.Exit)
		group, _ := openCgroup(last.Cgroup)
		if p, err := adopt(last.Process, group, exit, func(code int) int { return meaning(e, code) }); err == nil {
			j.r.cfg.Log.Info("command adopted", "command", j.req.ID, "pid", p.PID)
			j.steps(ctx, last, p)
			return
		}
		if code, ok := exit(last.Process.PID, last.Process.Start); ok && last.Process.PID != 0 {
			p := &process{Process: last.Process, group: group, ended: make(chan struct{}), code: code, reap: func() {}}
			close(p.ended)
			j.steps(ctx, last, p)
			return
		}
	}
	// What the pipe still holds is the end of the output.
	j.pump()
	j.end(last.Steps, wire.StepResult{Outcome: wire.Interrupted, Code: unknownCode, Started: last.Started, Ended: Uptime()})
}

// pump starts moving the outputs.
func (j *Job) pump() {
	for n := range wire.Streams {
		s := j.Stream(n)
		j.r.wg.Go(func() {
			if err := s.Run(); err != nil {
				j.r.cfg.Log.Error("read an output", "command", j.req.ID, "stream", n.String(), "err", err)
			}
		})
	}
}

// steps runs the steps that are left and ends the job. g is how far it has come; p is a step that runs already.
func (j *Job) steps(ctx context.Context, g journal.Progress, p *process) {
	out, err := j.writers()
	if err != nil {
		j.refuse("open the outputs", err)
		return
	}
	// A command that ends soon needs no pumps: what it has printed is in its pipes, and taken when it has ended.
	after := pumpAfter
	if p != nil {
		after = 0
	}
	pumps := time.AfterFunc(after, j.pump)
	defer pumps.Stop()
	for n := len(g.Steps); n < len(j.req.Steps); n++ {
		step := j.req.Steps[n]
		if p == nil {
			if j.isCancelled() {
				g.Steps = append(g.Steps, notRun(wire.Cancelled))
				break
			}
			if g.Skip && !step.Finally {
				g.Steps = append(g.Steps, notRun(wire.Skipped))
				continue
			}
		}
		var r wire.StepResult
		r, p = j.step(ctx, n, &g, p, out)
		if r.Outcome == "" {
			closeAll(out)
			return // the agent ends, or the guest; a process does not
		}
		if on := act.GoOn(step, &r); !on {
			g.Skip = true
		}
		for k := range wire.Streams {
			r.Outputs[k] = j.Stream(k).Mark()
		}
		g.Steps, g.Reboots = append(g.Steps, r), 0
		if r.Outcome == wire.Cancelled || r.Outcome == wire.Interrupted {
			break
		}
		if n+1 < len(j.req.Steps) {
			if p != nil {
				p.reap()
			}
			p = nil
		}
	}
	closeAll(out)
	for len(g.Steps) > 1 && g.Steps[len(g.Steps)-1].Outcome == wire.Skipped {
		g.Steps = g.Steps[:len(g.Steps)-1]
	}
	j.finish(g.Steps, p)
}

// notRun is the result of a step that was not started.
func notRun(o wire.Outcome) wire.StepResult {
	return wire.StepResult{Outcome: o, Code: unknownCode, Started: Uptime(), Ended: Uptime()}
}

// step runs a step, or waits for the one that runs already, to its end. An empty outcome means that the agent ends first.
func (j *Job) step(ctx context.Context, n int, g *journal.Progress, p *process, out [wire.Streams]*os.File) (wire.StepResult, *process) {
	if p == nil {
		g.Started = Uptime()
		var err error
		if p, err = j.startUnlessEnding(n, out, *g); errors.Is(err, errEnding) {
			return wire.StepResult{}, nil
		} else if err != nil {
			out[wire.Stderr].WriteString(err.Error() + "\n")
			return wire.StepResult{Outcome: wire.Failed, Code: 127, Started: g.Started, Ended: Uptime()}, nil
		}
	}
	j.setRunning(p)
	r := j.wait(ctx, p, j.req.Steps[n], g.Started)
	if r.Outcome != "" {
		j.setRunning(nil)
	}
	if r.Outcome == wire.Failed && r.Code == wire.Reboot {
		if err := j.reboot(ctx, *g); err != nil {
			out[wire.Stderr].WriteString(err.Error() + "\n")
		} else if r = (wire.StepResult{}); j.isCancelled() {
			r = notRun(wire.Cancelled)
		}
	}
	return r, p
}

func (j *Job) writers() (out [wire.Streams]*os.File, err error) {
	if j.out[0] != nil {
		out, j.out = j.out, out
		return out, nil
	}
	for n := range wire.Streams {
		if out[n], err = j.Stream(n).Writer(); err != nil {
			closeAll(out)
			return out, err
		}
	}
	return out, nil
}

func closeAll(files [wire.Streams]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

var errEnding = errors.New("the agent is ending")

// startUnlessEnding is start, unless the agent was asked to end: then it is on record that the step was not started.
func (j *Job) startUnlessEnding(n int, out [wire.Streams]*os.File, g journal.Progress) (*process, error) {
	j.r.starts.RLock()
	defer j.r.starts.RUnlock()
	if j.r.ending {
		g.Unstarted = true
		if err := j.r.cfg.Journal.Start(j.req.ID, g); err != nil {
			j.r.cfg.Log.Error("record that a step was not started", "command", j.req.ID, "err", err)
		}
		j.mu.Lock()
		j.parked = true
		j.mu.Unlock()
		return nil, errEnding
	}
	p, err := j.start(n, out, g)
	if err == nil {
		j.setRunning(p)
	}
	return p, err
}

// start starts a step and puts its process on record.
func (j *Job) start(n int, out [wire.Streams]*os.File, g journal.Progress) (*process, error) {
	step, place := j.req.Steps[n], j.place(n)
	if err := place.Write(step); err != nil {
		return nil, err
	}
	cmd, err := act.Command(step, place)
	if err != nil {
		return nil, err
	}
	fault.At("agent start before")
	p := j.begin(step, place.File, cmd)
	if p == nil {
		group := j.r.groups.take()
		if p, err = launch(cmd, out, group); err != nil {
			if group != nil {
				j.r.groups.release(group)
			}
			return nil, err
		}
	}
	fault.At("agent started")
	now := p.progress()
	g.Process, g.Cgroup = now.Process, now.Cgroup
	if err := j.r.cfg.Journal.Start(j.req.ID, g); err != nil {
		j.r.cfg.Log.Error("record a process", "command", j.req.ID, "err", err)
	}
	fault.At("agent start recorded")
	return p, nil
}

// wait waits for a step to end, and ends it when it is cancelled or takes too long. An empty outcome
// means that ctx ended first.
func (j *Job) wait(ctx context.Context, p *process, step wire.Step, begun time.Duration) wire.StepResult {
	r := wire.StepResult{Started: begun}
	timeout := time.NewTimer(step.Timeout - (Uptime() - begun))
	defer timeout.Stop()
	select {
	case <-p.ended:
		r.Ended, r.Code, r.Outcome = Uptime(), p.code, wire.Failed
		switch p.code {
		case 0:
			r.Outcome = wire.Success
		case unknownCode:
			r.Outcome = wire.Interrupted
		}
		if p.group != nil {
			j.r.groups.release(p.group)
		}
		return r
	case <-ctx.Done():
		return r
	case <-j.cancelled:
		r.Outcome = wire.Cancelled
	case <-timeout.C:
		r.Outcome = wire.TimedOut
	}
	p.signal(unix.SIGTERM)
	grace := time.NewTimer(j.r.cfg.Grace)
	defer grace.Stop()
	select {
	case <-p.ended:
	case <-grace.C:
	case <-ctx.Done():
		return wire.StepResult{}
	}
	p.kill()
	<-p.ended
	if p.group != nil {
		j.r.groups.release(p.group)
	}
	r.Ended, r.Code = Uptime(), 128+int(unix.SIGKILL) // what Systems Manager reports for both
	return r
}

// finish takes the rest of the outputs and ends the job.
func (j *Job) finish(results []wire.StepResult, p *process) {
	fault.At("agent step ended")
	last := results[len(results)-1]
	j.end(results[:len(results)-1], last)
	if p != nil {
		p.reap()
	}
	j.drain()
	j.r.prepare()
}

// end makes the result known. The outputs are complete before it is.
func (j *Job) end(before []wire.StepResult, last wire.StepResult) {
	if j.early != nil { // cancelled before it, or refused
		j.early.leave(j.r.groups)
		j.early = nil
	}
	r := wire.Result{ID: j.req.ID, Steps: append(append([]wire.StepResult{}, before...), last)}
	kept := false
	for n := range wire.Streams {
		s := j.Stream(n)
		if s == nil {
			continue
		}
		kept = true
		if err := s.Finish(); err != nil {
			j.r.cfg.Log.Error("read an output", "command", j.req.ID, "stream", n.String(), "err", err)
		}
		_, r.Outputs[n] = s.Sizes()
	}
	j.mu.Lock()
	j.result = &r
	j.mu.Unlock()
	j.changed()
	if kept {
		// The sender goes first where there is one processor: the process is a zombie until its result is
		// on record, so a successor that does not find the record still learns how it ended.
		runtime.Gosched()
		fault.At("agent result known")
		if err := j.r.cfg.Journal.End(r); err != nil {
			j.r.cfg.Log.Error("record a result", "command", j.req.ID, "err", err)
		}
		fault.At("agent result recorded")
		j.r.cfg.Release(j.kept)
	}
	close(j.ended) // from here on it may be forgotten
}

// drain serves processes that the command left behind until they are gone or the job is forgotten.
func (j *Job) drain() {
	for n := range wire.Streams {
		if s := j.Stream(n); s != nil {
			j.r.wg.Go(s.Drain)
		}
	}
}
