package main_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
	"golang.org/x/sys/unix"
)

// killWorker kills the agent's worker and leaves its keeper.
func (h *host) killWorker() {
	if pid := h.worker(); pid > 0 {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// worker returns the number of the agent's worker; 0 between two.
func (h *host) worker() int {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", h.agent.Process.Pid))
	check(h.t, err)
	for _, name := range lists {
		data, _ := os.ReadFile(name) // a thread may be gone
		// Commands become children only when a worker has died.
		for _, f := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(f)
			check(h.t, err)
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", child)); filepath.Base(exe) == "agent" {
				return child
			}
		}
	}
	return 0
}

// victims are what the crash tests kill; each is followed by what a supervisor would do.
var victims = map[string]func(h *host){
	"worker":             func(h *host) { h.killWorker() },
	"agent":              func(h *host) { kill(h.agent); h.startAgent() },
	"gateway":            func(h *host) { kill(h.gateway); h.startGateway() },
	"worker and gateway": func(h *host) { h.killWorker(); kill(h.gateway); h.startGateway() },
	"all":                func(h *host) { kill(h.agent); kill(h.gateway); h.startGateway(); h.startAgent() },
	"network":            func(h *host) { h.cut() },
	"restart":            func(h *host) { h.restart() },
}

// restart does what systemctl restart does to the agent with KillMode=process.
func (h *host) restart() {
	h.t.Helper()
	check(h.t, h.agent.Process.Signal(unix.SIGTERM))
	h.agent.Wait() // it may not even have begun to listen to signals
	h.startAgent()
}

// cut breaks the connection between the agent and the gateway, and the next one as soon as it is there.
func (h *host) cut() {
	for _, c := range h.wires.take() {
		c.Close()
	}
}

// wires are a network between the agent and the gateway, which can be cut.
type wires struct {
	mu   sync.Mutex
	open []net.Conn
}

func (w *wires) take() []net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	open := w.open
	w.open = nil
	return open
}

// lay makes the agent's way to the gateway one that can be cut.
func (h *host) lay() {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(h.t, err)
	h.t.Cleanup(func() { l.Close(); h.cut() })
	to := strings.TrimSuffix(strings.TrimPrefix(h.url, "ws://"), wire.Path)
	h.url = "ws://" + l.Addr().String() + wire.Path
	go func() { // until the listener is closed
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			h.wires.mu.Lock()
			h.wires.open = append(h.wires.open, near, far)
			h.wires.mu.Unlock()
			go func() { io.Copy(near, far); near.Close() }()
			go func() { io.Copy(far, near); far.Close() }()
		}
	}()
}

// rebootNow does what a reboot at this moment does: the agent and all processes of commands end, and the boot has another name.
func (h *host) rebootNow() {
	h.t.Helper()
	kill(h.agent)
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	check(h.t, err)
	for _, name := range names {
		env, err := os.ReadFile(name)
		if err == nil && bytes.Contains(env, []byte("HOST_OF_TEST="+string(h.root)+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	h.boots++
	check(h.t, os.WriteFile(h.boot, fmt.Appendf(nil, "boot %d\n", h.boots), 0o644))
	h.startAgent()
}

// rounds is how many faults a test of crashes injects for each kind: a sample, unless ICHIRO_FAULTS asks for more.
func rounds(t *testing.T, sample int) int {
	if n, err := strconv.Atoi(os.Getenv("ICHIRO_FAULTS")); err == nil {
		return n
	}
	if testing.Short() {
		return 3
	}
	return sample
}

// inject sends a command and strikes at a moment of its life. It runs once and its output is whole, or the result says that it
// was interrupted, and it ran at most once; how many were is returned.
func inject(t *testing.T, h *host, rounds int, strike func(h *host)) (interrupted int) {
	t.Helper()
	const script = "echo run >> %s; i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exit 4"
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	dir := t.TempDir()
	var slowest time.Duration
	for n := range rounds {
		side := filepath.Join(dir, strconv.Itoa(n))
		id := h.send(fmt.Sprintf(script, side), func(r *bundle.CommandRequest) {
			r.Environment = map[string]string{"HOST_OF_TEST": string(h.root)}
		})
		<-time.After(rand.N(12 * time.Millisecond)) // the moment is the test's subject
		strike(h)
		back := time.Now()
		inv := h.end(id)
		slowest = max(slowest, time.Since(back))
		runs, _ := os.ReadFile(side)
		got := h.output(id, wire.Stdout)
		switch {
		case inv.Details == "Failed" && inv.ResponseCode == 4:
			if string(runs) != "run\n" || got != want.String() {
				t.Errorf("round %d: ran %q, output of %d bytes, want once and %d bytes", n, runs, len(got), want.Len())
			}
		case inv.Details == "Interrupted":
			interrupted++
			if len(runs) > len("run\n") || !strings.HasPrefix(want.String(), got) {
				t.Errorf("round %d: ran %q, output %.40q", n, runs, got)
			}
		default:
			t.Errorf("round %d: got %+v", n, inv)
		}
		check(t, h.dir.RemoveCommand(id))
	}
	t.Logf("%d of %d interrupted, the slowest ended %v after the strike", interrupted, rounds, slowest.Round(time.Millisecond))
	return interrupted
}

// bothShells runs a test with the system's shell, started when it is needed, and with one that waits for its script.
func bothShells(t *testing.T, name string, f func(*testing.T, bool)) {
	t.Run(name, func(t *testing.T) { f(t, false) })
	t.Run(name+", a shell that waits", func(t *testing.T) { f(t, true) })
}

// A command waits at a point that the test chooses; whoever is killed there, it runs once, and its end and its
// output are told: also where the agent and its keeper, who is the command's parent by then, are both gone.
func TestKilledWhileACommandRuns(t *testing.T) {
	t.Parallel()
	for name, strike := range victims {
		bothShells(t, name, func(t *testing.T, early bool) {
			t.Parallel()
			h := newHost(t)
			h.early = early
			h.startGateway()
			h.startAgent()
			side := filepath.Join(t.TempDir(), "side")
			gate := filepath.Join(t.TempDir(), "gate")
			check(t, unix.Mkfifo(gate, 0o600))
			id := h.send(fmt.Sprintf("echo run $$ >> %s; echo before; echo err >&2; read x < %s; echo after $x; exit 3", side, gate))
			h.wait(id, func(i cloud.Invocation) bool { return i.Status == cloud.InvocationInProgress })
			var ran []byte
			for !bytes.HasSuffix(ran, []byte("\n")) { // it is accepted, and runs within moments; our shell writes word by word
				<-time.After(time.Millisecond)
				ran, _ = os.ReadFile(side)
			}
			for range 3 {
				strike(h)
			}
			if name == "agent" || name == "all" {
				h.traced(strings.Fields(string(ran))[1])
			}
			check(t, os.WriteFile(gate, []byte("go\n"), 0)) // waits for the script to read
			inv := h.end(id)
			if got := h.output(id, wire.Stdout); got != "before\nafter go\n" {
				t.Errorf("got stdout %q", got)
			}
			if got := h.output(id, wire.Stderr); got != "err\n" {
				t.Errorf("got stderr %q", got)
			}
			if got, _ := os.ReadFile(side); string(got) != string(ran) {
				t.Errorf("script ran: %q, want once", got)
			}
			if inv.Details != "Failed" || inv.ResponseCode != 3 {
				t.Errorf("got %s with code %d, want Failed with 3", inv.Details, inv.ResponseCode)
			}
		})
	}
}

// traced waits until the agent, which is not a process's parent, has asked the kernel to be told of its end.
func (h *host) traced(pid string) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		check(h.t, err)
		_, rest, _ := strings.Cut(string(status), "TracerPid:\t")
		tracer, err := strconv.Atoi(strings.Fields(rest)[0])
		check(h.t, err)
		if s, err := keeper.Stat(tracer); err == nil && s.Parent == h.agent.Process.Pid {
			return
		}
	}
	h.t.Fatal("no agent has adopted the command")
}

// Killed at any moment of a short command's life.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	for name, strike := range victims {
		bothShells(t, name, func(t *testing.T, early bool) {
			t.Parallel()
			h := newHost(t)
			h.early = early
			h.lay()
			h.startGateway()
			h.startAgent()
			interrupted := inject(t, h, rounds(t, 5), strike)
			if (name == "gateway" || name == "network" || name == "restart") && interrupted > 0 {
				t.Errorf("%d commands were interrupted", interrupted)
			}
		})
	}
}

// Rebooted at any moment: what ran does not run again, and what did not run is not said to have.
func TestRebootedAtAnyMoment(t *testing.T) {
	t.Parallel()
	bothShells(t, "reboot", func(t *testing.T, early bool) {
		t.Parallel()
		h := newHost(t)
		h.early = early
		h.startGateway()
		h.startAgent()
		inject(t, h, rounds(t, 5), (*host).rebootNow)
	})
}

// A guest that was booted again has forgotten everything; the command must not run a second time.
func TestRebootDoesNotRunAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	side := filepath.Join(t.TempDir(), "side")
	id := h.send("echo run >> " + side + "; echo $$; exec sleep 1000")
	h.printed(id)
	pid, err := strconv.Atoi(strings.TrimSpace(h.output(id, wire.Stdout)))
	check(t, err)
	defer unix.Kill(pid, unix.SIGKILL) // a boot would have ended it
	kill(h.agent)
	check(t, os.RemoveAll(h.state))
	// The test can not change the boot ID; what the gateway noted of the last boot it can.
	check(t, os.WriteFile(h.dir.Path("commands", string(id), "sent"), []byte("another-boot"), 0o640))
	kill(h.gateway)
	h.startGateway()
	h.startAgent()
	inv := h.end(id)
	if inv.Status != cloud.InvocationFailed || inv.Details != "Interrupted" {
		t.Errorf("got %+v, want Interrupted", inv)
	}
	if got, _ := os.ReadFile(side); string(got) != "run\n" {
		t.Errorf("script ran: %q, want once", got)
	}
}

// A host that was booted again has lost what its gateway noted; it knows from elsewhere that a command had begun.
func TestWhatHadBegunBeforeTheHostWasBootedDoesNotRunAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	side := filepath.Join(t.TempDir(), "side")
	begun := h.send("echo begun >> "+side, func(r *bundle.CommandRequest) { r.Begun = true })
	if inv := h.end(begun); inv.Status != cloud.InvocationFailed || inv.Details != "Interrupted" {
		t.Errorf("got %+v, want Interrupted", inv)
	}
	if inv := h.end(h.send("echo fresh >> " + side)); inv.Status != cloud.InvocationSuccess {
		t.Errorf("got %+v", inv)
	}
	if got, _ := os.ReadFile(side); string(got) != "fresh\n" {
		t.Errorf("ran: %q", got)
	}
}

func TestUndelivered(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	late := h.send("true", func(r *bundle.CommandRequest) { r.DeliverBy = time.Now().Add(50 * time.Millisecond) })
	unwanted := h.send("true")
	check(t, h.dir.PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{Command: unwanted, Cancel: true}}))
	if inv := h.end(late); inv.Status != cloud.InvocationTimedOut || inv.Details != "DeliveryTimedOut" {
		t.Errorf("got %+v, want DeliveryTimedOut", inv)
	}
	if inv := h.end(unwanted); inv.Status != cloud.InvocationCancelled {
		t.Errorf("got %+v, want Cancelled", inv)
	}
}

// A Go program that panics, or finds that two goroutines write to one map, exits with 2, as one does that is called wrongly.
// SIGQUIT has the runtime end it in the same way.
func TestAWorkerThatPanicsIsStartedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	h.end(h.send("true"))
	check(t, unix.Kill(h.worker(), unix.SIGQUIT))
	if inv := h.end(h.send("true")); inv.Status != cloud.InvocationSuccess {
		t.Errorf("got %+v", inv)
	}
}
