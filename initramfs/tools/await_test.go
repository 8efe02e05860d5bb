package tools

import (
	"slices"
	"strings"
	"testing"
)

func TestWhatAWaitingShellIsTold(t *testing.T) {
	for _, c := range []struct {
		name, text string
		file, dir  string
		env        []string
		whole      bool
	}{
		{"a file, a directory and an environment", "/a\x00/b\x00X=1\x00Y=\x00\x00", "/a", "/b", []string{"X=1", "Y="}, true},
		{"no environment", "/a\x00/b\x00\x00", "/a", "/b", nil, true},
		{"nothing: whoever started it has gone", "", "", "", nil, false},
		{"a part", "/a\x00/b\x00X=1\x00", "", "", nil, false},
		{"a part that ends within a string", "/a\x00/b\x00X=", "", "", nil, false},
		{"no directory", "/a\x00\x00", "", "", nil, false},
		{"no file", "\x00/b\x00\x00", "", "", nil, false},
		{"zeros", strings.Repeat("\x00", 9), "", "", nil, false},
	} {
		file, dir, env, err := parseTold(c.text)
		if file != c.file || dir != c.dir || !slices.Equal(env, c.env) || (err == nil) != c.whole {
			t.Errorf("%s: got %q %q %q %v, want %q %q %q", c.name, file, dir, env, err, c.file, c.dir, c.env)
		}
	}
}
