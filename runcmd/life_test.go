package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

func steps(s ...cloud.Step) func(*bundle.CommandRequest) {
	return func(r *bundle.CommandRequest) {
		for i := range s {
			s[i].Name = fmt.Sprint("step", i)
			if s[i].TimeoutSeconds == 0 {
				s[i].TimeoutSeconds = 60
			}
		}
		r.Steps = s
	}
}

func TestCancelAndTimeout(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	cancel := func(id cloud.CommandID) {
		check(t, h.dir.PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{Command: id, Cancel: true}}))
	}
	t.Run("a script may clean up", func(t *testing.T) {
		id := h.send("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
		h.printed(id)
		cancel(id)
		inv := h.end(id)
		if got := h.output(id, wire.Stdout); inv.Status != cloud.InvocationCancelled || got != "ready\nbye\n" {
			t.Errorf("got %s and %q", inv.Status, got)
		}
	})
	t.Run("a script that does not listen is killed with its children", func(t *testing.T) {
		id := h.send("trap '' TERM; sleep 1000 & echo $!; wait; while :; do sleep 1000; done")
		h.printed(id)
		cancel(id)
		inv := h.end(id)
		if inv.Status != cloud.InvocationCancelled || inv.ResponseCode != 137 {
			t.Errorf("got %+v", inv)
		}
		alive(t, h.output(id, wire.Stdout), false)
	})
	t.Run("a timeout does not stop the next step, and is how the command ends", func(t *testing.T) {
		id := h.send("", steps(cloud.Step{Script: "sleep 1000", TimeoutSeconds: 1}, cloud.Step{Script: "echo two"}))
		inv := h.end(id)
		if inv.Status != cloud.InvocationTimedOut || inv.Details != "ExecutionTimedOut" || len(inv.Steps) != 2 || h.output(id, wire.Stdout) != "two\n" {
			t.Errorf("got %+v", inv)
		}
	})
	t.Run("a failed step does not stop the next one", func(t *testing.T) {
		id := h.send("", steps(cloud.Step{Script: "exit 5"}, cloud.Step{Script: "echo two"}))
		inv := h.end(id)
		if inv.Status != cloud.InvocationFailed || inv.ResponseCode != 5 || len(inv.Steps) != 2 || h.output(id, wire.Stdout) != "two\n" {
			t.Errorf("got %+v and %q", inv, h.output(id, wire.Stdout))
		}
	})
	t.Run("168 is a success and skips the rest", func(t *testing.T) {
		id := h.send("", steps(cloud.Step{Script: "exit 168"}, cloud.Step{Script: "echo two"}))
		inv := h.end(id)
		if inv.Status != cloud.InvocationSuccess || len(inv.Steps) != 1 || h.output(id, wire.Stdout) != "" {
			t.Errorf("got %+v", inv)
		}
	})
	t.Run("a removed command is stopped", func(t *testing.T) {
		id := h.send("echo $$; exec sleep 1000")
		h.printed(id)
		pid := h.output(id, wire.Stdout)
		check(t, h.dir.RemoveCommand(id))
		gone(t, pid)
	})
}

// printed waits for a command's first line: it is told to be in progress before its script runs.
func (h *host) printed(id cloud.CommandID) {
	h.t.Helper()
	eventually(h.t, "the command prints a line", func() bool { return strings.Contains(h.output(id, wire.Stdout), "\n") })
}

// gone waits for a process to end, by its pidfd.
func gone(t *testing.T, pid string) {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	check(t, err)
	fd, err := unix.PidfdOpen(n, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Errorf("process lives: %v", err)
		}
		return
	}
}

// alive checks processes by number; zombies do not count.
func alive(t *testing.T, pids string, want bool) {
	t.Helper()
	for pid := range strings.Lines(pids) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
		if got := err == nil && !strings.Contains(string(stat), ") Z "); got != want {
			t.Errorf("process %s: alive is %t, want %t", strings.TrimSpace(pid), got, want)
		}
	}
}

func TestHundredCommandsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	side := filepath.Join(t.TempDir(), "side")
	gate := filepath.Join(t.TempDir(), "gate")
	check(t, unix.Mkfifo(gate, 0o600))
	var ids []cloud.CommandID
	for n := range 100 {
		// All must be running before any may end.
		ids = append(ids, h.send(fmt.Sprintf("echo %d >> %s; echo out %d; read x < %s; exit %d", n, side, n, gate, n%3)))
	}
	for _, id := range ids {
		h.wait(id, func(i cloud.Invocation) bool { return i.Status == cloud.InvocationInProgress })
	}
	open, err := os.OpenFile(gate, os.O_RDWR, 0)
	check(t, err)
	defer open.Close()
	_, err = open.Write(bytes.Repeat([]byte("\n"), 100))
	check(t, err)
	for n, id := range ids {
		inv := h.end(id)
		if inv.ResponseCode != n%3 || h.output(id, wire.Stdout) != fmt.Sprintf("out %d\n", n) {
			t.Errorf("%d: got %+v and %q", n, inv, h.output(id, wire.Stdout))
		}
	}
	if data, _ := os.ReadFile(side); bytes.Count(data, []byte("\n")) != 100 {
		t.Errorf("got %d runs, want 100", bytes.Count(data, []byte("\n")))
	}
}

func TestOutputBounds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway("--output-limit", "100000", "--output-quota", "150000")
	h.startAgent()
	id := h.send("seq 1 100000; echo end >&2")
	inv := h.end(id)
	want, err := exec.Command("seq", "1", "100000").Output()
	check(t, err)
	if got := h.output(id, wire.Stdout); got != string(want[:100000]) || inv.StdoutBytes != int64(len(want)) {
		t.Errorf("got %d bytes kept of %d, want 100000 of %d", len(got), inv.StdoutBytes, len(want))
	}
	if got := h.output(id, wire.Stderr); got != "end\n" {
		t.Errorf("got stderr %q", got)
	}
	second := h.send("seq 1 100000")
	h.end(second)
	if got := h.output(second, wire.Stdout); got != string(want[:100000]) {
		t.Errorf("got %d bytes of the second command, want as many as of the first, which makes room", len(got))
	}
	if _, err := os.Stat(h.dir.Path("commands", string(id), bundle.Trimmed)); err != nil || h.output(id, wire.Stdout)+h.output(id, wire.Stderr) != "" {
		t.Errorf("got %d bytes of the first command and %v, want the word that they are gone", len(h.output(id, wire.Stdout)), err)
	}
	kill(h.gateway) // what it knew of the room it reads again
	h.startGateway("--output-limit", "100000", "--output-quota", "150000")
	third := h.send("seq 1 100000")
	h.end(third)
	if got := len(h.output(third, wire.Stdout)); got != 100000 || h.output(second, wire.Stdout) != "" {
		t.Errorf("got %d bytes of the third command, and %d of the second", got, len(h.output(second, wire.Stdout)))
	}
	check(t, h.dir.RemoveCommand(id))
}

func TestAgentIsSeen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	connected := func(want bool) {
		for {
			if p, err := h.dir.Agent(); err == nil && p.Connected == want {
				if p.PlatformType != "Linux" || p.Address != "127.0.0.1" || p.Instance != instance || p.Version == "" || p.LastSeen.IsZero() {
					t.Errorf("got %+v", p)
				}
				return
			}
			select {
			case <-h.watch:
			case <-time.After(10 * time.Second):
				t.Fatalf("agent.json does not say that connected is %t", want)
			}
		}
	}
	connected(true)
	kill(h.agent)
	connected(false)
}

func TestPrograms(t *testing.T) {
	bin, err := programs()
	check(t, err)
	info, err := os.Stat(filepath.Join(bin, "agent"))
	check(t, err)
	t.Logf("the agent has %d bytes", info.Size())
	if info.Size() > 10<<20 {
		t.Errorf("the agent has %d bytes, want at most 10 MiB", info.Size())
	}
}
