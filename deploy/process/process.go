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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// A daemon that dies is started again after firstDelay; one that keeps dying is given up to lastDelay of
// rest, which still keeps the promise of 250 ms.
const (
	firstDelay = 20 * time.Millisecond
	lastDelay  = 200 * time.Millisecond
	settled    = 2 * time.Second // a run at least this long makes the next delay the first one again
)

// ID identifies a process across the reuse of its number.
type ID struct {
	PID   int
	Began uint64 // clock ticks since boot, field 22 of /proc/PID/stat
}

// Identify returns the identity of a running process.
func Identify(pid int) (ID, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ID{}, err
	}
	// The second field, the name in parentheses, may hold spaces; what follows the last ")" does not.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return ID{}, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	if fields[0] == "Z" {
		return ID{}, fs.ErrNotExist
	}
	began, err := strconv.ParseUint(fields[19], 10, 64)
	return ID{pid, began}, err
}

// Alive reports whether the process is still there.
func (i ID) Alive() bool {
	now, err := Identify(i.PID)
	return err == nil && now == i
}

// End asks the process to end and kills it when it has not within grace.
func (i ID) End(grace time.Duration) {
	if !i.Alive() {
		return
	}
	syscall.Kill(i.PID, syscall.SIGTERM)
	deadline := time.Now().Add(grace)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i.Alive() {
		if time.Now().After(deadline) {
			syscall.Kill(i.PID, syscall.SIGKILL)
			deadline = deadline.Add(time.Hour)
		}
		<-tick.C
	}
}

// Daemon is a program that is kept running.
type Daemon struct {
	Name   string
	Path   string
	Args   []string
	User   User
	Record string // where its identity is kept
	Log    *slog.Logger

	once  sync.Once
	ready chan struct{}
	first sync.Once // closes ready: a daemon that is started again says it again
}

// User is whom a daemon runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

func (d *Daemon) init() { d.once.Do(func() { d.ready = make(chan struct{}) }) }

// Ready is closed when the daemon has said for the first time that it is ready.
func (d *Daemon) Ready() <-chan struct{} { d.init(); return d.ready }

func (d *Daemon) String() string { return d.Name }

// Run keeps the daemon running until ctx ends, then ends it. It ends whatever a predecessor of this
// supervisor left behind under the same record.
func (d *Daemon) Run(ctx context.Context) error {
	d.init()
	if old, err := bundle.Read[ID](d.Record); err == nil {
		old.End(5 * time.Second)
	}
	delay := firstDelay
	for {
		began := time.Now()
		err := d.runOnce(ctx)
		if ctx.Err() != nil {
			os.Remove(d.Record)
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("start %s: %w", d.Name, err)
		}
		if time.Since(began) > settled {
			delay = firstDelay
		}
		d.Log.Warn("daemon ended, starting it again", "daemon", d.Name, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
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
	cmd.ExtraFiles = []*os.File{w}
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
	if id, err := Identify(cmd.Process.Pid); err == nil {
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
func Recorded(dir string) map[string]ID {
	out := map[string]ID{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, f := range files {
		if id, err := bundle.Read[ID](f); err == nil {
			out[strings.TrimSuffix(filepath.Base(f), ".json")] = id
		}
	}
	return out
}
