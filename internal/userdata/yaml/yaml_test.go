package yaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// show prints a value with its kinds, so that 1 and "1" differ.
func show(v *Value) string {
	switch v.Kind {
	case List:
		var items []string
		for _, item := range v.List {
			items = append(items, show(item))
		}
		return "[" + strings.Join(items, " ") + "]"
	case Map:
		var items []string
		for _, e := range v.Map {
			items = append(items, show(e.Key)+":"+show(e.Value))
		}
		return "{" + strings.Join(items, " ") + "}"
	}
	return string(v.Kind) + " " + v.Str()
}

// cases are texts and what they mean to PyYAML.
var cases = []struct{ name, text, want string }{
	{"an empty text is null", "", "null None"},
	{"a comment alone is null", "#cloud-config\n", "null None"},
	{"yes and no are booleans", "[yes, No, ON, off, TRUE]", "[boolean True boolean False boolean True boolean False boolean True]"},
	{"y and n are words", "[y, n, Y]", "[string y string n string Y]"},
	{"quotes make words", `["yes", 'no', "0644"]`, "[string yes string no string 0644]"},
	{"a leading zero is octal", "[0644, 0o644, 0888, 08]", "[integer 420 string 0o644 string 0888 string 08]"},
	{"other bases", "[0x1F, 0b101, 1_000, -0x10, +5, 0]", "[integer 31 integer 5 integer 1000 integer -16 integer 5 integer 0]"},
	{"colons are base 60", "[12:30, 12:30:45, 190:20:30.15, 1:99]", "[integer 750 integer 45045 number 685230.15 string 1:99]"},
	{"a port mapping may be base 60", "ports: 22:22", "{string ports:integer 1342}"},
	{"an exponent needs point and sign", "[1e3, 1.0e+3, 1.5, .5, 1., -2.0, 1.0e3]",
		"[string 1e3 number 1000.0 number 1.5 number 0.5 number 1.0 number -2.0 string 1.0e3]"},
	{"great and small numbers", "[1.0e+16, 1.0e-5, 123456789012345678901234567890]",
		"[number 1e+16 number 1e-05 integer 123456789012345678901234567890]"},
	{"no numbers", "[.inf, -.INF, .nan]", "[number inf number -inf number nan]"},
	{"null has many words", "{a: ~, b: null, c: Null, d: NULL, e: , f: nULL}",
		"{string a:null None string b:null None string c:null None string d:null None string e:null None string f:string nULL}"},
	{"days and times", "[2001-12-14, 2001-12-14t21:59:43.10-05:00, 2001-12-14 21:59:43.1 Z, 2001-1-2 3:04:05]",
		"[timestamp 2001-12-14 timestamp 2001-12-14 21:59:43.100000-05:00 timestamp 2001-12-14 21:59:43.100000+00:00 timestamp 2001-01-02 03:04:05]"},
	{"the last of equal keys counts", "a: 1\nb: 2\na: 3\n", "{string a:integer 3 string b:integer 2}"},
	{"merge keys give way to own keys", "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n",
		"{string x:{string a:integer 1 string b:integer 2} string y:{string b:integer 3 string a:integer 1}}"},
	{"the first of merged mappings counts", "- &x {a: 1}\n- &y {a: 2, b: 2}\n- <<: [*x, *y]\n",
		"[{string a:integer 1} {string a:integer 2 string b:integer 2} {string a:integer 1 string b:integer 2}]"},
	{"block scalars are words", "a: |\n  yes\nb: >\n  1\n  2\n", "{string a:string yes\n string b:string 1 2\n}"},
	{"tags force", `[!!str 1, !!int "7", !!bool "yes", !!float "1.5", !!binary aGk=]`,
		"[string 1 integer 7 boolean True number 1.5 binary b'hi']"},
	{"keys are resolved too", "{2: a, yes: b, 1.5: c}", "{integer 2:string a boolean True:string b number 1.5:string c}"},
}

func TestLoad(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			doc, err := Load([]byte(c.text))
			if err != nil {
				t.Fatalf("got %v", err)
			}
			if got := show(doc.Root); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// bomb is nine levels of nine aliases each.
func bomb() string {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for _, d := range "12345678" {
		p := string(d - 1)
		text += "a" + string(d) + ": &a" + string(d) + " [" + strings.TrimSuffix(strings.Repeat("*a"+p+", ", 9), ", ") + "]\n"
	}
	return text
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"a tab as indentation", "a:\n\t- b\n", ErrSyntax, "line 2"},
		{"an open quote", "a: \"b\n", ErrSyntax, "line"},
		{"a key that is a list", "? [a]\n: b\n", ErrSyntax, "cannot be a key"},
		{"an unknown tag", "a: !!python/object:os.system x\n", ErrSyntax, "line 1"},
		{"an alias to nothing", "a: *b\n", ErrSyntax, "unknown anchor"},
		{"a list that contains itself", "a: &a [*a]\n", ErrSyntax, "contains itself"},
		{"a merge that is no mapping", "<<: 1\n", ErrSyntax, "<<"},
		{"a day that is not", "a: 2001-02-30\n", ErrSyntax, "no day"},
		{"a sign of equality", "a: =\n", ErrSyntax, "no value"},
		{"two documents", "a: 1\n---\nb: 1\n", ErrSyntax, "second document"},
		{"a bomb of aliases", bomb(), ErrTooLarge, "values"},
		{"a deep list", strings.Repeat("[", 200) + strings.Repeat("]", 200), ErrTooLarge, "levels"},
		{"an endless number", "a: " + strings.Repeat("9", 5000), ErrSyntax, "digits"},
		{"control characters", "a: \x01\n", ErrSyntax, "control"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load([]byte(c.text))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

func TestLoadDoubtsDuplicates(t *testing.T) {
	doc, err := Load([]byte("runcmd: [a]\npackages: [b]\nruncmd: [c]\n"))
	if err != nil || len(doc.Doubts) != 1 || !strings.Contains(doc.Doubts[0], `line 3: key "runcmd" stands there twice: the last counts, line 1 does not`) {
		t.Errorf("got %v, %v; want one doubt about lines 1 and 3", doc.Doubts, err)
	}
	if got := doc.Root.Get("runcmd"); got == nil || got.Str() != "['c']" || got.Line != 3 {
		t.Errorf("got %+v; want ['c'] of line 3", got)
	}
}

// PyYAML is asked the same where there is one: the table's right column is then not our opinion.
func TestPyYAMLAgrees(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil || exec.Command(python, "-c", "import yaml").Run() != nil {
		t.Skip("no PyYAML: apt-get install python3-yaml")
	}
	var texts, want []string
	for _, c := range cases {
		texts = append(texts, c.text)
	}
	in, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", "import json, sys, yaml; print(json.dumps([str(yaml.safe_load(t)) for t in json.load(sys.stdin)]))")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask PyYAML: %v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if strings.Contains(want[i], "datetime.") || strings.HasPrefix(c.name, "merge keys") { // repr of times; the order of merged keys
			continue
		}
		doc, err := Load([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if got := doc.Root.Str(); got != want[i] {
			t.Errorf("%s: got  %s\nPyYAML %s", c.name, got, want[i])
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.text))
	}
	f.Add([]byte(bomb()))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := Load(text)
		switch {
		case err == nil && doc.Root == nil:
			t.Error("got neither a value nor an error")
		case err != nil && !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrTooLarge):
			t.Errorf("got %v, which is of no kind", err)
		case err == nil:
			doc.Root.Str()
		}
	})
}
