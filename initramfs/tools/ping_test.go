package tools

import (
	"os"
	"strings"
	"testing"
)

func TestPingCountsAnswers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("raw sockets need root")
	}
	got, code := use(t, t.TempDir(), "", "ping", "-c", "2", "-i", "0.01", "-s", "1001", "127.0.0.1")
	if code != 0 || !strings.Contains(got, "1009 bytes from 127.0.0.1: icmp_seq=2") || !strings.Contains(got, "2 packets transmitted, 2 received, 0% packet loss") {
		t.Errorf("got %q, code %d", got, code)
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		got, code = use(t, t.TempDir(), "", "ping", "-c", "1", "-s", "8", "::1")
		if code != 0 || !strings.Contains(got, "16 bytes from ::1: icmp_seq=1") {
			t.Errorf("got %q, code %d", got, code)
		}
	}
	got, code = use(t, t.TempDir(), "", "ping", "-c", "1", "-w", "1", "-I", "192.0.2.1", "127.0.0.1")
	if code != 1 || !strings.Contains(got, "send from 192.0.2.1") {
		t.Errorf("from an address that is not here: got %q, code %d", got, code)
	}
}

func TestOnlyTheOwnReplyAnswers(t *testing.T) {
	reply := append(append([]byte{0x45}, make([]byte, 19)...), echo(false, 7, 3, 8)...)
	reply[20] = 0
	for name, c := range map[string]struct {
		packet []byte
		want   bool
	}{
		"the reply":               {reply, true},
		"another sequence number": {append(append([]byte{0x45}, make([]byte, 19)...), echo(false, 7, 4, 8)...), false},
		"the request itself":      {append(append([]byte{0x45}, make([]byte, 19)...), echo(false, 7, 3, 8)...), false},
		"a cut packet":            {reply[:25], false},
		"nothing":                 {nil, false},
		"a header beyond the end": {[]byte{0x4f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false},
	} {
		if got := answers(c.packet, 7, 3); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
