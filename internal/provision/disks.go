package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/pattern"
	"github.com/ichiro-metal/ichiro/internal/userdata/config"
)

// mountPoint is what is mounted somewhere: a line of mountinfo (proc(5)).
type mountPoint struct{ number, point, kind string }

func (r *run) mountPoints() (list []mountPoint) {
	text, err := os.ReadFile(r.path("/proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if len(f) > 4 && len(kind) > 0 {
			list = append(list, mountPoint{f[2], f[4], kind[0]})
		}
	}
	return list
}

// growpart lets partitions grow to the free space behind them, and the root's file system into its partition.
func (r *run) growpart(ctx context.Context) {
	g := r.plan.Growpart
	_, disabled := os.Stat(r.path("/etc/growroot-disabled"))
	if !g.Off && (g.Force || disabled != nil) {
		for _, device := range g.Devices {
			r.grow(ctx, device)
		}
	}
	if r.plan.Resize {
		r.resize(ctx)
	}
}

// grow lets one partition grow. It is named by its device or by where it is mounted. Only what a directive asked for is
// a trouble when it cannot be had.
func (r *run) grow(ctx context.Context, device string) {
	cannot := func(why string) {
		if r.plan.Growpart.Asked && !r.small() {
			r.trouble("growpart: %s: %s", device, why)
		} else {
			r.say("DEBUG", "growpart: %s: %s", device, why)
		}
	}
	name := r.block(device)
	if name == "" {
		cannot("this is no block device")
		return
	}
	number, err := os.ReadFile(r.path("/sys/class/block/" + name + "/partition"))
	if err != nil {
		cannot("this is no partition")
		return
	}
	real, err := filepath.EvalSymlinks(r.path("/sys/class/block/" + name))
	if err != nil || !r.Commands.Look("growpart") {
		cannot("there is no program growpart: it is in cloud-guest-utils or cloud-utils-growpart")
		return
	}
	disk := "/dev/" + filepath.Base(filepath.Dir(real))
	var said strings.Builder
	code, err := r.Commands.Run(ctx, Command{Argv: []string{"growpart", disk, strings.TrimSpace(string(number))}, Said: &said})
	switch {
	case err != nil:
		r.trouble("growpart: %s: %v", device, err)
	case code == 0:
		r.say("INFO", "partition of %s has grown", device)
	case code == 1 && strings.Contains(said.String(), "NOCHANGE"):
		r.say("DEBUG", "partition of %s is as large as can be", device)
	default:
		r.trouble("growpart: %s: it ended with exit code %d: %.200s", device, code, strings.TrimSpace(said.String()))
	}
}

// block is the kernel's name of what is mounted somewhere, or of a device.
func (r *run) block(device string) string {
	if strings.HasPrefix(device, "/dev/") {
		if to, err := filepath.EvalSymlinks(r.path(device)); err == nil {
			device = to
		}
		return filepath.Base(device)
	}
	for _, m := range slices.Backward(r.mountPoints()) { // the last is above the others
		if m.point == device {
			real, err := filepath.EvalSymlinks(r.path("/sys/dev/block/" + m.number))
			if err != nil {
				return ""
			}
			return filepath.Base(real)
		}
	}
	return ""
}

// resize lets the root's file system fill its partition. Those that need no tool, or have none, are left.
func (r *run) resize(ctx context.Context) {
	name := r.block("/")
	if name == "" {
		return
	}
	for _, m := range slices.Backward(r.mountPoints()) {
		if m.point != "/" {
			continue
		}
		argv := map[string][]string{"ext2": {"resize2fs", "/dev/" + name}, "ext3": {"resize2fs", "/dev/" + name}, "ext4": {"resize2fs", "/dev/" + name},
			"xfs": {"xfs_growfs", "/"}, "btrfs": {"btrfs", "filesystem", "resize", "max", "/"}}[m.kind]
		if len(argv) > 0 && r.Commands.Look(argv[0]) {
			r.tool(ctx, "resize the root's file system", Command{Argv: argv})
		}
		return
	}
}

const (
	fstab = "/etc/fstab"
	ours  = "comment=cloudconfig" // cloud-init's mark of lines that are its own
)

// short names of devices, as people write them without /dev.
var short = pattern.New(`^(x?[shv]d[a-z][0-9]*|sr[0-9]+|nvme[0-9]+n[0-9]+(p[0-9]+)?)$`)

// mounts writes fstab's lines and mounts what they say.
func (r *run) mounts(ctx context.Context) {
	var list []config.Mount
	for _, m := range r.plan.Mounts {
		device, err := r.device(m.Device)
		if err != nil {
			r.trouble("mounts: %v", err)
			continue
		}
		m.Device = device
		if m.Point == "" { // takes back what was said of this device
			list = slices.DeleteFunc(list, func(have config.Mount) bool { return have.Device == device })
			continue
		}
		list = append(list, m)
	}
	if s := r.plan.Swap; s != nil && r.try(r.swap(ctx, *s)) {
		list = append(list, config.Mount{Device: s.File, Point: "none", Type: "swap", Options: "sw", Dump: "0", Pass: "0"})
	}
	if len(list) == 0 || !r.try(r.table(list)) {
		return
	}
	for _, m := range list {
		r.mount(ctx, m)
	}
}

// device is the path of what a mount names; the first partition of a disk that has one, as cloud-init has it.
func (r *run) device(name string) (string, error) {
	if short.MatchString(name) {
		name = "/dev/" + name
	}
	if !strings.HasPrefix(name, "/") {
		if strings.Contains(name, ":") || strings.Contains(name, "=") || slices.Contains([]string{"tmpfs", "none", "proc", "overlay"}, name) {
			return name, nil // of a server; a label; of no device
		}
		return "", fmt.Errorf("there is no device %.60s", name)
	}
	for _, suffix := range []string{"1", "p1", ""} {
		if _, err := os.Stat(r.path(name + suffix)); err == nil {
			return name + suffix, nil
		}
	}
	return "", fmt.Errorf("there is no device %.60s", name)
}

// table writes fstab: others' lines stay, and stand above ours if they are of the same device.
func (r *run) table(list []config.Mount) error {
	text, err := os.ReadFile(r.path(fstab))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var b strings.Builder
	taken := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, ours) {
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		if f := strings.Fields(line); len(f) > 0 {
			taken[f[0]] = true
		}
	}
	for _, m := range list {
		if taken[m.Device] {
			r.trouble("mounts: fstab has a line for %.60s already: it stays", m.Device)
			continue
		}
		fields := []string{m.Device, m.Point, m.Type, m.Options + "," + ours, m.Dump, m.Pass}
		for i, f := range fields {
			fields[i] = strings.NewReplacer(" ", `\040`, "\t", `\011`).Replace(f)
		}
		b.WriteString(strings.Join(fields, "\t") + "\n")
	}
	return r.store(fstab, b.String(), 0o644)
}

// mount makes one line true, unless it is.
func (r *run) mount(ctx context.Context, m config.Mount) {
	if m.Type == "swap" {
		r.tool(ctx, "swap on "+m.Device, Command{Argv: []string{"swapon", m.Device}})
		return
	}
	if !strings.HasPrefix(m.Point, "/") || slices.ContainsFunc(r.mountPoints(), func(have mountPoint) bool { return have.point == m.Point }) {
		return
	}
	if r.try(os.MkdirAll(r.path(m.Point), 0o755)) {
		options := slices.DeleteFunc(strings.Split(m.Options, ","), func(o string) bool { // fstab's, not the kernel's
			return o == "defaults" || o == "nofail" || o == "_netdev" || o == "nobootwait" || strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "comment=")
		})
		argv := []string{"mount"}
		if m.Type != "auto" {
			argv = append(argv, "-t", m.Type)
		}
		if len(options) > 0 {
			argv = append(argv, "-o", strings.Join(options, ","))
		}
		r.tool(ctx, "mount "+m.Point, Command{Argv: append(argv, m.Device, m.Point)})
	}
}

// swap makes a file to swap to, if it is not there.
func (r *run) swap(ctx context.Context, s config.Swap) error {
	if !r.Commands.Look("mkswap") {
		return errors.New("swap: this system has no mkswap")
	}
	name := r.path(s.File)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(name), &st); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	size, free := s.Bytes, int64(st.Bavail)*st.Bsize
	if s.Suggested {
		size = suggested(r.memory(), free, s.Max)
	} else if s.Max > 0 {
		size = min(size, s.Max)
	}
	if size = size >> 20 << 20; size == 0 || size > free {
		return fmt.Errorf("swap: a file of %d MiB does not fit into the %d MiB that are free", size>>20, free>>20)
	}
	err := fill(name+".tmp", size)
	if err == nil {
		err = os.Rename(name+".tmp", name)
	}
	if err != nil {
		os.Remove(name + ".tmp")
		return fmt.Errorf("swap: %w", err)
	}
	if !r.tool(ctx, "make a swap of "+s.File, Command{Argv: []string{"mkswap", s.File}}) {
		os.Remove(name)
		return fmt.Errorf("swap: %s is not used", s.File)
	}
	return nil
}

// fill makes a file whose blocks are all there: the kernel swaps to no other.
func fill(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), 0, 0, size) == nil {
		return f.Sync()
	}
	zeros := bytes.Repeat([]byte{0}, 1<<20)
	for done := int64(0); done < size; done += int64(len(zeros)) {
		if _, err := f.Write(zeros); err != nil {
			return err
		}
	}
	return f.Sync()
}

// suggested is cloud-init's suggestion: as much as memory to 4 GiB, 4 GiB to 16, then its root in GiB; at most the
// author's limit, or else a quarter of what is free or twice the memory.
func suggested(memory, free, limit int64) int64 {
	const gib = 1 << 30
	size := memory
	switch {
	case memory >= 16*gib:
		size = int64(math.Round(math.Sqrt(float64(memory)/gib))) * gib
	case memory >= 4*gib:
		size = 4 * gib
	}
	if limit == 0 {
		limit = min(free/4, 2*memory)
	}
	return min(size, limit, free/10*9)
}

func (r *run) memory() int64 {
	text, _ := os.ReadFile(r.path("/proc/meminfo"))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(f[1], 10, 50)
			return n << 10
		}
	}
	return 0
}
