package cloud

import (
	"net/netip"
	"testing"
)

func TestAddressesThatNoSessionReaches(t *testing.T) {
	for addr, want := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "0.0.0.0": true, "::": true,
		"fd00:ec2::254": true, "fe80::1": true, "fe80::1%eth0": true, "::ffff:169.254.169.254": true, "::ffff:127.0.0.1": true, "224.0.0.1": true,
		"10.0.0.1": false, "172.31.0.2": false, "8.8.8.8": false, "fd00:ec3::1": false, "2001:db8::1": false,
	} {
		if got := ForwardDenied(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
}

func TestNamesThatAreDeniedAddresses(t *testing.T) {
	for host, want := range map[string]bool{
		"169.254.169.254": true, "169.254.169.254.": true, "127.0.0.1": true, "::1": true, "::ffff:169.254.169.254": true, "fd00:ec2::254": true,
		"2852039166": true, "0xA9FEA9FE": true, "169.254.43518": true, "0xa9.254.0xa9fe": true, "0251.254.169.254": true,
		"localhost": true, "LocalHost.": true, "a.localhost": true,
		"10.0.0.9": false, "db.example": false, "db-1.example.": false, "x1": false, "0xyz": false, "fd12::1": false,
	} {
		if got := ForwardHostDenied(host); got != want {
			t.Errorf("%s: got %v, want %v", host, got, want)
		}
	}
}
