//go:build net

package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// inside tells a test that it runs where cgroup2 is mounted, in a mount namespace of its own; elsewhere it runs the test
// again there. Needs root.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("ICHIRO_TEST_CGROUP") != "" {
		return true
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t cgroup2 none "$0" && ICHIRO_TEST_CGROUP=1 exec "$1" -test.run "^$2\$" -test.v`,
		t.TempDir(), os.Args[0], t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("in a mount namespace with cgroup2: %v\n%s", err, out)
	}
	return false
}

func TestCancelLeavesNothing(t *testing.T) {
	if !inside(t) {
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
	// Nor is what comes next in a group that was killed: the kernel would kill it, too.
	for _, id := range []string{"b", "c"} {
		if r, out := b.end(b.r.Request(t.Context(), request(id, "echo runs"))); r.Steps[0].Outcome != wire.Success || out != "runs\n" {
			t.Errorf("after one that was killed: got %+v and %q", r, out)
		}
		b.r.Forget(cloud.CommandID(id))
		b.r.wg.Wait()
	}
}

// A group that a command has left empty is the next one's; one in which something lives is nobody's until it is gone.
func TestEmptyGroupsAreUsedAgain(t *testing.T) {
	if !inside(t) {
		return
	}
	b := newBench(t, t.TempDir())
	if b.r.groups.top == "" {
		t.Fatal("cgroup2 is mounted and not used")
	}
	run := func(id, script string) string {
		j := b.r.Request(t.Context(), request(id, script))
		_, out := b.end(j)
		b.r.Forget(cloud.CommandID(id))
		b.r.wg.Wait()
		return out
	}
	const where = "grep ^0:: /proc/self/cgroup"
	first := run("a", where)
	if second := run("b", where); second != first {
		t.Errorf("the group %q is empty, and the next command is in %q", first, second)
	}
	third := run("c", where+"; sleep 1000 >/dev/null 2>&1 & echo $!")
	group, pid, _ := strings.Cut(strings.TrimSpace(third), "\n")
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("got %q: %v", third, err)
	}
	if fourth := run("d", where); fourth == group+"\n" {
		t.Errorf("a command was put to what another had left running")
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}
