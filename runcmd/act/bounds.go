package act

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// bounds writes the umask and the limits of a step as one word: NAME=NUMBER, separated by commas. The umask is octal.
func bounds(s wire.Step) string {
	var all []string
	if s.Umask != "" {
		all = append(all, "umask="+s.Umask)
	}
	for _, l := range []struct {
		name string
		n    int
	}{
		{"cpu", s.Limits.CPUSeconds}, {"files", s.Limits.OpenFiles}, {"processes", s.Limits.Processes},
		{"memory", s.Limits.MemoryMiB}, {"size", s.Limits.FileSizeMiB},
	} {
		if l.n > 0 {
			all = append(all, l.name+"="+strconv.Itoa(l.n))
		}
	}
	return strings.Join(all, ",")
}

// resources are the kernel's names of the limits, and what it counts each in.
var resources = map[string]struct {
	resource int
	unit     uint64
}{
	"cpu": {unix.RLIMIT_CPU, 1}, "files": {unix.RLIMIT_NOFILE, 1}, "processes": {unix.RLIMIT_NPROC, 1},
	"memory": {unix.RLIMIT_AS, 1 << 20}, "size": {unix.RLIMIT_FSIZE, 1 << 20},
}

// become sets bounds and turns this process into argv's. It returns when it can not.
func become(bounds string, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	var last []func() error // what would hinder this process itself
	for b := range strings.SplitSeq(bounds, ",") {
		name, value, _ := strings.Cut(b, "=")
		if name == "umask" {
			mask, err := strconv.ParseUint(value, 8, 9)
			if err != nil {
				return fmt.Errorf("the umask %s: %w", value, err)
			}
			unix.Umask(int(mask))
			continue
		}
		n, err := strconv.ParseUint(value, 10, 31)
		r, ok := resources[name]
		if err != nil || !ok {
			return fmt.Errorf("there is no limit %s", b)
		}
		last = append(last, func() error {
			// By syscall, whose Exec would otherwise put back the limit of files that Go found at its start.
			if err := syscall.Setrlimit(r.resource, &syscall.Rlimit{Cur: n * r.unit, Max: n * r.unit}); err != nil {
				return fmt.Errorf("limit %s: %w", b, err)
			}
			return nil
		})
	}
	env := os.Environ()
	for _, f := range last {
		if err := f(); err != nil {
			return err
		}
	}
	return syscall.Exec(path, argv, env)
}
