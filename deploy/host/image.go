package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// manifest is the file STATE/images/NAME.json: an image that the control plane registers because it is
// there. Kernel and Ramdisk name files beside it.
type manifest struct {
	Name        string
	Description string
	Kernel      string
	Ramdisk     string
	CommandLine string
	Inputs      string // digest of all that the files were made from
}

const smallImage = "ichiro-micro"

// buildSmallImage makes the image ichiro-micro from the newest cloud kernel and our own programs, unless
// the one that is there was made from the same.
func buildSmallImage(ctx context.Context, opt Options, log *slog.Logger) error {
	kernel := opt.Kernel
	if kernel == "" {
		found, err := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
		if err != nil || len(found) == 0 {
			return errors.New("no kernel matches /boot/vmlinuz-*-cloud-amd64: apt-get install linux-image-cloud-amd64, or name one with --kernel")
		}
		kernel = slices.Max(found)
	}
	release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	inputs, err := digest(kernel, opt.program("ichiro-initramfs"), opt.program("init"), opt.program("ichiro-runcmd"))
	if err != nil {
		return err
	}
	path := filepath.Join(opt.images(), smallImage+".json")
	if had, err := bundle.Read[manifest](path); err == nil && had.Inputs == inputs && exists(opt.images(), had.Kernel, had.Ramdisk) {
		log.Info("the small image is there", "name", smallImage)
		return nil
	}
	// What builds that were killed have left; this run directory's lock does not guard the state directory, but two
	// hosts cannot share one: etcd refuses.
	for _, pattern := range []string{".build-*", ".add-*"} {
		left, _ := filepath.Glob(filepath.Join(opt.images(), pattern))
		for _, l := range left {
			os.RemoveAll(l)
		}
	}
	began := time.Now()
	log.Info("building the small image", "name", smallImage, "kernel", release)
	work, err := os.MkdirTemp(opt.images(), ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	ramdisk, vmlinux := filepath.Join(work, "ramdisk"), filepath.Join(work, "kernel")
	cmd := exec.CommandContext(ctx, opt.program("ichiro-initramfs"), "build", "--kernel", kernel,
		"--modules", "/lib/modules/"+release, "--out", ramdisk, "--pvh-out", vmlinux)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the small image: %w", err)
	}
	m := manifest{Name: smallImage, Inputs: inputs,
		Description: "The small image: kernel " + release + ", u-root tools, Run Command agent; no disk"}
	if line, err := os.ReadFile(ramdisk + ".cmdline"); err == nil {
		m.CommandLine = strings.TrimSpace(string(line))
	}
	if m.Kernel, err = AddToPool(opt.Layout, vmlinux, "kernel"); err != nil {
		return err
	}
	if m.Ramdisk, err = AddToPool(opt.Layout, ramdisk, "ramdisk"); err != nil {
		return err
	}
	if err := bundle.Write(path, m, 0o644); err != nil {
		return err
	}
	log.Info("small image built", "name", smallImage, "after", time.Since(began).Round(time.Millisecond))
	return nil
}

// AddToPool copies a file into the image pool under the digest of its content and returns its name there,
// which is what register-image takes as --image-location.
func AddToPool(l Layout, path, kind string) (string, error) {
	if kind != "kernel" && kind != "ramdisk" {
		return "", fmt.Errorf("%s is not a kind of image file: say kernel or ramdisk", kind)
	}
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(l.images(), ".add-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, h), in); err != nil {
		return "", err
	}
	if err := out.Chmod(0o644); err != nil {
		return "", err
	}
	if err := out.Sync(); err != nil {
		return "", err
	}
	name := hex.EncodeToString(h.Sum(nil)) + "." + kind
	return name, os.Rename(out.Name(), filepath.Join(l.images(), name))
}

func digest(paths ...string) (string, error) {
	h := sha256.New()
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func exists(dir string, names ...string) bool {
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(dir, n)); n == "" || err != nil {
			return false
		}
	}
	return true
}
