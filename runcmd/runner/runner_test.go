package runner

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// bench is a runner whose changes the test waits for.
type bench struct {
	t       *testing.T
	r       *Runner
	changed chan struct{}
}

func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, changed: make(chan struct{}, 1)}
	b.r = New(Config{
		Journal: j, Boot: "boot", Environment: os.Environ(), Grace: 100 * time.Millisecond,
		Changed: func(cloud.CommandID) {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err := b.r.Adopt(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.leave)
	return b
}

// leave ends the runner as an agent's end does. Else it would make a room for the next command while its directory is removed, or
// while the next agent clears up.
func (b *bench) leave() {
	b.r.Close()
	b.r.wg.Wait()
	b.r.Close()
}

func request(id, script string) wire.Request {
	return wire.Request{ID: cloud.CommandID(id), Limit: 100 << 20, Steps: []wire.Step{{Name: "a", Script: script, Timeout: time.Minute}}}
}

// end collects a job's output, acknowledging as it goes, until the result is there and on record.
func (b *bench) end(j *Job) (*wire.Result, string) {
	var out strings.Builder
	buf := make([]byte, 64<<10)
	for {
		r := j.Result()
		for s := j.Stream(wire.Stdout); s != nil; {
			n, err := s.ReadAt(buf, int64(out.Len()))
			if err != nil {
				b.t.Fatal(err)
			}
			if n == 0 {
				break
			}
			out.Write(buf[:n])
			s.Ack(int64(out.Len()))
		}
		if r != nil {
			<-j.ended
			return r, out.String()
		}
		<-b.changed
	}
}

func TestOutputLargerThanTheWindow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir)
	r, out := b.end(b.r.Request(t.Context(), request("a", "seq 1 2000000")))
	if !strings.HasPrefix(out, "1\n2\n3\n") || !strings.HasSuffix(out, "1999999\n2000000\n") || int64(len(out)) != r.Outputs[wire.Stdout] {
		t.Errorf("got %d bytes, result says %d", len(out), r.Outputs[wire.Stdout])
	}
	if segments, _ := filepath.Glob(filepath.Join(dir, "a", "stdout.*")); len(segments) > 1 {
		t.Errorf("acknowledged segments are kept: %v", segments)
	}
	b.r.Forget("a")
	b.r.wg.Wait()
	b.r.Close() // gives up the directory that was made for the next command, too
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("a forgotten command leaves %v", left)
	}
}

// What a step has printed is told apart from what the others have, with pumps running (the first prints more than a pipe
// holds) and without.
func TestWhereTheOutputOfAStepEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir())
	req := request("a", "seq 1 400000")
	for _, script := range []string{"echo second; echo two >&2", "true", "printf last"} {
		req.Steps = append(req.Steps, wire.Step{Name: "b", Script: script, Timeout: time.Minute})
	}
	r, out := b.end(b.r.Request(t.Context(), req))
	var parts []string
	for k, at := 0, int64(0); k < len(r.Steps); k++ {
		end := r.Steps[k].Outputs[wire.Stdout]
		parts, at = append(parts, out[at:end]), end
	}
	if !strings.HasPrefix(parts[0], "1\n") || !strings.HasSuffix(parts[0], "\n400000\n") {
		t.Errorf("the first step: got %d bytes", len(parts[0]))
	}
	if got, want := fmt.Sprintf("%q", parts[1:]), `["second\n" "" "last"]`; got != want {
		t.Errorf("the others: got %s, want %s", got, want)
	}
	if got := [...]int64{r.Steps[0].Outputs[wire.Stderr], r.Steps[1].Outputs[wire.Stderr], r.Outputs[wire.Stderr]}; got != [...]int64{0, 4, 4} {
		t.Errorf("stderr: got %d, want 0, 4 and 4", got)
	}
}

func TestKnownCommandDoesNotRunAgain(t *testing.T) {
	t.Parallel()
	dir, side := t.TempDir(), filepath.Join(t.TempDir(), "side")
	b := newBench(t, dir)
	req := request("a", "echo run >> "+side+"; echo out; exit 3")
	b.end(b.r.Request(t.Context(), req))
	b.end(b.r.Request(t.Context(), req))
	b.leave()
	next := newBench(t, dir) // a new agent
	r, out := next.end(next.r.Request(t.Context(), req))
	if r.Steps[0].Code != 3 || out != "out\n" {
		t.Errorf("got %+v and %q", r, out)
	}
	if data, _ := os.ReadFile(side); string(data) != "run\n" {
		t.Errorf("ran %q, want once", data)
	}
}

func TestWhatAnotherBootWasGivenDoesNotRun(t *testing.T) {
	t.Parallel()
	side := filepath.Join(t.TempDir(), "side")
	b := newBench(t, t.TempDir())
	req := request("a", "echo run >> "+side)
	req.Resume = true
	if r, _ := b.end(b.r.Request(t.Context(), req)); r.Steps[0].Outcome != wire.Interrupted {
		t.Errorf("got %+v, want interrupted", r)
	}
	req = request("b", "echo run >> "+side)
	req.Cancel = true
	if r, _ := b.end(b.r.Request(t.Context(), req)); r.Steps[0].Outcome != wire.Cancelled {
		t.Errorf("got %+v, want cancelled", r)
	}
	if _, err := os.Stat(side); err == nil {
		t.Error("a script ran")
	}
}

func TestJournalOfAnotherBoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	spare, err := j.Spare()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Begin(spare, request("a", "true"), "an earlier boot"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "torn"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, dir)
	if r, _ := b.end(b.r.Job("a")); r.Steps[0].Outcome != wire.Interrupted {
		t.Errorf("got %+v, want interrupted", r)
	}
	if b.r.Job("torn") != nil {
		t.Error("a torn entry counts as a command")
	}
}

// A shell that was started in advance, and never told what to run, says so when its agent is killed, also to the next one
// that is there in time to see its end: the command has not failed, it has not run.
func TestShellThatWasNotToldIsSeenToEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	spare, err := j.Spare()
	if err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("/bin/sh", "-c", "read x; exit 125")
	tell, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := keeper.Stat(shell.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := spare.Early(journal.Progress{Process: journal.Process{PID: shell.Process.Pid, Start: s.Start}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Begin(spare, request("a", "true"), "boot"); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, dir)
	for status := ""; !traced.MatchString(status); {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", shell.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		status = string(data)
	}
	tell.Close()
	if r, _ := b.end(b.r.Job("a")); r.Steps[0].Outcome != wire.Interrupted {
		t.Errorf("got %+v, want interrupted", r)
	}
}

var traced = regexp.MustCompile(`TracerPid:\t[1-9]`)

// What is left of agents that are gone goes, and nothing of one that lives: its session is to begin in a group that is still empty.
func TestGroupsOfOtherAgents(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	c := &cgroups{top: t.TempDir()}
	for _, name := range []string{"%d-1", "session-%d-2"} {
		for _, pid := range []int{gone.Process.Pid, 1} {
			if err := os.Mkdir(filepath.Join(c.top, fmt.Sprintf(name, pid)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.endSessions()
	c.sweep()
	left, _ := filepath.Glob(filepath.Join(c.top, "*"))
	for k := range left {
		left[k] = filepath.Base(left[k])
	}
	if got := strings.Join(left, " "); got != "1-1 session-1-2" {
		t.Errorf("there is %s left, want 1-1 session-1-2", got)
	}
}
