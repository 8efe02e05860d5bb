package document

import (
	"errors"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestWhatTheParameterStoreHas(t *testing.T) {
	values := map[string]string{"/a/b": "it's {{ who }}", "n": "7", "/a/b:1": "old", "/a/b:live": "labelled", "kind": "small", "list": "b,c"}
	from := Sources{Parameter: func(name, selector string) (Stored, error) {
		if selector != "" {
			name += ":" + selector
		}
		v, ok := values[name]
		if !ok {
			return Stored{}, cloud.Errorf("InvalidParameters", "there is no %s", name)
		}
		return Stored{v, name == "list"}, nil
	}}
	doc := func(parameters, line string) string {
		return `{"schemaVersion":"2.2","parameters":{"who":{"type":"String","default":"me"}` + parameters + `},"mainSteps":[
			{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["` + line + `"]}}]}`
	}
	for _, tt := range []struct{ name, content, want string }{
		{"a value is put in, and is text", doc("", "echo {{ssm:/a/b}} {{ who }}"), "echo it's {{ who }} me\n"},
		{"a whole line", doc("", "{{ ssm:n }}"), "7\n"},
		{"a version and a label", doc("", "{{ssm:/a/b:1}} {{ssm:/a/b:live}}"), "old labelled\n"},
		{"escapes hide nothing", doc("", `{{ssm:\/a\u002fb}}`), "it's {{ who }}\n"},
		{"a default", doc(`,"x":{"type":"String","default":"{{ssm:kind}}","allowedValues":["small","large"]}`, "{{x}}"), "small\n"},
		{"a default that is not allowed", doc(`,"x":{"type":"String","default":"{{ssm:n}}","allowedValues":["small","large"]}`, "{{x}}"), "InvalidParameters"},
		{"a list of defaults", doc(`,"x":{"type":"StringList","default":["a","{{ssm:n}}"]}`, "{{x}}"), "a\n7\n"},
		{"a list of the store in the place of a list", doc(`,"x":{"type":"StringList","default":"{{ ssm:list }}","minItems":2}`, "{{x}}"), "b\nc\n"},
		{"a list of the store within a list", doc(`,"x":{"type":"StringList","default":["a","{{ssm:list}}"]}`, "{{x}}"), "a\nb\nc\n"},
		{"a text of the store in the place of a list", doc(`,"x":{"type":"StringList","default":"{{ssm:n}}"}`, "{{x}}"), "7\n"},
		{"a list of the store in a text", doc(`,"x":{"type":"String","default":"{{ssm:list}}"}`, "echo {{x}} {{ssm:list}}"), "echo b,c b,c\n"},
		{"a list of the store as lines", doc("", "{{ssm:list}}"), "b\nc\n"},
		{"a list in the place of a text", doc(`,"x":{"type":"String","default":["{{ssm:n}}"]}`, "{{x}}"), "InvalidParameters"},
		{"one that is not there", doc("", "{{ssm:nothing}}"), "InvalidParameters"},
		{"a secret", doc("", "{{ssm-secure:n}}"), "InvalidParameters"},
		{"what is no name stays", doc("", "{{ssm: n}} {{ssm}}"), "{{ssm: n}} {{ssm}}\n"},
	} {
		steps, err := mustParse(t, tt.content).FillWith(nil, from)
		got := cloud.Code(err)
		if err == nil {
			got = steps[0].Script
		}
		if got != tt.want {
			t.Errorf("%s: got %q (%v), want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := mustParse(t, doc("", "{{ssm:n}}")).Fill(nil); cloud.Code(err) != "InvalidParameters" {
		t.Errorf("where there is no store: got %v", err)
	}
	away := errors.New("the store is away")
	if _, err := mustParse(t, doc("", "{{ssm:n}}")).FillWith(nil, Sources{Parameter: func(string, string) (Stored, error) { return Stored{}, away }}); !errors.Is(err, away) {
		t.Errorf("a store that is away: got %v", err)
	}
}
