package tools

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// use runs a tool with the given input and returns what it prints, and its exit code.
func use(t *testing.T, dir, input, name string, args ...string) (string, int) {
	t.Helper()
	run, ok := lookup(name)
	if !ok {
		t.Fatalf("no tool %s", name)
	}
	var out, complaint bytes.Buffer
	code := run(context.Background(), &Call{Args: args, Name: name, Stdin: strings.NewReader(input), Stdout: &out, Stderr: &complaint,
		Dir: dir, Env: os.LookupEnv})
	return out.String() + complaint.String(), code
}

func TestTextTools(t *testing.T) {
	for _, c := range []struct {
		name, input string
		call        []string
		want        string
		code        int
	}{
		{"head takes the first lines", "a\nb\nc\n", []string{"head", "-n", "2"}, "a\nb\n", 0},
		{"head knows the old way", "a\nb\nc\n", []string{"head", "-1"}, "a\n", 0},
		{"tail takes the last lines", "a\nb\nc\n", []string{"tail", "-2"}, "b\nc\n", 0},
		{"tail counts from the start", "a\nb\nc\n", []string{"tail", "-n", "+2"}, "b\nc\n", 0},
		{"wc counts lines", "a b\nc\n", []string{"wc", "-l"}, "2\n", 0},
		{"wc counts all", "a b\nc\n", []string{"wc"}, "2 3 6\n", 0},
		{"sort by number, backwards", "2\n10\n1\n", []string{"sort", "-rn"}, "10\n2\n1\n", 0},
		{"uniq counts", "a\na\nb\n", []string{"uniq", "-c"}, "      2 a\n      1 b\n", 0},
		{"cut takes fields", "root:x:0\n", []string{"cut", "-d:", "-f1,3"}, "root:0\n", 0},
		{"cut takes characters", "abcdef\n", []string{"cut", "-c2-3"}, "bc\n", 0},
		{"tr translates ranges", "hello\n", []string{"tr", "a-z", "A-Z"}, "HELLO\n", 0},
		{"tr deletes", "a b c", []string{"tr", "-d", " "}, "abc", 0},
		{"tr squeezes", "a   b", []string{"tr", "-s", " "}, "a b", 0},
		{"grep finds", "one\ntwo\n", []string{"grep", "tw"}, "two\n", 0},
		{"grep finds nothing", "one\n", []string{"grep", "two"}, "", 1},
		{"grep counts what does not match", "one\ntwo\n", []string{"grep", "-vc", "tw"}, "1\n", 0},
		{"grep takes basic expressions", "a+b\naab\n", []string{"grep", "a+b"}, "a+b\n", 0},
		{"grep takes extended expressions", "a+b\naab\n", []string{"grep", "-E", "a+b"}, "aab\n", 0},
		{"grep prints the match", "key=value\n", []string{"grep", "-o", "v.*"}, "value\n", 0},
		{"grep refuses what it does not know", "", []string{"grep", "-Z", "x"}, "usage: ", 2},
		{"sed substitutes once", "aa\n", []string{"sed", "s/a/b/"}, "ba\n", 0},
		{"sed substitutes all with groups", "k=v\n", []string{"sed", `s/\(.\)=\(.\)/\2=\1 [&]/g`}, "v=k [k=v]\n", 0},
		{"sed takes extended expressions", "k=v\n", []string{"sed", "-E", `s/(.)=(.)/\2/`}, "v\n", 0},
		{"sed prints a range", "a\nb\nc\nd\n", []string{"sed", "-n", "2,3p"}, "b\nc\n", 0},
		{"sed deletes by expression", "a\n#b\n", []string{"sed", "/^#/d"}, "a\n", 0},
		{"sed takes another mark", "/a/b\n", []string{"sed", "s|/a|/c|"}, "/c/b\n", 0},
		{"sed keeps the last line", "a\nb\n", []string{"sed", "$!d"}, "b\n", 0},
		{"sed refuses what it does not know", "", []string{"sed", "y/a/b/"}, "sed: command 'y' is not known here: only s, p, d and q\n", 1},
		{"seq counts", "", []string{"seq", "2", "4"}, "2\n3\n4\n", 0},
		{"basename drops a suffix", "", []string{"basename", "/a/b.sh", ".sh"}, "b\n", 0},
		{"sha256sum", "abc", []string{"sha256sum"}, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n", 0},
		{"base64 encodes", "abc", []string{"base64"}, "YWJj\n", 0},
		{"cat copies", "abc", []string{"cat"}, "abc", 0},
		{"ping takes addresses", "", []string{"ping", "-c1", "there"}, "ping: there is not an address\n", 1},
		{"wget knows only http", "", []string{"wget", "-qO-", "https://1.2.3.4/"}, "wget: https://1.2.3.4/: only http:// is known here\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, code := use(t, t.TempDir(), c.input, c.call[0], c.call[1:]...)
			if code != c.code || got != c.want && !(c.want == "usage: " && strings.HasPrefix(got, c.want)) {
				t.Errorf("%q: got %q, code %d; want %q, code %d", c.call, got, code, c.want, c.code)
			}
		})
	}
}

func TestFileTools(t *testing.T) {
	dir := t.TempDir()
	must := func(want string, call ...string) {
		t.Helper()
		got, code := use(t, dir, "", call[0], call[1:]...)
		if code != 0 || got != want {
			t.Errorf("%q: got %q, code %d; want %q", call, got, code, want)
		}
	}
	must("", "mkdir", "-p", "a/b")
	must("", "touch", "a/b/f")
	must("", "ln", "-s", "b/f", "a/l")
	must("b/f\n", "readlink", "a/l")
	must(filepath.Join(dir, "a/b/f")+"\n", "realpath", "a/l")
	must("", "cp", "a/b/f", "a/g")
	must("", "chmod", "0600", "a/g")
	must("600 0\n", "stat", "-c", "%a %s", "a/g")
	must("", "mv", "a/g", "a/h")
	must("", "rm", "-r", "a/h", "a/l", "a/b/f")
	must("", "rmdir", "a/b")
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("port=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must("", "sed", "-i", "s/1/2/", "x")
	must("port=2\n", "cat", "x")
}

func TestNamesAreTools(t *testing.T) {
	for _, n := range Names() {
		_, ok := lookup(n)
		isOther := n == "sh" || n == "bash" || strings.Contains(" [ echo false printf pwd test true ", " "+n+" ")
		if !ok && !isOther {
			t.Errorf("%s is named and is no tool", n)
		}
	}
}

func FuzzSed(f *testing.F) {
	f.Add("s/a/b/g; $!d", "aaa\nb\n")
	f.Add("1,/x/p", "x")
	f.Fuzz(func(t *testing.T, text, input string) {
		edits, err := program(text, false)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := apply(edits, strings.NewReader(input), &out, false); err != nil {
			t.Errorf("%q on %q: %v", text, input, err)
		}
	})
}

func FuzzExpression(f *testing.F) {
	f.Add(`\(a\)*[^]x]\{2\}`)
	f.Fuzz(func(t *testing.T, s string) { expression(s, false) })
}
