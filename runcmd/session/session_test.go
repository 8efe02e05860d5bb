package session

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestDeniedAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "0.0.0.0": true, "::": true,
		"fd00:ec2::254": true, "fe80::1": true, "fe80::1%eth0": true, "::ffff:169.254.169.254": true, "::ffff:127.0.0.1": true, "224.0.0.1": true,
		"10.0.0.1": false, "172.31.0.2": false, "8.8.8.8": false, "fd00:ec3::1": false, "2001:db8::1": false,
	} {
		if got := denied(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
}

func TestUsers(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/no/such/shell\nbad:x:y:z::/:/bin/sh\n",
		"group":  "root:x:0:\nwheel:x:10:bob,ann\nann:x:1001:\nodd\n",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u, err := lookUp(etc, "ann")
	if err != nil || u.uid != 1000 || u.gid != 1001 || u.home != "/home/ann" || u.shell != "/bin/sh" || len(u.groups) != 1 || u.groups[0] != 10 {
		t.Errorf("got %+v, %v", u, err)
	}
	for _, name := range []string{"nobody", "bad", "ann:x"} {
		if u, err := lookUp(etc, name); err == nil {
			t.Errorf("%s is %+v", name, u)
		}
	}
	if u, err := lookUp(filepath.Join(etc, "none"), ""); err != nil || u.uid != 0 || u.name != "root" {
		t.Errorf("where there is no file root is %+v, %v", u, err)
	}
}
