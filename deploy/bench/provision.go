package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

const provisionPairs = 3

// provisionData tells, on the console, when it began and when init did, by the guest's own clock.
const provisionData = "#!/bin/sh\necho script-at $(cut -d' ' -f1 /proc/uptime) $(systemctl show -P UserspaceTimestampMonotonic) >/dev/console\n"

var scriptAt = regexp.MustCompile(`script-at ([0-9.]+) ([0-9]+)`)

// provision compares our provisioning with cloud-init's: a Debian 12 from memory, and the same with a second ramdisk on top
// that disables cloud-init and enables ours.
func (b *bench) provision(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	theirs, ours, err := b.debians(ctx)
	if err != nil {
		return err
	}
	kernel, err := h.kernel(ctx)
	if err != nil {
		return err
	}
	var images []string
	for _, ramdisk := range []string{ours, theirs} {
		id, err := h.register(ctx, b.bin, kernel, ramdisk)
		if err != nil {
			return err
		}
		images = append(images, id)
	}
	f := figure{Name: "provisioning, init to the user's script, against cloud-init's in the same guest", Unit: "s", Target: 0.5,
		Note: "by the guest's own clock; both have a network before they begin"}
	for range provisionPairs {
		for n, raw := range []*[]float64{&f.OursRaw, &f.RefRaw} {
			took, err := h.provisioned(ctx, images[n])
			if err != nil {
				return err
			}
			*raw = append(*raw, took)
		}
		b.log.Info("pair", "ours", number(f.OursRaw[len(f.OursRaw)-1]), "cloud-init", number(f.RefRaw[len(f.RefRaw)-1]))
	}
	b.compare(f)
	return nil
}

// debians returns the ramdisk of the end-to-end tests' Debian with cloud-init, and of the same with our provisioning. What takes long
// to make of it is kept for the next run.
func (b *bench) debians(ctx context.Context) (cloudInit, ours string, err error) {
	found, err := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if err != nil || len(found) == 0 {
		return "", "", errors.New("there is no cloud kernel: make needs-test")
	}
	const kept = "/var/tmp/ichiro-guest"
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return "", "", err
	}
	cloudInit = filepath.Join(kept, "debian.ramdisk")
	release := strings.TrimPrefix(filepath.Base(slices.Max(found)), "vmlinuz-")
	if out, err := exec.CommandContext(ctx, "deploy/scripts/guest-image", b.bin, release, cloudInit).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("make the guest: %w\n%s", err, out)
	}
	unit, err := os.ReadFile("packaging/guest/ichiro-provision.service")
	if err != nil {
		return "", "", err
	}
	// As paths to what stands there: lib is a link in the guest, which a directory of ours would replace.
	const wants = "etc/systemd/system/multi-user.target.wants/ichiro-provision.service"
	top := filepath.Join(b.dir, "top")
	for name, text := range map[string]string{
		"etc/cloud/cloud-init.disabled":                   "",
		"usr/lib/systemd/system/ichiro-provision.service": string(unit),
		"etc/systemd/network/80-ether.network":            "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
	} {
		path := filepath.Join(top, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return "", "", err
		}
	}
	link := filepath.Join(top, wants)
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink("/lib/systemd/system/ichiro-provision.service", link)); err != nil {
		return "", "", err
	}
	pack := exec.CommandContext(ctx, "cpio", "-o", "-H", "newc", "--quiet")
	pack.Dir, pack.Stderr = top, os.Stderr
	var names strings.Builder
	err = filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(top, path); rel != "." {
			fmt.Fprintln(&names, rel)
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	pack.Stdin = strings.NewReader(names.String())
	second, err := pack.Output()
	if err != nil {
		return "", "", fmt.Errorf("pack the second ramdisk: %w", err)
	}
	first, err := os.ReadFile(cloudInit)
	if err != nil {
		return "", "", err
	}
	ours = filepath.Join(b.dir, "ours.ramdisk")
	return cloudInit, ours, os.WriteFile(ours, append(first, second...), 0o644) // the kernel unpacks one after the other
}

// kernel returns the kernel image of the small guest.
func (h *host) kernel(ctx context.Context) (string, error) {
	small, err := h.image(ctx)
	if err != nil {
		return "", err
	}
	out, err := h.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{small}})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Images[0].KernelId), nil
}

// register makes an image of a kernel image and a ramdisk, as an operator does.
func (h *host) register(ctx context.Context, bin, kernel, ramdisk string) (string, error) {
	location, err := exec.CommandContext(ctx, filepath.Join(bin, "ichiro"), "image", "--state", h.state, "add", "ramdisk", ramdisk).Output()
	if err != nil {
		return "", fmt.Errorf("add %s: %w", ramdisk, err)
	}
	name := filepath.Base(ramdisk)
	r, err := h.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{Name: aws.String("ari " + name), ImageLocation: aws.String(strings.TrimSpace(string(location)))})
	if err != nil {
		return "", err
	}
	i, err := h.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{Name: aws.String("ami " + name), KernelId: &kernel, RamdiskId: r.ImageId})
	if err != nil {
		return "", err
	}
	return aws.ToString(i.ImageId), nil
}

// provisioned boots an image and returns the seconds from init's start to the script's.
func (h *host) provisioned(ctx context.Context, image string) (float64, error) {
	g, err := h.startAs(ctx, types.InstanceTypeT2Medium, image, provisionData)
	if err != nil {
		return 0, err
	}
	var told [][]byte
	path := bundle.Root(h.run).Instance(g.id).Path("console.log")
	err = until(ctx, h, 50*tick, func() (bool, error) {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		told = scriptAt.FindSubmatch(data)
		return told != nil && bytes.Contains(data, append(told[0], "\r"...)), nil
	})
	if err != nil {
		return 0, err
	}
	script, err1 := strconv.ParseFloat(string(told[1]), 64)
	began, err2 := strconv.ParseFloat(string(told[2]), 64)
	return script - began/1e6, errors.Join(err1, err2, h.terminate(ctx, g.id))
}
