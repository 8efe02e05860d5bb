// Package provision makes an instance of a machine without cloud-init: it carries out what the user data asks for.
//
// The order is cloud-init's, and so are the places, so that what people know and what tools look for is there:
//
//	boothooks, bootcmd -> write_files -> growpart, mounts, swap -> names -> groups, users, ssh keys -> timezone, runcmd's script
//	-> packages -> deferred files -> scripts: per once, per boot, per instance, the user's -> final message -> power state
//
//	/var/lib/cloud/instances/ID/{sem,scripts}   marks of what has ended; the user's scripts. /var/lib/cloud/instance leads there
//	/var/lib/cloud/{sem,scripts,data}           marks of what is done once for ever; scripts with a frequency; ids
//	/var/log/cloud-init.log, -output.log        what was done and what was not; what scripts print
//	/run/cloud-init/{status,result}.json        what `cloud-init status` reads
//
// A stage is marked when it has ended, well or badly: after a kill or a loss of power the next run does what had not
// ended, and a script that had is not run again. (cloud-init marks before, and so never ends what was interrupted.)
// What cannot be done is a trouble: a sentence in the log, on the console, in the status; the rest goes on. No sentence has
// words of the user data in it but names: of directives, files, users, packages.
package provision

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/userdata/config"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// System is the machine.
type System struct {
	Root        string // of its files: "/", or a scratch tree
	Commands    Commands
	Chown       func(dir *os.Root, name string, uid, gid int) error // of what is in a directory; follows no link
	Sethostname func(name string) error
	Now         func() time.Time
	Console     io.Writer // troubles, and the final message
}

// Commands runs programs.
type Commands interface {
	Look(name string) bool                           // is there such a program?
	Run(ctx context.Context, c Command) (int, error) // its exit code; an error if it could not be run
}

// Command is one program to run.
type Command struct {
	Argv  []string
	Env   []string // beside the usual
	Input string
	Said  *strings.Builder // gets what it prints; nil: that goes where scripts' output goes
}

// Instance is what the metadata service says.
type Instance struct {
	ID, Hostname, LaunchIndex, Region string
	Keys                              []string
	UserData                          []byte
	Data                              func(context.Context) (*yaml.Value, error) // for templates
	Get                               func(ctx context.Context, url string) ([]byte, error)
}

// Result is how it went.
type Result struct {
	Troubles []string
	Power    func(context.Context) error // ends the machine as asked; nil: it was not asked, or goes on
}

// run is one run.
type run struct {
	System
	in       Instance
	plan     config.Plan
	distro   string // ID of os-release
	log      io.Writer
	status   *status
	troubles []string
	power    *config.Power
	reboot   bool // now: what is left is for the next boot
}

// Run carries out everything, and returns when all has ended. It needs the file system only: an error is of that.
func Run(ctx context.Context, s System, in Instance) (Result, error) {
	r := &run{System: s, in: in}
	if in.ID == "" || strings.ContainsAny(in.ID, "/\x00") || strings.Trim(in.ID, ".") == "" {
		return Result{}, fmt.Errorf("the metadata names this instance %.40q", in.ID)
	}
	if err := r.prepare(); err != nil {
		return Result{}, err
	}
	r.say("INFO", "instance %s is provisioned", in.ID)
	r.status.enter("init-local")
	r.consume(ctx)
	for _, st := range stages {
		if ctx.Err() != nil || r.reboot {
			break
		}
		r.stage(ctx, st)
	}
	if err := ctx.Err(); err != nil {
		r.say("WARNING", "stopped from outside: what has not ended is for the next run")
		return Result{Troubles: r.troubles}, err
	}
	r.status.finish()
	return Result{r.troubles, r.end()}, nil
}

// prepare makes the places.
func (r *run) prepare() error {
	for dir, mode := range map[string]os.FileMode{
		r.instance("sem"): 0o755, r.instance("scripts"): 0o755, r.instance("boothooks"): 0o755, "/var/lib/cloud/sem": 0o755, "/var/lib/cloud/data": 0o755,
		"/var/lib/cloud/scripts/per-once": 0o755, "/var/lib/cloud/scripts/per-boot": 0o755, "/var/lib/cloud/scripts/per-instance": 0o755,
		"/var/log": 0o755, "/run/cloud-init": 0o755,
	} {
		if err := os.MkdirAll(r.path(dir), mode); err != nil {
			return fmt.Errorf("make a place for provisioning: %w", err)
		}
	}
	log, err := os.OpenFile(r.path("/var/log/cloud-init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	r.log = log // closed by the end of the process: scripts that are left do not have it
	link := r.path("/var/lib/cloud/instance")
	if to, err := os.Readlink(link); err != nil || to != r.instance("") {
		os.Remove(link)
		if err := os.Symlink(r.instance(""), link); err != nil {
			return fmt.Errorf("lead to the instance's directory: %w", err)
		}
	}
	before, _ := os.ReadFile(r.path("/var/lib/cloud/data/instance-id"))
	if id := strings.TrimSpace(string(before)); id != r.in.ID {
		if err := r.store("/var/lib/cloud/data/previous-instance-id", id+"\n", 0o644); err != nil {
			return err
		}
		if err := r.store("/var/lib/cloud/data/instance-id", r.in.ID+"\n", 0o644); err != nil {
			return err
		}
	}
	r.distro = distribution(r.path("/etc/os-release"))
	r.status = newStatus(r)
	return nil
}

// path is where a file of the machine is.
func (r *run) path(name string) string { return filepath.Join(r.Root, name) }

// instance is a file of this instance's directory, as the machine has it.
func (r *run) instance(name string) string {
	return filepath.Join("/var/lib/cloud/instances", r.in.ID, name)
}

// unfinished is before the name of a file that is being written.
const unfinished = ".tmp-"

// store writes a file whole or not at all, and for good.
func (r *run) store(name, text string, mode os.FileMode) error {
	temporary := filepath.Join(filepath.Dir(r.path(name)), unfinished+filepath.Base(name))
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temporary, r.path(name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// chown gives something to somebody.
func (r *run) chown(path string, uid, gid int) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return r.Chown(dir, filepath.Base(path), uid, gid)
}

// say writes a line to the log, in cloud-init's form.
func (r *run) say(level, format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " | ")
	fmt.Fprintf(r.log, "%s - provision[%s]: %s\n", r.Now().UTC().Format("2006-01-02 15:04:05,000"), level, line)
}

// trouble tells what is not done, to all who may want to know.
func (r *run) trouble(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " | ")
	r.troubles = append(r.troubles, text)
	r.status.trouble(text)
	r.say("ERROR", "%s", text)
	fmt.Fprintf(r.Console, "ichiro: trouble: %s\n", text)
}

// try tells the error of something, if it has one; true if it went well.
func (r *run) try(err error) bool {
	if err != nil {
		r.trouble("%v", err)
	}
	return err == nil
}

// report tells what the decider had to say.
func (r *run) report(c config.Report) {
	for _, t := range c.Troubles {
		r.trouble("%s", t)
	}
	for _, d := range c.Doubts {
		r.say("WARNING", "%s", d)
	}
}

// tool runs a program whose words only matter if it fails; its failure is a trouble. The caller's sentence says what
// was to be done.
func (r *run) tool(ctx context.Context, what string, c Command) bool {
	var said strings.Builder
	c.Said = &said
	code, err := r.Commands.Run(ctx, c)
	switch {
	case err != nil:
		r.trouble("%s: %v", what, err)
	case code != 0:
		r.trouble("%s: %s ended with exit code %d: %.300s", what, c.Argv[0], code, strings.TrimSpace(said.String()))
	}
	return err == nil && code == 0
}

// distribution is the ID of os-release.
func distribution(file string) string { return released(file, "ID") }

// released is a value of os-release; empty if it has none.
func released(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// small tells whether this is our own image, whose files are all ours.
func (r *run) small() bool { return r.distro == "ichiro" }
