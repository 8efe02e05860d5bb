// Package process starts the daemons of a host and starts them again when they die.
//
// A process is known by its pid and the time it began, so that a number which the kernel has given to
// somebody else is never mistaken for it. What runs is recorded in a file per daemon: a supervisor that
// was killed finds its predecessor's daemons there, ends them and starts its own. Guests are not its
// business: they belong to shims, which nobody here starts or stops.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// A daemon that dies is started again after firstDelay; one that keeps dying is given up to lastDelay of
// rest, which still keeps the promise of 250 ms. One that has died so often in a row waits for a person: it is
// tried again at most every rest.
const (
	firstDelay = 20 * time.Millisecond
	lastDelay  = 200 * time.Millisecond
	often      = 20
	rest       = 10 * time.Second
	settled    = 2 * time.Second // a run at least this long makes the next delay the first one again

	usage = 2 // what our programs exit with when their arguments are wrong: trying again cannot help
)

// End asks the process to end and kills it when it has not within grace.
func End(p shim.Process, grace time.Duration) error {
	h, err := p.Open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	h.Signal(unix.SIGTERM)
	if h.Wait(ctx) == nil {
		return nil
	}
	h.Signal(unix.SIGKILL)
	return h.Wait(context.Background())
}

// Daemon is a program that is kept running.
type Daemon struct {
	Name   string
	Path   string
	Args   []string
	User   User
	Files  []*os.File // handed to each run as descriptors 4, 5 ...
	Record string     // where its identity is kept
	Log    *slog.Logger

	once  sync.Once
	ready chan struct{}
	ended chan struct{}
	first sync.Once // closes ready: a daemon that is started again says it again
}

// User is whom a daemon runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

func (d *Daemon) init() {
	d.once.Do(func() { d.ready, d.ended = make(chan struct{}), make(chan struct{}) })
}

// Ready is closed when the daemon has said for the first time that it is ready.
func (d *Daemon) Ready() <-chan struct{} { d.init(); return d.ready }

// Ended is closed when Run has returned: the daemon's process is gone.
func (d *Daemon) Ended() <-chan struct{} { d.init(); return d.ended }

func (d *Daemon) String() string { return d.Name }

// Run keeps the daemon running until ctx ends, then ends it. It ends whatever a predecessor of this
// supervisor left behind under the same record. It is called once.
func (d *Daemon) Run(ctx context.Context) error {
	d.init()
	defer close(d.ended)
	if old, err := bundle.Read[shim.Process](d.Record); err == nil {
		if err := End(old, 5*time.Second); err != nil {
			return fmt.Errorf("end the %s of an earlier supervisor: %w", d.Name, err)
		}
	}
	delay, most := firstDelay, lastDelay
	for died := 1; ; died++ {
		began := time.Now()
		err := d.runOnce(ctx)
		if ctx.Err() != nil {
			os.Remove(d.Record)
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("start %s: %w", d.Name, err)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == usage && !d.wasReady() { // which is what a panic exits with, too
			return fmt.Errorf("start %s: it does not take the arguments %q", d.Name, d.Args)
		}
		if time.Since(began) > settled {
			delay, most, died = firstDelay, lastDelay, 1
		}
		if died > often {
			most = rest
		}
		d.Log.Warn("daemon ended, starting it again", "daemon", d.Name, "in", delay, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, most)
	}
}

// wasReady reports whether a run came so far, with the arguments that all of them have.
func (d *Daemon) wasReady() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

func (d *Daemon) runOnce(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(d.Path, d.Args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = append([]*os.File{w}, d.Files...)
	cmd.Env = append(os.Environ(), "ICHIRO_READY_FD=3")
	// Its own process group: a Ctrl-C at the terminal reaches the supervisor alone, which then stops
	// the daemons in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if d.User.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: d.User.UID, Gid: d.User.GID, Groups: d.User.Groups}
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	if id, err := shim.FindProcess(cmd.Process.Pid); err == nil {
		if err := bundle.Write(d.Record, id, 0o644); err != nil {
			d.Log.Warn("the daemon's identity is not recorded", "daemon", d.Name, "err", err)
		}
	}
	go func() {
		if line, _ := bufio.NewReader(r).ReadString('\n'); strings.TrimSpace(line) == "READY" {
			d.first.Do(func() { close(d.ready) })
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		return <-ended
	}
}

// Recorded returns the identities in a directory of records, by daemon.
func Recorded(dir string) map[string]shim.Process {
	out := map[string]shim.Process{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, f := range files {
		if id, err := bundle.Read[shim.Process](f); err == nil {
			out[strings.TrimSuffix(filepath.Base(f), ".json")] = id
		}
	}
	return out
}
