package userdata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"
)

func packed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  string
		want Kind
	}{
		{"nothing", "", Empty},
		{"only white space", " \n", Empty},
		{"a script", "#!/bin/sh\necho\n", Script},
		{"white space before the kind does not count", "\n \t#cloud-config\n", CloudConfig},
		{"cloud-config", "#cloud-config\n", CloudConfig},
		{"an archive is not its shorter namesake", "#cloud-config-archive\n", Archive},
		{"include-once is not include", "#include-once\nhttp://x\n", IncludeOnce},
		{"a boothook", "#cloud-boothook\n", Boothook},
		{"MIME", "Content-Type: multipart/mixed; boundary=x\n", Multipart},
		{"MIME in lower case", "mime-version: 1.0\n", Multipart},
		{"MIME after other headers", "From: me\nSubject: x\nMIME-Version: 1.0\n", Multipart},
		{"a message late in a script is not looked for", "#!/bin/sh\n" + strings.Repeat("#\n", 3000) + "MIME-Version: 1.0\n", Script},
		{"an upstart job", "#upstart-job\n", Upstart},
		{"a template", "## template: jinja\n#cloud-config\n", Template},
		{"bytes", "\x00\x01", Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, raw := range map[string][]byte{"plain": []byte(c.raw), "packed": packed(t, []byte(c.raw)),
				"packed twice": packed(t, packed(t, []byte(c.raw)))} {
				got, err := Parse(raw)
				if err != nil || got.Kind != c.want || string(got.Body) != c.raw {
					t.Errorf("%s: got %s %q, %v; want %s", name, got.Kind, got.Body, err, c.want)
				}
			}
		})
	}
}

func TestParseIsBounded(t *testing.T) {
	bomb := packed(t, make([]byte, MaxUnpacked+1))
	if _, err := Parse(bomb); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a bomb of %d bytes: got %v, want ErrTooLarge", len(bomb), err)
	}
	if _, err := Parse([]byte{0x1f, 0x8b, 1, 2}); err == nil {
		t.Error("broken gzip: got no error")
	}
}

func TestExecutable(t *testing.T) {
	for _, c := range []struct{ name, script, want, says string }{
		{"a script stays as it is", "#!/bin/sh\nprintf 'a\r\n'\n", "#!/bin/sh\nprintf 'a\r\n'\n", ""},
		{"lines of another system become ours", "#!/bin/sh\r\necho a\r\n", "#!/bin/sh\necho a\n", ""},
		{"what the kernel will not run is refused", "\n#!/bin/sh\n", "", "does not begin with #!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Executable([]byte(c.script))
			if string(got) != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, %v; want %q, an error that says %q", got, err, c.want, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("#!/bin/sh\n"))
	f.Add(packed(f, []byte("#cloud-config\n")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Parse(raw)
		if err == nil && (p.Kind == "" || len(p.Body) > MaxUnpacked) {
			t.Errorf("got kind %q and %d bytes", p.Kind, len(p.Body))
		}
	})
}
