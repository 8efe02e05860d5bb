package document

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestToYAML(t *testing.T) {
	got, err := ToYAML([]byte(`{"schemaVersion":"2.2","parameters":{"yes":{"type":"String","default":""},"n":{}},
		"mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"timeoutSeconds":60,"runCommand":["echo \"a: b\" # c","{{ n }}\n\tx"],"more":[]},"isEnd":true}]}`))
	want := `schemaVersion: "2.2"
parameters:
  "yes":
    type: "String"
    default: ""
  "n": {}
mainSteps:
  -
    action: "aws:runShellScript"
    name: "a"
    inputs:
      timeoutSeconds: 60
      runCommand:
        - "echo \"a: b\" # c"
        - "{{ n }}\n\tx"
      more: []
    isEnd: true
`
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	for _, bad := range []string{"", "{", `{"a":}`, `{"a":[1,}`} {
		if got, err := ToYAML([]byte(bad)); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// Words keep what their author wrote where YAML 1.1 would have them for truth values, octal or sexagesimal numbers.
func TestToJSONKeepsWords(t *testing.T) {
	got, err := ToJSON([]byte("no: yes\n1.10: 1.50\nports: [22:22, 010, 0x1F, 1_000, 5, -3, 1e3]\nsure: [true, True, FALSE, on]\nnone: [~, null, '']\nday: 2026-11-29\ntext: !!str 5\n"))
	want := `{"no":"yes","1.10":"1.50","ports":["22:22","010","0x1F","1_000",5,-3,"1e3"],"sure":[true,true,false,"on"],"none":[null,null,""],"day":"2026-11-29","text":"5"}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
}

// Whatever JSON an account's document is, its YAML reads as the same.
func FuzzToYAML(f *testing.F) {
	for _, seed := range []string{`{"a":"b"}`, `{"null":["- x",{"y":"\u2028: é\u0001"}],"~":null}`, `{"":[[],[{}],[["a"]]]}`, `{"a b":{"- c":-5}}`, `{"a":-0}`, `{"true":false,"<<":"*x","&a":"!!b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		var before, after any
		if json.Unmarshal(content, &before) != nil {
			return
		}
		if m, ok := before.(map[string]any); !ok || len(m) == 0 || fraction(before) {
			return
		}
		text, err := ToYAML(content)
		if err != nil {
			return // too deep
		}
		back, err := ToJSON(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := json.Unmarshal(back, &after); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q and %q", content, text, back)
		}
	})
}

// fraction reports whether a value holds a number that is no small integer: YAML's reader keeps those as strings.
func fraction(v any) bool {
	switch v := v.(type) {
	case float64:
		return v != float64(int32(v))
	case []any:
		for _, item := range v {
			if fraction(item) {
				return true
			}
		}
	case map[string]any:
		for _, item := range v {
			if fraction(item) {
				return true
			}
		}
	}
	return false
}
