package session

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// user is whom a session runs as.
type user struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// lookUp finds a user in the files below etc. The small image may have none: root is always known.
func lookUp(etc, name string) (user, error) {
	u := user{name: cmp.Or(name, "root"), home: "/root", shell: "/bin/sh"}
	line, err := find(filepath.Join(etc, "passwd"), u.name, 7)
	switch {
	case err == nil:
		uid, err1 := strconv.ParseUint(line[2], 10, 32)
		gid, err2 := strconv.ParseUint(line[3], 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return u, fmt.Errorf("read user %s: %v", u.name, err)
		}
		u.uid, u.gid, u.home, u.shell = uint32(uid), uint32(gid), cmp.Or(line[5], "/"), cmp.Or(line[6], "/bin/sh")
	case u.name != "root":
		return u, fmt.Errorf("user %s is not in this guest", u.name)
	}
	if _, err := os.Stat(u.shell); err != nil {
		u.shell = "/bin/sh"
	}
	data, err := os.ReadFile(filepath.Join(etc, "group"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return u, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), u.name) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			u.groups = append(u.groups, uint32(gid))
		}
	}
	return u, nil
}

// find returns the fields of the line of a name.
func find(path, name string, fields int) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), ":"); len(f) >= fields && f[0] == name {
			return f, nil
		}
	}
	return nil, fs.ErrNotExist
}

// credential is nil for whom this process is already.
func (u user) credential() *syscall.Credential {
	if int(u.uid) == os.Getuid() {
		return nil
	}
	return &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}
}

// environment is that of a login, and nothing of the agent's.
func (u user) environment(id string) []string {
	path := "/usr/local/bin:/usr/bin:/bin"
	if u.uid == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return []string{
		"HOME=" + u.home, "USER=" + u.name, "LOGNAME=" + u.name, "SHELL=" + u.shell, "PATH=" + path,
		"TERM=xterm-256color", "LANG=C.UTF-8", "ICHIRO_SESSION_ID=" + id,
	}
}

// directory is the home, or the root where that is not there.
func (u user) directory() string {
	if info, err := os.Stat(u.home); err == nil && info.IsDir() {
		return u.home
	}
	return "/"
}
