// Package image lays out the ramdisk of the small guest.
//
// The ramdisk holds init (which is also the shell and every small tool: one program, many
// names), the Run Command agent, the few kernel modules that a virtual machine of ours needs,
// and a handful of files in /etc. Nothing else: each byte is unpacked by the guest at each boot.
// Kernel and modules must be of one release; that is checked here, on the host, because in the
// guest it would be a boot without network. Signatures are taken off the modules: checking them is
// 85 % of the time that loading takes, and proves nothing where init itself is unsigned.
// The result is reproducible: equal input files give equal bytes, on any machine, as any user,
// at any time.
package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/ichiro-metal/ichiro/initramfs/codec"
)

// Spec is all that a ramdisk is made of.
type Spec struct {
	Release string       // the kernel's, as uname -r
	Modules fs.FS        // /lib/modules/RELEASE
	Init    []byte       // our PID 1, shell and tools
	Agent   []byte       // the Run Command agent; none when empty
	Tools   []string     // names under which init is a tool, without directory
	Packing codec.Format // of the result
}

// ModuleList is where init finds the modules: lines "WHEN PATH", in order of loading.
const ModuleList = "etc/ichiro/modules"

// Build returns the ramdisk.
func Build(s Spec) ([]byte, error) {
	records, err := layout(s)
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	w := cpio.Newc.Writer(&raw)
	cpio.MakeAllReproducible(records)
	for i := range records {
		records[i].Ino = uint64(i + 1) // no hard links: every record its own
		records[i].UID, records[i].GID = 0, 0
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, fmt.Errorf("write the archive: %v", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("write the archive's trailer: %v", err)
	}
	return codec.Encode(s.Packing, raw.Bytes())
}

// layout lists the files in the order in which the kernel shall unpack them.
func layout(s Spec) ([]cpio.Record, error) {
	if len(s.Init) == 0 {
		return nil, fmt.Errorf("init is empty")
	}
	modules, err := Plan(s.Modules)
	if err != nil {
		return nil, err
	}
	list := []cpio.Record{
		cpio.CharDev("dev/console", 0o600, 5, 1), // the kernel opens it for init before any mount
		cpio.StaticFile("init", string(s.Init), 0o755),
	}
	for _, d := range []string{"proc", "sys", "run", "mnt", "usr/bin", "usr/sbin", "var/log", "var/lib", "bin", "sbin", "etc/ichiro"} {
		list = append(list, cpio.Directory(d, 0o755))
	}
	list = append(list, cpio.Directory("root", 0o700), cpio.Directory("tmp", 0o1777))
	for _, name := range s.Tools {
		list = append(list, cpio.Symlink(path.Join("bin", name), "/init"))
	}
	if len(s.Agent) > 0 {
		list = append(list, cpio.StaticFile("usr/bin/ichiro-runcmd", string(s.Agent), 0o755))
	}
	var plan strings.Builder
	for _, m := range modules {
		data, err := fs.ReadFile(s.Modules, m.Path)
		if err != nil {
			return nil, fmt.Errorf("read module %s: %w", m.Name, err)
		}
		data = unsigned(data)
		if !bytes.HasPrefix(data, []byte("\x7fELF")) {
			return nil, fmt.Errorf("module %s is packed (%s): unpack the modules first", m.Name, path.Base(m.Path))
		}
		at := path.Join("lib/modules", s.Release, m.Path)
		list = append(list, cpio.StaticFile(at, string(data), 0o644))
		fmt.Fprintf(&plan, "%s /%s\n", m.When, at)
	}
	list = append(list, cpio.StaticFile(ModuleList, plan.String(), 0o644))
	for _, f := range etc {
		list = append(list, cpio.StaticFile(f.path, f.text, f.mode))
	}
	return withParents(list), nil
}

// withParents puts before each record the directories above it that have none: the library would make them
// with mode 0777, for every user of the guest to write to.
func withParents(list []cpio.Record) []cpio.Record {
	seen := map[string]bool{".": true}
	out := append(make([]cpio.Record, 0, 2*len(list)), cpio.Directory(".", 0o755))
	var ensure func(dir string)
	ensure = func(dir string) {
		if !seen[dir] {
			ensure(path.Dir(dir))
			seen[dir] = true
			out = append(out, cpio.Directory(dir, 0o755))
		}
	}
	for _, r := range list {
		ensure(path.Dir(r.Name))
		if !seen[r.Name] {
			seen[r.Name] = true
			out = append(out, r)
		}
	}
	return out
}

// unsigned takes the appended signature off a module (include/linux/module_signature.h: signature,
// 12 bytes of which the last four are its length, magic text). Another file comes back as it is.
func unsigned(module []byte) []byte {
	const magic, info = "~Module signature appended~\n", 12
	body, ok := bytes.CutSuffix(module, []byte(magic))
	if !ok || len(body) < info {
		return module
	}
	size := uint64(binary.BigEndian.Uint32(body[len(body)-4:])) + info
	if size > uint64(len(body)) {
		return module
	}
	return body[:uint64(len(body))-size]
}

var etc = []struct {
	path, text string
	mode       uint64
}{
	{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644},
	{"etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644},
	{"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644},
	{"etc/os-release", "ID=ichiro\nNAME=\"ichiro micro\"\nPRETTY_NAME=\"ichiro micro\"\n", 0o644},
}
