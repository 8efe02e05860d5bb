package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"github.com/ichiro-metal/ichiro/runcmd/spool"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// An agent that is asked to end while commands run, because it is being updated or restarted, leaves a process behind that
// does nothing but wait for their ends. It traces them, since it is not their parent, notes how each ends in the command's
// directory, and holds the pipes open meanwhile. It goes when the next agent has recorded the results, or a day after the last
// command has ended.
//
//	agent -> SIGTERM -> starts it, waits until it traces -> ends with its keeper
//	                    it: end of a process -> lingered   next agent: lingered -> result
//
// An agent that is killed leaves none: then the next one traces by itself what still runs, and what has ended meanwhile is
// interrupted.

const (
	lingers  = "lingers"  // in a command's directory: somebody waits for its process
	lingered = "lingered" // how that has ended
	// lookEvery is between two looks for a file that another process writes.
	lookEvery = 10 * time.Millisecond
	// attachWithin is how long an agent that ends waits for the process that it leaves behind.
	attachWithin = 2 * time.Second
	// holdWithin is how long what a command has printed last waits for the next agent.
	holdWithin = 24 * time.Hour
	// noteWithin is how long that may take to write a note when a process has ended.
	noteWithin = 2 * time.Second
)

// left is one process that is waited for.
type left struct {
	journal.Process
	Dir string
}

// end is how it ended.
type end struct {
	journal.Process
	Code int
}

// Linger leaves a process behind for the commands that run, if there are any. From then on no step is started.
func (r *Runner) Linger() error {
	r.starts.Lock()
	r.ending = true
	r.starts.Unlock()
	r.settle()
	var all []left
	var processes []*process
	r.mu.Lock()
	for id, j := range r.jobs {
		j.mu.Lock()
		if j.running != nil && j.result == nil {
			all = append(all, left{j.running.Process, r.cfg.Journal.Dir(id)})
			processes = append(processes, j.running)
		}
		j.mu.Unlock()
	}
	r.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	for _, l := range all {
		if err := os.WriteFile(filepath.Join(l.Dir, lingers), nil, 0o600); err != nil {
			return err
		}
	}
	err := startWaiting(all)
	for n, p := range processes {
		if code, ok := p.leaving(); ok {
			all[n].note(code)
		}
	}
	return err
}

// leaving returns how the process ended, if nobody else can see that any more: a zombie can not be traced, and while it has other
// threads, as our own shell has, even its parent is told nothing yet.
func (p *process) leaving() (code int, ok bool) {
	for until := time.Now().Add(attachWithin); ; time.Sleep(lookEvery) {
		s, err := keeper.Stat(p.PID)
		if code, ok = p.over(); ok || err != nil || !s.Ended || time.Now().After(until) {
			return code, ok
		}
	}
}

// settle waits until it is on record of each command that its process runs, that it does not, or how it has ended.
func (r *Runner) settle() {
	for until := time.Now().Add(attachWithin); time.Now().Before(until); time.Sleep(lookEvery) {
		open := false
		r.mu.Lock()
		for _, j := range r.jobs {
			j.mu.Lock()
			open = open || j.running == nil && !j.parked && !j.over()
			j.mu.Unlock()
		}
		r.mu.Unlock()
		if !open {
			return
		}
	}
}

// startWaiting starts the process that waits, and returns when it does.
func startWaiting(all []left) error {
	list, err := json.Marshal(all)
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{os.Args[0], "linger"}, Dir: "/", Stdin: strings.NewReader(string(list)),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	attached := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(out, make([]byte, 1))
		attached <- err
	}()
	select {
	case err := <-attached:
		return err
	case <-time.After(attachWithin):
		return errors.New("the process that is to wait for commands is not there in time")
	}
}

// Wait is the process that Linger starts. It reads what to wait for from in, and writes to out when it waits for all.
func Wait(in io.Reader, out io.Writer) error {
	var all []left
	if err := json.NewDecoder(in).Decode(&all); err != nil {
		return fmt.Errorf("read what to wait for: %w", err)
	}
	var attached, over sync.WaitGroup
	for _, l := range all {
		attached.Add(1)
		over.Go(func() { l.wait(sync.OnceFunc(attached.Done)) })
	}
	attached.Wait()
	if _, err := out.Write([]byte("\n")); err != nil {
		return err
	}
	over.Wait()
	return nil
}

// wait notes the end of the process, and goes when somebody has taken the note. attached is called once it can not be missed,
// or when there is nothing to wait for; while another traces the process, that is for the other to see to.
func (l left) wait(attached func()) {
	for n := range wire.Streams { // held until this process ends
		spool.Hold(l.Dir, n.String())
	}
	for ; ; time.Sleep(lookEvery) {
		code, ok := trace(l.Process, attached)
		if ok {
			l.note(code)
			break
		}
		if s, err := startTime(l.PID); err != nil || s != l.Start {
			break
		}
		attached() // the agent that ends traces it, or one like this process that an earlier agent has left
	}
	attached()
	for until := time.Now().Add(holdWithin); time.Now().Before(until); time.Sleep(time.Second) { // the pipes
		if _, err := os.Stat(filepath.Join(l.Dir, "request")); err != nil {
			return
		}
		if _, err := os.Stat(filepath.Join(l.Dir, "result")); err == nil {
			return
		}
	}
}

// note writes how the process has ended.
func (l left) note(code int) {
	data, err := json.Marshal(end{l.Process, code})
	if err != nil {
		return
	}
	name := filepath.Join(l.Dir, lingered)
	temp := fmt.Sprintf("%s.%d", name, os.Getpid())
	if err := os.WriteFile(temp, data, 0o600); err == nil {
		os.Rename(temp, name) // who reads it takes none for an end that nobody knows
	}
}

// noted returns how a process of the command in dir ended for which somebody has waited; it waits for the note, if there is
// to be one.
func noted(dir string, p journal.Process) (code int, ok bool) {
	if _, err := os.Stat(filepath.Join(dir, lingers)); err != nil {
		return 0, false
	}
	for until := time.Now().Add(noteWithin); ; time.Sleep(lookEvery) {
		data, err := os.ReadFile(filepath.Join(dir, lingered))
		var e end
		if err == nil && json.Unmarshal(data, &e) == nil && e.Process == p {
			return e.Code, true
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) || time.Now().After(until) {
			return 0, false
		}
	}
}
