package parts

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata"
)

// opened is cloud-init's own code at the same work: the parts that its handlers would get.
const opened = `
import base64, json, logging, sys, types
logging.disable(logging.CRITICAL)
from cloudinit import handlers, user_data, util
util.fetch_ssl_details = lambda paths: {}
answers = []
for raw in json.load(sys.stdin):
    p = user_data.UserDataProcessor(types.SimpleNamespace())
    out = []
    def part(data, name, payload, headers):
        if isinstance(payload, str):
            payload = payload.encode("utf-8", "surrogateescape")
        out.append([headers["Content-Type"], util.clean_filename(name), base64.b64encode(payload).decode()])
    handlers.walk(p.process(base64.b64decode(raw)), part, None)
    answers.append(out)
print(json.dumps(answers))
`

func TestCloudInitOpensTheSame(t *testing.T) {
	const packages = "/usr/local/lib/ichiro/cloud-init/usr/lib/python3/dist-packages"
	if _, err := os.Stat(packages); err != nil {
		t.Skip("no cloud-init to compare with: deploy/scripts/needs test unpacks it")
	}
	texts := []string{"#!/bin/sh\n", packed("#!/bin/sh\n"), "  \n#cloud-config\na: 1\n", amazons, nested,
		"MIME-Version: 1.0\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n", mixed("--x\nContent-Type: text/x-shellscript\n\n#cloud-config\na: 1\n"),
		mixed("--x\nContent-Type: text/cloud-config\n\na: 1\n--x\nContent-Type: text/jinja2\n\n## template: jinja\n#cloud-config\n"),
		"#cloud-config-archive\n- type: text/x-shellscript\n  filename: a.sh\n  content: |\n    #!/bin/sh\n- |\n  #!/bin/b\n- content: 'a: 1'\n",
		"## template: jinja\n#!/bin/sh\n", "#cloud-boothook\necho\n", mixed("--x\n\n#!/bin/sh\n--x\n\n\n--x\n\n#!/bin/b\n"),
		mixed(strings.Repeat("--x\nContent-Type: text/plain; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3NoCmVjaG8gw6kK\n", 2))}
	gz := base64.StdEncoding.EncodeToString([]byte(packed("#!/bin/sh\n")))
	for _, head := range []string{ // of a part that is packed
		"Content-Type: text/x-shellscript\nContent-Disposition: attachment; filename=\"a b/c.sh\"", "Content-Type: TEXT/X-ShellScript; name=n.txt", "",
		"Content-Type: application/x-gzip\nContent-Disposition: attachment;\n filename*=utf-8''n%20x", "Content-Type: bogus", "Content-Type: text/plain; charset=us-ascii",
	} {
		texts = append(texts, packed(mixed("preamble\n--x\n"+head+"\nContent-Transfer-Encoding: base64\n\n"+gz+"\n")))
	}
	texts = append(texts, "#cloud-config-archive\n- {filename: x/y.cfg, type: text/cloud-config, content: 'a: 1'}\n", "#CLOUD-CONFIG\na: 1\n", "\ufeff#cloud-config\na: 1\n",
		mixed("--x\nContent-Type: multipart/alternative; boundary=y\n\n--y\n\n#!/bin/sh\n--y--\n"))
	var in []string
	for _, text := range texts {
		in = append(in, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	question, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", opened)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+packages)
	cmd.Stdin = bytes.NewReader(question)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask cloud-init: %v\n%s", err, &stderr)
	}
	var want [][][3]string
	if err := json.Unmarshal(answer, &want); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		var lines []string
		for _, p := range want[i] {
			body, err := base64.StdEncoding.DecodeString(p[2])
			if err != nil {
				t.Fatal(err)
			}
			kind := types[p[0]]
			if kind == userdata.Unknown {
				kind = userdata.Sniff(body)
			}
			if kind == userdata.Unknown && types[p[0]] == userdata.Unknown && p[0] == "text/x-shellscript" {
				kind = userdata.Script // which cloud-init finds out when it has written it
			}
			if kind != userdata.Empty && kind != userdata.Unknown { // which nobody handles, and we tell

				lines = append(lines, fmt.Sprintf("%s %s %q", p[1], kind, body))
			}
		}
		var got []string
		list, _ := Expand(t.Context(), []byte(text), Options{})
		for _, p := range list {
			got = append(got, fmt.Sprintf("%s %s %q", p.Name, p.Kind, p.Body))
		}
		if !slices.Equal(got, lines) {
			t.Errorf("of %.60q we make\n%s\ncloud-init\n%s", text, strings.Join(got, "\n"), strings.Join(lines, "\n"))
		}
	}
}
