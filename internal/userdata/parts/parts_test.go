package parts

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata"
)

func packed(b string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write([]byte(b))
	w.Close()
	return out.String()
}

// amazons is the form of Amazon's tools: a cloud-config and a script.
const amazons = `Content-Type: multipart/mixed; boundary="//"
MIME-Version: 1.0

--//
Content-Type: text/cloud-config; charset="us-ascii"
MIME-Version: 1.0
Content-Transfer-Encoding: 7bit
Content-Disposition: attachment; filename="cloud-config.txt"

#cloud-config
runcmd:
- [touch, /a]

--//
Content-Type: text/x-shellscript; charset="us-ascii"
Content-Disposition: attachment; filename="userdata.txt"

#!/bin/bash
echo hello
--//--
`

const amazonsParts = "cloud-config.txt cloud-config \"#cloud-config\\nruncmd:\\n- [touch, /a]\\n\"\nuserdata.txt script \"#!/bin/bash\\necho hello\"\n"

func mixed(parts string) string {
	return "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n" + parts + "--x--\n"
}

// nested has a message in a message, base64, a packed part, quoted-printable and no last boundary.
var nested = "From: me\nMIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=outer\n\nignored\n--outer\nContent-Type: multipart/mixed; boundary=inner\n\n" +
	"--inner\nContent-Type: text/x-shellscript-per-boot\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho 1\n")) +
	"\n--inner\nContent-Type: application/x-gzip\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=../../etc/p\n\n" +
	base64.StdEncoding.EncodeToString([]byte(packed("#cloud-config\na: 1\n"))) + "\n--inner--\n" +
	"--outer\nContent-Type: text/cloud-boothook\nContent-Transfer-Encoding: quoted-printable\nMerge-Type: list(append)\n\n#cloud-boothook=0Aecho =3D\n"

// web is what includes find.
var web = map[string]string{
	"http://a/script": "#!/bin/sh\necho a\n",
	"http://a/packed": packed("#!/bin/sh\necho b\n"),
	"http://a/more":   "#include\nhttp://a/script\n\n# a comment\nhttp://a/packed\n",
	"http://a/loop":   "#include\nhttp://a/loop\n",
	"http://a/mime":   amazons,
}

func get(_ context.Context, url string) ([]byte, error) {
	if body, ok := web[url]; ok {
		return []byte(body), nil
	}
	return nil, errors.New("HTTP 404")
}

// show prints parts and troubles, one in a line.
func show(parts []userdata.Part, troubles []error) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%s %s %q", p.Name, p.Kind, p.Body)
		if p.Merge != "" {
			fmt.Fprintf(&b, " merge %s", p.Merge)
		}
		b.WriteByte('\n')
	}
	for _, t := range troubles {
		fmt.Fprintf(&b, "! %v\n", t)
	}
	return b.String()
}

func TestExpand(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"nothing has no parts", "", ""},
		{"a script is its only part", "#!/bin/sh\n", "part-001 script \"#!/bin/sh\\n\"\n"},
		{"a packed script too", packed("#!/bin/sh\n"), "part-001 script \"#!/bin/sh\\n\"\n"},
		{"Amazon's form of two parts", amazons, amazonsParts},
		{"lines of another system", strings.ReplaceAll(mixed("--x\n\n#!/bin/sh\na\n"), "\n", "\r\n"), "part-001 script \"#!/bin/sh\\r\\na\"\n"},
		{"messages within messages, in every coding", nested,
			"part-001 script per boot \"#!/bin/sh\\necho 1\\n\"\n.._.._etc_p cloud-config \"#cloud-config\\na: 1\\n\"\n" +
				"part-003 cloud-boothook \"#cloud-boothook\\necho =\" merge list(append)\n"},
		{"a shell script's type does not make a script of cloud-config", mixed("--x\nContent-Type: text/x-shellscript\n\n#cloud-config\na: 1\n"),
			"part-001 cloud-config \"#cloud-config\\na: 1\"\n"},
		{"cloud-config needs no first line where it has a type", mixed("--x\nContent-Type: text/cloud-config\n\na: 1\n"),
			"part-001 cloud-config \"a: 1\"\n"},
		{"a message of one part", "MIME-Version: 1.0\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n", "part-001 script \"#!/bin/sh\\n\"\n"},
		{"parts for other launch indexes are left out", mixed("--x\nLaunch-Index: 1\n\n#!/bin/a\n--x\nLaunch-Index: 0\n\n#!/bin/b\n"),
			"part-001 script \"#!/bin/b\"\n"},
		{"an archive", "#cloud-config-archive\n- type: text/x-shellscript\n  filename: a.sh\n  content: |\n    #!/bin/sh\n- |\n  #!/bin/b\n- content: 'a: 1'\n",
			"a.sh script \"#!/bin/sh\\n\"\npart-002 script \"#!/bin/b\\n\"\npart-003 cloud-config \"a: 1\"\n"},
		{"an include of an include", "#include http://a/more\n", "part-001 script \"#!/bin/sh\\necho a\\n\"\npart-002 script \"#!/bin/sh\\necho b\\n\"\n"},
		{"an include of a message", "#include-once\nhttp://a/mime\n", amazonsParts},
		{"an include that is not there leaves the rest", "#include\nhttp://a/none\nhttp://a/script\n",
			"part-001 script \"#!/bin/sh\\necho a\\n\"\n! user data, include http://a/none: HTTP 404\n"},
		{"an include that includes itself", "#include\nhttp://a/loop\n",
			"! user data, include http://a/loop, include http://a/loop: it includes itself\n"},
		{"what is not supported is named", "#part-handler\nx\n", "! user data: a part handler is Python for cloud-init: it is not supported\n"},
		{"an upstart job too", "#upstart-job\nx\n", "! user data: an upstart job is not supported: no system of today runs it\n"},
		{"bytes of no kind are counted and not shown", "password=1", "! user data: nothing is done with 10 bytes that begin with no mark of a kind, such as #! or #cloud-config\n"},
		{"the secret of a URL is not told", "#include\nhttps://me:secret@b/none?X-Amz-Signature=secret\n", "! user data, include https://b/none?...: HTTP 404\n"},
		{"an unknown type is named", mixed("--x\nContent-Type: image/png\n\nPNG\n"),
			"! user data, part 1: nothing is done with type \"image/png\" and 3 bytes that begin with no mark of a kind\n"},
		{"a boundary that is not there", "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--y\n",
			"! user data: the boundary \"x\" is not in the message\n"},
		{"no boundary at all", "MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--y\n", "! user data: a multipart/mixed without a boundary has no parts\n"},
		{"broken base64", "MIME-Version: 1.0\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!\n",
			"! user data: decode base64: unexpected EOF\n"},
		{"an archive that is no list", "#cloud-config-archive\na: 1\n", "! user data: an archive is a list, and this is a mapping\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(Expand(t.Context(), []byte(c.raw), Options{Get: get, LaunchIndex: "0"})); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestExpandIsBounded(t *testing.T) {
	deep := "#!/bin/sh"
	for i := range MaxDepth + 2 {
		deep = fmt.Sprintf("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x%d\n\n--x%d\n%s\n--x%d--\n", i, i, deep, i)
	}
	bomb := packed(strings.Repeat("\x00", userdata.MaxUnpacked+1))
	for _, c := range []struct{ name, raw, says string }{
		{"many parts", mixed(strings.Repeat("--x\n\n#!/bin/sh\n", MaxParts)), "more than 256 parts"},
		{"deep messages", deep, "more than 10 levels"},
		{"many includes", "#include\n" + strings.Repeat("http://a/none\n", MaxIncludes+1), "more than 64 URLs"},
		{"a bomb", bomb, userdata.ErrTooLarge.Error()},
		{"a bomb in a part", "MIME-Version: 1.0\nContent-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" +
			base64.StdEncoding.EncodeToString([]byte(bomb)), userdata.ErrTooLarge.Error()},
		{"many that are each small enough", "#include\n" + strings.Repeat("http://a/large\n", 6), "more than 64 MiB"},
		{"includes that include others for ever", "#include\nhttp://a/0\n", "more than 10 levels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			_, troubles := Expand(t.Context(), []byte(c.raw), Options{Get: func(ctx context.Context, url string) ([]byte, error) {
				switch {
				case url == "http://a/large":
					return []byte("#!" + strings.Repeat("a", userdata.MaxUnpacked-10)), nil
				case url == "http://a/none":
					return nil, errors.New("HTTP 404")
				}
				n++
				return fmt.Appendf(nil, "#include\nhttp://a/%d\n", n), nil
			}})
			if len(troubles) == 0 || !strings.Contains(troubles[len(troubles)-1].Error(), c.says) {
				t.Errorf("got %v; want one that says %q", troubles, c.says)
			}
		})
	}
}

func TestIncludeOnceIsReadOnce(t *testing.T) {
	kept := map[string][]byte{}
	asked := 0
	o := Options{
		Get:  func(ctx context.Context, url string) ([]byte, error) { asked++; return get(ctx, url) },
		Kept: func(url string) ([]byte, bool) { b, ok := kept[url]; return b, ok },
		Keep: func(url string, b []byte) { kept[url] = b },
	}
	const want = "part-001 script \"#!/bin/sh\\necho a\\n\"\n"
	for range 2 {
		if got := show(Expand(t.Context(), []byte("#include-once\nhttp://a/script\n"), o)); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	if asked != 1 {
		t.Errorf("got %d questions; want 1", asked)
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{amazons, nested, "#include\nhttp://a/more\n", "#cloud-config-archive\n- a\n", packed(nested), "#include-once http://a/loop"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		parts, _ := Expand(t.Context(), raw, Options{Get: get})
		if len(parts) > MaxParts {
			t.Errorf("got %d parts", len(parts))
		}
		for _, p := range parts {
			if p.Name == "" || p.Name == "." || p.Name == ".." || strings.ContainsAny(p.Name, "/\x00") || len(p.Name) > 200 {
				t.Errorf("got a part with the name %q", p.Name)
			}
		}
	})
}
