package runner

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"golang.org/x/sys/unix"
)

func init() {
	if os.Getenv("ICHIRO_LEAVES_SLOWLY") != "" {
		leaveSlowly()
	}
}

// leaveSlowly is a process whose first thread is gone before the others, as any with several may be for a moment when it ends.
func leaveSlowly() {
	runtime.LockOSThread() // init runs on the first thread
	os.Stdout.WriteString("x\n")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

// An agent was restarted while a shell of several threads was on its way out: it was a zombie that nobody can trace, and of whose
// end not even its parent is told until the last thread is gone. The agent went, and the command was Interrupted.
func TestAnEndThatHasBegunIsNotMissed(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ICHIRO_LEAVES_SLOWLY=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	var s keeper.Status
	for !s.Ended {
		if s, err = keeper.Stat(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	p := &process{Process: journal.Process{PID: cmd.Process.Pid, Start: s.Start}, ended: make(chan struct{})}
	if code, ok := p.over(); ok {
		t.Fatalf("got %d: the other threads have ended too", code)
	}
	var code int
	var ok bool
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		code, ok = p.leaving()
	}()
	in.Close()
	<-looked
	if !ok || code != 3 {
		t.Errorf("got %d, %t, want 3: the agent goes before the end can be seen", code, ok)
	}
}
