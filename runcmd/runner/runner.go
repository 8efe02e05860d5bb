// Package runner executes the commands that a guest is given, each at most once.
//
// A job is one command: its steps run one after the other, each a script in a session of its own.
//
//	Request -> journalled -> step -> step -> ... -> result -> Forget
//
// What process carries out a step package act says. It ends when that process ends, whatever it left in the background;
// one that ends with 194 is run again after a reboot. Cancel and the timeout
// first ask (SIGTERM to the group), and after a grace period leave nothing alive (cgroup.kill, or
// SIGKILL to the group). A request for a command that is known changes nothing. A new Runner continues
// what the one before it left: package journal tells how.
package runner

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/act"
	"github.com/ichiro-metal/ichiro/runcmd/fault"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// Config is what a Runner needs.
type Config struct {
	Journal     *journal.Journal
	Boot        string        // this boot of the guest
	Environment []string      // of every script
	Shell       string        // started in advance for each command (see early); "" for none
	Grace       time.Duration // between SIGTERM and the end of all processes
	// Changed is called, without locks, when a job has more to tell.
	Changed func(cloud.CommandID)
	// Keep and Release tell whoever outlives this process which pipes to hold open, by any name; Exit asks it how a
	// process ended that this one is not the parent of. Any may be nil.
	Keep    func(name string, pipes []*os.File)
	Release func(name string)
	Exit    func(pid int, start uint64) (code int, known bool)
	Reboot  func() error // asks for a reboot of the guest, and returns before it comes
	Log     *slog.Logger
}

// Runner runs commands.
type Runner struct {
	cfg    Config
	groups *cgroups
	rooms  *rooms

	starts sync.RWMutex // held for reading while a process is started and noted
	ending bool         // no process is started any more

	mu   sync.Mutex
	jobs map[cloud.CommandID]*Job
	wg   sync.WaitGroup
}

// New returns a runner; Adopt before the first Request.
func New(cfg Config) *Runner {
	if cfg.Exit == nil {
		cfg.Exit = func(int, uint64) (int, bool) { return 0, false }
	}
	if cfg.Keep == nil {
		cfg.Keep, cfg.Release = func(string, []*os.File) {}, func(string) {}
	}
	r := &Runner{cfg: cfg, groups: openCgroups(), jobs: map[cloud.CommandID]*Job{}}
	r.groups.endSessions()
	r.groups.sweep()
	r.rooms = &rooms{cfg: r.cfg, groups: r.groups}
	return r
}

// Adopt takes over what the journal holds: finished commands whose results wait, and commands that an
// earlier agent of this boot has started.
func (r *Runner) Adopt(ctx context.Context) error {
	entries, err := r.cfg.Journal.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		j := newJob(r, e.Request)
		if err := j.openStreams(); err != nil {
			r.cfg.Log.Error("outputs of a command are lost", "command", e.Request.ID, "err", err)
			continue
		}
		r.mu.Lock()
		r.jobs[e.Request.ID] = j
		r.mu.Unlock()
		r.wg.Go(func() { j.resume(ctx, e) })
	}
	r.prepare()
	return nil
}

// prepare makes what the next command will need, so that it need not wait for it.
func (r *Runner) prepare() {
	r.groups.prepare()
	if err := r.rooms.prepare(); err != nil {
		r.cfg.Log.Warn("make a directory for the next command", "err", err) // it tries again, and says so to the gateway
	}
}

// Request runs a command, unless it is known. It returns at once.
func (r *Runner) Request(ctx context.Context, req wire.Request) *Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[req.ID]; j != nil {
		if req.Cancel {
			j.cancel()
		}
		return j
	}
	j := newJob(r, req)
	r.jobs[req.ID] = j
	if req.Cancel {
		j.cancel()
	}
	r.wg.Go(func() { j.run(ctx) })
	return j
}

// Cancel ends a command. It returns at once; the job's result tells when it has ended.
func (r *Runner) Cancel(id cloud.CommandID) {
	if j := r.Job(id); j != nil {
		j.cancel()
	}
}

// Job returns a command that is known, or nil.
func (r *Runner) Job(id cloud.CommandID) *Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.jobs[id]
}

// Known returns at most n commands that the runner has not been told to forget.
func (r *Runner) Known(n int) []cloud.CommandID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []cloud.CommandID
	for id := range r.jobs {
		if len(ids) == n {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

// Forget drops a command whose result has been kept elsewhere. One that still runs is killed first: the
// gateway has given it up.
func (r *Runner) Forget(id cloud.CommandID) {
	j := r.Job(id)
	if j == nil {
		return
	}
	j.cancel()
	r.wg.Go(func() {
		<-j.ended
		j.close()
		r.mu.Lock()
		delete(r.jobs, id)
		r.mu.Unlock()
		fault.At("agent forgetting")
		if err := r.cfg.Journal.Forget(id); err != nil {
			r.cfg.Log.Error("forget a command", "command", id, "err", err)
		}
		fault.At("agent forgotten")
		r.prepare()
	})
}

// Close ends what this process does about its jobs. Their processes live on; the next Runner adopts them.
func (r *Runner) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		j.close()
	}
	r.rooms.close()
}

func (j *Job) env() []string {
	env := append([]string{}, j.r.cfg.Environment...)
	for k, v := range j.req.Environment {
		env = append(env, k+"="+v)
	}
	return append(env, "SSM_COMMAND_ID="+string(j.req.ID))
}

// scriptPath is where the script of a step lies while it runs.
func (j *Job) scriptPath(n int) string {
	return fmt.Sprintf("%s/script.%d", j.r.cfg.Journal.Dir(j.req.ID), n)
}

// place is where a step is carried out.
func (j *Job) place(n int) act.Place {
	return act.Place{File: j.scriptPath(n), Work: j.r.cfg.Journal.Dir(j.req.ID) + "/work", Environment: j.env()}
}
