// Package host is one host as its operator sees it: brought up, looked at, taken down.
//
// Up lays out the directories, starts the daemons under the supervisor, has the small image built, and
// writes the file that says how to reach the API. Down ends the daemons and has the agent's own program
// remove what it made in the kernel. Hosts with different directories do not meet: every name outside
// these two directories is derived from the run directory by the agent.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/deploy/process"
	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// Layout is where a host keeps what survives a reboot and what does not.
type Layout struct {
	State string
	Run   string
	Bin   string // where the programs are
}

// maxRun is the length of a run directory whose longest socket path,
// /instances/i-0123456789abcdef0/shim.sock, still fits in the 108 bytes of a unix address.
const maxRun = 107 - len("/instances/i-0123456789abcdef0/shim.sock")

// NewLayout checks the two directories; the programs are beside the running one.
func NewLayout(state, run string) (Layout, error) {
	l := Layout{}
	var err error
	if l.State, err = filepath.Abs(state); err != nil {
		return l, err
	}
	if l.Run, err = filepath.Abs(run); err != nil {
		return l, err
	}
	if len(l.Run) > maxRun {
		return l, fmt.Errorf("run directory %s has %d characters and unix sockets leave room for %d: choose a shorter one", l.Run, len(l.Run), maxRun)
	}
	self, err := os.Executable()
	if err != nil {
		return l, err
	}
	l.Bin = filepath.Dir(self)
	return l, nil
}

func (l Layout) root() bundle.Root       { return bundle.Root(l.Run) }
func (l Layout) program(n string) string { return filepath.Join(l.Bin, n) }
func (l Layout) records() string         { return filepath.Join(l.Run, "daemons") }
func (l Layout) record(n string) string  { return filepath.Join(l.records(), n+".json") }
func (l Layout) keys() string            { return filepath.Join(l.State, "keys") }

// sessions is where the gateway records the sessions of guests.
func (l Layout) sessions() string { return filepath.Join(l.State, "sessions") }

// gateway is where the gateway keeps the key by which machines that are no guests know it.
func (l Layout) gateway() string { return filepath.Join(l.State, "gateway") }

func (l Layout) images() string   { return filepath.Join(l.State, "images") }
func (l Layout) tokenKey() string { return filepath.Join(l.State, "imds", "token.key") }
func (l Layout) exports() string  { return filepath.Join(l.Run, "exports") }

// Users are the accounts that the daemons run as: those that the packages make, or fixed numbers which
// no distribution gives out when the packages' accounts do not exist.
type Users struct {
	Control, IMDS, Gateway, Objects process.User
	Group                           uint32 // common to all: may reach the host's sockets
}

// firstUID is the first of the fixed numbers: above the 60000 of ordinary users, below systemd's dynamic
// users at 61184, and outside Debian's 64000 range.
const firstUID = 60700

// LookupUsers returns the accounts of this machine.
func LookupUsers() Users {
	group := uint32(firstUID)
	if g, err := user.LookupGroup("ichiro"); err == nil {
		if n, err := strconv.ParseUint(g.Gid, 10, 32); err == nil {
			group = uint32(n)
		}
	}
	one := func(name string, n uint32) process.User {
		u := process.User{UID: firstUID + n, GID: firstUID + n, Groups: []uint32{group}}
		if a, err := user.Lookup(name); err == nil {
			uid, err1 := strconv.ParseUint(a.Uid, 10, 32)
			gid, err2 := strconv.ParseUint(a.Gid, 10, 32)
			if err1 == nil && err2 == nil {
				u.UID, u.GID = uint32(uid), uint32(gid)
			}
		}
		return u
	}
	return Users{
		Control: one("ichiro-control", 1), IMDS: one("ichiro-imds", 2),
		Gateway: one("ichiro-gateway", 3), Objects: one("ichiro-s3", 4), Group: group,
	}
}

// make creates the directories with their owners. What exists keeps its content.
func (l Layout) make(u Users) error {
	for _, d := range []struct {
		path     string
		mode     fs.FileMode
		uid, gid uint32
	}{
		{l.State, 0o755, 0, 0},
		{l.keys(), 0o700, u.Control.UID, u.Control.GID},
		{filepath.Join(l.State, "etcd"), 0o700, u.Control.UID, u.Control.GID},
		{filepath.Join(l.State, "audit"), 0o700, u.Control.UID, u.Control.GID},
		{filepath.Dir(l.tokenKey()), 0o700, u.IMDS.UID, u.IMDS.GID},
		{l.images(), 0o755, 0, 0},
		{l.sessions(), 0o700, u.Gateway.UID, u.Gateway.GID},
		{l.gateway(), 0o755, u.Gateway.UID, u.Gateway.GID},
		{filepath.Join(l.State, "objects"), 0o700, u.Objects.UID, u.Objects.GID},
		{l.Run, 0o755, 0, 0},
		{l.records(), 0o755, 0, 0},
		{filepath.Join(l.Run, "control"), 0o750, u.Control.UID, u.Group},
		{filepath.Dir(l.root().Objects()), 0o750, u.Objects.UID, u.Group},
		{filepath.Join(l.Run, "admin"), 0o755, 0, 0},
		{filepath.Dir(l.root().Admin("control")), 0o750, u.Control.UID, u.Group},
		{filepath.Dir(l.root().Admin("agent")), 0o750, 0, u.Group},
		{filepath.Dir(l.root().Admin("imds")), 0o750, u.IMDS.UID, u.Group},
		{filepath.Dir(l.root().Admin("gateway")), 0o750, u.Gateway.UID, u.Group},
		{filepath.Dir(l.root().Admin("s3")), 0o750, u.Objects.UID, u.Group},
		{l.root().Instances(), 0o755, 0, 0},
		{l.root().Networks(), 0o755, 0, 0},
	} {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return err
		}
		if err := os.Chown(d.path, int(d.uid), int(d.gid)); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return err
		}
	}
	return l.reachable(u)
}

// reachable refuses directories below one that the daemons' users may not pass: they would fail later and
// less clearly.
func (l Layout) reachable(u Users) error {
	for _, dir := range []string{l.State, l.Run, l.Bin} {
		for p := dir; ; p = filepath.Dir(p) {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o001 == 0 {
				return fmt.Errorf("%s is below %s, which only its owner may pass, and the daemons run as other users: chmod o+x %s or choose another directory", dir, p, p)
			}
			if p == filepath.Dir(p) {
				break
			}
		}
	}
	return nil
}

// lock takes the run directory for this process; the kernel gives it back when the process ends.
func (l Layout) lock() (*os.File, error) {
	if err := os.MkdirAll(l.Run, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(l.Run, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("a host is already up in %s: take it down with `ichiro down --run %s`, or choose another --run and --state", l.Run, l.Run)
		}
		return nil, err
	}
	return f, nil
}
