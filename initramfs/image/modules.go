package image

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Module is one kernel module of the ramdisk.
type Module struct {
	When string // "network": at once; "virtio:N": if such a device is here; "later": after the launch
	Name string // as the file is named
	Path string // below the modules directory
}

// wanted is what our virtual machines are made of, what the network needs first. The numbers are
// virtio's device types (virtio 1.2, section 5). What the kernel has built in is left out.
var wanted = []Module{
	{When: "network", Name: "virtio_pci"},
	{When: "network", Name: "virtio_net"},
	{When: "virtio:2", Name: "virtio_blk"},
	{When: "virtio:3", Name: "virtio_console"},
	{When: "later", Name: "virtio-rng"}, // the processor gives entropy meanwhile
	{When: "later", Name: "button"},
	{When: "later", Name: "evdev"},
	{When: "later", Name: "pvpanic-pci"},
}

// Plan returns the modules to load, in an order in which each finds its needs loaded.
// tree is /lib/modules/RELEASE.
func Plan(tree fs.FS) ([]Module, error) {
	deps, err := readDeps(tree)
	if err != nil {
		return nil, err
	}
	builtin, err := readBuiltin(tree)
	if err != nil {
		return nil, err
	}
	var list []Module
	have := map[string]bool{}
	for _, w := range wanted {
		if builtin[canonical(w.Name)] {
			continue
		}
		files, ok := deps[canonical(w.Name)]
		if !ok {
			return nil, fmt.Errorf("kernel has no module %s: choose a kernel with virtio, or one with it built in", w.Name)
		}
		for _, p := range files {
			if !have[p] {
				have[p] = true
				list = append(list, Module{When: w.When, Name: moduleName(p), Path: p})
			}
		}
	}
	return list, nil
}

// readDeps reads modules.dep into name -> files in loading order, the module itself last.
// depmod lists the deepest need last, so the line is read from its end: virtio_ring before virtio.
func readDeps(tree fs.FS) (map[string][]string, error) {
	text, err := fs.ReadFile(tree, "modules.dep")
	if err != nil {
		return nil, fmt.Errorf("read the module dependencies: %w", err)
	}
	deps := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		self, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		list := strings.Fields(needs)
		slices.Reverse(list)
		deps[canonical(moduleName(self))] = append(list, self)
	}
	return deps, nil
}

func readBuiltin(tree fs.FS) (map[string]bool, error) {
	text, err := fs.ReadFile(tree, "modules.builtin")
	if err != nil {
		return nil, fmt.Errorf("read the list of built-in modules: %w", err)
	}
	builtin := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		builtin[canonical(moduleName(strings.TrimSpace(line)))] = true
	}
	return builtin, nil
}

// moduleName is the file's name up to ".ko", whatever its packing.
func moduleName(p string) string {
	name, _, _ := strings.Cut(path.Base(p), ".ko")
	return name
}

// canonical makes dash and underscore equal, as modprobe does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }
