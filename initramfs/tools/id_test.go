package tools

import (
	"os/exec"
	"strings"
	"testing"
)

// The machine's own id is the judge.
func TestIDSaysWhatTheMachinesOwnSays(t *testing.T) {
	real, err := exec.LookPath("id")
	if err != nil {
		t.Skip("there is no id")
	}
	for _, args := range []string{"", "-u", "-un", "-g", "-gn", "-G", "-Gn", "root", "daemon", "-u daemon", "-gn daemon", "-Gn root", "1", "nobody-of-that-name"} {
		want, err := exec.Command(real, strings.Fields(args)...).Output()
		got, code := use(t, "", "", "id", strings.Fields(args)...)
		if err != nil {
			if code != 1 || got != "id: 'nobody-of-that-name': no such user\n" {
				t.Errorf("id %s: got %d %q, and the machine's fails", args, code, got)
			}
			continue
		}
		if got != string(want) || code != 0 {
			t.Errorf("id %s: got %d %q, want %q", args, code, got, want)
		}
	}
}
