// Package act turns a step into the process that carries it out.
//
// A plain script is a shell that reads it. All else begins as this program itself, in another role, so that to whoever waits for
// the step it is one process like any other, in the same session and control group, with the same outputs and the same end:
//
//	ichiro-runcmd exec LIMITS PROGRAM...    sets the limits and the umask, and becomes the program
//	ichiro-runcmd act FILE                  downloads, or runs a document's steps one after the other
//
// Command decides and starts nothing. GoOn is what follows a step, in a command and in a document within one.
package act

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// self is this program, also when its file has been replaced meanwhile.
const self = "/proc/self/exe"

// Place is where a step is carried out.
type Place struct {
	File        string // of the script, in a directory of the command's own; Write makes it
	Work        string // what relative names are relative to; made when there are any
	Environment []string
}

// Write writes what the step's process will read.
func (p Place) Write(s wire.Step) error {
	text := []byte(s.Script)
	if s.Download != nil || s.Document != nil {
		var err error
		if text, err = json.Marshal(s); err != nil {
			return err
		}
	}
	return os.WriteFile(p.File, text, 0o700)
}

// Command returns the process of a step whose file is written. It makes the step's own directory, if the step is to be there.
func Command(s wire.Step, p Place) (*exec.Cmd, error) {
	argv := []string{"/bin/sh", p.File}
	switch {
	case s.Download != nil || s.Document != nil:
		argv = []string{self, "act", p.File, p.Work}
	case strings.HasPrefix(s.Script, "#!"):
		argv = []string{p.File} // the script names its own interpreter
	}
	if s.Umask != "" || s.Limits != (cloud.StepLimits{}) {
		argv = append([]string{self, "exec", bounds(s), argv[0]}, argv[1:]...)
	}
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Env: p.Environment, SysProcAttr: &syscall.SysProcAttr{}}
	for name, v := range s.Environment {
		cmd.Env = append(cmd.Env, name+"="+v)
	}
	switch {
	case s.Directory == "" && s.Download == nil && s.Document == nil:
		cmd.Dir = "/"
	case filepath.IsAbs(s.Directory):
		cmd.Dir = s.Directory
	default:
		if err := os.MkdirAll(p.Work, 0o755); err != nil {
			return nil, err
		}
		cmd.Dir = filepath.Join(p.Work, s.Directory)
	}
	if info, err := os.Stat(cmd.Dir); err != nil { // the error of a process that can not be started names the shell
		return nil, fmt.Errorf("the working directory %s is not there", cmd.Dir)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("the working directory %s is not one", cmd.Dir)
	}
	if s.User != "" {
		return cmd, p.become(cmd, s.User)
	}
	return cmd, nil
}

// become makes the process a user's, who is then able to read the script and to write into the step's own directory.
func (p Place) become(cmd *exec.Cmd, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return fmt.Errorf("there is no user %s", name)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, err := u.GroupIds()
	if err != nil {
		return fmt.Errorf("look for the groups of user %s: %w", name, err)
	}
	for _, g := range groups {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	cmd.SysProcAttr.Credential = c
	cmd.Env = append(cmd.Env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
	if err := pass(filepath.Dir(p.File), depth); err != nil {
		return err
	}
	if err := os.Chown(p.File, int(uid), int(gid)); err != nil {
		return err
	}
	if err := os.Chown(p.Work, int(uid), int(gid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// depth is how many directories of the agent's own there are down to a script: of its state, of the commands, of this one.
const depth = 3

// pass lets everybody through a directory and those above it, but look into none of them.
func pass(dir string, levels int) error {
	for range levels {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if err := os.Chmod(dir, info.Mode()|0o011); err != nil {
			return err
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// GoOn tells whether the next step runs after one that has ended so, as Systems Manager decides: 168 and 169 end a document
// as a success and a failure, onFailure and onSuccess may end it; else it goes on after a failure, which a step that took too
// long is, too. It sets right how the step has ended.
func GoOn(s wire.Step, r *wire.StepResult) bool {
	switch {
	case r.Outcome == wire.Failed && r.Code == wire.Skip:
		r.Outcome = wire.Success
		return false
	case r.Outcome == wire.Failed && r.Code == wire.SkipFailed:
		return false
	case r.Outcome == wire.Failed, r.Outcome == wire.TimedOut:
		if s.OnFailure == "successAndExit" {
			r.Outcome = wire.Success
		}
		return s.OnFailure == ""
	case r.Outcome == wire.Success:
		return s.OnSuccess != "exit"
	}
	return false // cancelled, interrupted
}

// Run is this program in one of the roles that Command gives it. It returns the exit code.
func Run(args []string) int {
	var err error
	code := 1
	switch {
	case len(args) >= 3 && args[0] == "exec":
		err = become(args[1], args[2:])
	case len(args) == 3 && args[0] == "act":
		code, err = carryOut(args[1], args[2])
	default:
		err = errors.New("say exec BOUNDS PROGRAM... or act FILE DIRECTORY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

func carryOut(file, work string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 1, err
	}
	var s wire.Step
	if err := json.Unmarshal(text, &s); err != nil {
		return 1, fmt.Errorf("read a step: %w", err)
	}
	if s.Download != nil {
		return fetch(*s.Download, work)
	}
	return runDocument(s, file, work)
}
