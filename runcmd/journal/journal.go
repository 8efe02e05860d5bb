// Package journal remembers which commands this guest was given, so that none runs twice.
//
// A command has a directory named by its ID. Its life is what is in there:
//
//	request             it was accepted; synced before anything of it runs
//	request, early      a shell was there before it, and may have been told to run its first step
//	request, progress   a step was started: its process, and the results of the steps before
//	request, progress   a step has asked for a reboot, and runs again in the next boot; synced before the reboot, and
//	                    once more before it runs again
//	request, progress   or the step was not started for sure, because the agent was asked to end just then
//	request, result     it has ended; the result waits for the gateway
//
// An agent that starts looks at each: a step whose process is still there is waited for, one whose
// process is gone without a result was interrupted, and nothing is ever started again, but for a step that
// has asked to be, or is known not to have been. A journal of another boot holds no live process. The outputs lie in the same directory (package spool).
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/fault"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

// Journal is a directory of commands.
type Journal struct {
	dir   string
	ended *ended // nil: who asks for commands remembers himself which have ended
}

// Entry is what the journal knows of one command.
type Entry struct {
	Request  wire.Request
	Boot     string    // the guest's boot in which it was accepted
	Progress *Progress // nil before the first step
	Early    *Progress // of a process that was there before the command; nil if none was
	Result   *wire.Result
}

// Process names a process so that its successor with the same number is not taken for it.
type Process struct {
	PID   int
	Start uint64 // in clock ticks since boot: field 22 of /proc/PID/stat
}

// Progress is a running step and the results of those before it.
type Progress struct {
	Steps   []wire.StepResult
	Process Process
	Started time.Duration // since boot
	Cgroup  string        `json:",omitempty"`

	Unstarted bool   `json:",omitempty"` // the step that is next was not started, as the agent was asked to end
	Skip      bool   `json:",omitempty"` // of the steps that follow only those run that run in any case
	Boot      string `json:",omitempty"` // in which the step runs; empty for that in which the command was accepted
	Reboots   int    `json:",omitempty"` // that the step has asked for
	Rebooting bool   `json:",omitempty"` // the step has ended and asked for one: in the next boot it runs again
}

type accepted struct {
	Request wire.Request
	Boot    string
}

// Open returns the journal in dir, and makes it if there is none.
func Open(dir string) (*Journal, error) {
	return &Journal{dir: dir}, os.MkdirAll(dir, 0o700)
}

// Dir returns the directory of a command.
func (j *Journal) Dir(id cloud.CommandID) string { return filepath.Join(j.dir, string(id)) }

// spare is how the names of directories begin that no command has yet.
const spare = ".spare-"

// Spare is a directory for a command that will come, with the file for its request open.
type Spare struct {
	Dir     string
	request *os.File
}

// Spare makes a directory for a command that will come.
func (j *Journal) Spare() (*Spare, error) {
	dir, err := os.MkdirTemp(j.dir, spare+"*")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "request"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &Spare{dir, f}, nil
}

// Discard removes a spare that no command has been given.
func (s *Spare) Discard() error { return errors.Join(s.request.Close(), os.RemoveAll(s.Dir)) }

// Early records a process that was started in advance for the command that s will be given.
func (s *Spare) Early(p Progress) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, "early"), data, 0o600)
}

// NotEarly records that the process which was started in advance has no part in the command.
func (j *Journal) NotEarly(id cloud.CommandID) error {
	if err := os.Remove(filepath.Join(j.Dir(id), "early")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Begin records that a command was accepted, and gives it s for its directory. fs.ErrExist if it was accepted before.
//
// The file is synced, the name of its directory is not. Where that is lost with the power, the gateway's own note of the
// boot that it sent the command to prevents a second run.
func (j *Journal) Begin(s *Spare, req wire.Request, boot string) error {
	data, err := json.Marshal(accepted{req, boot})
	if err != nil {
		return err
	}
	if _, err := s.request.Write(data); err != nil {
		return err
	}
	if err := s.request.Sync(); err != nil {
		return err
	}
	fault.At("agent journal synced")
	// Not os.Rename, which first looks at both names: the kernel refuses a directory that is not empty.
	if err := unix.Rename(s.Dir, j.Dir(req.ID)); err != nil {
		return &os.LinkError{Op: "rename", Old: s.Dir, New: j.Dir(req.ID), Err: err}
	}
	return s.request.Close()
}

// Start records the process of a step.
func (j *Journal) Start(id cloud.CommandID, p Progress) error {
	return j.replace(id, "progress", p)
}

// Checkpoint is Start for what must outlive the power: the file and its name are synced.
func (j *Journal) Checkpoint(id cloud.CommandID, p Progress) error {
	if err := j.replace(id, "progress", p); err != nil {
		return err
	}
	for _, name := range []string{filepath.Join(j.Dir(id), "progress"), j.Dir(id)} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// End records how a command ended. It is not synced: if the guest goes down now, the command counts as
// interrupted, and it still does not run again.
func (j *Journal) End(r wire.Result) error { return j.replace(r.ID, "result", r) }

func (j *Journal) replace(id cloud.CommandID, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(j.Dir(id), name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Forget removes all that is kept of a command, but for the word that it was there, if that is remembered.
func (j *Journal) Forget(id cloud.CommandID) error {
	if j.ended != nil {
		if err := j.ended.add(id); err != nil {
			return err // it stays, which is a word, too
		}
	}
	return os.RemoveAll(j.Dir(id))
}

// List returns the commands in the journal, and removes what earlier agents had made for others.
func (j *Journal) List() ([]Entry, error) {
	dirs, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, d := range dirs {
		id := cloud.CommandID(d.Name())
		e, err := j.read(id)
		if err != nil { // it was never accepted
			if err := os.RemoveAll(j.Dir(id)); err != nil {
				return nil, err
			}
			continue
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (j *Journal) read(id cloud.CommandID) (Entry, error) {
	var e Entry
	var a accepted
	if err := read(filepath.Join(j.Dir(id), "request"), &a); err != nil {
		return e, err
	}
	if a.Request.ID != id {
		return e, fmt.Errorf("journal of %s is about %q", id, a.Request.ID)
	}
	e.Request, e.Boot = a.Request, a.Boot
	var p Progress
	if err := read(filepath.Join(j.Dir(id), "progress"), &p); err == nil {
		e.Progress = &p
	}
	var early Progress
	if err := read(filepath.Join(j.Dir(id), "early"), &early); err == nil {
		e.Early = &early
	}
	var r wire.Result
	if err := read(filepath.Join(j.Dir(id), "result"), &r); err == nil {
		e.Result = &r
	} else if !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	return e, nil
}

func read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
