// Package control runs one virtual machine: it holds the state machine, and everything that
// happens goes through its one loop.
//
// What happens comes from four sides: requests at the control socket, events over QMP, the end of
// the QEMU process, and the clock. The loop asks package machine what that means, writes
// status.json, and does what is to be done. Nothing else changes the status.
//
// A Shim may end at any moment and another take over. QEMU lives on: the new one finds its process
// in status.json, connects to its monitor again and asks how the guest is. So Run starts QEMU only
// for a boot that was never seen running, and ends it only when asked to; when its context ends, it
// leaves QEMU alone.
package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/hypervisor-shim/console"
	"github.com/ichiro-metal/ichiro/hypervisor-shim/jail"
	"github.com/ichiro-metal/ichiro/hypervisor-shim/machine"
	"github.com/ichiro-metal/ichiro/hypervisor-shim/qemu"
	"github.com/ichiro-metal/ichiro/hypervisor-shim/qmp"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

var errNoMonitor = errors.New("QEMU's monitor is not there yet: try again")

// ErrTaken says that another shim keeps this machine.
var ErrTaken = errors.New("another shim keeps this machine")

// monitor and control are sockets in the instance directory.
const (
	monitorSocket = "qmp.sock"
	controlSocket = "shim.sock"
	outputFile    = "qemu.log" // what QEMU itself prints
)

const (
	redial    = 50 * time.Millisecond // between attempts to reach QEMU's monitor
	ask       = 10 * time.Second      // how long QEMU may take to answer; its main loop blocks on slow disks
	quitGrace = 30 * time.Second      // how long QEMU may take to end once its guest is off
	echo      = time.Second / 2       // resets that are one: 35 ms measured; no guest boots in less
	drain     = time.Second           // how long those who follow the console get to read its end
)

// Shim is the keeper of one machine.
type Shim struct {
	dir     bundle.Dir
	want    bundle.Machine
	taps    []*os.File
	log     *slog.Logger
	console *console.Log

	happened chan happening // into the loop
	over     chan struct{}  // closed when the loop has ended

	// Only the loop touches what follows, but for status, which others read under its lock.
	life     machine.Machine
	process  *qemu.Process
	monitor  *qmp.Client
	deadline *time.Timer

	lastReset time.Time // of watchMonitor
	waiting   waiters   // for devices that guests let go of
	status    lockedStatus
}

// happening is one thing that the loop has to consider.
type happening struct {
	event      machine.Event // empty: none, but the rest is news
	forceAfter time.Duration // of Stop
	connected  *qmp.Client
	lost       *qmp.Client
	panicInfo  string
	prelaunch  bool // the guest waits for a continue that got lost
	exit       shim.Exit
	refused    chan<- error                                   // what Step says, for whoever asked
	ask        func(ctx context.Context, m *qmp.Client) error // of a running machine's monitor; its error goes to refused
	anyhow     bool                                           // of ask: a guest that has panicked is no hindrance
	devices    []string                                       // of connected: those that QEMU has
	deleted    string                                         // a device that the guest has let go of
}

// New returns the keeper of the machine described in dir. The taps are those of its interfaces, in
// order; a Shim that adopts needs none.
func New(dir bundle.Dir, m bundle.Machine, taps []*os.File, log *slog.Logger) *Shim {
	return &Shim{dir: dir, want: m, taps: taps, log: log.With("instance", m.ID),
		happened: make(chan happening), over: make(chan struct{})}
}

// Run keeps the machine until QEMU has ended, or leaves it when ctx ends.
func (s *Shim) Run(ctx context.Context) error {
	unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if s.console, err = console.Open(s.dir.Path("console.log"), s.want.ConsoleSize); err != nil {
		return err
	}
	defer s.console.Close()

	adopted, err := s.recall()
	if err != nil {
		return err
	}
	if s.status.get().State.Ended() {
		s.log.Info("this boot has ended; nothing to do", "boot", s.want.Boot)
		return nil
	}
	if !adopted && len(s.taps) != len(s.want.Interfaces) {
		return fmt.Errorf("start %s: it has %d interfaces, and %d taps were handed over", s.want.ID, len(s.want.Interfaces), len(s.taps))
	}
	return s.keep(ctx, adopted)
}

// keep runs the loop and all that feeds it.
func (s *Shim) keep(ctx context.Context, adopted bool) error {
	l, err := shim.Listen(string(s.dir), controlSocket)
	if err != nil {
		return err
	}
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	consoleDone := make(chan error, 1)
	go func() { consoleDone <- s.console.Run(work) }()
	serverDone := s.serve(l)

	err = s.loop(work, adopted)
	if ctx.Err() != nil && err == nil {
		s.log.Info("leaving the machine to the next shim")
	}
	cancel()
	serverDone()
	os.Remove(s.dir.Path(controlSocket))
	if s.ended() {
		os.Remove(s.dir.Path(monitorSocket))
		os.Remove(s.dir.Port())
	}
	return errors.Join(err, <-consoleDone)
}

// recall reads what an earlier shim knew. It reports whether there is a QEMU to adopt.
func (s *Shim) recall() (adopted bool, err error) {
	s.life = machine.New()
	st, err := shim.ReadStatus(string(s.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	fresh := shim.Status{State: shim.StateCreated, Boot: s.want.Boot, Generation: s.want.Generation, Since: time.Now()}
	if errors.Is(err, fs.ErrNotExist) || st.QEMU.PID == 0 && !st.State.Ended() {
		s.status.set(fresh)
		return false, nil
	}
	alive := st.QEMU.Alive()
	switch {
	case alive: // even of an earlier boot: nobody asked to end it
	case st.Boot == s.want.Boot && !st.State.Ended() && st.State != shim.StateStarting:
		// It ended while no shim watched: adopting a dead process tells just that.
	case st.Boot == s.want.Boot && st.State.Ended():
		s.status.set(st)
		return false, nil
	default: // an earlier boot, or one that never got going
		s.status.set(fresh)
		return false, nil
	}
	s.status.set(st)
	s.life = machine.Machine{State: machine.State(st.State), Cause: machine.Cause(st.Cause), Resets: st.Resets, Panics: st.Panics}
	if alive {
		s.process, err = qemu.Adopt(st.QEMU, s.dir.Path(outputFile))
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return false, err
		}
	}
	return true, nil
}

// loop is where everything happens, one thing at a time.
func (s *Shim) loop(ctx context.Context, adopted bool) error {
	work, cancel := context.WithCancel(ctx)
	feeders := group{}
	defer feeders.wait()
	defer cancel()
	defer close(s.over)
	s.deadline = time.NewTimer(time.Hour)
	s.deadline.Stop()
	defer s.deadline.Stop()
	defer func() {
		if s.monitor != nil {
			s.monitor.Close()
		}
	}()

	switch {
	case !adopted:
		if err := s.step(ctx, happening{event: machine.Start}); err != nil {
			return err
		}
	case s.process == nil:
		return s.step(ctx, happening{event: machine.Exit})
	default:
		s.log.Info("adopted a running machine", "pid", s.process.PID, "state", s.life.State)
		if d := s.status.get().Deadline; !d.IsZero() {
			s.deadline.Reset(time.Until(d))
		}
	}
	if s.ended() {
		return nil
	}
	feeders.run(func() { s.watchProcess(work) })
	feeders.run(func() { s.watchMonitor(work) })
	for !s.ended() {
		var h happening
		select {
		case <-ctx.Done():
			return nil
		case <-s.deadline.C:
			h.event = machine.Deadline
		case h = <-s.happened:
		}
		if err := s.step(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (s *Shim) ended() bool { return s.status.get().State.Ended() }

// step lets one thing happen. Its error is of the shim itself: it cannot go on.
func (s *Shim) step(ctx context.Context, h happening) error {
	news := false
	if h.connected != nil {
		s.monitor = h.connected
		news = s.recount(ctx, h.devices)
	}
	if h.lost != nil && h.lost == s.monitor {
		s.monitor.Close()
		s.monitor = nil
	}
	if h.prelaunch && s.life.State == machine.Running {
		s.attempt(ctx, machine.Continue, (*qmp.Client).Continue)
	}
	if h.ask != nil {
		h.refused <- s.consult(ctx, h)
		return nil
	}
	if h.deleted != "" {
		return s.letGone(ctx, h.deleted)
	}
	if h.event == "" {
		return nil
	}
	if h.connected != nil && h.event == machine.Panic && s.life.State == machine.Rebooting {
		h.event = machine.Ready // the panic that the reset is to end, told again: it counts once
	}
	next, actions, err := s.life.Step(h.event)
	if err != nil {
		if h.refused != nil {
			h.refused <- err
			return nil
		}
		s.log.Warn("ignored what cannot be", "err", err)
		if news {
			return s.save()
		}
		return nil
	}
	before := s.life
	s.life = next
	s.note(before, h, actions)
	if next != before || h.event == machine.Stop || news {
		err = s.save()
	}
	if h.refused != nil {
		h.refused <- err // a wish is accepted when it is on record: another shim will know of it
	}
	if err != nil {
		return err
	}
	for _, a := range actions {
		if err := s.do(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// consult runs what is to be asked with the monitor of a machine whose guest can answer.
func (s *Shim) consult(ctx context.Context, h happening) error {
	if s.life.State != machine.Running && !(h.anyhow && s.life.State == machine.Panicked) {
		return fmt.Errorf("not possible while the machine is %s", s.life.State)
	}
	if s.monitor == nil {
		return errNoMonitor
	}
	ctx, cancel := context.WithTimeout(ctx, ask)
	defer cancel()
	return h.ask(ctx, s.monitor)
}

// note brings the status up to what has happened.
func (s *Shim) note(before machine.Machine, h happening, actions []machine.Action) {
	now := time.Now()
	st := s.status.get()
	st.Generation = s.want.Generation
	if st.Boot != s.want.Boot {
		st.Generation = 0 // of a wish that is not known here
	}
	if s.life.State != before.State {
		st.Since = now
		s.log.Info("machine is "+string(s.life.State), "event", h.event, "cause", s.life.Cause)
	}
	st.State, st.Cause = shim.State(s.life.State), shim.Cause(s.life.Cause)
	st.Resets, st.Panics = s.life.Resets, s.life.Panics
	for _, a := range actions {
		if a != machine.Arm || h.event != machine.Stop {
			continue
		}
		if d := now.Add(h.forceAfter); st.Deadline.IsZero() || d.Before(st.Deadline) {
			st.Deadline = d
		}
	}
	switch h.event {
	case machine.Ready:
		if st.Started.IsZero() {
			st.Started = now
		}
	case machine.Panic:
		st.Panic = h.panicInfo
	case machine.Reset:
		s.mark(fmt.Sprintf("reset %d of boot %d", st.Resets, st.Boot))
	case machine.Exit:
		st.Ended, st.Exit = now, &h.exit
		st.Deadline, st.Cards, st.Cut = time.Time{}, nil, nil
	}
	if st.State.Ended() {
		st.Reason = reason(st)
	}
	s.status.set(st)
}

// do carries out one action. What QEMU refuses is logged: the deadline and the next request help.
func (s *Shim) do(ctx context.Context, a machine.Action) error {
	switch a {
	case machine.Spawn:
		return s.spawn(ctx)
	case machine.PressButton:
		s.attempt(ctx, a, (*qmp.Client).Powerdown)
	case machine.ResetNow:
		s.attempt(ctx, a, (*qmp.Client).Reset)
	case machine.Continue:
		s.attempt(ctx, a, (*qmp.Client).Continue)
	case machine.Quit:
		if !s.attempt(ctx, a, (*qmp.Client).Quit) {
			return s.process.Kill()
		}
		process := s.process
		time.AfterFunc(quitGrace, func() { process.Kill() }) // of a handle: it can hit no other process
	case machine.KillNow:
		return s.process.Kill()
	case machine.Arm:
		s.deadline.Reset(time.Until(s.status.get().Deadline))
	}
	return nil
}

func (s *Shim) attempt(ctx context.Context, a machine.Action, command func(*qmp.Client, context.Context) error) bool {
	if s.monitor == nil {
		s.log.Warn("QEMU's monitor is not there", "action", a)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, ask)
	defer cancel()
	if err := command(s.monitor, ctx); err != nil {
		s.log.Warn("QEMU did not obey", "action", a, "err", err)
		return false
	}
	return true
}

// spawn starts QEMU: recorded first, released then. That it cannot be started is an end of the
// machine, not of the shim.
func (s *Shim) spawn(ctx context.Context) error {
	st := s.status.get()
	process, accel, err := s.launch()
	if err != nil {
		s.log.Error("QEMU did not start", "err", err)
		st.Reason = err.Error()
		s.status.set(st)
		return s.step(ctx, happening{event: machine.Exit, exit: shim.Exit{Output: err.Error()}})
	}
	s.process = process
	st.QEMU, st.Accel = process.Process, string(accel)
	st.Jail = jail.Strength(jail.Config{User: s.want.User.UID})
	s.status.set(st)
	if err := s.save(); err != nil {
		return err
	}
	s.log.Info("starting QEMU", "boot", s.want.Boot, "pid", process.PID, "accel", accel, "jail", st.Jail)
	return process.Release()
}

func (s *Shim) launch() (*qemu.Process, qemu.Accel, error) {
	accel, err := qemu.Choose(s.want.Accel)
	if err != nil {
		return nil, "", err
	}
	monitor, err := shim.Listen(string(s.dir), monitorSocket)
	if err != nil {
		return nil, "", err
	}
	defer monitor.Close()
	port, err := shim.Listen(string(s.dir), bundle.PortSocket)
	if err != nil {
		return nil, "", err
	}
	defer port.Close()
	if err := s.dir.SharePort(); err != nil {
		return nil, "", err
	}
	output, err := s.console.Writer()
	if err != nil {
		return nil, "", err
	}
	defer output.Close()
	s.mark(fmt.Sprintf("boot %d of %s", s.want.Boot, s.want.ID))
	p, err := qemu.Spawn(s.want, qemu.Parts{
		Accel: accel, Console: output, Monitor: monitor, Port: port, Taps: s.taps, Output: s.dir.Path(outputFile),
	})
	if err != nil {
		return nil, "", err
	}
	for _, t := range s.taps {
		t.Close() // QEMU has them
	}
	return p, accel, nil
}

func (s *Shim) mark(text string) {
	if err := s.console.Mark(text + ", " + time.Now().UTC().Format(time.RFC3339)); err != nil {
		s.log.Warn("console not marked", "err", err)
	}
}

func (s *Shim) save() error {
	return bundle.Write(s.dir.Path("status.json"), s.status.get(), 0o640)
}

// tell brings news to the loop; false if that has ended.
func (s *Shim) tell(ctx context.Context, h happening) bool {
	select {
	case s.happened <- h:
		return true
	case <-ctx.Done():
	case <-s.over:
	}
	return false
}

func (s *Shim) watchProcess(ctx context.Context) {
	exit, err := s.process.Wait(ctx)
	if err != nil {
		return // the context's
	}
	s.tell(ctx, happening{event: machine.Exit, exit: exit})
}

// watchMonitor keeps a connection to QEMU's monitor, and tells what comes over it.
func (s *Shim) watchMonitor(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("QEMU's monitor is away", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// listen follows one connection to its end.
func (s *Shim) listen(ctx context.Context) error {
	conn, err := shim.Dial(ctx, string(s.dir), monitorSocket)
	if err != nil {
		return err
	}
	c, err := qmp.Open(ctx, conn)
	if err != nil {
		return err
	}
	defer c.Close()
	now, err := c.QueryStatus(ctx)
	if err != nil {
		return err
	}
	devices, err := c.Devices(ctx)
	if err != nil {
		return err
	}
	h := happening{connected: c, devices: devices}
	switch now.Status {
	case "guest-panicked":
		h.event = machine.Panic
	case "shutdown":
		h.event = machine.Shutdown
	default:
		h.event, h.prelaunch = machine.Ready, now.Status == "prelaunch"
	}
	if !s.tell(ctx, h) {
		return ctx.Err()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-c.Events():
			if !ok {
				s.tell(ctx, happening{lost: c})
				return qmp.ErrClosed
			}
			if h, ok := s.hear(e); ok && !s.tell(ctx, h) {
				return ctx.Err()
			}
		}
	}
}

// hear says what an event means, if anything.
func (s *Shim) hear(e qmp.Event) (happening, bool) {
	switch e.Name {
	case "RESET":
		// SeaBIOS finds that it has run before, and resets once more to get its memory back.
		again := e.Time.Sub(s.lastReset) < echo
		s.lastReset = e.Time
		return happening{event: machine.Reset}, !again
	case "GUEST_PANICKED":
		return happening{event: machine.Panic, panicInfo: fmt.Sprintf("%.1000s", e.Data)}, true
	case "SHUTDOWN":
		var d qmp.ShutdownData
		if err := e.Decode(&d); err != nil {
			s.log.Warn("event not understood", "err", err)
			return happening{}, false
		}
		s.log.Info("QEMU says shutdown", "reason", d.Reason, "guest", d.Guest)
		// By quit or a signal QEMU ends by itself, which its exit tells.
		return happening{event: machine.Shutdown}, d.Guest
	case "DEVICE_DELETED":
		var d qmp.DeletedData
		if err := e.Decode(&d); err == nil && deviceForm.MatchString(d.Device) {
			return happening{deleted: d.Device}, true
		}
	case "BLOCK_IO_ERROR", "WATCHDOG":
		s.log.Warn("QEMU reports", "event", e.Name, "data", string(e.Data))
	}
	return happening{}, false
}

// lock makes sure that a machine has one keeper. The lock goes with the process.
func lock(dir bundle.Dir) (unlock func(), err error) {
	f, err := os.Open(string(dir))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is locked", ErrTaken, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
