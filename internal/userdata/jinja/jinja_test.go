package jinja

import (
	"errors"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

const instance = `
v1: {region: ichiro-1, local-hostname: ip-10-0-0-5, public_ssh_keys: [one, two], empty: ""}
ds:
  meta_data:
    instance-id: i-1
    placement: {availability-zone: ichiro-1a}
    v1.0: dotted
`

func data(t testing.TB) *yaml.Value {
	t.Helper()
	doc, err := yaml.Load([]byte(instance))
	if err != nil {
		t.Fatal(err)
	}
	return doc.Root
}

func TestRender(t *testing.T) {
	for _, c := range []struct{ name, text, want, missing string }{
		{"text without names stays", "a { b }\n{", "a { b }\n{", ""},
		{"a name below v1", "{{ v1.region }}", "ichiro-1", ""},
		{"a name below v1 without it", "{{region}}", "ichiro-1", ""},
		{"a dash as it is", "{{ v1.local-hostname }}", "ip-10-0-0-5", ""},
		{"a dash as an underscore", "{{ v1.local_hostname }}", "ip-10-0-0-5", ""},
		{"metadata, level by level", "{{ ds.meta_data.placement.availability_zone }}", "ichiro-1a", ""},
		{"names in brackets", `{{ ds['meta_data']["v1.0"] }}`, "dotted", ""},
		{"a dotted name as underscores", "{{ ds.meta_data.v1_0 }}", "dotted", ""},
		{"a number of a list", "{{ v1.public_ssh_keys[1] }}", "two", ""},
		{"a list as Python prints it", "{{ v1.public_ssh_keys }}", "['one', 'two']", ""},
		{"a default is for what is missing", "{{ v1.none | default('x') }} {{ v1.region | d('x') }}", "x ichiro-1", ""},
		{"a default may be a name", "{{ v1.none | default(v1.region) }}", "ichiro-1", ""},
		{"an empty text is there", "<{{ v1.empty | default('x') }}>", "<>", ""},
		{"unless the default says otherwise", "<{{ v1.empty | default('x', true) }}>", "<x>", ""},
		{"a missing name is marked", "a {{ v1.none }} b", "a " + Missing + "v1.none b", "v1.none"},
		{"names below a missing one too", "{{ no.such.name }}", Missing + "no.such.name", "no.such.name"},
		{"comments go", "a{# {{ no }} #}b", "ab", ""},
		{"dashes take the space away", "a \n {{- v1.region -}} \n b", "aichiro-1b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, missing, err := Render("## template: jinja\n"+c.text, data(t))
			if err != nil || got != c.want || strings.Join(missing, " ") != c.missing {
				t.Errorf("got %q, missing %v, %v; want %q, missing %q", got, missing, err, c.want, c.missing)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"blocks", "a\n{% if x %}\n", "line 3: blocks"},
		{"what is never closed", "a\n\n{{ v1.region", "line 4: {{ is never closed"},
		{"calculations", "{{ v1.region + 1 }}", "line 2: {{ v1.region + 1 }}: nothing is done with"},
		{"a line after a tag of two lines", "{{ v1.region\n }}\n{% x %}", "line 4: blocks"},
		{"other filters", "{{ v1.region | upper }}", `the filter "upper" is not supported`},
		{"calls", "{{ v1.region.upper() }}", "nothing is done with"},
		{"nothing", "{{ }}", "a name is expected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := Render("## template: jinja\n"+c.text, data(t))
			if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), c.says) || out != "" {
				t.Errorf("got %q, %v; want an error that says %q", out, err, c.says)
			}
		})
	}
}

func FuzzRender(f *testing.F) {
	f.Add("## template: jinja\n{{ v1.region | default('x', true) }}{# #}{{- ds['a'][0] -}}")
	root := data(f)
	f.Fuzz(func(t *testing.T, text string) {
		out, missing, err := Render(text, root)
		if err != nil && (out != "" || !errors.Is(err, ErrSyntax)) {
			t.Errorf("got %q and %v", out, err)
		}
		if err == nil && strings.Count(out, Missing) < len(missing) {
			t.Errorf("got %q; want %d marks", out, len(missing))
		}
	})
}
