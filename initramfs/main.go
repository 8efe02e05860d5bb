// Ichiro-initramfs makes the ramdisk of the small guest from a kernel's modules and our
// own programs, and takes kernels out of their boot wrapper.
//
//	ichiro-initramfs build --kernel /boot/vmlinuz-X --modules /lib/modules/X --out FILE
//
// writes FILE (the ramdisk) and FILE.cmdline (the kernel command line that we recommend
// for it); with --pvh-out also the ELF kernel, which QEMU starts without unpacking it in
// the guest. Every file is written beside its final name and renamed.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/initramfs/bzimage"
	"github.com/ichiro-metal/ichiro/initramfs/codec"
	"github.com/ichiro-metal/ichiro/initramfs/image"
	"github.com/ichiro-metal/ichiro/initramfs/tools"
	"github.com/ichiro-metal/ichiro/internal/service"
)

func main() { os.Exit(service.Main("initramfs", run)) }

type config struct {
	kernel, modules, init, agent, out, pvh string
	packing                                codec.Format
}

func parse(args []string) (config, error) {
	if len(args) == 0 || args[0] != "build" {
		return config{}, fmt.Errorf("usage: ichiro-initramfs build --kernel FILE --out FILE [--modules DIR] [--init FILE] [--runcmd FILE] [--compress zstd|lz4|gzip|none] [--pvh-out FILE]")
	}
	var c config
	f := flag.NewFlagSet("ichiro-initramfs build", flag.ContinueOnError)
	f.StringVar(&c.kernel, "kernel", "", "bzImage of the guest's kernel")
	f.StringVar(&c.modules, "modules", "", "its modules (default /lib/modules/RELEASE of that kernel)")
	f.StringVar(&c.init, "init", beside("init"), "our PID 1")
	f.StringVar(&c.agent, "runcmd", beside("ichiro-runcmd"), "the Run Command agent; empty for none")
	f.StringVar(&c.out, "out", "", "ramdisk to write")
	f.StringVar(&c.pvh, "pvh-out", "", "ELF kernel to write")
	f.StringVar((*string)(&c.packing), "compress", string(codec.Zstd), "zstd, lz4, gzip or none")
	if err := f.Parse(args[1:]); err != nil {
		return config{}, err
	}
	if c.kernel == "" || c.out == "" {
		return config{}, fmt.Errorf("--kernel and --out are needed")
	}
	return c, nil
}

// beside is where make puts our other programs: in the directory of this one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func run(_ context.Context, args []string, log *slog.Logger) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	started := time.Now()
	kernel, err := os.ReadFile(c.kernel)
	if err != nil {
		return fmt.Errorf("read the kernel: %w", err)
	}
	release, err := bzimage.Release(kernel)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.kernel, err)
	}
	if c.modules == "" {
		c.modules = filepath.Join("/lib/modules", release)
	}
	if base := filepath.Base(filepath.Clean(c.modules)); base != release {
		return fmt.Errorf("kernel %s is release %s, the modules are of %s: give the modules of that release", c.kernel, release, base)
	}
	ramdisk, err := ramdisk(c, release)
	if err != nil {
		return err
	}
	if err := write(c.out, ramdisk); err != nil {
		return err
	}
	if err := write(c.out+".cmdline", []byte(image.CommandLine+"\n")); err != nil {
		return err
	}
	log.Info("ramdisk written", "file", c.out, "bytes", len(ramdisk), "release", release, "took", time.Since(started).Round(time.Millisecond))
	if c.pvh == "" {
		return nil
	}
	elf, err := bzimage.Extract(kernel)
	if err != nil {
		return fmt.Errorf("take the kernel out of %s: %w", c.kernel, err)
	}
	if err := write(c.pvh, elf); err != nil {
		return err
	}
	log.Info("kernel written", "file", c.pvh, "bytes", len(elf), "took", time.Since(started).Round(time.Millisecond))
	return nil
}

func ramdisk(c config, release string) ([]byte, error) {
	s := image.Spec{Release: release, Modules: os.DirFS(c.modules), Tools: tools.Names(), Packing: c.packing}
	var err error
	if s.Init, err = os.ReadFile(c.init); err != nil {
		return nil, fmt.Errorf("read our init: %w", err)
	}
	if c.agent != "" {
		if s.Agent, err = os.ReadFile(c.agent); err != nil {
			return nil, fmt.Errorf("read the Run Command agent: %w", err)
		}
	}
	data, err := image.Build(s)
	if err != nil {
		return nil, fmt.Errorf("build the ramdisk: %w", err)
	}
	return data, nil
}

// write replaces a file in one step.
func write(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
