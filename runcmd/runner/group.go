package runner

import (
	"fmt"
	"os"
	"path/filepath"
)

// Group makes a control group for what is not a command: a session. It returns the group's descriptor, to start a
// process in, and what kills everything in it and removes it; nil where there are no groups.
func (r *Runner) Group() (fd int, kill func()) {
	c := r.groups
	if c.top == "" {
		return 0, nil
	}
	c.mu.Lock()
	c.next++
	path := filepath.Join(c.top, fmt.Sprintf("session-%d-%d", os.Getpid(), c.next))
	c.mu.Unlock()
	if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
		return 0, nil
	}
	g, err := openCgroup(path)
	if err != nil {
		return 0, nil
	}
	return int(g.dir.Fd()), func() {
		g.kill()
		g.dir.Close()
		os.Remove(g.path)
	}
}

// endSessions kills what agents that are gone have left of their sessions: nobody can reach it any more. Those of another
// agent that lives, as in tests, are its own.
func (c *cgroups) endSessions() {
	if c.top == "" {
		return
	}
	paths, _ := filepath.Glob(filepath.Join(c.top, "session-*"))
	for _, path := range paths {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(path), "session-%d-", &pid); err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil && pid != os.Getpid() {
			continue
		}
		if g, err := openCgroup(path); err == nil {
			g.kill()
			g.dir.Close()
			os.Remove(path)
		}
	}
}
