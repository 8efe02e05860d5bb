package session

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

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

// A port of the guest's own is reached whichever family it is bound to, and whatever its files and name servers say of localhost.
func TestOwnPorts(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		defer l.Close()
		reach, err := target("", l.Addr().(*net.TCPAddr).Port)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := reach(t.Context())
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		conn.Close()
	}
}
