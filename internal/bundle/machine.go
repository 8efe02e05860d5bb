package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Machine is machine.json: one boot of one virtual machine, as agent/host wants it and the shim
// makes it. A shim runs each Boot once; a further boot of the instance is the same file with a
// higher number. Files that the machine needs open (taps) are handed over beside it, in the order
// of Interfaces.
type Machine struct {
	ID          cloud.InstanceID
	Boot        int    // which boot this is, from 1
	Generation  int64  // of the wish that this file was made from; status.json repeats it
	Type        string // instance type, shown to the guest as the product name
	UUID        string `json:",omitempty"` // default MachineUUID(ID)
	VCPUs       int
	MemoryMiB   int
	Board       string             `json:",omitempty"` // q35 (default) or pc, for images of old
	Kernel      string             `json:",omitempty"` // path; an uncompressed vmlinux with a PVH entry starts fastest. Empty: the first disk's boot loader
	Ramdisk     string             `json:",omitempty"`
	CommandLine string             `json:",omitempty"`
	Accel       string             `json:",omitempty"` // auto (default), kvm or tcg
	Interfaces  []MachineInterface `json:",omitempty"`
	Disks       []MachineDisk      `json:",omitempty"`
	HotPlug     int                `json:",omitempty"` // PCI Express ports for devices that come and go; the interfaces after the first sit in the first of them
	User        MachineUser        // whom QEMU runs as
	ConsoleSize int64              `json:",omitempty"` // bytes of console.log that are kept, default DefaultConsoleSize
}

// MachineInterface is a virtio network card on the tap of the same index.
type MachineInterface struct {
	ID  cloud.InterfaceID
	MAC string
	MTU int `json:",omitempty"` // told to the guest; 0 tells nothing
}

// Netdev names the host's end of the network card with the ID, in QEMU.
func Netdev(id string) string { return "net-" + id }

// MachineDisk is a virtio disk. Format is never probed: a guest may write any header it likes.
type MachineDisk struct {
	ID       string // unique; the serial number is ID without dashes: vol0123456789abcdef0
	Path     string
	Format   string // qcow2 or raw
	ReadOnly bool   `json:",omitempty"`
}

// MachineUser is the throw-away user of one QEMU process. Zero means the user of the shim, for a
// developer without root.
type MachineUser struct{ UID, GID int }

// DefaultConsoleSize is 1 MiB: sixteen times what GetConsoleOutput returns, so that earlier boots
// stay readable.
const DefaultConsoleSize = 1 << 20

var (
	uuidForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^ec2[0-9a-f]{5}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	})
	deviceForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`) })
)

// MachineUUID returns the UUID by which an instance's firmware identifies it. It depends on id
// alone, and begins with ec2, which is how cloud-init and the SDKs recognise an EC2 instance.
func MachineUUID(id cloud.InstanceID) string {
	sum := sha256.Sum256([]byte("ichiro machine " + string(id)))
	h := fmt.Sprintf("ec2%x", sum[:15])[:32]
	// Version 4, variant 10: well-formed for tools that look (RFC 9562, sections 4.1 and 4.2).
	h = h[:12] + "4" + h[13:16] + "8" + h[17:]
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseMachine reads machine.json: an unknown field, a missing one or a second document is an
// error. Defaults are filled in.
func ParseMachine(b []byte) (Machine, error) {
	var m Machine
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Machine{}, fmt.Errorf("parse machine.json: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Machine{}, errors.New("parse machine.json: something follows the document")
	}
	m = m.withDefaults()
	return m, m.Validate()
}

func (m Machine) withDefaults() Machine {
	if m.UUID == "" {
		m.UUID = MachineUUID(m.ID)
	}
	if m.Board == "" {
		m.Board = "q35"
	}
	if m.Accel == "" {
		m.Accel = "auto"
	}
	if m.ConsoleSize == 0 {
		m.ConsoleSize = DefaultConsoleSize
	}
	return m
}

// Validate says what no shim could start. An empty UUID, Board or Accel is the default.
func (m Machine) Validate() error {
	m = m.withDefaults()
	switch {
	case m.ID == "":
		return errors.New("machine.json: ID is missing")
	case m.Boot < 1:
		return fmt.Errorf("machine.json: Boot is %d: the first boot is 1", m.Boot)
	case m.VCPUs < 1 || m.VCPUs > 288:
		return fmt.Errorf("machine.json: VCPUs is %d: give 1 to 288", m.VCPUs)
	case m.MemoryMiB < 32:
		return fmt.Errorf("machine.json: MemoryMiB is %d: give 32 or more", m.MemoryMiB)
	case !uuidForm().MatchString(m.UUID):
		return fmt.Errorf("machine.json: UUID %q is not one that begins with ec2, in lower case", m.UUID)
	case m.Board != "q35" && m.Board != "pc":
		return fmt.Errorf("machine.json: Board is %q: give q35 or pc", m.Board)
	case m.Accel != "auto" && m.Accel != "kvm" && m.Accel != "tcg":
		return fmt.Errorf("machine.json: Accel is %q: give auto, kvm or tcg", m.Accel)
	case m.Kernel == "" && len(m.Disks) == 0:
		return errors.New("machine.json: neither Kernel nor Disks: nothing to boot")
	case m.Kernel == "" && (m.Ramdisk != "" || m.CommandLine != ""):
		return errors.New("machine.json: Ramdisk and CommandLine need a Kernel")
	case m.Kernel != "" && !filepath.IsAbs(m.Kernel), m.Ramdisk != "" && !filepath.IsAbs(m.Ramdisk):
		return errors.New("machine.json: Kernel and Ramdisk are absolute paths")
	case m.HotPlug < 0 || m.HotPlug > 64:
		return fmt.Errorf("machine.json: HotPlug is %d: give 0 to 64", m.HotPlug)
	case m.Board == "pc" && m.HotPlug > 0:
		return errors.New("machine.json: Board pc has no ports for HotPlug")
	case m.User.UID < 0 || m.User.GID < 0:
		return errors.New("machine.json: User is negative")
	case m.ConsoleSize < 64<<10:
		return fmt.Errorf("machine.json: ConsoleSize is %d: GetConsoleOutput needs at least %d", m.ConsoleSize, 64<<10)
	case strings.ContainsAny(m.Type, "\x00\n"), strings.ContainsRune(m.CommandLine, 0):
		return errors.New("machine.json: control character in Type or CommandLine")
	}
	return m.validateDevices()
}

func (m Machine) validateDevices() error {
	seen := map[string]bool{}
	once := func(id string) error {
		if !deviceForm().MatchString(id) || seen[id] {
			return fmt.Errorf("machine.json: device ID %q is malformed or used twice", id)
		}
		seen[id] = true
		return nil
	}
	for _, n := range m.Interfaces {
		if err := once(string(n.ID)); err != nil {
			return err
		}
		if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("machine.json: %s: MAC %q is not a station's address", n.ID, n.MAC)
		}
		if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
			return fmt.Errorf("machine.json: %s: MTU is %d: give 576 to 65535, or 0", n.ID, n.MTU)
		}
	}
	for _, d := range m.Disks {
		if err := once(d.ID); err != nil {
			return err
		}
		if len(d.Serial()) > 20 {
			return fmt.Errorf("machine.json: disk %s: its serial number exceeds virtio's 20 bytes", d.ID)
		}
		if d.Format != "qcow2" && d.Format != "raw" {
			return fmt.Errorf("machine.json: disk %s: Format is %q: give qcow2 or raw", d.ID, d.Format)
		}
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("machine.json: disk %s: Path %q is not absolute", d.ID, d.Path)
		}
	}
	return nil
}

// Serial returns the serial number that the guest sees.
func (d MachineDisk) Serial() string { return strings.ReplaceAll(d.ID, "-", "") }
