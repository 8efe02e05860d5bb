//go:build net

package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// TestCancelLeavesNothing needs cgroup2, which it mounts in a mount namespace of its own: it runs itself
// again in one. Needs root.
func TestCancelLeavesNothing(t *testing.T) {
	if os.Getenv("ICHIRO_TEST_CGROUP") == "" {
		mount := t.TempDir()
		cmd := exec.Command("unshare", "-m", "sh", "-c",
			`mount -t cgroup2 none "$0" && ICHIRO_TEST_CGROUP=1 exec "$1" -test.run '^TestCancelLeavesNothing$' -test.v`, mount, os.Args[0])
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("in a mount namespace with cgroup2: %v\n%s", err, out)
		}
		return
	}
	b := newBench(t, t.TempDir())
	if b.r.groups.top == "" {
		t.Fatal("cgroup2 is mounted and not used")
	}
	j := b.r.Request(t.Context(), request("a", "trap '' TERM; setsid sleep 1000 & (setsid sleep 1001 &) ; nohup sleep 1002 & echo ready; wait; wait"))
	for s := j.Stream(wire.Stdout); ; s = j.Stream(wire.Stdout) {
		if s != nil {
			if kept, _ := s.Sizes(); kept > 0 {
				break
			}
		}
		<-b.changed
	}
	groups, _ := filepath.Glob(filepath.Join(b.r.groups.top, fmt.Sprintf("%d-*", os.Getpid()), "cgroup.procs"))
	if len(groups) == 0 {
		t.Fatal("the command is in no group")
	}
	b.r.Cancel("a")
	if r, _ := b.end(j); r.Steps[0].Outcome != wire.Cancelled {
		t.Errorf("got %+v", r)
	}
	for _, g := range groups {
		if procs, _ := os.ReadFile(g); len(procs) > 0 {
			t.Errorf("processes survive: %s", procs)
		}
	}
	b.r.Forget("a")
	b.r.wg.Wait()
}
