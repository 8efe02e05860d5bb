// Package qemu turns a bundle.Machine into a running QEMU process.
//
// Args is the decision, pure and kept in golden files: a lean q35 (or pc) with nothing that was
// not asked for, the identity of an EC2 instance in its SMBIOS tables, and every file and socket by
// number: QEMU's jail opens none by name but its own firmware. FileTable says which number is what.
// QEMU is told to pause, not to end, when its guest powers off or panics, so that whoever watches
// can tell the one from the other and from a crash of QEMU itself; and it starts the guest at once,
// without a round trip over QMP.
//
// Spawn does it: the process waits at a gate, already confined to its user and namespaces, until
// its number is on record, so that there is never a QEMU that nobody knows of.
package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// Accel is how guest code is executed.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// FileTable numbers the files that QEMU inherits; 0 is none. Taps and Disks go by the order of
// Machine's interfaces and disks.
type FileTable struct {
	Console, Monitor, Port, Kernel, Ramdisk int
	Taps, Disks                             []int
	Next                                    int // the first number that is free
}

// Files returns the table for m. The numbers begin after stdin, stdout and stderr.
func Files(m bundle.Machine) FileTable {
	t := FileTable{Next: 3}
	take := func() int { t.Next++; return t.Next - 1 }
	t.Console, t.Monitor, t.Port = take(), take(), take()
	if m.Kernel != "" {
		t.Kernel = take()
	}
	if m.Ramdisk != "" {
		t.Ramdisk = take()
	}
	for range m.Interfaces {
		t.Taps = append(t.Taps, take())
	}
	for range m.Disks {
		t.Disks = append(t.Disks, take())
	}
	return t
}

// The file descriptor sets: QEMU opens /dev/fdset/N as often as it likes.
const (
	consoleSet   = 1
	firstDiskSet = 2
)

// Args returns QEMU's arguments for a machine that ParseMachine accepts.
func Args(m bundle.Machine, accel Accel) []string {
	files := Files(m)
	var a []string
	add := func(arg ...string) { a = append(a, arg...) }

	add("-name", "guest="+escape(string(m.ID)))
	add("-nodefaults", "-no-user-config", "-display", "none")
	add("-machine", m.Board+",usb=off,smbus=off,sata=off,vmport=off,graphics=off,dump-guest-core=off")
	if accel == KVM {
		add("-accel", "kvm")
	} else {
		// The cache of translated code defaults to 1 GiB. 64 MiB hold a kernel and a busy user space.
		add("-accel", "tcg,thread=multi,tb-size=64")
	}
	add("-cpu", "max")
	add("-smp", strconv.Itoa(m.VCPUs))
	add("-m", strconv.Itoa(m.MemoryMiB)+"M")
	add("-rtc", "base=utc")
	add("-action", "reboot=reset,shutdown=pause,panic=pause,watchdog=pause")
	add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")

	add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", files.Monitor))
	add("-mon", "chardev=monitor,mode=control")
	add("-add-fd", fmt.Sprintf("fd=%d,set=%d", files.Console, consoleSet))
	add("-chardev", fmt.Sprintf("file,id=console,path=/dev/fdset/%d,append=on", consoleSet))
	add("-serial", "chardev:console")

	a = append(a, identity(m)...)
	if m.Kernel != "" {
		add("-kernel", self(files.Kernel))
		if m.Ramdisk != "" {
			add("-initrd", self(files.Ramdisk))
		}
		add("-append", m.CommandLine)
	}
	add("-object", "rng-builtin,id=entropy")
	add("-device", "virtio-rng-pci,rng=entropy,id=rng"+modern(m))
	add("-device", "pvpanic-pci,id=panic")
	// The guest's second way to its host, without a network. Its slot is of its own, or the network cards, which guests name
	// by their slots, would move.
	add("-chardev", fmt.Sprintf("socket,id=runcmd,fd=%d,server=on,wait=off", files.Port))
	add("-device", "virtio-serial-pci,id=serial,max_ports=2,addr=0xf"+modern(m))
	add("-device", "virtserialport,bus=serial.0,nr=1,chardev=runcmd,id=runcmd,name="+bundle.PortName)
	for i := range m.HotPlug {
		// Eight functions in a slot: a slot of its own for each would be one more bus for the
		// firmware to probe. Slots from 0x10 leave room for the devices above.
		add("-device", fmt.Sprintf("pcie-root-port,id=port%d,bus=pcie.0,chassis=%d,addr=%#x.%d,multifunction=on,io-reserve=0",
			i, i+1, 0x10+i/8, i%8))
	}
	for i, n := range m.Interfaces {
		add("-netdev", fmt.Sprintf("tap,id=%s,fd=%d", bundle.Netdev(string(n.ID)), files.Taps[i]))
		dev := fmt.Sprintf("virtio-net-pci,netdev=%s,id=%s,mac=%s,romfile=%s", bundle.Netdev(string(n.ID)), n.ID, n.MAC, modern(m))
		if i > 0 && i <= m.HotPlug {
			dev += fmt.Sprintf(",bus=port%d", i-1) // what sits on the root bus can never be taken out; the first need not
		}
		if n.MTU != 0 {
			dev += fmt.Sprintf(",host_mtu=%d", n.MTU)
		}
		add("-device", dev)
	}
	for i, d := range m.Disks {
		a = append(a, disk(m, i, d, files.Disks[i])...)
	}
	return a
}

// identity returns the SMBIOS tables by which a guest knows that it is on EC2. cloud-init wants the
// serial number and the UUID to be equal and to begin with ec2.
func identity(m bundle.Machine) []string {
	return []string{
		"-uuid", m.UUID,
		"-smbios", "type=0,vendor=Amazon EC2,version=1.0",
		"-smbios", fmt.Sprintf("type=1,manufacturer=Amazon EC2,product=%s,version=1.0,serial=%s,uuid=%s", escape(m.Type), m.UUID, m.UUID),
		"-smbios", "type=2,manufacturer=Amazon EC2,asset=" + escape(string(m.ID)),
		"-smbios", "type=3,manufacturer=Amazon EC2,asset=Amazon EC2",
	}
}

// disk returns the arguments for one disk. The format is said and not probed, a backing file named
// in it is not followed, and a full or failing store pauses the guest instead of telling it of an
// error that its file system would not survive.
func disk(m bundle.Machine, i int, d bundle.MachineDisk, fd int) []string {
	set, file, node := firstDiskSet+i, fmt.Sprintf("file%d", i), fmt.Sprintf("disk%d", i)
	type object = map[string]any
	format := object{
		"driver": d.Format, "node-name": node, "file": file, "read-only": d.ReadOnly,
		"discard": "unmap", "detect-zeroes": "unmap",
	}
	if d.Format == "qcow2" {
		format["backing"] = nil
	}
	dev := fmt.Sprintf("virtio-blk-pci,drive=%s,id=%s,serial=%s,bootindex=%d,werror=stop,rerror=stop%s",
		node, d.ID, d.Serial(), i+1, modern(m))
	if m.Kernel != "" {
		dev = strings.Replace(dev, fmt.Sprintf(",bootindex=%d", i+1), "", 1)
	}
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set),
		"-blockdev", encode(object{
			"driver": "file", "node-name": file, "filename": fmt.Sprintf("/dev/fdset/%d", set),
			"read-only": d.ReadOnly, "auto-read-only": false, "discard": "unmap",
		}),
		"-blockdev", encode(format),
		"-device", dev,
	}
}

// modern turns the legacy interface of virtio off, but for images of old.
func modern(m bundle.Machine) string {
	if m.Board == "pc" {
		return ""
	}
	return ",disable-legacy=on"
}

func self(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// escape doubles the commas of a value among QEMU's key=value pairs.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and booleans encode
	}
	return string(b)
}
