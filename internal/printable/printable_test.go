package printable

import (
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"web-1":                    "web-1",
		"a\x1b[2J\nb\x7f":          "a?[2J?b?",
		"ü\xff":                    "??",
		strings.Repeat("x", 20):    "xxxxxxxxxx",
		strings.Repeat("ü", 10):    "??????????",
		"\u202egnp.exe\u0000 x yz": "?gnp.exe? ",
	} {
		if got := Word(in, 10); got != want {
			t.Errorf("Word(%q) = %q, want %q", in, got, want)
		}
	}
}
