package door_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/door"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	wire "github.com/ichiro-metal/ichiro/internal/door"
)

func identity(t *testing.T) wire.Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := wire.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// far serves a run directory by TLS to whoever has the key that caller returns.
func far(t *testing.T, caller func() []byte) (bundle.Root, cloud.Host) {
	t.Helper()
	dir, err := os.MkdirTemp("", "door")
	if err != nil {
		t.Fatal(err)
	}
	root, me := bundle.Root(dir), identity(t)
	if err := os.MkdirAll(string(root.Instance(id)), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := door.New(root, os.Getuid(), slog.New(slog.DiscardHandler))
	d.Also(tls.NewListener(l, me.Serve(caller)))
	serve(t, d)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return root, cloud.Host{ID: "h-1", FarDoor: l.Addr().(*net.TCPAddr).AddrPort(), DoorKey: me.Public()}
}

func TestTheDoorOnTheNetworkOpensToTheControlPlaneAlone(t *testing.T) {
	control := identity(t)
	key := control.Public()
	root, host := far(t, func() []byte { return key })
	write(t, root.Instance(id).Path("console.log"), []byte("boot"))
	if text, _, err := (wire.Client{Identity: control}).Console(t.Context(), host, id); err != nil || string(text) != "boot" {
		t.Errorf("the control plane got %q, %v", text, err)
	}
	impostor := host
	impostor.DoorKey = identity(t).Public()
	nameless := host
	nameless.DoorKey = nil
	for name, c := range map[string]struct {
		as wire.Client
		at cloud.Host
	}{
		"somebody with another key":            {wire.Client{Identity: identity(t)}, host},
		"somebody without a key":               {wire.Client{}, host},
		"a host that is another than was told": {wire.Client{Identity: control}, impostor},
		"a host of which no key has been told": {wire.Client{Identity: control}, nameless},
	} {
		if text, _, err := c.as.Console(t.Context(), c.at, id); err == nil {
			t.Errorf("%s: got %q, want an error", name, text)
		}
	}
	c, err := tls.Dial("tcp", host.FarDoor.String(), &tls.Config{InsecureSkipVerify: true})
	if err == nil { // in TLS 1.3 the refusal of the client's certificate comes with the first read
		defer c.Close()
		_, _ = io.WriteString(c, "GET /instances/"+string(id)+"/console HTTP/1.1\r\nHost: x\r\n\r\n")
		if got, err := io.ReadAll(c); err == nil || len(got) > 0 {
			t.Errorf("without a certificate: got %q, %v", got, err)
		}
	}
	key = nil // the store has not told yet
	if _, _, err := (wire.Client{Identity: control}).Console(t.Context(), host, id); err == nil {
		t.Error("the door is open before it is known to whom")
	}
}

// An agent that starts anew has another port and another key, which the store tells a moment later.
func TestADoorOnTheNetworkMoves(t *testing.T) {
	control := identity(t)
	root, host := far(t, func() []byte { return control.Public() })
	write(t, root.Instance(id).Path("console.log"), []byte("boot"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := cloud.Host{ID: host.ID, FarDoor: l.Addr().(*net.TCPAddr).AddrPort(), DoorKey: identity(t).Public()}
	l.Close()
	told := 0
	c := wire.Client{Identity: control, Latest: func(h cloud.Host) cloud.Host {
		if told++; told < 3 {
			return before
		}
		return host
	}}
	if text, _, err := c.Console(t.Context(), before, id); err != nil || string(text) != "boot" {
		t.Errorf("got %q, %v", text, err)
	}
}
