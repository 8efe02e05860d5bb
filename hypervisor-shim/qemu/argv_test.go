package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestArgs(t *testing.T) {
	base := bundle.Machine{ID: "i-0123456789abcdef0", Boot: 1, Type: "t3.micro", VCPUs: 2, MemoryMiB: 1024, Board: "q35",
		UUID: bundle.MachineUUID("i-0123456789abcdef0"), ConsoleSize: 1 << 20}
	net := []bundle.MachineInterface{
		{ID: "eni-0123456789abcdef0", MAC: "02:00:00:00:00:01", MTU: 9001},
		{ID: "eni-0123456789abcdef1", MAC: "02:00:00:00:00:02"},
	}
	disks := []bundle.MachineDisk{
		{ID: "vol-0123456789abcdef0", Path: "/d/root", Format: "qcow2"},
		{ID: "vol-0123456789abcdef1", Path: "/d/data", Format: "raw", ReadOnly: true},
	}
	for name, c := range map[string]struct {
		accel  Accel
		change func(*bundle.Machine)
	}{
		"direct-kernel": {TCG, func(m *bundle.Machine) {
			m.Kernel, m.Ramdisk, m.CommandLine, m.Interfaces = "/k", "/r", "console=ttyS0 root=a,b", net
		}},
		"ports":      {TCG, func(m *bundle.Machine) { m.Kernel, m.Interfaces, m.HotPlug = "/k", net, 2 }},
		"boot-disk":  {KVM, func(m *bundle.Machine) { m.Disks, m.Interfaces, m.HotPlug = disks, net[:1], 9 }},
		"old-board":  {TCG, func(m *bundle.Machine) { m.Board, m.Disks, m.Type = "pc", disks[:1], "m1.small,odd" }},
		"no-ramdisk": {TCG, func(m *bundle.Machine) { m.Kernel, m.Disks = "/k", disks[:1] }},
	} {
		t.Run(name, func(t *testing.T) {
			m := base
			c.change(&m)
			if err := m.Validate(); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(Args(m, c.accel), "\n") + "\n"
			golden := filepath.Join("testdata", name+".args")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestFilesAreNumberedWithoutGaps(t *testing.T) {
	m := bundle.Machine{Kernel: "/k", Ramdisk: "/r", Interfaces: make([]bundle.MachineInterface, 2), Disks: make([]bundle.MachineDisk, 3)}
	f := Files(m)
	got := slices.Concat([]int{f.Console, f.Monitor, f.Port, f.Kernel, f.Ramdisk}, f.Taps, f.Disks, []int{f.Next})
	if want := []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVirtualizationFlag(t *testing.T) {
	for text, want := range map[string]bool{
		"flags\t\t: fpu vmx de\n":                   true,
		"model\t: x\nflags\t\t: fpu svm\n":          true,
		"flags\t\t: fpu vmx_not svmlike\n":          false,
		"vmx flags\t\t: ept_ad vmx\nflags\t\t: a\n": false,
	} {
		if got := virtualization.MatchString(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
