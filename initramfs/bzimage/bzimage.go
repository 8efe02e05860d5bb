// Package bzimage takes a Linux kernel out of its boot wrapper.
//
// A bzImage is a real-mode boot sector, a small unpacking program and the packed ELF kernel.
// QEMU can enter an ELF kernel directly when it carries the Xen note PHYS32_ENTRY (PVH), so a
// host that unpacks a kernel once spares every guest the unpacking at every boot.
// The layout is the kernel's own Documentation/arch/x86/boot.rst. Nothing in the input is
// trusted: every offset is checked and the unpacked size is bounded.
package bzimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/ichiro-metal/ichiro/initramfs/codec"
)

// MaxKernel bounds the unpacked kernel. Debian's cloud kernel is 53 MB, a debug one 5 times that.
const MaxKernel = 512 << 20

// ErrNotKernel is returned for data that is no x86 bzImage.
var ErrNotKernel = errors.New("not an x86 bzImage")

// ErrNoEntry is returned for a kernel that QEMU cannot enter directly.
var ErrNoEntry = errors.New("kernel has no PVH entry point (CONFIG_PVH)")

// Offsets in the boot sector's header, boot.rst "The Real-Mode Kernel Header".
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202 // "HdrS"
	offVersion       = 0x206
	offKernelVersion = 0x20e
	offPayload       = 0x248
	offPayloadLength = 0x24c
	headerEnd        = 0x250
)

func check(image []byte) error {
	if len(image) < headerEnd || string(image[offMagic:offMagic+4]) != "HdrS" {
		return ErrNotKernel
	}
	if v := binary.LittleEndian.Uint16(image[offVersion:]); v < 0x0208 {
		return fmt.Errorf("%w: boot protocol %x.%02x is older than 2.08", ErrNotKernel, v>>8, v&0xff)
	}
	return nil
}

// Release returns the kernel's release, as `uname -r` prints it in the guest.
func Release(image []byte) (string, error) {
	if err := check(image); err != nil {
		return "", err
	}
	at := int(binary.LittleEndian.Uint16(image[offKernelVersion:])) + 0x200
	if at >= len(image) {
		return "", fmt.Errorf("%w: version text lies outside", ErrNotKernel)
	}
	text := image[at:min(at+256, len(image))]
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	release, _, _ := strings.Cut(string(text), " ")
	if release == "" {
		return "", fmt.Errorf("%w: version text is empty", ErrNotKernel)
	}
	return release, nil
}

// Extract returns the ELF kernel inside a bzImage. ErrNoEntry if it cannot be booted by PVH;
// codec.ErrUnknown if it is packed with bzip2, lzma, lzo or xz, which we do not unpack.
func Extract(image []byte) ([]byte, error) {
	if err := check(image); err != nil {
		return nil, err
	}
	sects := uint64(image[offSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: zero means four, for old kernels
	}
	start := (sects+1)*512 + uint64(binary.LittleEndian.Uint32(image[offPayload:]))
	length := uint64(binary.LittleEndian.Uint32(image[offPayloadLength:]))
	if start+length > uint64(len(image)) || length < 8 {
		return nil, fmt.Errorf("%w: payload lies outside", ErrNotKernel)
	}
	payload := image[start : start+length]
	if f, err := codec.Detect(payload); err == nil && f != codec.Gzip {
		payload = payload[:length-4] // the kernel's build appends the unpacked size; gzip has it itself
	}
	kernel, err := codec.Decode(payload, MaxKernel)
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	ok, err := hasEntry(kernel)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNoEntry
	}
	return kernel, nil
}

// hasEntry looks for the note (name "Xen", type 18) that QEMU's loader looks for.
func hasEntry(kernel []byte) (bool, error) {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return false, fmt.Errorf("read the unpacked kernel: %v", err)
	}
	const xenPhys32Entry = 18 // include/xen/interface/elfnote.h
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return false, fmt.Errorf("read the kernel's notes: %v", err)
		}
		for len(notes) >= 12 {
			name := uint64(f.ByteOrder.Uint32(notes))
			desc := uint64(f.ByteOrder.Uint32(notes[4:]))
			kind := f.ByteOrder.Uint32(notes[8:])
			next := 12 + (name+3)&^3 + (desc+3)&^3
			if next > uint64(len(notes)) {
				break
			}
			if kind == xenPhys32Entry && string(notes[12:12+name]) == "Xen\x00" {
				return true, nil
			}
			notes = notes[next:]
		}
	}
	return false, nil
}
