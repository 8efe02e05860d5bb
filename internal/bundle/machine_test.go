package bundle

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func machineExample() Machine {
	return Machine{
		ID: "i-0123456789abcdef0", Boot: 2, Generation: 7, Type: "t3.micro", VCPUs: 2, MemoryMiB: 1024,
		Kernel: "/k", Ramdisk: "/r", CommandLine: "console=ttyS0",
		Interfaces: []MachineInterface{{ID: "eni-0123456789abcdef0", MAC: "02:00:00:00:00:01", MTU: 9001}},
		Disks:      []MachineDisk{{ID: "vol-0123456789abcdef0", Path: "/d", Format: "qcow2"}},
		User:       MachineUser{UID: 64001, GID: 64001},
	}
}

func TestParseMachine(t *testing.T) {
	b, err := json.Marshal(machineExample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseMachine(b)
	want := machineExample()
	want.UUID, want.Board, want.Accel, want.ConsoleSize = MachineUUID(want.ID), "q35", "auto", DefaultConsoleSize
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got := want.Disks[0].Serial(); got != "vol0123456789abcdef0" {
		t.Errorf("serial %q", got)
	}
	for name, text := range map[string]string{
		"an unknown field":  strings.Replace(string(b), `"Boot"`, `"Boots":1,"Boot"`, 1),
		"a second document": string(b) + "{}",
		"half a document":   string(b[:len(b)/2]),
	} {
		if _, err := ParseMachine([]byte(text)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestMachineUUID(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []cloud.InstanceID{"i-0123456789abcdef0", "i-0123456789abcdef1", ""} {
		u := MachineUUID(id)
		if !uuidForm().MatchString(u) || u[14] != '4' || u[19] != '8' || seen[u] || u != MachineUUID(id) {
			t.Errorf("%q: got %s", id, u)
		}
		seen[u] = true
	}
	// Guests remember it: it must never change.
	if got, want := MachineUUID("i-0123456789abcdef0"), "ec20c140-0705-4066-862e-f6deb2e0aa48"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMachineRefuses(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"no ID":                          func(m *Machine) { m.ID = "" },
		"boot 0":                         func(m *Machine) { m.Boot = 0 },
		"no processor":                   func(m *Machine) { m.VCPUs = 0 },
		"too little memory":              func(m *Machine) { m.MemoryMiB = 16 },
		"a foreign UUID":                 func(m *Machine) { m.UUID = "aaaaaaaa-0705-4066-862e-f6deb2e0aa48" },
		"nothing to boot":                func(m *Machine) { m.Kernel, m.Ramdisk, m.CommandLine, m.Disks = "", "", "", nil },
		"a ramdisk without a kernel":     func(m *Machine) { m.Kernel, m.CommandLine = "", "" },
		"a relative kernel":              func(m *Machine) { m.Kernel = "k" },
		"ports on an old board":          func(m *Machine) { m.Board, m.HotPlug = "pc", 1 },
		"a group's MAC":                  func(m *Machine) { m.Interfaces[0].MAC = "01:00:00:00:00:01" },
		"a MAC that is none":             func(m *Machine) { m.Interfaces[0].MAC = "02:00:00:00:00:01,x=y" },
		"an MTU beyond Ethernet":         func(m *Machine) { m.Interfaces[0].MTU = 70000 },
		"an ID with a comma":             func(m *Machine) { m.Interfaces[0].ID = "eni-1,romfile=/etc/passwd" },
		"an ID used twice":               func(m *Machine) { m.Disks[0].ID = string(m.Interfaces[0].ID) },
		"a serial that is too long":      func(m *Machine) { m.Disks[0].ID = "vol-0123456789abcdef01" },
		"a format to be probed":          func(m *Machine) { m.Disks[0].Format = "" },
		"a format with a history":        func(m *Machine) { m.Disks[0].Format = "vmdk" },
		"a console that is too short":    func(m *Machine) { m.ConsoleSize = 1 },
		"a negative user":                func(m *Machine) { m.User.UID = -1 },
		"an accelerator of another kind": func(m *Machine) { m.Accel = "xen" },
		"a line break in the type":       func(m *Machine) { m.Type = "a\nb" },
	} {
		m := machineExample()
		change(&m)
		if err := m.Validate(); err == nil {
			t.Errorf("%s was taken", name)
		} else if !strings.HasPrefix(err.Error(), "machine.json: ") {
			t.Errorf("%s: %v does not name the file", name, err)
		}
	}
}

func FuzzParseMachine(f *testing.F) {
	b, _ := json.Marshal(machineExample())
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMachine(data)
		if err == nil && m.Validate() != nil {
			t.Errorf("parsed what is not valid: %+v", m)
		}
	})
}
