package bundle

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestNetworksAreReadAgainWhenTheirFilesChange(t *testing.T) {
	root := Root(t.TempDir())
	if err := os.Mkdir(root.Networks(), 0o755); err != nil {
		t.Fatal(err)
	}
	const id = cloud.VPCID("vpc-00000000000000001")
	n := NewNetworks(root)
	get := func(region string) {
		t.Helper()
		got, err := n.Get(id)
		if err != nil || got.Region != region {
			t.Errorf("got %+v, %v; want region %s", got, err, region)
		}
	}
	absent := func() {
		t.Helper()
		if _, err := n.Get(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want that it does not exist", err)
		}
	}
	write := func(v Network) {
		t.Helper()
		if err := Write(root.Network(id), v, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	absent()
	for range 50 { // of the same size, as fast as can be
		write(Network{VPC: id, Region: "a"})
		get("a")
		write(Network{VPC: id, Region: "b"})
		get("b")
		get("b")
	}
	write(Network{VPC: "vpc-2", Region: "c"})
	if got, err := n.Get(id); err == nil {
		t.Errorf("got %+v from a file that speaks of another VPC", got)
	}
	if err := os.Remove(root.Network(id)); err != nil {
		t.Fatal(err)
	}
	absent()
	write(Network{VPC: id, Region: "d"})
	get("d")
}
