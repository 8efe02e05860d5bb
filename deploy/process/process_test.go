package process_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/deploy/process"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// daemon returns a shell script under the supervisor, and a pipe to which each run of it writes lines.
func daemon(t *testing.T, script string) (*process.Daemon, func() string) {
	t.Helper()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "said")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	line := func() string {
		var out []byte
		for b := make([]byte, 1); ; {
			if _, err := f.Read(b); err != nil {
				t.Fatal(err)
			}
			if b[0] == '\n' {
				return string(out)
			}
			out = append(out, b[0])
		}
	}
	return &process.Daemon{Name: "d", Path: "/bin/sh", Args: []string{"-c", script, "sh", fifo}, Record: filepath.Join(dir, "d.json"),
		Log: slog.New(slog.DiscardHandler)}, line
}

// run runs the daemon and returns what ends it.
func run(t *testing.T, d *process.Daemon) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return func() error { cancel(); return <-ended }
}

const sleeper = `echo $$ >$1; echo READY >&3; exec 3>&-; exec sleep 1000`

func TestADaemonThatDiesIsStartedAgain(t *testing.T) {
	d, line := daemon(t, sleeper)
	stop := run(t, d)
	first := line()
	<-d.Ready()
	for range 5 {
		id, err := bundle.Read[shim.Process](d.Record)
		if err != nil {
			t.Fatal(err)
		}
		h, err := id.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.Close()
		began := time.Now()
		next := line()
		// 250 ms are the promise on a host; a machine that runs all tests at once may take longer.
		if took := time.Since(began); next == first || took > 5*time.Second {
			t.Errorf("pid %s follows %s after %v", next, first, took)
		}
		first = next
		for { // the record is written when the kernel has started it, which the script may outrun
			if now, err := bundle.Read[shim.Process](d.Record); err == nil && now != id {
				break
			}
		}
	}
	if got := process.Recorded(filepath.Dir(d.Record)); len(got) != 1 || !got["d"].Alive() {
		t.Errorf("got %v", got)
	}
	last, _ := bundle.Read[shim.Process](d.Record)
	if err := stop(); err != nil || last.Alive() {
		t.Errorf("got %v, and it still runs: %v", err, last.Alive())
	}
	if _, err := os.Stat(d.Record); !os.IsNotExist(err) {
		t.Errorf("the record of what was ended is still there: %v", err)
	}
}

// A Go program that panics exits with 2, as one does that is called wrongly; it was ready with these arguments before.
func TestADaemonThatPanicsIsStartedAgain(t *testing.T) {
	d, line := daemon(t, "mkfifo $1.$$; trap 'exit 2' TERM; echo READY >&3; exec 3>&-; echo $$ >$1; read _ <$1.$$")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.Run(ctx)
		if ctx.Err() == nil {
			os.WriteFile(d.Args[3], []byte("ended\n"), 0)
		}
	}()
	for range 3 {
		said := line()
		pid, err := strconv.Atoi(said)
		if err != nil {
			t.Fatalf("%s: %v", said, <-ended)
		}
		<-d.Ready()
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the supervisor ends with %v", err)
	}
}

func TestWhatCannotHelpIsNotTriedAgain(t *testing.T) {
	d, _ := daemon(t, "exit 2")
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does not take the arguments") {
		t.Errorf("wrong arguments: got %v", err)
	}
	d, _ = daemon(t, "")
	d.Path = "/nonexistent"
	if err := d.Run(t.Context()); err == nil {
		t.Error("no program: want an error")
	}
}

func TestASupervisorEndsWhatItsPredecessorLeft(t *testing.T) {
	d, line := daemon(t, sleeper)
	old := exec.Command("sleep", "1000")
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	go old.Wait()
	id, err := shim.FindProcess(old.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.Write(d.Record, id, 0o644); err != nil {
		t.Fatal(err)
	}
	stop := run(t, d)
	line()
	if id.Alive() {
		t.Error("the earlier one still runs beside the new one")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestEndKillsWhatDoesNotListen(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	deaf := exec.Command("/bin/sh", "-c", `trap "" TERM; echo; while :; do sleep 1000; done`)
	deaf.Stdout, deaf.SysProcAttr = w, &unix.SysProcAttr{Setpgid: true}
	if err := deaf.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-deaf.Process.Pid, unix.SIGKILL) }) // its sleep
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	id, err := shim.FindProcess(deaf.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- deaf.Wait() }()
	if err := process.End(id, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("got %v", err)
	}
	if err := process.End(id, time.Hour); err != nil {
		t.Errorf("what has ended: got %v", err)
	}
}
