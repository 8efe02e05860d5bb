package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestOptions(t *testing.T) {
	got := options("quiet ichiro.shell console=ttyS0 ichiro.mode=kexec notichiro.x")
	want := map[string]string{"shell": "", "mode": "kexec"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseModules(t *testing.T) {
	got := parseModules("network /a b.ko\n\nlater /c.ko\nbroken\n")
	want := []module{{"network", "/a b.ko"}, {"later", "/c.ko"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func event(kind, code uint16, value uint32) []byte {
	b := make([]byte, 24)
	binary.NativeEndian.PutUint16(b[16:], kind)
	binary.NativeEndian.PutUint16(b[18:], code)
	binary.NativeEndian.PutUint32(b[20:], value)
	return b
}

func TestPressed(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []byte
		want   bool
	}{
		{"the power key goes down", append(event(0, 0, 0), event(1, 116, 1)...), true},
		{"it goes up", event(1, 116, 0), false},
		{"another key", event(1, 30, 1), false},
		{"half an event", event(1, 116, 1)[:23], false},
		{"nothing", nil, false},
	} {
		if got := pressed(c.events); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestNamesAreMadeSafe(t *testing.T) {
	for in, want := range map[string]string{"i-0123": "i-0123", "../../etc": "etc", "a/b\n": "ab", "..": ""} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := quote("a \"b\"\n\\"), `"a 'b'??"`; got != want {
		t.Errorf("quote: got %s, want %s", got, want)
	}
}

// A child that leaves another one behind: both are collected, and what both printed arrives.
func TestChildrenAndOutput(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	out, err := newOutput(log)
	if err != nil {
		t.Fatal(err)
	}
	c := newChildren()
	go c.run()
	pid, ended, err := c.start([]string{"/bin/sh", "-c", "echo one; (echo two; exec sleep 1000) & echo three; kill -TERM $$"},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{devNull(), out.child, out.child}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-pid, syscall.SIGKILL) }) // the session that the child led
	out.handedOver()
	go out.copy()
	if got := exitCode(<-ended); got != 143 {
		t.Errorf("exit code %d, want 143", got)
	}
	out.drain()
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), "one") || !strings.Contains(string(text), "three") {
		t.Errorf("log is %q, %v; want one and three in it", text, err)
	}
	c.stop()
	if _, _, err := c.start([]string{"/bin/true"}, &syscall.ProcAttr{}); err == nil {
		t.Error("a child was started while going down")
	}
}

func FuzzPressed(f *testing.F) {
	f.Add(event(1, 116, 1))
	f.Fuzz(func(t *testing.T, b []byte) { pressed(b) })
}
