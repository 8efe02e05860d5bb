//go:build net

package link

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// spaces returns links with one network, on a machine where no other program has made a namespace.
func spaces(t *testing.T, prefix string) (*Links, Config) {
	t.Helper()
	if err := os.MkdirAll(spaceDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", spaceDir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(spaceDir, unix.MNT_DETACH) })
	if err := unix.Mount("", spaceDir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	l, err := New(prefix, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if err := Remove(prefix); err != nil {
			t.Error(err)
		}
	})
	return l, Config{Pool: netip.MustParsePrefix("100.64.0.0/24"), Networks: []Network{{
		Name: "vpc-1", Local: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Closed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}}}
}

// The first `ip netns add` of a machine, and every container engine, lay the directory of the namespaces over itself. Those that
// are there already are mounted twice from then on, and the one below cannot be seen.
func TestANamespaceGoesThoughItsDirectoryWasLaidOverItself(t *testing.T) {
	l, c := spaces(t, "isa")
	if _, err := createSpace("other"); err != nil {
		t.Fatal(err)
	}
	apply(t, l, c)
	for range 2 {
		if err := unix.Mount(spaceDir, spaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(spaceDir, unix.MNT_DETACH) })
	}
	apply(t, l, c)
	if err := l.Drop("vpc-1"); err != nil {
		t.Error(err)
	}
	if names, err := l.Networks(); err != nil || len(names) > 0 {
		t.Errorf("there are still %v, %v", names, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), "isa-vpc-1") {
		t.Errorf("it is mounted still: %v\n%s", err, mounts)
	}
	if !isSpace(filepath.Join(spaceDir, "other")) {
		t.Error("another's namespace went with it")
	}
	apply(t, l, c)
}

// An agent that was killed between the file of a namespace and its mount leaves the file.
func TestAHalfMadeNamespaceHoldsNothingUp(t *testing.T) {
	l, c := spaces(t, "isb")
	for _, name := range []string{"vpc-1", "vpc-2"} {
		if err := os.WriteFile(filepath.Join(spaceDir, "isb-"+name), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, l, c)
	if !isSpace(filepath.Join(spaceDir, "isb-vpc-1")) {
		t.Error("the network that is wished was not made")
	}
	if err := l.Drop("vpc-2"); err != nil {
		t.Error(err)
	}
	if names, err := l.Networks(); err != nil || len(names) != 1 {
		t.Errorf("there are %v, %v", names, err)
	}
}
