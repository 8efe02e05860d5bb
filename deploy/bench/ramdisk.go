package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	ramdiskPairs = 5
	firstWord    = "first-word"
)

// ramdisk compares our ramdisk with the distribution's of the same kernel, both started by the same QEMU
// line. The clock of the distribution's stops at the first word of a shell script that stands in for its
// /init, which is such a script too; that of ours at the first line of init.
func (b *bench) ramdisk(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	found, err := filepath.Glob("/boot/initrd.img-*-cloud-amd64")
	if err != nil || len(found) == 0 {
		return fmt.Errorf("there is no ramdisk of the distribution to compare with: update-initramfs -c -k all")
	}
	theirs := slices.Max(found)
	image, err := h.image(ctx)
	if err != nil {
		return err
	}
	g, err := h.start(ctx, image, userData)
	if err != nil {
		return err
	}
	if _, err := h.console(ctx, g.id, initLine); err != nil {
		return err
	}
	ours, _, err := h.machine(g.id)
	if err != nil {
		return err
	}
	if err := h.agent(ctx, g.id); err != nil {
		return err
	}
	if err := h.terminate(ctx, g.id); err != nil {
		return err
	}
	debian := machine{kernel: ours.kernel, ramdisk: filepath.Join(b.dir, "debian")}
	for i, a := range ours.args {
		if i > 0 && ours.args[i-1] == "-append" {
			a += " rdinit=/" + firstWord
		}
		debian.args = append(debian.args, a)
	}
	if err := mark(theirs, debian.ramdisk); err != nil {
		return err
	}
	f := figure{Name: "our ramdisk to init, against Debian's", Unit: "s", Target: 0.75}
	var ourUse, theirUse []float64
	for range ramdiskPairs {
		our, ourCPU, err := b.boot(ctx, ours, initLine)
		if err != nil {
			return err
		}
		their, theirCPU, err := b.boot(ctx, debian, firstWord+" is here")
		if err != nil {
			return err
		}
		f.OursRaw, f.RefRaw = append(f.OursRaw, our.Seconds()), append(f.RefRaw, their.Seconds())
		ourUse, theirUse = append(ourUse, ourCPU.Seconds()), append(theirUse, theirCPU.Seconds())
		b.log.Info("pair", "ours", number(our.Seconds()), "debian", number(their.Seconds()))
	}
	f.Note = fmt.Sprintf("processor time: ours %s s, Debian's %s s", number(median(ourUse)), number(median(theirUse)))
	b.compare(f)
	small, err := os.Stat(ours.ramdisk)
	if err != nil {
		return err
	}
	large, err := os.Stat(theirs)
	if err != nil {
		return err
	}
	b.compare(figure{Name: "size of our ramdisk, against Debian's", Unit: "MB", Target: 1.0 / 3,
		Ours: float64(small.Size()) / 1e6, Reference: float64(large.Size()) / 1e6})
	return nil
}

// mark writes a ramdisk with a script more: the kernel unpacks archives that follow each other.
func mark(ramdisk, to string) error {
	data, err := os.ReadFile(ramdisk)
	if err != nil {
		return err
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	var more bytes.Buffer
	entry(&more, "dev/console", 0o020600, 5, 1, "")
	entry(&more, firstWord, 0o100755, 0, 0, "#!/bin/sh\necho "+firstWord+" is here\nexec sleep 1000\n")
	entry(&more, "TRAILER!!!", 0, 0, 0, "")
	return os.WriteFile(to, append(data, more.Bytes()...), 0o644)
}

// entry appends a file to an archive in the kernel's format, newc
// (Documentation/driver-api/early-userspace/buffer-format.rst): 13 numbers of 8 hexadecimal digits,
// name and content filled up to 4 bytes.
func entry(w *bytes.Buffer, name string, mode, major, minor int, content string) {
	w.WriteString("070701")
	for _, n := range []int{0, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0} {
		fmt.Fprintf(w, "%08X", n)
	}
	fill := func() { w.WriteString(strings.Repeat("\x00", -w.Len()&3)) }
	w.WriteString(name + "\x00")
	fill()
	w.WriteString(content)
	fill()
}
