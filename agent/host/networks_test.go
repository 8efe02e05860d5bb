package host

import (
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestWhatIsKnownOfAVPCIsThereWhileItIsHere(t *testing.T) {
	h := &Host{Config: Config{Root: bundle.Root(t.TempDir()), Region: "ichiro-1", IMDSGroup: os.Getgid()}}
	one := cloud.HostNetwork{
		VPC: cloud.VPC{
			ID: "vpc-1", EnableDNS: true, CIDR: netip.MustParsePrefix("10.0.0.0/16"),
			Blocks: []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8::/56")}, {CIDR: netip.MustParsePrefix("10.9.0.0/16")}},
		},
		Public: []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.1"), Private: netip.MustParseAddr("10.0.0.11")}},
	}
	two := cloud.HostNetwork{VPC: cloud.VPC{ID: "vpc-2", CIDR: netip.MustParsePrefix("10.0.0.0/16")}}
	for range 2 { // twice changes nothing
		if err := h.describe(eni.Config{VPCs: []cloud.HostNetwork{one, two}}); err != nil {
			t.Fatal(err)
		}
		n := bundle.NewNetworks(h.Root)
		got, err := n.Get("vpc-1")
		want := &bundle.Network{
			VPC: "vpc-1", Region: "ichiro-1", Resolver: true, Public: one.Public,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.9.0.0/16")},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if got, err := n.Get("vpc-2"); err != nil || got.Resolver {
			t.Errorf("got %+v, %v; want one without a resolver", got, err)
		}
	}
	if err := h.describe(eni.Config{VPCs: []cloud.HostNetwork{two}}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(h.Root.Networks()); err != nil || len(entries) != 1 || entries[0].Name() != "vpc-2.json" {
		t.Errorf("left are %v, %v; want vpc-2.json", entries, err)
	}
}
