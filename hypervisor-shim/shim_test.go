//go:build vm

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// TestLife takes one guest through everything that it can survive, and then stops it.
func TestLife(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	v := newVM(t, "obey", func(m *bundle.Machine) {
		m.Disks = []bundle.MachineDisk{{ID: "vol-0123456789abcdef0", Path: disk, Format: "raw"}}
		m.HotPlug = 2
		m.Interfaces = []bundle.MachineInterface{{ID: "eni-0123456789abcdef0", MAC: "02:00:00:00:00:01", MTU: 9001}}
	})
	first := v.shim(tap(t))
	console, second := v.follow(0), v.follow(0)

	uuid := bundle.MachineUUID(v.m.ID)
	for _, want := range []string{"sys_vendor=Amazon EC2", "product_name=t3.micro", "product_uuid=" + uuid, "product_serial=" + uuid,
		"board_asset_tag=" + string(v.m.ID), "chassis_asset_tag=Amazon EC2"} {
		console.expect("DMI " + want + "\r?\n")
	}
	console.expect("NET 02:00:00:00:00:01 9001\r?\n")
	console.expect("DISK vol0123456789abcdef0\r?\n")
	nonce := console.expect(`TICK ([0-9a-f]{16}) 2`)[1]
	second.expect("TICK " + nonce + " 2") // both readers see the same

	st := v.await("running", func(st shim.Status) bool { return st.State == shim.StateRunning })
	if st.Boot != 1 || st.Generation != 7 || st.Accel != "tcg" || strings.Contains(st.Jail, "WEAK") {
		t.Errorf("status: %+v", st)
	}
	audit(t, st.QEMU.PID)

	// A second shim is refused, with a sentence, and does no harm.
	rival := v.shim()
	if err := rival.Wait(); err == nil {
		t.Error("a second shim was not refused")
	}
	if b, _ := os.ReadFile(v.dir.Path("shim.log")); !bytes.Contains(b, []byte("another shim keeps this machine")) {
		t.Errorf("a second shim said\n%s", b)
	}
	v.keeper = first

	// The shim is killed: QEMU runs on, its output is kept, and a new shim adopts the same guest.
	v.killShim()
	offset := size(t, v.dir.Path("console.log"))
	if !st.QEMU.Alive() {
		t.Fatal("QEMU died with its shim")
	}
	v.shim()
	console = v.follow(offset)
	tick := func() int { n, _ := strconv.Atoi(console.expect(`TICK ` + nonce + ` (\d+)`)[1]); return n }
	before := tick()
	for want := before + 1; want < before+4; want++ {
		if got := tick(); got != want {
			t.Errorf("tick %d after adoption, want %d: output was lost", got, want)
		}
	}
	if got, err := v.client.Status(t.Context()); err != nil || got.QEMU != st.QEMU || got.State != shim.StateRunning {
		t.Errorf("status after adoption: %+v, %v", got, err)
	}

	// SIGTERM does the same.
	if err := v.keeper.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := v.keeper.Wait(); err != nil {
		t.Errorf("shim on SIGTERM: %v", err)
	}
	v.shim()
	console = v.follow(-1)
	tick()

	// A reboot keeps QEMU and the console, and marks the new boot.
	if err := v.client.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	console.expect("--- reset 1 of boot 1, ")
	if again := console.expect(`TICK ([0-9a-f]{16}) 2`)[1]; again == nonce {
		t.Error("the guest was not reset")
	}
	if got := v.await("reset", func(st shim.Status) bool { return st.Resets > 0 }); got.QEMU != st.QEMU || got.Resets != 1 {
		t.Errorf("status after reset: %+v, want the same QEMU and one reset", got)
	}

	// Stop: the guest hears the button. It was adopted, so nobody knows its exit code; that it shut
	// down by itself is known all the same.
	if err := v.client.Stop(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	console.expect("BUTTON")
	rest, err := io.ReadAll(console.body)
	if err != nil {
		t.Errorf("the console ended with %v after %q, want its end", err, rest)
	}
	if got := v.ended(); got.State != shim.StateStopped || got.Cause != shim.CauseHost {
		t.Errorf("status after stop: %+v", got)
	}
	if b, err := shim.ConsoleTail(string(v.dir), 64<<10); err != nil || !bytes.Contains(b, []byte("BUTTON")) || !bytes.Contains(b, []byte("boot 1 of")) {
		t.Errorf("console after the end: %v\n%s", err, b)
	}

	// The boot is over: a shim that is started for it once more has nothing to do.
	v.shim()
	if got := v.ended(); got.QEMU != st.QEMU {
		t.Errorf("the boot was repeated: %+v", got)
	}
	// A further boot is a new machine on the same console. Without its tap it is not begun.
	v.m.Boot = 2
	v.write()
	if err := v.shim().Wait(); err == nil {
		t.Error("a machine was started without its tap")
	}
	v.m.Interfaces = nil
	v.write()
	v.shim()
	console = v.follow(0)
	console.expect("boot 1 of")
	console.expect("boot 2 of")
	console.expect("TICK")
	if err := v.client.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := v.ended()
	if got.State != shim.StateStopped || got.Cause != shim.CauseForce || got.Boot != 2 || got.Exit == nil || got.Exit.Signal != "SIGKILL" {
		t.Errorf("status after kill: %+v", got)
	}
	if _, err := v.client.Status(t.Context()); !errors.Is(err, shim.ErrGone) {
		t.Errorf("asking nobody: %v, want ErrGone", err)
	}
}

// TestEnds lets guests end in every way that is not a plain stop.
func TestEnds(t *testing.T) {
	t.Run("a deaf guest is forced at the deadline, also by a shim that adopts it", func(t *testing.T) {
		v := newVM(t, "deaf", nil)
		v.shim()
		v.follow(0).expect("TICK")
		if err := v.client.Stop(t.Context(), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		v.killShim()
		v.shim()
		got := v.ended()
		if got.State != shim.StateStopped || got.Cause != shim.CauseForce {
			t.Errorf("status: %+v", got)
		}
		if took := got.Ended.Sub(asked); took < time.Second || took > 20*time.Second {
			t.Errorf("forced after %v, want about 2 s", took)
		}
	})
	t.Run("a guest powers itself off", func(t *testing.T) {
		v := newVM(t, "poweroff", nil)
		v.shim()
		got := v.ended()
		if got.State != shim.StateStopped || got.Cause != shim.CauseGuest || got.Exit == nil || !got.Exit.Known || got.Exit.Code != 0 {
			t.Errorf("status: %+v, %+v", got, got.Exit)
		}
	})
	t.Run("a guest powers itself off while no shim watches", func(t *testing.T) {
		v := newVM(t, "poweroff", nil)
		v.shim()
		v.follow(0).expect("TICK [0-9a-f]+ 1")
		v.killShim()
		for !bytes.Contains(read(t, v.dir.Path("console.log")), []byte("Power down")) {
			pauseFor(t, 20*time.Millisecond)
		}
		v.shim()
		if got := v.ended(); got.State != shim.StateStopped || got.Cause != shim.CauseGuest {
			t.Errorf("status: %+v", got)
		}
	})
	t.Run("a panic pauses the guest, and a reboot brings it back", func(t *testing.T) {
		v := newVM(t, "panic", nil)
		v.shim()
		got := v.await("panic", func(st shim.Status) bool { return st.State == shim.StatePanicked })
		if got.Panics != 1 || got.Panic == "" {
			t.Errorf("status: %+v", got)
		}
		// A new shim knows it too.
		v.killShim()
		v.shim()
		console := v.follow(-1)
		if err := v.client.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
		console.expect("TICK [0-9a-f]+ 1")
		v.await("second panic", func(st shim.Status) bool { return st.Panics == 2 && st.State == shim.StatePanicked })
		// Nobody is left to hear the button: stop does not wait.
		if err := v.client.Stop(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := v.ended(); got.State != shim.StateStopped || got.Cause != shim.CauseForce {
			t.Errorf("status: %+v", got)
		}
	})
	t.Run("QEMU is killed", func(t *testing.T) {
		v := newVM(t, "deaf", nil)
		v.shim()
		st := v.await("running", func(st shim.Status) bool { return st.State == shim.StateRunning })
		if err := unix.Kill(st.QEMU.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		got := v.ended()
		if got.State != shim.StateFailed || got.Cause != shim.CauseCrash || got.Exit == nil || got.Exit.Signal != "SIGKILL" {
			t.Errorf("status: %+v", got)
		}
	})
	t.Run("QEMU is killed while no shim watches", func(t *testing.T) {
		v := newVM(t, "deaf", nil)
		v.shim()
		st := v.await("running", func(st shim.Status) bool { return st.State == shim.StateRunning })
		v.killShim()
		h, err := st.QEMU.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if err := h.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.shim()
		got := v.ended()
		if got.State != shim.StateFailed || got.Cause != shim.CauseCrash || got.Exit == nil || got.Exit.Known {
			t.Errorf("status: %+v", got)
		}
	})
	t.Run("QEMU cannot start", func(t *testing.T) {
		v := newVM(t, "deaf", func(m *bundle.Machine) {
			m.Disks = []bundle.MachineDisk{{ID: "vol-1", Path: m.Kernel, Format: "qcow2", ReadOnly: true}}
		})
		v.shim()
		got := v.ended()
		if got.State != shim.StateFailed || got.Cause != shim.CauseStart || !strings.Contains(got.Reason, "qcow2") {
			t.Errorf("status: %+v", got)
		}
	})
}

// TestConsoleBound has a guest print more than is kept.
func TestConsoleBound(t *testing.T) {
	v := newVM(t, "flood", func(m *bundle.Machine) { m.ConsoleSize = 128 << 10 })
	v.shim()
	console := v.follow(0)
	for i := range 1000 {
		console.expect(fmt.Sprintf("\n%d flood", i)) // who follows misses nothing
	}
	console.expect("FLOODED")
	var st unix.Stat_t
	if err := unix.Stat(v.dir.Path("console.log"), &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; st.Size < 1e6 || used > 256<<10 {
		t.Errorf("console.log: size %d uses %d bytes, want over 1 MB in at most 256 KiB", st.Size, used)
	}
	if _, from, err := v.client.Console(t.Context(), 0); err != nil || from == 0 {
		t.Errorf("console from 0 begins at %d (%v), want where it still is", from, err)
	}
	if err := v.client.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.ended()
	tail, err := shim.ConsoleTail(string(v.dir), 64<<10)
	if err != nil || len(tail) != 64<<10 || bytes.IndexByte(tail, 0) >= 0 || !bytes.Contains(tail, []byte("FLOODED")) {
		t.Errorf("tail: %d bytes, %v", len(tail), err)
	}
}

// audit looks at QEMU from outside.
func audit(t *testing.T, pid int) {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	status := string(read(t, proc+"status"))
	for _, want := range []string{
		"Uid:\t64001\t64001\t64001\t64001", "Gid:\t64001\t64001\t64001\t64001", "Groups:\t \n",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("QEMU's status lacks %q:\n%s", want, status)
		}
	}
	if limits := string(read(t, proc+"limits")); !strings.Contains(limits, "Max core file size        0                    0") {
		t.Errorf("QEMU may dump core:\n%s", limits)
	}
	if got := strings.TrimSpace(string(read(t, proc+"oom_score_adj"))); got != "300" {
		t.Errorf("oom_score_adj is %s, want 300", got)
	}
	for _, ns := range []string{"net", "ipc", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		theirs, err := os.Readlink(proc + "ns/" + ns)
		if err != nil || ours == theirs {
			t.Errorf("QEMU shares our %s namespace (%v)", ns, err)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(proc + "fd/" + fd.Name())
		allowed := false
		for _, prefix := range []string{"/dev/null", "anon_inode:", "socket:[", "pipe:["} {
			allowed = allowed || strings.HasPrefix(target, prefix)
		}
		for _, name := range []string{"/console.log", "/qemu.log", "/ramdisk", "/disk", "/dev/net/tun"} {
			allowed = allowed || strings.HasSuffix(target, name)
		}
		if !allowed && !strings.HasPrefix(target, "/boot/vmlinuz-") {
			t.Errorf("QEMU holds %s: %s", fd.Name(), target)
		}
	}
	session, err := unix.Getsid(pid)
	if err != nil || session != pid {
		t.Errorf("QEMU is in session %d (%v), want its own", session, err)
	}
}

// tap returns an open tap, as the agent hands it over: the interface goes with its last file.
func tap(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { f.Close() })
	req, err := unix.NewIfreq("ichshim%d") // the kernel counts
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func pauseFor(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}
