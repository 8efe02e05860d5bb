package ipam

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestChooseGivesEveryFreeAddressOnceThenSaysFull(t *testing.T) {
	s := cloud.Subnet{ID: "subnet-1", CIDR: netip.MustParsePrefix("10.0.1.0/28")}
	taken := map[netip.Addr]bool{}
	for n := range s.Size() {
		a, err := Choose(s, rand.Uint64(), func(a netip.Addr) bool { return taken[a] })
		if err != nil {
			t.Fatalf("address %d of %d: %v", n+1, s.Size(), err)
		}
		if err := Check(s, a, func(a netip.Addr) bool { return taken[a] }); err != nil {
			t.Fatalf("Choose returned %s, which Check refuses: %v", a, err)
		}
		taken[a] = true
	}
	_, err := Choose(s, 7, func(a netip.Addr) bool { return taken[a] })
	if got, want := cloud.Code(err), "InsufficientFreeAddressesInSubnet"; got != want {
		t.Errorf("full subnet: got code %q, want %q", got, want)
	}
}

func TestCheck(t *testing.T) {
	s := cloud.Subnet{ID: "subnet-1", CIDR: netip.MustParsePrefix("10.0.1.0/24")}
	taken := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.1.10") }
	for _, c := range []struct{ name, addr, code string }{
		{"a free address is given", "10.0.1.11", ""},
		{"a taken address is refused", "10.0.1.10", "InvalidIPAddress.InUse"},
		{"the network address is reserved", "10.0.1.0", "InvalidParameterValue"},
		{"the router is reserved", "10.0.1.1", "InvalidParameterValue"},
		{"the fourth address is reserved", "10.0.1.3", "InvalidParameterValue"},
		{"the fifth address is free", "10.0.1.4", ""},
		{"the last address is reserved", "10.0.1.255", "InvalidParameterValue"},
		{"a foreign address is refused", "10.0.2.10", "InvalidParameterValue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := cloud.Code(Check(s, netip.MustParseAddr(c.addr), taken)); got != c.code {
				t.Errorf("%s: got %q, want %q", c.addr, got, c.code)
			}
		})
	}
}

func TestMACIsStableAndLocal(t *testing.T) {
	if got, want := MAC("eni-0123456789abcdef0"), "02:78:9a:bc:de:f0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
