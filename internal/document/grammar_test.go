package document

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func mustParse(t *testing.T, content string) Document {
	t.Helper()
	d, err := Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustFill(t *testing.T, d Document, given map[string][]string) []cloud.Step {
	t.Helper()
	steps, err := d.Fill(given)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// The same document in the three schemas and both languages comes to the same script.
func TestSchemasAndLanguages(t *testing.T) {
	want := []cloud.Step{{Name: "runShellScript", Action: "aws:runShellScript", Script: "echo blue\nid\n", WorkingDirectory: "/tmp", TimeoutSeconds: 60}}
	for name, content := range map[string]string{
		"1.2 in JSON": `{"schemaVersion":"1.2","description":"d","parameters":{"c":{"type":"String"}},
			"runtimeConfig":{"aws:runShellScript":{"properties":[{"id":"0.aws:runShellScript","runCommand":["echo {{ c }}","id"],
			"workingDirectory":"/tmp","timeoutSeconds":"60"}]}}}`,
		"1.2 with properties that are no list": `{"schemaVersion":"1.2","parameters":{"c":{"type":"String"}},
			"runtimeConfig":{"aws:runShellScript":{"properties":{"runCommand":["echo {{ c }}","id"],"workingDirectory":"/tmp","timeoutSeconds":60}}}}`,
		"2.0 in YAML": "schemaVersion: '2.0'\nparameters: {c: {type: String}}\nmainSteps:\n- action: aws:runShellScript\n  name: runShellScript\n" +
			"  inputs:\n    runCommand:\n    - echo {{ c }}\n    - id\n    workingDirectory: /tmp\n    timeoutSeconds: 60\n",
		"2.2 in YAML, a number for a schema": "---\nschemaVersion: 2.2\nparameters:\n  c:\n    type: String\nmainSteps:\n- action: aws:runShellScript\n" +
			"  name: runShellScript\n  inputs:\n    timeoutSeconds: '60'\n    workingDirectory: /tmp\n    runCommand:\n    - |-\n      echo {{ c }}\n      id\n",
		"2.2 with the timeout beside the inputs": `{"schemaVersion":"2.2","parameters":{"c":{"type":"String"}},"mainSteps":[{"action":"aws:runShellScript",
			"name":"runShellScript","timeoutSeconds":60,"inputs":{"runCommand":["echo {{ c }}","id"],"workingDirectory":"/tmp"}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustFill(t, mustParse(t, content), map[string][]string{"c": {"blue"}}); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// What a caller writes into a parameter with ENV_VAR is no part of the script, whatever it is.
func TestEnvironmentIsNotPasted(t *testing.T) {
	d := mustParse(t, `{"schemaVersion":"2.2","parameters":{"message":{"type":"String","interpolationType":"ENV_VAR"},"pasted":{"type":"String","default":"x"}},
		"mainSteps":[{"action":"aws:runShellScript","name":"say","inputs":{"runCommand":["printf %s \"$SSM_message\"","# {{ message }} {{ pasted }}"]}}]}`)
	for _, evil := range []string{"$(id)", "a\nrm -rf /", "'; reboot; '", "{{ pasted }}", "\x7f\x1b[2J"} {
		steps := mustFill(t, d, map[string][]string{"message": {evil}})
		if want := "printf %s \"$SSM_message\"\n# {{ message }} x\n"; steps[0].Script != want {
			t.Errorf("got the script %q, want %q", steps[0].Script, want)
		}
		cmd := exec.Command("sh", "-c", steps[0].Script)
		cmd.Env = []string{"SSM_message=" + steps[0].Environment["SSM_message"]}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != evil {
			t.Errorf("got %q, %v, want %q", out, err, evil)
		}
	}
	if _, err := d.Fill(map[string][]string{"message": {"a\x00b"}}); cloud.Code(err) != "InvalidParameters" {
		t.Errorf("got %v for a NUL character", err)
	}
}

func TestRunRemoteScript(t *testing.T) {
	text, _, _ := Builtin("AWS-RunRemoteScript")
	d := mustParse(t, text)
	steps := mustFill(t, d, map[string][]string{
		"sourceType": {"S3"}, "sourceInfo": {`{"path":"https://s3.example/b/run.sh"}`}, "commandLine": {"./run.sh a"},
	})
	want := &cloud.StepDownload{URL: "https://s3.example/b/run.sh", S3: true}
	if len(steps) != 2 || !reflect.DeepEqual(steps[0].Download, want) || steps[0].OnFailure != "exit" {
		t.Errorf("got %+v, want the download %+v", steps, want)
	}
	if got := steps[1]; got.WorkingDirectory != "." || !strings.HasSuffix(got.Script, "\n./run.sh a\n") {
		t.Errorf("got %+v, want the script to run where it was downloaded", got)
	}
	for name, given := range map[string]map[string][]string{
		"another scheme":         {"sourceType": {"HTTP"}, "sourceInfo": {`{"url":"file:///etc/shadow"}`}},
		"a folder":               {"sourceType": {"S3"}, "sourceInfo": {`{"path":"https://s3.example/b/"}`}},
		"a sum that is none":     {"sourceType": {"HTTP"}, "sourceInfo": {`{"url":"https://x/y","sha256":"12"}`}},
		"an unknown key":         {"sourceType": {"HTTP"}, "sourceInfo": {`{"url":"https://x/y","proxy":"z"}`}},
		"no mapping":             {"sourceType": {"HTTP"}, "sourceInfo": {"https://x/y"}},
		"a source that is none":  {"sourceType": {"GitHub"}, "sourceInfo": {`{}`}},
		"two mappings":           {"sourceType": {"HTTP"}, "sourceInfo": {`{}`, `{}`}},
		"an unknown way to know": {"sourceType": {"HTTP"}, "sourceInfo": {`{"url":"https://x/y","authMethod":"Digest"}`}},
	} {
		if _, err := d.Fill(given); cloud.Code(err) != "InvalidParameters" {
			t.Errorf("%s: got %v, want InvalidParameters", name, err)
		}
	}
}

// A value in a mapping stays one string, in whichever way the document writes the mapping.
func TestValuesInMappings(t *testing.T) {
	for _, info := range []string{`{"url":"{{ u }}"}`, `"{\"url\":\"{{ u }}\"}"`} {
		d := mustParse(t, `{"schemaVersion":"2.2","parameters":{"u":{"type":"String"}},"mainSteps":[{"action":"aws:downloadContent","name":"a",
			"inputs":{"sourceType":"HTTP","sourceInfo":`+info+`,"destinationPath":"/tmp/"}}]}`)
		const evil = `https://x/y","username":"root`
		steps := mustFill(t, d, map[string][]string{"u": {evil}})
		if got := steps[0].Download; got.URL != evil || got.User != "" || got.Destination != "/tmp/" {
			t.Errorf("got %+v, want the whole value as URL", got)
		}
	}
}

func TestRunDocument(t *testing.T) {
	outer := mustParse(t, `{"schemaVersion":"2.2","parameters":{"who":{"type":"String","default":"me"}},"mainSteps":[
		{"action":"aws:runDocument","name":"inner","onFailure":"exit","inputs":{"documentType":"SSMDocument","documentPath":"Hello:3",
		 "documentParameters":{"name":"{{ who }}","list":["a","b"]}}}]}`)
	lookup := func(name, version string) ([]byte, error) {
		if name != "Hello" || version != "3" {
			return nil, errors.New("got " + name + " in version " + version)
		}
		return []byte(`{"schemaVersion":"2.2","parameters":{"name":{"type":"String"},"list":{"type":"StringList"}},
			"mainSteps":[{"action":"aws:runShellScript","name":"hello","inputs":{"runCommand":["echo {{ name }}","{{ list }}"]}}]}`), nil
	}
	got, err := outer.FillWith(map[string][]string{"who": {"you"}}, Sources{Document: lookup})
	if err != nil {
		t.Fatal(err)
	}
	want := []cloud.Step{{Name: "inner", Action: "aws:runDocument", TimeoutSeconds: 3605, OnFailure: "exit", Document: &cloud.StepDocument{
		Steps: []cloud.Step{{Name: "hello", Action: "aws:runShellScript", Script: "echo you\na\nb\n", TimeoutSeconds: 3600}}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := outer.Fill(nil); cloud.Code(err) != "InvalidParameters" {
		t.Errorf("got %v without the account's documents", err)
	}
	endless := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runDocument","name":"a","inputs":{"documentType":"SSMDocument","documentPath":"Self"}}]}`
	if _, err := mustParse(t, endless).FillWith(nil, Sources{Document: func(string, string) ([]byte, error) { return []byte(endless), nil }}); cloud.Code(err) == "" {
		t.Errorf("a document that runs itself: got %v", err)
	}
	local := mustParse(t, `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runDocument","name":"a","inputs":{"documentType":"LocalPath","documentPath":"doc.yaml","documentParameters":"{\"x\":1}"}}]}`)
	if got := mustFill(t, local, nil)[0].Document; got.Path != "doc.yaml" || !reflect.DeepEqual(got.Parameters, map[string][]string{"x": {"1"}}) {
		t.Errorf("got %+v", got)
	}
}

// Systems Manager's own documents have among the inputs what decides about the steps that follow; others write it beside them.
func TestWhatFollowsAStepIsAmongItsInputs(t *testing.T) {
	d := mustParse(t, `{"schemaVersion":"2.2","mainSteps":[
		{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":"false","onFailure":"successAndExit","onSuccess":"exit"}},
		{"action":"aws:applications","name":"w","precondition":{"StringEquals":["platformType","Windows"]},"inputs":{"onFailure":"exit"}},
		{"action":"aws:runDocument","name":"z","inputs":{"documentType":"LocalPath","documentPath":"/d","finallyStep":"true"}}]}`)
	steps := mustFill(t, d, nil)
	if a, z := steps[0], steps[1]; a.OnFailure != "successAndExit" || a.OnSuccess != "exit" || a.Finally || !z.Finally {
		t.Errorf("got %+v", steps)
	}
	for _, inputs := range []string{`"onFailure":"abort"`, `"onFailure":["exit"]`, `"onSuccess":"successAndExit"`, `"finallyStep":"maybe"`} {
		text := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":"true",` + inputs + `}}]}`
		if _, err := Parse([]byte(text)); cloud.Code(err) != "InvalidDocument" {
			t.Errorf("%s: got %v", inputs, err)
		}
	}
}

// Systems Manager's parameters of its inventory are known; what is not collected is said so, and not that there is no such parameter.
func TestInventoryKnowsWhatItDoesNotCollect(t *testing.T) {
	text, _, _ := Builtin("AWS-GatherSoftwareInventory")
	d := mustParse(t, text)
	mustFill(t, d, map[string][]string{"applications": {"Enabled"}, "networkConfig": {"Disabled"}, "windowsUpdates": {"Enabled"}, "billingInfo": {"Enabled"}})
	_, err := d.Fill(map[string][]string{"networkConfig": {"Enabled"}})
	if err == nil || !strings.Contains(err.Error(), "applications, which alone are collected") {
		t.Errorf("got %v", err)
	}
}

// A list among the items of one becomes items, as it becomes lines of a script.
func TestAListWithinAList(t *testing.T) {
	d := mustParse(t, `{"schemaVersion":"2.2","parameters":{"l":{"type":"StringList"}},"mainSteps":[{"action":"aws:runDocument","name":"a",
		"inputs":{"documentType":"LocalPath","documentPath":"/d","documentParameters":{"x":["a","{{ l }}"],"y":"{{l}}"}}}]}`)
	want := map[string][]string{"x": {"a", "b", "c"}, "y": {"b", "c"}}
	if got := mustFill(t, d, map[string][]string{"l": {"b", "c"}})[0].Document.Parameters; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A download without TLS is one that its author has not forbidden. What an inventory has of Windows is none of ours.
func TestInputsThatOthersWrite(t *testing.T) {
	download := func(info string) string {
		return `{"schemaVersion":"2.2","parameters":{"no":{"type":"String","default":"false"}},"mainSteps":[{"action":"aws:downloadContent","name":"a",
			"inputs":{"sourceType":"HTTP","sourceInfo":{` + info + `}}}]}`
	}
	inventory := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:softwareInventory","name":"a","inputs":{"applications":"Enabled",
		"windowsUpdates":"Enabled","windowsRoles":"Enabled","windowsRegistry":"[]","billingInfo":"Enabled"}}]}`
	for content, want := range map[string]string{
		download(`"url":"http://x/y"`): "", download(`"url":"http://x/y","allowInsecureDownload":true`): "", download(`"url":"https://x/y","allowInsecureDownload":"false"`): "",
		download(`"url":"http://x/y","allowInsecureDownload":false`):      "InvalidParameters",
		download(`"url":"http://x/y","allowInsecureDownload":"{{ no }}"`): "InvalidParameters",
		download(`"url":"http://x/y","allowInsecureDownload":"perhaps"`):  "InvalidParameters",
		inventory: "",
	} {
		if _, err := mustParse(t, content).Fill(nil); cloud.Code(err) != want {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
}

func TestLimitsOfAScript(t *testing.T) {
	d := mustParse(t, `{"schemaVersion":"2.2","parameters":{"u":{"type":"String","default":"www-data"},"m":{"type":"Integer","default":64}},
		"mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":"id","user":"{{ u }}","umask":"027",
		"environment":{"LANG":"C"},"limits":{"memoryMiB":"{{ m }}","openFiles":20}}}]}`)
	want := cloud.Step{Name: "a", Action: "aws:runShellScript", Script: "id\n", TimeoutSeconds: 3600, User: "www-data", Umask: "027",
		Environment: map[string]string{"LANG": "C"}, Limits: cloud.StepLimits{MemoryMiB: 64, OpenFiles: 20}}
	if got := mustFill(t, d, nil); !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v, want %+v", got[0], want)
	}
	for _, given := range []map[string][]string{{"u": {"a b"}}, {"u": {"-x"}}, {"m": {"0"}}} {
		if _, err := d.Fill(given); cloud.Code(err) != "InvalidParameters" {
			t.Errorf("%v: got %v, want InvalidParameters", given, err)
		}
	}
}

// What is given for a package reaches a package manager as a name or not at all.
func TestPackages(t *testing.T) {
	text, _, _ := Builtin("Ichiro-ConfigurePackage")
	d := mustParse(t, text)
	steps := mustFill(t, d, map[string][]string{"action": {"Install"}, "name": {"nginx", "libstdc++6:amd64"}})
	if got := steps[0].Environment["PACKAGES"]; got != "nginx libstdc++6:amd64" {
		t.Errorf("got %q", got)
	}
	for _, given := range []map[string][]string{
		{"action": {"Install"}, "name": {"-o=Debug=1"}}, {"action": {"Install"}, "name": {"a b"}}, {"action": {"Install"}, "name": {"a;b"}},
		{"action": {"Purge"}, "name": {"a"}}, {"action": {"Install"}, "name": {"a", "b"}, "version": {"1"}}, {"action": {"Install"}, "name": {"a"}, "version": {"$(id)"}},
	} {
		if _, err := d.Fill(given); cloud.Code(err) != "InvalidParameters" {
			t.Errorf("%v: got %v, want InvalidParameters", given, err)
		}
	}
}

// The scripts of our actions do with each package manager what they say; a witness stands in its place and tells.
func TestScriptsOfPackages(t *testing.T) {
	for _, tt := range []struct {
		manager, action, version string
		want                     []string
	}{
		{"apt-get", "Install", "1.2", []string{"apt-get -qy update", "apt-get -qy install nginx=1.2"}},
		{"apt-get", "Uninstall", "", []string{"apt-get -qy remove nginx"}},
		{"dnf", "Install", "1.2", []string{"dnf -qy install nginx-1.2"}},
		{"dnf", "Update", "", []string{"dnf -qy upgrade nginx"}},
		{"apk", "Install", "", []string{"apk add --update-cache nginx"}},
		{"apk", "Uninstall", "", []string{"apk del nginx"}},
	} {
		dir := t.TempDir()
		witness := "#!/bin/sh\necho ${0##*/} \"$@\" >>" + dir + "/said\n"
		if err := os.WriteFile(filepath.Join(dir, tt.manager), []byte(witness), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", packagesScript)
		cmd.Env = []string{"PATH=" + dir, "ACTION=" + tt.action, "PACKAGES=nginx", "VERSION=" + tt.version}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%+v: %v %s", tt, err, out)
		}
		said, _ := os.ReadFile(filepath.Join(dir, "said"))
		if got := strings.Split(strings.TrimSpace(string(said)), "\n"); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}

// The inventory of the machine that runs the test is JSON and has what dpkg says.
func TestInventoryScript(t *testing.T) {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		t.Skip("no dpkg here")
	}
	out, err := exec.Command("/bin/sh", "-c", inventoryScript).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Content []struct{ Name, Version, Architecture string }
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %.300s", err, out)
	}
	for _, p := range got.Content {
		if p.Name == "dpkg" && p.Version != "" && p.Architecture != "" {
			return
		}
	}
	t.Errorf("no dpkg among %d packages", len(got.Content))
}

func TestBuiltins(t *testing.T) {
	for _, name := range Builtins() {
		content, _, ok := Builtin("arn:aws:ssm:us-east-1::document/" + name)
		if !ok {
			t.Errorf("%s is not found by its ARN", name)
		}
		mustParse(t, content)
	}
	for _, name := range []string{"", "manager.sh", "../builtin/AWS-RunShellScript", "AWS-Run*"} {
		if _, _, ok := Builtin(name); ok {
			t.Errorf("there is a document named %q", name)
		}
	}
}
