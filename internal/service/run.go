package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Task is one of the things that a daemon does at the same time.
//
// Two further methods are optional. Health() error says what an operator should look at;
// it shows in /healthz. Alive() error says that the task is stuck for good: the watchdog
// is then no longer fed, and systemd ends the process with a dump of its goroutines.
type Task interface {
	// Run does the work until ctx ends. A nil result before that means that the task
	// has nothing left to do.
	Run(ctx context.Context) error
	// Ready is closed when the task does what it is for. A nil channel means at once.
	Ready() <-chan struct{}
	// String is the task's name in errors and in /readyz.
	String() string
}

// Func is a Task that is ready at once.
func Func(name string, run func(context.Context) error) Task { return funcTask{name, run} }

type funcTask struct {
	name string
	run  func(context.Context) error
}

func (f funcTask) Run(ctx context.Context) error { return f.run(ctx) }
func (f funcTask) Ready() <-chan struct{}        { return nil }
func (f funcTask) String() string                { return f.name }

// Run runs tasks until ctx ends or one of them fails, and then waits for all of them.
// They are stopped one by one, the last of the list first. The error is that of the task
// that failed first; being told to stop is none.
func Run(ctx context.Context, tasks ...Task) error {
	told, err := newNotifier()
	if err != nil {
		return err
	}
	group := &group{done: make(chan struct{})}
	for _, t := range tasks {
		group.members = append(group.members, &member{Task: t, stopped: make(chan struct{})})
	}
	for _, m := range group.members {
		if a, ok := m.Task.(*admin); ok {
			a.watch(group)
		}
	}
	for _, m := range group.members {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		m.cancel = cancel
		go m.run(own, group)
	}
	var minder sync.WaitGroup
	minding, stopMinding := context.WithCancel(context.WithoutCancel(ctx))
	minder.Go(func() { told.mind(minding, group) })

	allDone := make(chan struct{})
	go func() { // a daemon whose tasks are all done is done
		for _, m := range group.members {
			<-m.stopped
		}
		close(allDone)
	}()
	select {
	case <-ctx.Done():
	case <-group.done:
	case <-allDone:
	}
	told.send(daemon.SdNotifyStopping)
	for i := len(group.members) - 1; i >= 0; i-- {
		group.members[i].cancel()
		<-group.members[i].stopped
	}
	<-allDone
	stopMinding()
	minder.Wait()
	return group.err
}

// group is the tasks of one Run.
type group struct {
	members []*member
	once    sync.Once
	err     error         // of the task that failed first
	done    chan struct{} // closed when one failed
}

type member struct {
	Task
	cancel  context.CancelFunc
	stopped chan struct{}
}

func (m *member) run(ctx context.Context, g *group) {
	defer close(m.stopped)
	err := m.Task.Run(ctx)
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return
	}
	g.once.Do(func() {
		g.err = fmt.Errorf("%s: %w", m, err)
		close(g.done)
	})
}

// ready reports whether the task does what it is for, or did.
func (m *member) ready() bool {
	ready := m.Ready()
	if ready == nil {
		return true
	}
	select {
	case <-ready:
		return true
	case <-m.stopped:
		return true
	default:
		return false
	}
}

// waitReady returns true when every task is ready.
func (g *group) waitReady(ctx context.Context) bool {
	for _, m := range g.members {
		if m.Ready() == nil {
			continue
		}
		select {
		case <-m.Ready():
		case <-m.stopped:
		case <-g.done:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (g *group) alive() bool {
	for _, m := range g.members {
		if a, ok := m.Task.(interface{ Alive() error }); ok && a.Alive() != nil {
			return false
		}
	}
	return true
}

// notifier tells whoever started the process how it is.
type notifier struct {
	readyFD  *os.File
	watchdog time.Duration // zero without one
}

// newNotifier takes ICHIRO_READY_FD out of the environment, so that no child speaks for us.
func newNotifier() (*notifier, error) {
	n := &notifier{}
	if v := os.Getenv("ICHIRO_READY_FD"); v != "" {
		fd, err := strconv.Atoi(v)
		if err != nil || fd < 0 {
			return nil, Usagef("ICHIRO_READY_FD is %q, want the number of a file descriptor", v)
		}
		os.Unsetenv("ICHIRO_READY_FD")
		n.readyFD = os.NewFile(uintptr(fd), "ready")
	}
	var err error
	if n.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		return nil, fmt.Errorf("read the watchdog's interval: %v", err)
	}
	return n, nil
}

// mind tells of readiness once and feeds the watchdog until ctx ends.
func (n *notifier) mind(ctx context.Context, g *group) {
	var tick <-chan time.Time
	if n.watchdog > 0 {
		ticker := time.NewTicker(n.watchdog / 3)
		defer ticker.Stop()
		tick = ticker.C
	}
	ready := make(chan bool, 1)
	go func() { ready <- g.waitReady(ctx) }()
	for {
		select {
		case ok := <-ready:
			if ok {
				n.ready()
			}
		case <-tick:
			if g.alive() {
				n.send(daemon.SdNotifyWatchdog)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (n *notifier) ready() {
	n.send(daemon.SdNotifyReady)
	if n.readyFD != nil {
		n.readyFD.WriteString("READY\n") // whoever asked for it and left has no use for the error
		n.readyFD.Close()
	}
}

// send ignores errors: a service manager that does not listen is no reason to stop serving.
func (n *notifier) send(state string) { daemon.SdNotify(false, state) }
