package image

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/ichiro-metal/ichiro/initramfs/codec"
)

// tree is a modules directory in which every wanted module is a file that says its name.
func tree() fstest.MapFS {
	module := func(name string) *fstest.MapFile { return &fstest.MapFile{Data: []byte("\x7fELF" + name)} }
	t := fstest.MapFS{
		"modules.builtin": {Data: []byte("kernel/drivers/char/hw_random/virtio-rng.ko\n")},
		"modules.dep": {Data: []byte(`d/virtio_net.ko: d/net_failover.ko d/failover.ko d/virtio.ko d/virtio_ring.ko
d/virtio.ko: d/virtio_ring.ko
d/virtio_pci.ko: d/legacy.ko d/modern.ko d/virtio.ko d/virtio_ring.ko
d/virtio_blk.ko: d/virtio.ko d/virtio_ring.ko
d/virtio_console.ko: d/virtio.ko d/virtio_ring.ko
d/button.ko:
d/evdev.ko:
d/pvpanic-pci.ko: d/pvpanic.ko
`)},
	}
	for _, n := range strings.Fields("virtio_ring virtio legacy modern virtio_pci failover net_failover virtio_net virtio_blk virtio_console button evdev pvpanic pvpanic-pci") {
		t["d/"+n+".ko"] = module(n)
	}
	return t
}

func TestPlanLoadsNeedsFirst(t *testing.T) {
	list, err := Plan(tree())
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, m := range list {
		fmt.Fprintln(&got, m.When, m.Name)
	}
	want := `network virtio_ring
network virtio
network modern
network legacy
network virtio_pci
network failover
network net_failover
network virtio_net
virtio:2 virtio_blk
virtio:3 virtio_console
later button
later evdev
later pvpanic
later pvpanic-pci
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

func TestPlanNamesTheMissing(t *testing.T) {
	m := tree()
	m["modules.dep"].Data = bytes.Replace(m["modules.dep"].Data, []byte("d/button.ko:\n"), nil, 1)
	if _, err := Plan(m); err == nil || !strings.Contains(err.Error(), "no module button") {
		t.Errorf("got %v, want an error that names button", err)
	}
}

func spec(modules fs.FS) Spec {
	return Spec{Release: "6.1.0-test", Modules: modules, Init: []byte("our init"), Agent: []byte("the agent"),
		Tools: []string{"sh", "ls"}, Packing: codec.Zstd}
}

func TestOnlyTmpIsForEverybodyToWriteTo(t *testing.T) {
	s := spec(tree())
	s.Packing = codec.None
	data, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	list, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Name != "." {
		t.Errorf("first is %s, want the root directory itself", list[0].Name)
	}
	there := map[string]bool{}
	for _, r := range list {
		if !there[path.Dir(r.Name)] && r.Name != "." {
			t.Errorf("%s comes before its directory, which then gets the library's mode", r.Name)
		}
		if there[r.Name] {
			t.Errorf("%s is there twice", r.Name)
		}
		there[r.Name] = true
		if link := r.Mode&cpio.S_IFMT == cpio.S_IFLNK; !link && r.Mode&0o022 != 0 && r.Name != "tmp" {
			t.Errorf("%s has mode %o", r.Name, r.Mode)
		}
	}
}

func TestBuildIsReproducible(t *testing.T) {
	for _, f := range []codec.Format{codec.None, codec.Gzip, codec.LZ4, codec.Zstd} {
		s := spec(tree())
		s.Packing = f
		one, err := Build(s)
		if err != nil {
			t.Fatal(err)
		}
		two, err := Build(s)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s: two builds differ", f)
		}
	}
}

func TestBuildLaysOut(t *testing.T) {
	s := spec(tree())
	s.Packing = codec.None
	data, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]cpio.Info{}
	inodes := map[uint64]string{}
	for _, r := range records {
		if _, ok := seen[r.Name]; ok {
			t.Errorf("%s is there twice", r.Name)
		}
		if r.MTime != 0 || r.UID != 0 || r.GID != 0 {
			t.Errorf("%s has time %d and owner %d:%d, want 0", r.Name, r.MTime, r.UID, r.GID)
		}
		if other, ok := inodes[r.Ino]; ok && r.Mode&cpio.S_IFMT == cpio.S_IFREG {
			t.Errorf("%s and %s are one inode", r.Name, other)
		}
		inodes[r.Ino] = r.Name
		seen[r.Name] = r.Info
	}
	for name, mode := range map[string]uint64{
		"init": cpio.S_IFREG | 0o755, "dev/console": cpio.S_IFCHR | 0o600, "bin/sh": cpio.S_IFLNK | 0o777,
		"usr/bin/ichiro-runcmd": cpio.S_IFREG | 0o755, "root": cpio.S_IFDIR | 0o700, "tmp": cpio.S_IFDIR | 0o1777,
		"lib/modules/6.1.0-test/d/virtio_net.ko": cpio.S_IFREG | 0o644, ModuleList: cpio.S_IFREG | 0o644,
	} {
		if got, ok := seen[name]; !ok || got.Mode != mode {
			t.Errorf("%s: there is %v with mode %o, want %o", name, ok, got.Mode, mode)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	packed := tree()
	packed["d/virtio_net.ko"].Data = []byte("\xfd7zXZ")
	if _, err := Build(spec(packed)); err == nil || !strings.Contains(err.Error(), "unpack the modules first") {
		t.Errorf("packed module: got %v", err)
	}
	empty := spec(tree())
	empty.Init = nil
	if _, err := Build(empty); err == nil {
		t.Error("no init: got no error")
	}
}

func TestUnsigned(t *testing.T) {
	const magic = "~Module signature appended~\n"
	info := "\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x04"
	for _, c := range []struct{ name, in, want string }{
		{"a signed module loses its signature", "ELF" + "sign" + info + magic, "ELF"},
		{"an unsigned module stays", "ELF", "ELF"},
		{"a signature longer than the file is none", info + magic, info + magic},
	} {
		if got := string(unsigned([]byte(c.in))); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzUnsigned(f *testing.F) {
	f.Add([]byte("ELFsign\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x04~Module signature appended~\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !bytes.HasPrefix(b, unsigned(b)) {
			t.Error("result is not the beginning of the module")
		}
	})
}
