//go:build vm

package e2e

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// victim is set for a test process whose only purpose is to be killed.
const victim = "ICHIRO_E2E_VICTIM"

// TestToBeKilled brings up a host and waits for its end.
func TestToBeKilled(t *testing.T) {
	if os.Getenv(victim) == "" {
		t.Skip("it is run by another test")
	}
	fmt.Println("host=" + another(t).dir)
	select {}
}

// A test process that is killed, as by a time limit, can not take its hosts down: somebody else does.
func TestAKilledTestLeavesNoHost(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestToBeKilled$")
	cmd.Env = append(os.Environ(), victim+"=1", "ICHIRO_BIN="+bin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "host=")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if dir == "" {
		t.Fatal("the other process brought up no host")
	}
	h := &host{dir: dir}
	daemon, err := h.daemon("gateway")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.down(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	await(t, "the host is gone", func() error {
		if daemon.Alive() {
			return fmt.Errorf("its gateway runs: %v", daemon)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s: %w", dir, fs.ErrExist)
		}
		return nil
	})
}
