package runner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// cgroups hands out control groups: the one thing that a process can not leave by setsid or a double
// fork. Some are always there in advance, and one that a command has left empty is given to another, because making one
// costs a guest more than starting a shell.
type cgroups struct {
	top string // "" where there is no cgroup2 or no right to it

	mu     sync.Mutex
	next   int
	spares []*cgroup
	left   []string // groups in which processes were left behind
}

type cgroup struct {
	path   string
	dir    *os.File
	killed bool // and so no place for another command: Linux 6.18 kills what is started in such a group, too
}

// openCgroups looks for a cgroup2 hierarchy below which this process may make groups.
func openCgroups() *cgroups {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &cgroups{}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return &cgroups{}
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		for line := range strings.Lines(string(own)) {
			path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
			if !ok {
				continue
			}
			top := filepath.Join(f[1], path, "ichiro-runcmd")
			if os.Mkdir(top, 0o755) == nil || isDir(top) {
				if _, err := os.Stat(filepath.Join(top, "cgroup.kill")); err == nil { // Linux 5.14
					return &cgroups{top: top}
				}
			}
		}
	}
	return &cgroups{}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// prepare makes the spare group, if there is none.
func (c *cgroups) prepare() {
	if c.top == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = slices.DeleteFunc(c.left, func(path string) bool { return os.Remove(path) == nil })
	if len(c.spares) == 0 {
		if g := c.create(); g != nil {
			c.spares = append(c.spares, g)
		}
	}
}

// sweep removes the empty groups of agents that are gone; those of sessions are endSessions'.
func (c *cgroups) sweep() {
	groups, err := filepath.Glob(filepath.Join(c.top, "[0-9]*-*"))
	if err != nil || c.top == "" {
		return
	}
	for _, g := range groups {
		pid, _, _ := strings.Cut(filepath.Base(g), "-")
		if _, err := os.Stat("/proc/" + pid); err != nil {
			os.Remove(g) // fails while something lives in it
		}
	}
}

func (c *cgroups) create() *cgroup {
	for range 1000 {
		c.next++
		path := filepath.Join(c.top, fmt.Sprintf("%d-%s", os.Getpid(), strconv.Itoa(c.next)))
		if err := os.Mkdir(path, 0o755); os.IsExist(err) {
			continue // of an earlier agent with our number
		} else if err != nil {
			return nil
		}
		g, err := openCgroup(path)
		if err != nil {
			return nil
		}
		return g
	}
	return nil
}

// take returns a fresh group, or nil where there are none.
func (c *cgroups) take() *cgroup {
	if c.top == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.spares) - 1; n >= 0 {
		g := c.spares[n]
		c.spares = c.spares[:n]
		return g
	}
	return c.create()
}

func openCgroup(path string) (*cgroup, error) {
	if path == "" {
		return nil, os.ErrNotExist
	}
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &cgroup{path: path, dir: d}, nil
}

// kill ends everything in the group and waits until it is gone. A process that the kernel can not end
// now, because it waits for a device, is left to die later.
func (g *cgroup) kill() {
	const patience = 1000 // ms
	g.killed = true
	events, err := os.Open(filepath.Join(g.path, "cgroup.events"))
	if err != nil {
		return
	}
	defer events.Close()
	if os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) != nil {
		return
	}
	for buf := make([]byte, 256); ; {
		n, err := events.ReadAt(buf, 0)
		if err != nil && n == 0 || !bytes.Contains(buf[:n], []byte("populated 1")) {
			return
		}
		poll := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if n, err := unix.Poll(poll, patience); n == 0 && err == nil {
			return
		}
	}
}

// release takes a group back. One in which processes were left behind is removed when they are gone.
func (c *cgroups) release(g *cgroup) {
	const most = 4 // that are kept for the next commands
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spares) < most && !g.killed && g.empty() {
		c.spares = append(c.spares, g)
		return
	}
	g.dir.Close()
	if os.Remove(g.path) != nil {
		c.left = append(c.left, g.path)
	}
}

// empty reports whether nothing lives in the group; zombies do not count.
func (g *cgroup) empty() bool {
	data, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
	return err == nil && bytes.Contains(data, []byte("populated 0"))
}
