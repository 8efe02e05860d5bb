//go:build vm

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// jailUser is nobody's: it need not be in /etc/passwd.
const jailUser = 64001

// built is what all tests of this package share: the program, a kernel and a ramdisk.
var built = sync.OnceValues(func() (parts struct{ dir, program, kernel, ramdisk string }, err error) {
	parts.dir, err = os.MkdirTemp("", "ichiro-shim-test-")
	if err != nil {
		return parts, err
	}
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		return parts, errors.New("no /boot/vmlinuz-*-cloud-amd64: apt-get install linux-image-cloud-amd64")
	}
	parts.kernel = kernels[len(kernels)-1]
	parts.program = filepath.Join(parts.dir, "ichiro-shim")
	guest := filepath.Join(parts.dir, "init")
	for _, args := range [][]string{{"-o", parts.program, "."}, {"-o", guest, "-ldflags=-s -w", "./testdata/guest"}} {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return parts, fmt.Errorf("%v: %s", err, out)
		}
	}
	release := strings.TrimPrefix(filepath.Base(parts.kernel), "vmlinuz-")
	files := [][2]string{{"init", guest}}
	for i, m := range []string{"acpi/button", "input/evdev", "misc/pvpanic/pvpanic", "misc/pvpanic/pvpanic-pci", "virtio/virtio_ring", "virtio/virtio",
		"virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci", "block/virtio_blk", "../net/core/failover", "net/net_failover", "net/virtio_net"} {
		files = append(files, [2]string{fmt.Sprintf("modules/%02d.ko", i), "/lib/modules/" + release + "/kernel/drivers/" + m + ".ko"})
	}
	parts.ramdisk = filepath.Join(parts.dir, "ramdisk")
	return parts, writeRamdisk(parts.ramdisk, files)
})

// writeRamdisk writes a cpio archive in the form "newc" (kernel, Documentation/driver-api/early-userspace/buffer-format.rst).
func writeRamdisk(path string, files [][2]string) error {
	var b bytes.Buffer
	add := func(name string, mode int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("modules", 0o040755, nil)
	for _, f := range files {
		data, err := os.ReadFile(f[1])
		if err != nil {
			return err
		}
		add(f[0], 0o100755, data)
	}
	add("TRAILER!!!", 0, nil)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if parts, err := built(); err == nil {
		os.RemoveAll(parts.dir)
	}
	os.Exit(code)
}

// vm is one machine and the shims that keep it, one after the other.
type vm struct {
	t      *testing.T
	root   bundle.Root
	dir    bundle.Dir
	m      bundle.Machine
	client *shim.Client
	keeper *exec.Cmd
}

// newVM writes the bundle of a machine whose guest behaves as mode says.
func newVM(t *testing.T, mode string, change func(*bundle.Machine)) *vm {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: QEMU gets a user and namespaces of its own")
	}
	parts, err := built()
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{t: t, root: bundle.Root(t.TempDir())}
	v.m = bundle.Machine{
		ID: "i-0123456789abcdef0", Boot: 1, Generation: 7, Type: "t3.micro", VCPUs: 1, MemoryMiB: 192,
		Kernel: parts.kernel, Ramdisk: parts.ramdisk, Accel: "tcg",
		CommandLine: "console=ttyS0 quiet no_timer_check tsc=reliable mitigations=off panic=0 test=" + mode,
		User:        bundle.MachineUser{UID: jailUser, GID: jailUser},
	}
	if change != nil {
		change(&v.m)
	}
	v.dir = v.root.Instance(v.m.ID)
	v.client = shim.NewClient(string(v.dir))
	if err := os.MkdirAll(string(v.dir), 0o700); err != nil {
		t.Fatal(err)
	}
	v.write()
	t.Cleanup(v.clean)
	return v
}

func (v *vm) write() {
	v.t.Helper()
	if err := bundle.Write(v.dir.Path("machine.json"), v.m, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// clean ends what a failed test has left, and shows why it failed.
func (v *vm) clean() {
	if v.keeper != nil && v.keeper.ProcessState == nil {
		v.keeper.Process.Kill()
		v.keeper.Wait()
	}
	if st, err := shim.ReadStatus(string(v.dir)); err == nil && st.QEMU.Alive() {
		if h, err := st.QEMU.Open(); err == nil {
			h.Signal(9)
			h.Wait(context.Background())
			h.Close()
		}
	}
	if v.t.Failed() {
		for _, name := range []string{"console.log", "status.json", "qemu.log", "shim.log"} {
			b, _ := os.ReadFile(v.dir.Path(name))
			v.t.Logf("%s:\n%s", name, bytes.Trim(b, "\x00"))
		}
	}
}

// shim starts a shim.
func (v *vm) shim(taps ...*os.File) *exec.Cmd {
	v.t.Helper()
	parts, _ := built()
	log, err := os.OpenFile(v.dir.Path("shim.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		v.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(parts.program, "-run", string(v.root), "-taps", fmt.Sprint(len(taps)), string(v.m.ID))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, taps
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.keeper = cmd
	return cmd
}

// killShim ends the shim as a crash would.
func (v *vm) killShim() {
	v.t.Helper()
	if err := v.keeper.Process.Kill(); err != nil {
		v.t.Fatal(err)
	}
	v.keeper.Wait()
}

// await returns the first status that ok accepts. The shim has no stream of states: it is asked.
func (v *vm) await(what string, ok func(shim.Status) bool) shim.Status {
	v.t.Helper()
	for {
		st, err := shim.ReadStatus(string(v.dir))
		if err == nil && ok(st) {
			return st
		}
		if err == nil && st.State.Ended() {
			v.t.Fatalf("while waiting for %s the machine ended: %+v", what, st)
		}
		select {
		case <-v.t.Context().Done():
			v.t.Fatal(what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ended waits for the shim to end, and returns the machine's last status.
func (v *vm) ended() shim.Status {
	v.t.Helper()
	if err := v.keeper.Wait(); err != nil {
		v.t.Fatalf("shim: %v", err)
	}
	st, err := shim.ReadStatus(string(v.dir))
	if err != nil {
		v.t.Fatal(err)
	}
	if !st.State.Ended() {
		v.t.Fatalf("the shim ended before its machine: %+v", st)
	}
	v.nothingLeft(st)
	return st
}

// nothingLeft checks that neither process nor socket outlives a machine.
func (v *vm) nothingLeft(st shim.Status) {
	v.t.Helper()
	if st.QEMU.Alive() {
		v.t.Errorf("QEMU %d is still there", st.QEMU.PID)
	}
	if sockets, _ := filepath.Glob(v.dir.Path("*.sock")); len(sockets) > 0 {
		v.t.Errorf("sockets are left: %v", sockets)
	}
	if temporary, _ := filepath.Glob(v.dir.Path(".*")); len(temporary) > 0 {
		v.t.Errorf("temporary files are left: %v", temporary)
	}
}

// follower reads a console as it grows.
type follower struct {
	t    *testing.T
	body io.ReadCloser
	got  []byte
	err  error
}

func (v *vm) follow(offset int64) *follower {
	v.t.Helper()
	for {
		body, _, err := v.client.Follow(v.t.Context(), offset)
		if err == nil {
			v.t.Cleanup(func() { body.Close() })
			return &follower{t: v.t, body: body}
		}
		if !errors.Is(err, shim.ErrGone) {
			v.t.Fatal(err)
		}
		select {
		case <-v.t.Context().Done():
			v.t.Fatal(err)
		case <-time.After(10 * time.Millisecond): // it has not begun to listen
		}
	}
}

// expect reads on until the expression matches, and returns its groups. What matched is consumed.
func (f *follower) expect(expr string) []string {
	f.t.Helper()
	re := regexp.MustCompile(expr)
	buf := make([]byte, 4096)
	for {
		if at := re.FindSubmatchIndex(f.got); at != nil {
			var groups []string
			for _, g := range re.FindSubmatch(f.got) {
				groups = append(groups, string(g))
			}
			f.got = f.got[at[1]:]
			return groups
		}
		if f.err != nil {
			f.t.Fatalf("console ended (%v) before %q came", f.err, expr)
		}
		var n int
		n, f.err = f.body.Read(buf)
		f.got = append(f.got, buf[:n]...)
	}
}
