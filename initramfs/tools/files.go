package tools

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func basename(_ context.Context, c *Call) int {
	if len(c.Args) < 1 || len(c.Args) > 2 {
		return c.usage("NAME [SUFFIX]")
	}
	name := filepath.Base(c.Args[0])
	if len(c.Args) == 2 && name != c.Args[1] {
		name = strings.TrimSuffix(name, c.Args[1])
	}
	fmt.Fprintln(c.Stdout, name)
	return 0
}

func dirname(_ context.Context, c *Call) int {
	if len(c.Args) == 0 {
		return c.usage("NAME...")
	}
	for _, a := range c.Args {
		fmt.Fprintln(c.Stdout, filepath.Dir(a))
	}
	return 0
}

func ln(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "sfn")
	if err != nil || len(rest) == 0 || len(rest) > 2 {
		return c.usage("[-sfn] TARGET [NAME]")
	}
	target, name := rest[0], filepath.Base(rest[0])
	if len(rest) == 2 {
		name = rest[1]
	}
	name = c.path(name)
	if info, err := os.Stat(name); err == nil && info.IsDir() && !has(set, 'n') {
		name = filepath.Join(name, filepath.Base(target))
	}
	if has(set, 'f') {
		os.Remove(name)
	}
	if has(set, 's') {
		err = os.Symlink(target, name)
	} else {
		err = os.Link(c.path(target), name)
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

func readlink(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "fe")
	if err != nil || len(rest) == 0 {
		return c.usage("[-f] NAME...")
	}
	code := 0
	for _, a := range rest {
		var out string
		if has(set, 'f') || has(set, 'e') || c.Name == "realpath" {
			if out, err = filepath.EvalSymlinks(c.path(a)); err == nil {
				out, err = filepath.Abs(out)
			}
		} else {
			out, err = os.Readlink(c.path(a))
		}
		if err != nil {
			code = 1
			continue
		}
		fmt.Fprintln(c.Stdout, out)
	}
	return code
}

func rmdir(_ context.Context, c *Call) int {
	code := 0
	for _, a := range c.Args {
		if err := unix.Rmdir(c.path(a)); err != nil {
			code = c.fail(fmt.Errorf("%s: %w", a, err))
		}
	}
	return code
}

func chown(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "Rh")
	if err != nil || len(rest) < 2 {
		return c.usage("[-R] UID[:GID] FILE...")
	}
	owner, group, _ := strings.Cut(rest[0], ":")
	uid, err := number(owner, "/etc/passwd")
	if err != nil {
		return c.fail(err)
	}
	gid, err := number(group, "/etc/group")
	if err != nil {
		return c.fail(err)
	}
	code := 0
	for _, a := range rest[1:] {
		err := filepath.WalkDir(c.path(a), func(name string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := os.Lchown(name, uid, gid); err != nil {
				return err
			}
			if d.IsDir() && !has(set, 'R') {
				return filepath.SkipDir
			}
			return nil
		})
		if err != nil {
			code = c.fail(err)
		}
	}
	return code
}

// number finds the number of a user or group; -1, which changes nothing, for an empty name.
func number(name, file string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n, nil
	}
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == name {
			return strconv.Atoi(strings.TrimSpace(f[2]))
		}
	}
	return 0, fmt.Errorf("%s is not in %s", name, file)
}

func stat(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "c:")
	if err != nil || len(rest) == 0 {
		return c.usage("[-c FORMAT] FILE...")
	}
	code := 0
	for _, a := range rest {
		info, err := os.Lstat(c.path(a))
		if err != nil {
			code = c.fail(err)
			continue
		}
		s := info.Sys().(*syscall.Stat_t)
		format := set['c']
		if format == "" {
			format = "%n %s bytes, mode %a, owner %u:%g, inode %i, modified %y"
		}
		fmt.Fprintln(c.Stdout, strings.NewReplacer("%n", a, "%s", strconv.FormatInt(info.Size(), 10),
			"%a", strconv.FormatUint(uint64(s.Mode&0o7777), 8), "%u", strconv.Itoa(int(s.Uid)), "%g", strconv.Itoa(int(s.Gid)),
			"%i", strconv.FormatUint(s.Ino, 10), "%Y", strconv.FormatInt(s.Mtim.Sec, 10), "%y", info.ModTime().String(),
			"%U", userName(int(s.Uid))).Replace(format))
	}
	return code
}

// inputs calls f with every file that is named, or with the standard input.
func (c *Call) inputs(names []string, f func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	code := 0
	for _, n := range names {
		err := func() error {
			if n == "-" {
				return f(n, c.Stdin)
			}
			file, err := os.Open(c.path(n))
			if err != nil {
				return err
			}
			defer file.Close()
			return f(n, file)
		}()
		if err != nil {
			code = c.fail(err)
		}
	}
	return code
}

func digest(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "b")
	if err != nil || len(set) > 1 {
		return c.usage("[FILE]...")
	}
	makers := map[string]func() hash.Hash{"md5sum": md5.New, "sha1sum": sha1.New, "sha256sum": sha256.New, "sha512sum": sha512.New}
	return c.inputs(rest, func(name string, r io.Reader) error {
		h := makers[c.Name]()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c.Stdout, "%x  %s\n", h.Sum(nil), name)
		return err
	})
}

func mount(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "t:o:")
	if err != nil || len(rest) != 0 && len(rest) != 2 {
		return c.usage("[-t TYPE] [-o OPTIONS] SOURCE TARGET")
	}
	if len(rest) == 0 {
		text, err := os.ReadFile("/proc/mounts")
		if err != nil {
			return c.fail(err)
		}
		c.Stdout.Write(text)
		return 0
	}
	names := map[string]uintptr{"ro": unix.MS_RDONLY, "rw": 0, "bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC,
		"remount": unix.MS_REMOUNT, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "defaults": 0}
	var flags uintptr
	var data []string
	for _, o := range strings.Split(set['o'], ",") {
		if f, ok := names[o]; ok {
			flags |= f
		} else if o != "" {
			data = append(data, o)
		}
	}
	kinds := []string{set['t']}
	if set['t'] == "" && flags&(unix.MS_BIND|unix.MS_REMOUNT) == 0 {
		kinds = []string{"ext4", "xfs", "vfat", "iso9660"}
	}
	for _, kind := range kinds {
		if err = unix.Mount(rest[0], c.path(rest[1]), kind, flags, strings.Join(data, ",")); err == nil {
			return 0
		}
	}
	return c.fail(fmt.Errorf("%s on %s: %w", rest[0], rest[1], err))
}

func umount(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "lf")
	if err != nil || len(rest) == 0 {
		return c.usage("[-lf] TARGET...")
	}
	flags := 0
	if has(set, 'l') {
		flags |= unix.MNT_DETACH
	}
	if has(set, 'f') {
		flags |= unix.MNT_FORCE
	}
	code := 0
	for _, a := range rest {
		if err := unix.Unmount(c.path(a), flags); err != nil {
			code = c.fail(fmt.Errorf("%s: %w", a, err))
		}
	}
	return code
}

func df(_ context.Context, c *Call) int {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return c.fail(err)
	}
	fmt.Fprintf(c.Stdout, "%-12s %10s %10s %10s %s\n", "Filesystem", "1K-blocks", "Used", "Available", "Mounted on")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		var s unix.Statfs_t
		if len(f) < 2 || unix.Statfs(f[1], &s) != nil || s.Blocks == 0 {
			continue
		}
		k := uint64(s.Bsize) / 1024
		fmt.Fprintf(c.Stdout, "%-12s %10d %10d %10d %s\n", f[0], s.Blocks*k, (s.Blocks-s.Bfree)*k, s.Bavail*k, f[1])
	}
	return 0
}
