package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

type mount struct {
	source, target, kind string
	flags                uintptr
	options              string
}

// early is what finding the network needs; the rest is mounted while DHCP waits.
var early = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sys", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
}

var rest = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmp", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
}

func mountAll(list []mount) error {
	var errs []error
	for _, m := range list {
		// sysfs makes its own mount points, and a directory there cannot be made.
		if err := os.Mkdir(m.target, 0o755); err != nil && !os.IsExist(err) {
			errs = append(errs, err)
			continue
		}
		err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options)
		if err != nil && err != unix.EBUSY {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.target, err))
		}
	}
	return errors.Join(errs...)
}

// links are what programs expect to find in /dev.
func links() {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		os.Symlink(target, name)
	}
}

// options are the words of the kernel command line that are ours: ichiro.NAME or ichiro.NAME=VALUE.
func options(cmdline string) map[string]string {
	o := map[string]string{}
	for _, word := range strings.Fields(cmdline) {
		if name, ok := strings.CutPrefix(word, "ichiro."); ok {
			k, v, _ := strings.Cut(name, "=")
			o[k] = v
		}
	}
	return o
}

// module is one line of the list that the image builder wrote.
type module struct {
	when string // "network", "virtio:N" (a device of that type is present) or "later"
	path string
}

func parseModules(text string) []module {
	var list []module
	for line := range strings.Lines(text) {
		when, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok {
			list = append(list, module{when, path})
		}
	}
	return list
}

// load loads those of the modules which wanted accepts, in order; one that is loaded already is fine.
func load(list []module, wanted func(when string) bool) error {
	var errs []error
	for _, m := range list {
		if !wanted(m.when) {
			continue
		}
		if err := loadOne(m.path); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func loadOne(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

// virtioTypes returns the types of the virtio devices that are present, as "virtio:N".
func virtioTypes() map[string]bool {
	const devices = "/sys/bus/virtio/devices"
	types := map[string]bool{}
	list, err := os.ReadDir(devices)
	if err != nil {
		return types
	}
	for _, d := range list {
		text, err := os.ReadFile(devices + "/" + d.Name() + "/device")
		if err != nil {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(string(text), "0x%x", &n); err == nil {
			types[fmt.Sprintf("virtio:%d", n)] = true
		}
	}
	return types
}
