// Package unit keeps one ichiro-shim running for every machine of this host that has not ended.
//
// A unit is the process, not the machine: that has its own life, told in status.json. A shim that
// ends before its machine has is started again at once, and adopts what it finds. One that runs
// when the agent starts is found by its socket and watched by its process descriptor, as it is not
// our child. Shims are in sessions of their own and write to files of their own, so nothing that
// befalls the agent reaches them.
//
// What a unit needs only once, the taps, is held until QEMU has them. Facts about a machine are
// read from its status.json; Exited says that there is something new to read. agent/host decides
// what should run, this package makes it so.
package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Exit says that a unit has ended for good: its machine has, or, with an Err, its shim cannot be
// kept running.
type Exit struct {
	ID  cloud.InstanceID
	Err error
}

// ErrNotRunning says that there is no unit for an instance.
var ErrNotRunning = errors.New("no shim runs")

const (
	steady    = time.Second // a shim that lived as long was well
	firstWait = 100 * time.Millisecond
	lastWait  = 5 * time.Second
	giveUp    = 5 // starts in a row that led to no machine
	tapPoll   = 100 * time.Millisecond
	retry     = 50 * time.Millisecond
)

// starter starts the shim of an instance; the process is waited for by its handle. The taps are
// the starter's only to hand on.
type starter interface {
	start(ctx context.Context, id cloud.InstanceID, taps []*os.File) (*running, error)
}

// running is a shim that was started or found.
type running struct {
	handle *shim.Handle
	reap   func() // collects a child; nil for others
}

func (r *running) wait(ctx context.Context) error {
	defer r.handle.Close()
	if err := r.handle.Wait(ctx); err != nil {
		return err
	}
	if r.reap != nil {
		r.reap()
	}
	return nil
}

// Manager holds the units of a host.
type Manager struct {
	root   bundle.Root
	start  starter
	log    *slog.Logger
	exited chan Exit
	work   sync.WaitGroup

	mu    sync.Mutex
	ctx   context.Context // of Run; what is started before it waits for it
	begun chan struct{}   // closed by Run
	units map[cloud.InstanceID]*entry
	ended []Exit
	news  chan struct{}
}

// entry is one supervised unit.
type entry struct {
	id   cloud.InstanceID
	taps []*os.File
	done chan struct{}
	up   chan struct{} // closed once a shim was started or found
}

// New returns a Manager that starts the given ichiro-shim program by itself, in a session of its
// own.
func New(root bundle.Root, program string, log *slog.Logger) *Manager {
	return newManager(root, &fork{root: root, program: program}, log)
}

func newManager(root bundle.Root, s starter, log *slog.Logger) *Manager {
	return &Manager{
		root: root, start: s, log: log.With("component", "unit"),
		exited: make(chan Exit), begun: make(chan struct{}),
		units: map[cloud.InstanceID]*entry{}, news: make(chan struct{}, 1),
	}
}

// Exited tells of units that have ended. It must be read while Run runs.
func (m *Manager) Exited() <-chan Exit { return m.exited }

// Run supervises until ctx ends, and then leaves the shims to the next agent.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	close(m.begun)
	defer m.work.Wait()
	for {
		m.mu.Lock()
		var next Exit
		var out chan<- Exit
		if len(m.ended) > 0 {
			next, out = m.ended[0], m.exited
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-m.news:
		case out <- next:
			m.mu.Lock()
			m.ended = m.ended[1:]
			m.mu.Unlock()
		}
	}
}

// Adopt supervises every machine in the run directory that was started and has not ended, whether
// its shim lives or must be brought back, and returns their instances. Called once, when the agent
// starts; it may be before Run, which then does what was found to be done.
func (m *Manager) Adopt(context.Context) ([]cloud.InstanceID, error) {
	ids, err := m.root.List()
	if err != nil {
		return nil, err
	}
	var adopted []cloud.InstanceID
	for _, id := range ids {
		st, err := shim.ReadStatus(string(m.root.Instance(id)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && st.State.Ended() {
			continue
		}
		if err != nil {
			// Its shim may live all the same, and one broken file must not keep the others from being kept.
			m.log.Warn("status not readable; looking for its shim", "instance", id, "err", err)
		}
		if _, err := m.supervise(id, nil); err != nil {
			return adopted, err
		}
		adopted = append(adopted, id)
	}
	return adopted, nil
}

// Start starts the shim of an instance whose machine.json is in place, with the taps of its
// interfaces in their order, and returns when it runs. The taps are the Manager's then, and closed
// when QEMU has them. For a unit that runs already nothing happens; the end of an earlier boot is
// waited for.
func (m *Manager) Start(ctx context.Context, id cloud.InstanceID, taps []*os.File) error {
	for {
		e, err := m.supervise(id, taps)
		if err == nil {
			return e.await(ctx)
		}
		if e == nil {
			closeAll(taps)
			return err
		}
		st, err := shim.ReadStatus(string(m.root.Instance(id)))
		if err != nil || !st.State.Ended() {
			closeAll(taps)
			return e.await(ctx)
		}
		select { // the old boot's shim is on its way out
		case <-e.done:
		case <-ctx.Done():
			closeAll(taps)
			return ctx.Err()
		}
	}
}

func (e *entry) await(ctx context.Context) error {
	select {
	case <-e.up:
		return nil
	case <-e.done:
		select {
		case <-e.up:
			return nil
		default:
			return fmt.Errorf("start %s: %w", e.id, ErrNotRunning)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errExists = errors.New("unit exists")

// supervise begins to keep a unit, or returns the one that is kept already with errExists.
func (m *Manager) supervise(id cloud.InstanceID, taps []*os.File) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.units[id]; e != nil {
		return e, errExists
	}
	if m.ctx != nil && m.ctx.Err() != nil {
		return nil, m.ctx.Err()
	}
	e := &entry{id: id, taps: taps, done: make(chan struct{}), up: make(chan struct{})}
	m.units[id] = e
	m.work.Go(func() {
		<-m.begun
		run := m.ctx // written before begun was closed, and never again
		err := m.keep(run, e)
		closeAll(e.taps)
		m.mu.Lock()
		delete(m.units, id)
		if run.Err() == nil {
			m.ended = append(m.ended, Exit{id, err})
		}
		m.mu.Unlock()
		close(e.done)
		select {
		case m.news <- struct{}{}:
		default:
		}
	})
	return e, nil
}

// keep runs shims, one after the other, until the machine has ended.
func (m *Manager) keep(ctx context.Context, e *entry) error {
	log := m.log.With("instance", e.id)
	dir := string(m.root.Instance(e.id))
	wait, failed := time.Duration(0), 0
	for {
		began := time.Now()
		r, err := m.findOrStart(ctx, e)
		if err == nil {
			select {
			case <-e.up:
			default:
				close(e.up)
			}
			handed := make(chan struct{})
			until, stop := context.WithCancel(ctx)
			go func() { defer close(handed); m.handOver(until, e) }()
			err = r.wait(ctx)
			stop()
			<-handed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		st, statusErr := shim.ReadStatus(dir)
		if statusErr == nil && st.State.Ended() {
			if want, err := bundle.Read[bundle.Machine](m.root.Instance(e.id).Path("machine.json")); err == nil && want.Boot == st.Boot {
				return nil
			}
		}
		if time.Since(began) >= steady {
			wait, failed = 0, 0
		}
		if !st.QEMU.Alive() {
			if failed++; failed >= giveUp {
				return fmt.Errorf("keep the shim of %s: it ended %d times without a machine, see %s/shim.log: %w",
					e.id, failed, dir, errors.Join(err, statusErr, ErrNotRunning))
			}
		}
		log.Warn("shim ended before its machine; starting another", "wait", wait, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(max(2*wait, firstWait), lastWait)
	}
}

// findOrStart returns the shim that answers, or starts one.
func (m *Manager) findOrStart(ctx context.Context, e *entry) (*running, error) {
	if h, err := m.find(ctx, e.id); err == nil {
		return &running{handle: h}, nil
	}
	return m.start.start(ctx, e.id, e.taps)
}

// find returns the process behind the control socket.
func (m *Manager) find(ctx context.Context, id cloud.InstanceID) (*shim.Handle, error) {
	p, err := shim.Keeper(ctx, string(m.root.Instance(id)))
	if err != nil {
		return nil, err
	}
	return p.Open()
}

// handOver closes the taps once QEMU has them: when the machine runs, no shim needs them again.
func (m *Manager) handOver(ctx context.Context, e *entry) {
	if len(e.taps) == 0 {
		return
	}
	tick := time.NewTicker(tapPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st, err := shim.ReadStatus(string(m.root.Instance(e.id)))
		if err == nil && st.State == shim.StateRunning {
			closeAll(e.taps)
			e.taps = nil
			return
		}
	}
}

// Alive reports whether a unit is kept for an instance.
func (m *Manager) Alive(id cloud.InstanceID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.units[id] != nil
}

// Stop asks the guest to shut down and forces it after the given time. It does not wait. A machine
// that has ended, or has no unit, needs no stop.
func (m *Manager) Stop(ctx context.Context, id cloud.InstanceID, forceAfter time.Duration) error {
	return m.ask(ctx, id, func(c *shim.Client) error { return c.Stop(ctx, forceAfter) })
}

// Kill ends the machine now.
func (m *Manager) Kill(ctx context.Context, id cloud.InstanceID) error {
	return m.ask(ctx, id, func(c *shim.Client) error { return c.Kill(ctx) })
}

// Reboot resets the machine. ErrNotRunning if there is none.
func (m *Manager) Reboot(ctx context.Context, id cloud.InstanceID) error {
	if !m.Alive(id) {
		return fmt.Errorf("reboot %s: %w", id, ErrNotRunning)
	}
	return m.ask(ctx, id, func(c *shim.Client) error { return c.Reboot(ctx) })
}

// Plug puts a network card into the running machine, on the tap given, which stays the caller's.
func (m *Manager) Plug(ctx context.Context, id cloud.InstanceID, c shim.Card, tap *os.File) error {
	return m.ask(ctx, id, func(s *shim.Client) error { return s.Plug(ctx, c, tap) })
}

// LetGo asks the guest to let go of a network card. It does not wait: status.json tells.
func (m *Manager) LetGo(ctx context.Context, id cloud.InstanceID, card string) error {
	return m.ask(ctx, id, func(s *shim.Client) error { return s.LetGo(ctx, card) })
}

// Cut takes the tap away from a network card, whatever the guest says, and asks it to let go of the rest.
func (m *Manager) Cut(ctx context.Context, id cloud.InstanceID, card string) error {
	return m.ask(ctx, id, func(s *shim.Client) error { return s.Unplug(ctx, card, true) })
}

// ask puts a request to a shim; one that is being brought back is waited for.
func (m *Manager) ask(ctx context.Context, id cloud.InstanceID, request func(*shim.Client) error) error {
	dir := string(m.root.Instance(id))
	for m.Alive(id) {
		err := request(shim.NewClient(dir))
		if !errors.Is(err, shim.ErrGone) && !errors.Is(err, shim.ErrState) {
			return err
		}
		if st, statusErr := shim.ReadStatus(dir); statusErr == nil && st.State.Ended() {
			return nil
		}
		if errors.Is(err, shim.ErrState) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
