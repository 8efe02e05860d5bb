package config

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// judge answers with cloud-init's own code.
const judge = `
import json, logging, sys
logging.disable(logging.CRITICAL)
from cloudinit import mergers, util
from cloudinit.config import cc_write_files
from cloudinit.handlers import cloud_config
cases = json.load(sys.stdin)
def merged(parts):
    h = object.__new__(cloud_config.CloudConfigPartHandler)
    h.cloud_buf = {}
    for p in parts:
        h._merge_part(p, {})
    return str(h.cloud_buf)
def shell(text):
    try:
        return util.shellify(util.load_yaml(text, allowed=(list,)))
    except TypeError:
        return ""
print(json.dumps({
    "merge": [merged(p) for p in cases["merge"]],
    "shell": [shell(t) for t in cases["shell"]],
    "mode": [cc_write_files.decode_perms(util.load_yaml(t, allowed=(int, str, float)), 0o644) for t in cases["mode"]],
}))
`

// cloudInit asks the judge; the test is skipped where deploy/scripts/needs has not unpacked cloud-init.
func cloudInit(t *testing.T, in, out any) {
	t.Helper()
	const packages = "/usr/local/lib/ichiro/cloud-init/usr/lib/python3/dist-packages"
	if _, err := os.Stat(packages); err != nil {
		t.Skip("no cloud-init to compare with: deploy/scripts/needs test unpacks it")
	}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", judge)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+packages)
	cmd.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask cloud-init: %v\n%s", err, &stderr)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		t.Fatal(err)
	}
}

func TestCloudInitAgrees(t *testing.T) {
	var configs [][]string
	for _, c := range merges {
		configs = append(configs, c.parts)
	}
	shells := []string{"[]", "[a, [b, \"it's\"], null, 'c d']", "[[yes, 0644, 1.5, null, 12:30, 2001-12-14]]", "[['', \"a'b'c\"], '']", "[[[a, b], {c: d}]]",
		"[5]", "[{a: b}]", "[true]", "['\u00e9', [\"tab\\t\", '$HOME `x` \\ \"q\"']]", "['#!/bin/bash\n']"}
	modes := []string{"'0644'", "0644", "644", "'644'", "0o600", "'0o600'", "1.0", "'4755'", "\"0755\"", "'u+x'"}
	var want struct {
		Merge, Shell []string
		Mode         []uint32
	}
	cloudInit(t, map[string]any{"merge": configs, "shell": shells, "mode": modes}, &want)
	for i, c := range configs {
		var parts []userdata.Part
		for _, text := range c {
			parts = append(parts, userdata.Part{Name: "p", Body: []byte(text)})
		}
		root, _ := Merge(parts)
		if got := root.Str(); got != want.Merge[i] {
			t.Errorf("merge of %q: got  %s\ncloud-init makes %s", c, got, want.Merge[i])
		}
	}
	for i, text := range shells {
		if got := new(decoder).script(value(t, text)); got != want.Shell[i] {
			t.Errorf("script of %s: got  %q\ncloud-init makes %q", text, got, want.Shell[i])
		}
	}
	for i, text := range modes {
		if got := new(decoder).mode(value(t, text)); got != want.Mode[i] {
			t.Errorf("mode of %s: got %#o, cloud-init has %#o", text, got, want.Mode[i])
		}
	}
}

func value(t *testing.T, text string) *yaml.Value {
	t.Helper()
	doc, err := yaml.Load([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc.Root
}
