package etcd

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// TestMain lets the test start itself as the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ICHIRO_TEST_WRITER"); dir != "" {
		fmt.Fprintln(os.Stderr, write(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// write counts up in the store for ever and prints each number when it is acknowledged.
func write(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir + "/state", Socket: dir + "/run/etcd.sock"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		tx := store.NewTxn()
		store.Put(tx, things, "n", fmt.Sprint(n))
		store.Create(tx, things, fmt.Sprintf("%d-%d", os.Getpid(), n), "x")
		if _, err := s.Client().Commit(ctx, tx); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func TestWhatIsAcknowledgedSurvivesKill9(t *testing.T) {
	cfg := config(t)
	dir := cfg.Dir[:len(cfg.Dir)-len("/state")]
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "ICHIRO_TEST_WRITER="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		last := -1
		for n := 0; ; n++ {
			var got int
			if _, err := fmt.Fscanln(lines, &got); err != nil {
				break // the end, or half a line: not acknowledged
			}
			last = got
			if n == 50+100*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if last < 50 {
			t.Fatalf("round %d: the writer reached only %d", round, last)
		}
		s, _ := open(t, cfg) // the lock is free although nobody let go of it
		for n := range last + 1 {
			if _, err := store.Get(t.Context(), s.Client(), things, fmt.Sprintf("%d-%d", cmd.Process.Pid, n)); err != nil {
				t.Fatalf("round %d: %d was acknowledged up to %d: %v", round, n, last, err)
			}
		}
		s.Close()
	}
}

func TestTheClientInsideTheProcessMirrors(t *testing.T) {
	s, _ := open(t, config(t))
	m := store.NewMirror(s.Client(), store.All("spec"), store.All("status"))
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- m.Run(ctx) }()
	<-m.Ready()
	tx := store.NewTxn()
	store.Put(tx, store.NewKind[string](store.HostPrefix()), "h-1", "x") // none of the mirror's
	rev, err := s.Client().Commit(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WaitRev(t.Context(), rev); err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
}
