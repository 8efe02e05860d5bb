package document

import (
	"reflect"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestRunShellScript(t *testing.T) {
	content, version, ok := Builtin("arn:aws:ssm:us-east-1::document/AWS-RunShellScript")
	if !ok || version != "1" {
		t.Fatalf("got %v, version %q", ok, version)
	}
	d, err := Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		given map[string][]string
		want  cloud.Step
		code  string
	}{
		{"lines become a script and the timeout has a default",
			map[string][]string{"commands": {"echo a", "echo b"}},
			cloud.Step{Script: "echo a\necho b\n", TimeoutSeconds: 3600}, ""},
		{"directory and timeout are used",
			map[string][]string{"commands": {"pwd"}, "workingDirectory": {"/tmp"}, "executionTimeout": {"172800"}},
			cloud.Step{Script: "pwd\n", WorkingDirectory: "/tmp", TimeoutSeconds: 172800}, ""},
		{"placeholders in a value are the script's own",
			map[string][]string{"commands": {"echo {{ executionTimeout }} {{ commands }}", "docker ps --format '{{.Names}}'"}},
			cloud.Step{Script: "echo {{ executionTimeout }} {{ commands }}\ndocker ps --format '{{.Names}}'\n", TimeoutSeconds: 3600}, ""},
		{"dollars and backslashes are kept",
			map[string][]string{"commands": {`echo $1 ${2} \1`}},
			cloud.Step{Script: "echo $1 ${2} \\1\n", TimeoutSeconds: 3600}, ""},
		{"no commands", nil, cloud.Step{}, "InvalidParameters"},
		{"an empty list of commands", map[string][]string{"commands": {}}, cloud.Step{}, "InvalidParameters"},
		{"an unknown parameter", map[string][]string{"commands": {"a"}, "command": {"b"}}, cloud.Step{}, "InvalidParameters"},
		{"two directories", map[string][]string{"commands": {"a"}, "workingDirectory": {"/a", "/b"}}, cloud.Step{}, "InvalidParameters"},
		{"a timeout below five", map[string][]string{"commands": {"a"}, "executionTimeout": {"4"}}, cloud.Step{}, "InvalidParameters"},
		{"a timeout above two days", map[string][]string{"commands": {"a"}, "executionTimeout": {"172801"}}, cloud.Step{}, "InvalidParameters"},
		{"a timeout that is no number", map[string][]string{"commands": {"a"}, "executionTimeout": {"1h"}}, cloud.Step{}, "InvalidParameters"},
		{"a timeout with a line break", map[string][]string{"commands": {"a"}, "executionTimeout": {"60\n"}}, cloud.Step{}, "InvalidParameters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := d.Fill(tt.given)
			if cloud.Code(err) != tt.code {
				t.Fatalf("got %v, want code %q", err, tt.code)
			}
			if tt.code != "" {
				return
			}
			tt.want.Name, tt.want.Action = "runShellScript", "aws:runShellScript"
			if want := []cloud.Step{tt.want}; !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestFillOfOtherDocuments(t *testing.T) {
	d, err := Parse([]byte(`{
		"schemaVersion": "2.2",
		"parameters": {
			"names": {"type": "StringList", "default": ["a<b", "c"]},
			"count": {"type": "Integer", "default": 3},
			"colour": {"type": "String", "allowedValues": ["red", "blue"], "default": "red"},
			"sure": {"type": "Boolean", "default": false},
			"on": {"type": "String", "default": "no"}
		},
		"mainSteps": [
			{"action": "aws:runPowerShellScript", "name": "windows", "inputs": {"runCommand": ["dir"]},
			 "precondition": {"StringEquals": ["platformType", "Windows"]}},
			{"action": "aws:runShellScript", "name": "one",
			 "precondition": {"StringEquals": ["platformType", "Linux"]},
			 "inputs": {"runCommand": ["for n in {{count}}", " {{ names }} ", "x='{{ names }}' {{colour}} {{ sure }}"], "timeoutSeconds": 60}},
			{"action": "aws:runShellScript", "name": "two", "inputs": {"runCommand": "ls"},
			 "precondition": {"StringEquals": ["{{ on }}", "yes"]}}
		]}`))
	if err != nil {
		t.Fatal(err)
	}
	one := cloud.Step{Name: "one", Action: "aws:runShellScript", TimeoutSeconds: 60,
		Script: "for n in 3\na<b\nc\nx='[\"a<b\",\"c\"]' red false\n"}
	two := cloud.Step{Name: "two", Action: "aws:runShellScript", TimeoutSeconds: 3600, Script: "ls\n"}
	for _, tt := range []struct {
		name  string
		given map[string][]string
		want  []cloud.Step
		code  string
	}{
		{"defaults", nil, []cloud.Step{one}, ""},
		{"a precondition on a parameter", map[string][]string{"on": {"yes"}}, []cloud.Step{one, two}, ""},
		{"not an allowed value", map[string][]string{"colour": {"green"}}, nil, "InvalidParameters"},
		{"not an integer", map[string][]string{"count": {"3.5"}}, nil, "InvalidParameters"},
		{"not a truth value", map[string][]string{"sure": {"yes"}}, nil, "InvalidParameters"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := d.Fill(tt.given)
			if cloud.Code(err) != tt.code || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v, code %q", got, err, tt.want, tt.code)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	step := `{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["x"]}}`
	doc := func(params, steps string) string {
		return `{"schemaVersion":"2.2","parameters":{` + params + `},"mainSteps":[` + steps + `]}`
	}
	for _, tt := range []struct{ name, content, code string }{
		{"nothing", ``, "InvalidDocument"},
		{"a schema of automation", `{"schemaVersion":"0.3","mainSteps":[` + step + `]}`, "InvalidDocument"},
		{"the steps of another schema", `{"schemaVersion":"1.2","mainSteps":[` + step + `]}`, "InvalidDocument"},
		{"no steps", doc("", ""), "InvalidDocument"},
		{"two steps of one name", doc("", step+","+step), "InvalidDocument"},
		{"an action that we do not carry out", doc("", strings.Replace(step, "runShellScript", "runSwift", 1)), "InvalidDocument"},
		{"an action of Distributor", doc("", strings.Replace(step, "runShellScript", "configurePackage", 1)), "InvalidDocument"},
		{"a key that we do not carry out", doc("", strings.Replace(step, `"name"`, `"nextStep":"b","name"`, 1)), "InvalidDocument"},
		{"an onFailure that does not exist", doc("", strings.Replace(step, `"name"`, `"onFailure":"abort","name"`, 1)), "InvalidDocument"},
		{"a finallyStep before the end", doc("", strings.Replace(step, `"name"`, `"finallyStep":true,"name"`, 1)+","+strings.Replace(step, `"a"`, `"b"`, 1)), "InvalidDocument"},
		{"inputs of another action", doc("", `{"action":"aws:downloadContent","name":"a","inputs":{"runCommand":["x"],"sourceInfo":{}}}`), "InvalidDocument"},
		{"a list in the environment", doc(`"p":{"type":"StringList","interpolationType":"ENV_VAR"}`, step), "InvalidDocument"},
		{"too many levels", doc(`"p":{"type":"StringMap","default":`+strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40)+`}`, step), "InvalidDocument"},
		{"too many levels in YAML", "schemaVersion: '2.2'\nx: " + strings.Repeat("[", 60) + strings.Repeat("]", 60), "InvalidDocument"},
		{"YAML that is none", "a: [\n", "InvalidDocument"},
		{"YAML that contains itself", "a: &a [*a]\n", "InvalidDocument"},
		{"a step without commands", doc("", `{"action":"aws:runShellScript","name":"a","inputs":{}}`), "InvalidDocument"},
		{"a constant timeout out of range", doc("", `{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["x"],"timeoutSeconds":2}}`), "InvalidDocument"},
		{"a type that does not exist", doc(`"p":{"type":"Text"}`, step), "InvalidDocument"},
		{"a pattern that is none", doc(`"p":{"type":"String","allowedPattern":"("}`, step), "InvalidDocument"},
		{"a default that is not allowed", doc(`"p":{"type":"String","allowedValues":["a"],"default":"b"}`, step), "InvalidDocument"},
		{"a default of another type", doc(`"p":{"type":"StringList","default":"b"}`, step), "InvalidDocument"},
		{"a default that is an object", doc(`"p":{"type":"String","default":{}}`, step), "InvalidDocument"},
		{"something after it", doc("", step) + "{}", "InvalidDocument"},
		{"too large", `"` + strings.Repeat("x", 65536) + `"`, "MaxDocumentSizeExceeded"},
	} {
		if _, err := Parse([]byte(tt.content)); cloud.Code(err) != tt.code {
			t.Errorf("%s: got %v, want code %s", tt.name, err, tt.code)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Builtins() {
		content, _, _ := Builtin(name)
		f.Add([]byte(content), "commands", "echo")
		text, err := ToJSON([]byte(content))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "sourceInfo", `{"url":"http://x/y"}`)
	}
	f.Add([]byte(`{"schemaVersion":"1.2","runtimeConfig":{"aws:runShellScript":{"properties":[{"id":"0","runCommand":["{{ a }}"]}]}},"parameters":{"a":{"type":"MapList"}}}`), "a", `{}`)
	f.Add([]byte(`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":"x"}}]}`), "", "")
	f.Fuzz(func(t *testing.T, content []byte, name, value string) {
		d, err := Parse(content)
		if err != nil {
			if cloud.Code(err) == "" {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		if _, err := d.Fill(map[string][]string{name: {value}}); err != nil && cloud.Code(err) == "" {
			t.Fatalf("error without a code: %v", err)
		}
	})
}
