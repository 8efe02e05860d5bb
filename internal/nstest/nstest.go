// Package nstest runs tests of the network in namespaces of their own.
//
// Main starts the test binary again in a fresh network and mount namespace: what a test takes for the root
// namespace is one that ends with it, so no rule, link or address of the machine can be harmed, and the
// machine's firewall cannot disturb the test. /run there is an empty tmpfs, in whose netns that namespace is named root.
//
// A Guest is a whole kernel behind a tap: a namespace with eth0, joined to the host's tap by a pump that
// stands where QEMU would. Real clients run in it (udhcpc, ping, net.Dial in Do), hostile frames are put
// on its wire with Inject, and all that the host sent to it can be read back with Received.
//
// It needs root, /dev/net/tun and ip(8). It is used by tests with the build tag net only.
package nstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const marker = "ICHIRO_NSTEST"

// Main is a package's TestMain. Call it as func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }.
func Main(m *testing.M) int {
	if os.Getenv(marker) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "nstest:", err)
			return 1
		}
		return m.Run()
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "nstest: network tests need root: run make net as root")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nstest:", err)
		return 1
	}
	return 0
}

// settle makes the new namespaces fit for use.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Of /run, too: what is noted there of a link must not be mixed up with another namespace's of that name.
	// And netns is a mount of its own, which ip(8) would otherwise make of it, over what is there already.
	for _, m := range [][2]string{{"tmpfs", "/run"}, {"tmpfs", "/run/netns"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := os.WriteFile("/run/netns/root", nil, 0o444); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", "/run/netns/root", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name the root namespace: %w", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("set lo up: %s", out)
	}
	return nil
}

// IP runs ip(8), with words separated by spaces, and ends the test if it fails.
func IP(t testing.TB, format string, args ...any) string {
	t.Helper()
	return Run(t, "ip", strings.Fields(fmt.Sprintf(format, args...))...)
}

// Run runs a program, ends the test if it fails, and returns what it printed.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// Namespace is a network namespace that ends with its test.
type Namespace struct {
	Name string
	t    testing.TB
}

// New makes an empty namespace.
func New(t testing.TB, name string) *Namespace {
	t.Helper()
	IP(t, "netns add %s", name)
	t.Cleanup(func() { IP(t, "netns del %s", name) })
	n := &Namespace{name, t}
	n.IP("link set lo up")
	return n
}

// Internet makes a namespace that the root namespace reaches by the link "out", with a default route to it, and
// in which addr is an address of a server.
func Internet(t testing.TB, addr string) *Namespace {
	t.Helper()
	n := New(t, "internet")
	IP(t, "link add out type veth peer name in netns internet")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "out").Run() })
	IP(t, "addr add 198.51.100.1/24 dev out")
	IP(t, "link set out up")
	n.IP("addr add 198.51.100.2/24 dev in")
	n.IP("addr add %s/32 dev lo", addr)
	n.IP("link set in up")
	IP(t, "route add default via 198.51.100.2")
	return n
}

// IP runs ip(8) in the namespace.
func (n *Namespace) IP(format string, args ...any) string {
	n.t.Helper()
	return IP(n.t, "-n %s %s", n.Name, fmt.Sprintf(format, args...))
}

// Do runs f on a thread in the namespace. Sockets opened and programs started by f are in it.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(filepath.Join("/run/netns", n.Name))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Run runs a program in the namespace and returns all that it printed.
func (n *Namespace) Run(name string, args ...string) (string, error) {
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// Named is a namespace that somebody else has made.
func Named(t testing.TB, name string) *Namespace { return &Namespace{name, t} }

// Changes starts to record what changes in a namespace's links, addresses, routes and neighbours. The function it
// returns ends the recording and returns the types of the kernel's messages, one per line.
func Changes(t testing.TB, name string) func() string {
	t.Helper()
	var fd int
	err := Named(t, name).Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE |
			unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE})
	})
	if err != nil {
		t.Fatalf("follow %s: %v", name, err)
	}
	return func() string {
		defer unix.Close(fd)
		var b strings.Builder
		buf := make([]byte, 1<<16)
		for { // the kernel has queued every message before the change's caller went on
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return b.String()
			}
			msgs, _ := syscall.ParseNetlinkMessage(buf[:n])
			for _, m := range msgs {
				fmt.Fprintf(&b, "message type %d\n", m.Header.Type)
			}
		}
	}
}
