package vmtest

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Wire is a tap in a network namespace of its own: the guest has one end, the test the other.
type Wire struct {
	Tap  *os.File // for Config.Files
	work chan func()
}

// NewWire makes a namespace whose tap and loopback have the given addresses. It needs root.
func NewWire(t testing.TB, tap netip.Prefix, loopback ...netip.Prefix) *Wire {
	t.Helper()
	w := &Wire{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and with it its namespace
		for f := range w.work {
			f()
		}
	}()
	t.Cleanup(func() { close(w.work) })
	w.Do(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (are you root?): %w", err)
		}
		return w.lay(tap, loopback)
	})
	t.Cleanup(func() { w.Tap.Close() })
	return w
}

// Args are QEMU's for a network card on this wire, when Tap is the only one of Config.Files.
func (w *Wire) Args() []string {
	return []string{"-netdev", fmt.Sprintf("tap,id=n0,fd=%d", FirstFile),
		"-device", "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:12:34:56"}
}

// Do runs f in the namespace. Sockets that it opens stay there.
func (w *Wire) Do(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	w.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatalf("in the test's namespace: %v", err)
	}
}

func (w *Wire) lay(tap netip.Prefix, loopback []netip.Prefix) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	w.Tap = os.NewFile(uintptr(fd), "tap")
	request, err := unix.NewIfreq("tap0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make a tap: %w", err)
	}
	for name, list := range map[string][]netip.Prefix{"lo": loopback, "tap0": {tap}} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		for _, p := range list {
			addr, err := netlink.ParseAddr(p.String())
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("give %s the address %s: %w", name, p, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}
