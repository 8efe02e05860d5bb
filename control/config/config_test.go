package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text, typ string
		mib             int
		bad             bool
	}{
		{name: "no file gives the built-in types", typ: "t2.nano", mib: 512},
		{name: "a type is added", text: "[[instance_type]]\nName='x.y'\nVCPUs=1\nMemoryMiB=100\nInterfaces=1\nAddresses=1\nVirtualizations=['paravirtual']\n", typ: "x.y", mib: 100},
		{name: "a built-in type is replaced", text: "[[instance_type]]\nName='t2.nano'\nVCPUs=1\nMemoryMiB=100\nInterfaces=1\nAddresses=1\nVirtualizations=['paravirtual']\n", typ: "t2.nano", mib: 100},
		{name: "an unknown field is refused", text: "[[instance_type]]\nName='x.y'\nCores=1\n", bad: true},
		{name: "a type without memory is refused", text: "[[instance_type]]\nName='x.y'\nVCPUs=1\n", bad: true},
		{name: "nonsense is refused", text: "what", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ichiro.toml")
			if c.text != "" {
				if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Read(path)
			if (err != nil) != c.bad {
				t.Fatalf("got error %v, want one: %t", err, c.bad)
			}
			if c.bad {
				return
			}
			typ, err := cloud.TypeNamed(got.InstanceTypes, c.typ)
			if err != nil || typ.MemoryMiB != c.mib {
				t.Errorf("got %+v, %v, want %s with %d MiB", typ, err, c.typ, c.mib)
			}
		})
	}
}
