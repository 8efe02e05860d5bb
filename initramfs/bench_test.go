//go:build bench

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/ichiro-metal/ichiro/internal/vmtest"
)

// rounds is how often each ramdisk boots; the two take turns, so that a busy machine is
// unfair to both alike.
const rounds = 5

// TestRamdiskFigures prints the figures of the ramdisk as JSON lines, also into $BENCH_OUT:
//
//	go test -tags bench -run TestRamdiskFigures ./initramfs
//
// The reference is Debian's ramdisk of the same kernel, started by the same QEMU line. Its clock stops
// when a shell script that stands in for its /init, which is one too, prints its first word;
// ours when init prints its first line. Both clocks start with QEMU.
func TestRamdiskFigures(t *testing.T) {
	b := build(t, "zstd", "../runcmd")
	if b.Initrd == "" {
		t.Fatalf("no ramdisk of Debian's for %s: update-initramfs -c -k %s", b.Release, b.Release)
	}
	debian := marked(t, b.Initrd)

	ours, theirs := size(t, b.ramdisk), size(t, b.Initrd)
	figure{Name: "ramdisk size", Unit: "bytes", Ours: ours, Reference: theirs, Target: 1.0 / 3}.print(t)

	f := figure{Name: "ramdisk to init", Unit: "seconds", Target: 0.75}
	for range rounds {
		f.OursRaw = append(f.OursRaw, boot(t, b.kernel, b.ramdisk, b.commandLine, `ichiro: init at`))
		f.RefRaw = append(f.RefRaw, boot(t, b.kernel, debian, b.commandLine+" rdinit=/first-word", `first-word`))
	}
	f.Ours, f.Reference = median(f.OursRaw), median(f.RefRaw)
	f.print(t)
}

// boot returns the seconds from the start of QEMU to the word on the console.
func boot(t *testing.T, kernel, ramdisk, commandLine, word string) float64 {
	t.Helper()
	started := time.Now()
	g := vmtest.Start(t, vmtest.Config{Kernel: kernel, Ramdisk: ramdisk, CommandLine: commandLine, Memory: 512})
	g.Expect(word)
	took := time.Since(started)
	g.Close()
	return took.Seconds()
}

// marked is Debian's ramdisk with one file more: the kernel unpacks archives that follow each other.
func marked(t *testing.T, initrd string) string {
	t.Helper()
	var more bytes.Buffer
	w := cpio.Newc.Writer(&more)
	err := cpio.WriteRecords(w, []cpio.Record{
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("first-word", "#!/bin/sh\necho first-word\nexec sleep 1000\n", 0o755),
	})
	if err == nil {
		err = cpio.WriteTrailer(w)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	name := filepath.Join(t.TempDir(), "debian")
	if err := os.WriteFile(name, append(data, more.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func size(t *testing.T, name string) float64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return float64(info.Size())
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// TestLaunchFigures prints where the time between init and the end of the user-data script goes, in
// seconds of the guest's clock, against the time to init of the same boots.
func TestLaunchFigures(t *testing.T) {
	b := build(t, "zstd", "../runcmd")
	steps := []struct{ name, pattern string }{
		{"init to network modules", `network modules loaded at ([0-9.]+)\s`},
		{"init to network up", `network up .* at ([0-9.]+)\s`},
		{"init to metadata read", `metadata read at ([0-9.]+)\s`},
		{"init to script started", `user-data started at ([0-9.]+)\s`},
		{"init to script finished", `user-data finished rc=0 at ([0-9.]+)\s`},
	}
	raw := make([][]float64, len(steps))
	var toInit []float64
	for range rounds {
		h := newHost(t, "#!/bin/sh\necho hello\n")
		g := vmtest.Start(t, vmtest.Config{Kernel: b.kernel, Ramdisk: b.ramdisk, CommandLine: b.commandLine + " ichiro.trace",
			Args: h.wire.Args(), Files: []*os.File{h.wire.Tap}})
		start := number(t, g.Expect(`init at ([0-9.]+)\s`)[1])
		toInit = append(toInit, start)
		for i, s := range steps {
			raw[i] = append(raw[i], number(t, g.Expect(s.pattern)[1])-start)
		}
		g.Close()
	}
	for i, s := range steps {
		figure{Name: s.name, Unit: "seconds", Ours: median(raw[i]), Reference: median(toInit), Target: 0.35,
			OursRaw: raw[i], RefRaw: toInit}.print(t)
	}
}

// TestShellFigure prints what starting the shell costs in the guest, in milliseconds: the floor under
// every Run Command. The reference is starting /bin/true, which is the same program without a shell.
func TestShellFigure(t *testing.T) {
	h := newHost(t, `#!/bin/sh
loop() { a=$(date +%s%N); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "$@"; done; b=$(date +%s%N); echo "$1 $(( (b - a) / 20000 )) us"; }
for round in 1 2 3 4 5; do loop /bin/true; loop /bin/sh -c true; done
`)
	g := h.guest(t, "")
	f := figure{Name: "sh -c true in the guest", Unit: "milliseconds", Target: 2}
	for range rounds {
		f.RefRaw = append(f.RefRaw, number(t, g.Expect(`/bin/true (\d+) us`)[1])/1000)
		f.OursRaw = append(f.OursRaw, number(t, g.Expect(`/bin/sh (\d+) us`)[1])/1000)
	}
	f.Ours, f.Reference = median(f.OursRaw), median(f.RefRaw)
	f.print(t)
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
