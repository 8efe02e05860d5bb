package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// A shim that was started and has not said anything yet may have a machine: to call it gone would give its
// address to another.
func TestWhatMayStillStartIsNotGone(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	for _, c := range []struct {
		power        cloud.Power
		alive, ended cloud.State
	}{
		{cloud.PowerRunning, cloud.StatePending, cloud.StatePending},
		{cloud.PowerStopped, cloud.StateStopping, cloud.StateStopped},
		{cloud.PowerTerminated, cloud.StateShuttingDown, cloud.StateTerminated},
	} {
		t.Run(string(c.power), func(t *testing.T) {
			root, log := bundle.Root(t.TempDir()), slog.New(slog.NewTextHandler(io.Discard, nil))
			dir := root.Instance(id)
			if err := os.MkdirAll(string(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			h := New(Config{Root: root, Units: unit.New(root, "/bin/false", log), Now: time.Now, Log: log})
			var a cloud.Assignment
			a.Instance.ID, a.Instance.Power, a.Instance.Boot = id, c.power, 1
			see := func(want cloud.State) {
				t.Helper()
				if got, err := h.observe(id, a); err != nil || got.State != want {
					t.Errorf("got %s, %v, want %s", got.State, err, want)
				}
			}
			see(c.ended)
			// A unit that is kept, and then no status: the manager does not run, so it starts nothing.
			if err := bundle.Write(dir.Path("status.json"), shim.Status{State: shim.StateRunning, Boot: 1}, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Units.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(dir.Path("status.json")); err != nil {
				t.Fatal(err)
			}
			see(c.alive)
		})
	}
}

// Who is told that the host has seen a wish may believe that the guest's metadata obeys it: that tokens are required, say.
func TestAWishIsNotSeenBeforeItsMetadataIsWritten(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	root, log := bundle.Root(t.TempDir()), slog.New(slog.DiscardHandler)
	dir := root.Instance(id)
	h := New(Config{Root: root, Units: unit.New(root, "/bin/false", log), Now: time.Now, Log: log, Group: os.Getgid(), GatewayGID: os.Getgid()})
	h.reported[id] = cloud.InstanceStatus{Generation: 6}
	var a cloud.Assignment
	a.Instance.ID, a.Instance.Power, a.Instance.Boot, a.Instance.Generation = id, cloud.PowerRunning, 1, 7
	see := func(when string, want int64) {
		t.Helper()
		if got, err := h.observe(id, a); err != nil || got.Generation != want {
			t.Errorf("%s: got generation %d, %v, want %d", when, got.Generation, err, want)
		}
	}
	blocked := dir.Path("metadata.json", "x") // a directory stands where the file should be
	if err := os.MkdirAll(blocked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.prepare(dir, a); err == nil {
		t.Fatal("the metadata was written over a directory")
	}
	see("it cannot be written", 6)
	if err := os.RemoveAll(dir.Path("metadata.json")); err != nil {
		t.Fatal(err)
	}
	if err := h.prepare(dir, a); err != nil {
		t.Fatal(err)
	}
	see("it is written", 7)
}

// A host that has just joined a cloud may be given a guest before it has the guest's image: the boot waits, and ends with the reason
// when the image never comes. The next one waits anew.
func TestABootWaitsForItsImage(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	root, log, now := bundle.Root(t.TempDir()), slog.New(slog.DiscardHandler), time.Unix(1e9, 0)
	h := New(Config{ID: "h-1", Root: root, Images: t.TempDir(), Units: unit.New(root, "/bin/false", log), Now: func() time.Time { return now },
		Log: log, Group: os.Getgid(), GatewayGID: os.Getgid()})
	var a cloud.Assignment
	a.Instance.ID, a.Instance.Power, a.Instance.Boot = id, cloud.PowerRunning, 1
	digest := func(content string) string { sum := sha256.Sum256([]byte(content)); return hex.EncodeToString(sum[:]) }
	a.Kernel, a.Ramdisk = digest("kernel")+".kernel", digest("ramdisk")+".ramdisk"
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(h.Images, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(want string) {
		t.Helper()
		if err := h.run(t.Context(), id, a); err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	see := func(want cloud.State, why string) {
		t.Helper()
		if got, err := h.observe(id, a); err != nil || got.State != want || !strings.Contains(got.Reason.Message, why) {
			t.Errorf("got %s (%s), %v, want %s (%s)", got.State, got.Reason.Message, err, want, why)
		}
	}
	run(a.Kernel)
	see(cloud.StatePending, "")
	put(a.Kernel, "ker")
	run(a.Kernel) // it is being copied
	put(a.Kernel, "kernel")
	now = now.Add(imagePatience - time.Second)
	run(a.Ramdisk)
	see(cloud.StatePending, "")
	now = now.Add(time.Second)
	run(a.Ramdisk)
	see(cloud.StateStopped, a.Ramdisk)
	run("") // it is over
	a.Instance.Boot = 2
	run(a.Ramdisk)
	see(cloud.StatePending, "")
	put(a.Ramdisk, "ramdisk")
	nobody, cancel := context.WithCancel(t.Context()) // the manager of the shims does not run
	cancel()
	if err := h.run(nobody, id, a); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the boot to be given to the manager", err)
	}
	if m, err := bundle.Read[bundle.Machine](root.Instance(id).Path("machine.json")); err != nil || m.Boot != 2 {
		t.Errorf("got a machine of boot %d, %v, want boot 2", m.Boot, err)
	}
}
