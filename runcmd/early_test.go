package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// waiting returns the process of the shell that waits for the next command. It is started when the command before it has
// ended: made, not yet there.
func (h *host) waiting() int {
	h.t.Helper()
	for guard := time.Now().Add(10 * time.Second); time.Now().Before(guard); {
		if pid := h.shell(); pid != 0 {
			return pid
		}
	}
	h.t.Fatal("no shell waits")
	return 0
}

// shell returns the process of the shell that waits; 0 for none.
func (h *host) shell() int {
	h.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/exe")
	check(h.t, err)
	for _, exe := range all {
		name, _ := os.Readlink(exe)
		dir := filepath.Dir(exe)
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if name != filepath.Join(h.bin, "sh") || !strings.HasSuffix(string(args), "--await\x00") {
			continue
		}
		// Tests run beside each other: this host's shell has its outputs in this host's journal.
		if out, _ := os.Readlink(filepath.Join(dir, "fd", "1")); !strings.HasPrefix(out, h.state) || !strings.Contains(out, "/.spare-") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		check(h.t, err)
		return pid
	}
	return 0
}

// ended waits until a process is dead, and its parent may learn of it.
func ended(t *testing.T, pid int) {
	t.Helper()
	for guard := time.Now().Add(10 * time.Second); time.Now().Before(guard); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Fatalf("process %d does not end", pid)
}

func TestAShellWaitsForItsScript(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.early = true
	h.startGateway()
	h.startAgent()
	h.end(h.send("true")) // the agent is there
	const whose = `read -r line < /proc/$$/stat; echo ${line%% *} $COLOUR $PWD`
	for _, c := range []struct {
		name   string
		before func() // to the shell that waits
		edit   func(*bundle.CommandRequest)
		script string
		code   int
		stdout string // %d stands for the shell that waited
		stderr string
	}{
		{name: "runs the script with its environment, in its directory", script: whose, stdout: "%d blue /tmp\n",
			edit: func(r *bundle.CommandRequest) { r.Steps[0].WorkingDirectory = "/tmp" }},
		{name: "ends with the script's code", script: "exit 125", code: 125},
		{name: "tells a broken script", script: "if", code: 2, stderr: "if"},
		{name: "is passed over by a script with another interpreter", script: "#!/bin/cat\nas it is", stdout: "#!/bin/cat\nas it is"},
		{name: "is passed over where the directory is not there", script: whose, code: 127, stderr: "the working directory /no/such/place is not there",
			edit: func(r *bundle.CommandRequest) { r.Steps[0].WorkingDirectory = "/no/such/place" }},
		{name: "is done without when it has died", script: "echo here", stdout: "here\n",
			before: func() { pid := h.waiting(); unix.Kill(pid, unix.SIGKILL); ended(t, pid) }},
		{name: "runs the first of two steps", script: whose, stdout: "%d blue /\nsecond\n", edit: func(r *bundle.CommandRequest) {
			r.Steps = append(r.Steps, cloud.Step{Name: "second", Action: "aws:runShellScript", Script: "echo second", TimeoutSeconds: 60})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid := h.waiting()
			if c.before != nil {
				c.before()
			}
			id := h.send(c.script, func(r *bundle.CommandRequest) {
				r.Environment = map[string]string{"COLOUR": "blue"}
				if c.edit != nil {
					c.edit(r)
				}
			})
			inv := h.end(id)
			want := c.stdout
			if strings.Contains(want, "%d") {
				want = fmt.Sprintf(want, pid)
			}
			if got := h.output(id, wire.Stdout); got != want || inv.ResponseCode != c.code {
				t.Errorf("got stdout %q and code %d, want %q and %d", got, inv.ResponseCode, want, c.code)
			}
			if got := h.output(id, wire.Stderr); !strings.Contains(got, c.stderr) || c.stderr == "" && got != "" {
				t.Errorf("got stderr %q, want %q in it", got, c.stderr)
			}
			gone(t, strconv.Itoa(pid)) // told or not, it does not stay
		})
	}
	// Nor does the one that waits when its agent is killed and nothing follows.
	pid := h.waiting()
	kill(h.agent)
	gone(t, strconv.Itoa(pid))
}
