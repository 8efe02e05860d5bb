package ssm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (r *rig) put(name, kind, value string) int64 {
	r.Helper()
	out, err := r.PutParameter(r.ctx, &shape.PutParameterInput{Name: name, Type: kind, Value: value, Overwrite: ptr(true)})
	if err != nil {
		r.Fatal(err)
	}
	return *out.Version
}

func TestAParametersLife(t *testing.T) {
	r := newRig(t)
	if a, b := r.put("/app/colour", "String", "red"), r.put("/app/colour", "", "blue"); a != 1 || b != 2 {
		t.Errorf("got versions %d and %d", a, b)
	}
	const foreign = "arn:aws:ssm:ichiro-1:222222222222:parameter/app/colour"
	for name, want := range map[string]string{foreign: "ParameterNotFound", "/app/colour": "blue", "/app/colour:1": "red", "/app/colour:3": "ParameterVersionNotFound", "/app": "ParameterNotFound",
		"arn:aws:ssm:ichiro-1:000000000000:parameter/app/colour": "blue"} {
		out, err := r.GetParameter(r.ctx, &shape.GetParameterInput{Name: name})
		if got := cloud.Code(err); got != want && (err != nil || out.Parameter.Value != want) {
			t.Errorf("%s: got %+v, %v, want %s", name, out, err, want)
		}
		if arn := "arn:aws:ssm:ichiro-1:000000000000:parameter/app/colour"; err == nil && out.Parameter.ARN != arn {
			t.Errorf("%s has the ARN %q, want %s", name, out.Parameter.ARN, arn)
		}
	}
	history, err := r.GetParameterHistory(r.ctx, &shape.GetParameterHistoryInput{Name: "/app/colour"})
	if err != nil || len(history.Parameters) != 2 || history.Parameters[0].Value != "red" {
		t.Errorf("history: got %+v, %v", history, err)
	}
	r.put("/app/db/host", "String", "h")
	r.put("/application", "String", "x")
	for recursive, want := range map[bool]int{false: 1, true: 2} {
		out, err := r.GetParametersByPath(r.ctx, &shape.GetParametersByPathInput{Path: "/app/", Recursive: &recursive})
		if err != nil || len(out.Parameters) != want {
			t.Errorf("below /app, recursive %t: got %+v, %v, want %d", recursive, out, err, want)
		}
	}
	r.put("top", "String", "t")
	if out, err := r.GetParametersByPath(r.ctx, &shape.GetParametersByPathInput{Path: "/"}); err != nil || len(out.Parameters) != 2 {
		t.Errorf("below the root: got %+v, %v, want /application and top", out, err)
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.GetParameter(they, &shape.GetParameterInput{Name: "/app/colour"}); cloud.Code(err) != "ParameterNotFound" {
		t.Errorf("another account: got %v", err)
	}
	if _, err := r.AddTagsToResource(r.ctx, &shape.AddTagsToResourceInput{ResourceType: "Parameter", ResourceId: "/application", Tags: []shape.Tag{{Key: "team", Value: "a"}}}); err != nil {
		t.Fatal(err)
	}
	for key, c := range map[string]struct {
		option, value string
		want          int
	}{"Name": {"BeginsWith", "/app", 3}, "Type": {"", "String", 4}, "tag:team": {"", "a", 1}, "Path": {"Recursive", "/app", 2}} {
		out, err := r.DescribeParameters(r.ctx, &shape.DescribeParametersInput{ParameterFilters: []shape.ParameterStringFilter{{Key: key, Option: c.option, Values: []string{c.value}}}})
		if err != nil || len(out.Parameters) != c.want {
			t.Errorf("described by %s: got %+v, %v, want %d", key, out, err, c.want)
		}
	}
	type filter = shape.ParameterStringFilter
	for want, filters := range map[string][]filter{
		"InvalidFilterKey": {{Key: "Name", Values: []string{"a"}}, {Key: "Name", Values: []string{"b"}}}, "InvalidFilterValue": {{Key: "Name"}},
		"ValidationException": {{Key: "Path", Values: []string{"app"}}}, "InvalidFilterOption": {{Key: "Type", Option: "Near", Values: []string{"String"}}},
	} {
		if _, err := r.DescribeParameters(r.ctx, &shape.DescribeParametersInput{ParameterFilters: filters}); cloud.Code(err) != want {
			t.Errorf("described by %+v: got %v, want %s", filters, err, want)
		}
	}
	gone, err := r.DeleteParameters(r.ctx, &shape.DeleteParametersInput{Names: []string{"/app/colour", "nothing"}})
	if err != nil || len(gone.DeletedParameters) != 1 || len(gone.InvalidParameters) != 1 {
		t.Errorf("deleted: got %+v, %v", gone, err)
	}
}

// A tier that chooses chooses the one that there is.
func TestIntelligentTiering(t *testing.T) {
	r := newRig(t)
	out, err := r.PutParameter(r.ctx, &shape.PutParameterInput{Name: "a", Type: "String", Value: "x", Tier: "Intelligent-Tiering"})
	if err != nil || out.Tier != "Standard" {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestRefusedParameters(t *testing.T) {
	r := newRig(t)
	r.put("there", "String", "x")
	for name, c := range map[string]struct {
		code string
		in   shape.PutParameterInput
	}{
		"there already":          {"ParameterAlreadyExists", shape.PutParameterInput{Name: "there", Type: "String", Value: "y"}},
		"another type":           {"HierarchyTypeMismatchException", shape.PutParameterInput{Name: "there", Type: "SecureString", Value: "y", Overwrite: ptr(true)}},
		"no type":                {"ValidationException", shape.PutParameterInput{Name: "new", Value: "y"}},
		"an unknown type":        {"UnsupportedParameterType", shape.PutParameterInput{Name: "new", Type: "Number", Value: "1"}},
		"a strange name":         {"ValidationException", shape.PutParameterInput{Name: "a b", Type: "String", Value: "y"}},
		"levels without a slash": {"ValidationException", shape.PutParameterInput{Name: "a/b", Type: "String", Value: "y"}},
		"too many levels":        {"HierarchyLevelLimitExceededException", shape.PutParameterInput{Name: strings.Repeat("/a", 16), Type: "String", Value: "y"}},
		"a reserved name":        {"ValidationException", shape.PutParameterInput{Name: "/aws/x", Type: "String", Value: "y"}},
		"too long":               {"ValidationException", shape.PutParameterInput{Name: "new", Type: "String", Value: strings.Repeat("x", 4097)}},
		"not as its pattern":     {"ParameterPatternMismatchException", shape.PutParameterInput{Name: "new", Type: "String", Value: "x1", AllowedPattern: "[a-z]"}},
		"a long pattern":         {"ValidationException", shape.PutParameterInput{Name: "new", Type: "String", Value: "x", AllowedPattern: "x" + strings.Repeat("y?", 512)}},
		"no pattern":             {"InvalidAllowedPatternException", shape.PutParameterInput{Name: "new", Type: "String", Value: "x", AllowedPattern: "["}},
		"a tier of others":       {"ValidationException", shape.PutParameterInput{Name: "new", Type: "String", Value: "x", Tier: "Advanced"}},
		"another key":            {"InvalidKeyId", shape.PutParameterInput{Name: "new", Type: "SecureString", Value: "x", KeyId: "mine"}},
	} {
		if _, err := r.PutParameter(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

const secret = "correct horse battery staple"

// A SecureString is nowhere in the store but sealed, and opens only where it lies.
func TestASecureStringIsSealed(t *testing.T) {
	r := newRig(t)
	r.put("password", "SecureString", secret)
	for _, decrypt := range []bool{false, true} {
		out, err := r.GetParameter(r.ctx, &shape.GetParameterInput{Name: "password", WithDecryption: &decrypt})
		if err != nil || (out.Parameter.Value == secret) != decrypt {
			t.Errorf("with decryption %t: got %+v, %v", decrypt, out, err)
		}
	}
	raw, err := store.List(t.Context(), r.Store, store.NewKind[json.RawMessage](store.All("spec")), store.Range{})
	if err != nil || len(raw.Objects) == 0 {
		t.Fatal(err)
	}
	for _, o := range raw.Objects {
		if strings.Contains(string(o.Value), "horse") {
			t.Errorf("%s holds the secret", o.Key)
		}
	}
	o, _ := store.Get(t.Context(), r.Store, store.Parameters, cloud.DocumentID("000000000000", "password"))
	stolen := o.Value
	stolen.Name = "mine"
	r.write(func(t *store.Txn) {
		store.Create(t, store.Parameters, cloud.DocumentID("000000000000", "mine"), stolen)
	})
	if out, err := r.GetParameter(r.ctx, &shape.GetParameterInput{Name: "mine", WithDecryption: ptr(true)}); err == nil {
		t.Errorf("it opens elsewhere: %+v", out)
	}
}

func TestACommandRefersToParameters(t *testing.T) {
	r := newRig(t)
	r.put("/app/colour", "String", "red")
	r.put("/app/colour", "", "{{ssm:plain}}")
	r.put("steps", "StringList", "echo 1,echo 2")
	r.put("plain", "String", "blue")
	r.put("password", "SecureString", secret)
	for text, want := range map[string]string{
		"echo {{ssm:plain}}":                         "echo blue",
		"echo {{ ssm:/app/colour:1 }} {{ssm:plain}}": "echo red blue",
		"echo {{ssm:/app/colour}}":                   "echo {{ssm:plain}}", // a value is not searched again
		"{{ ssm:steps }}":                            "echo 1\necho 2",     // a list becomes lines
		"echo {{ssm:steps}}":                         "echo echo 1,echo 2",
		"echo {{ssm:nothing}}":                       "InvalidParameters",
		"echo {{ssm:plain:7}}":                       "InvalidParameters",
		"echo {{ssm:password}}":                      "InvalidParameters",
	} {
		in := script(one)
		in.Parameters["commands"] = []string{text}
		out, err := r.SendCommand(r.ctx, in)
		if err != nil {
			if cloud.Code(err) != want || strings.Contains(err.Error(), "horse") {
				t.Errorf("%s: got %v, want %s", text, err, want)
			}
			continue
		}
		if got := strings.TrimSpace(r.scriptOf(out.Command)); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if out.Command.Parameters["commands"][0] != text {
			t.Errorf("%s: the command shows %v", text, out.Command.Parameters)
		}
	}
	in := script(one)
	in.Parameters["commands"] = []string{"{{ssm:/app/colour:1}} {{ssm:plain}}"}
	if got := fmt.Sprint(r.reached(r.ctx, in)); got != "[document/AWS-RunShellScript ec2:instance/"+one+"]" {
		t.Errorf("it needs permission for %s", got)
	}
	var asked []string
	r.Authorize = func(_ context.Context, action, resource string) error {
		if asked = append(asked, action+" "+resource); resource == "parameter/plain" {
			return cloud.Errorf("AccessDeniedException", "no")
		}
		return nil
	}
	_, err := r.SendCommand(r.ctx, in)
	if got := fmt.Sprint(asked); cloud.Code(err) != "AccessDeniedException" || got != "[ssm:GetParameters parameter/app/colour ssm:GetParameters parameter/plain]" {
		t.Errorf("who may not read what it refers to: got %v, asked for %s", err, got)
	}
}

// A document may name parameters of the store, and other documents, as far as its caller may read them.
func TestWhatADocumentNames(t *testing.T) {
	r := newRig(t)
	r.put("/app/colour", "String", "red; {{word}}")
	r.put("/app/secret", "SecureString", "x")
	doc := func(name, kind, steps string) {
		t.Helper()
		content := `{"schemaVersion":"2.2","parameters":{"word":{"type":"String","default":"w"}},"mainSteps":[` + steps + `]}`
		if kind == typeSession {
			content = `{"schemaVersion":"1.0","sessionType":"Standard_Stream"}`
		}
		if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: name, Content: content, DocumentType: kind}); err != nil {
			t.Fatal(err)
		}
	}
	run := func(line string) string {
		return `{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["` + line + `"]}}`
	}
	nest := func(path string) string {
		return `{"action":"aws:runDocument","name":"a","inputs":{"documentType":"SSMDocument","documentPath":"` + path + `"}}`
	}
	doc("plain", typeCommand, run("echo {{ssm:/app/colour}} {{word}}"))
	doc("outer", typeCommand, nest("plain"))
	doc("secret", typeCommand, run("{{ssm:/app/secret}}"))
	doc("secure", typeCommand, run("{{ssm-secure:/app/secret}}"))
	doc("shell", typeSession, "")
	doc("into-shell", typeCommand, nest("shell"))
	doc("itself", typeCommand, nest("itself"))
	for _, tt := range []struct{ name, refused, want string }{
		{"plain", "", "echo red; {{word}} w\n"},
		{"outer", "", "echo red; {{word}} w\n"},
		{"secret", "", "InvalidParameters"},
		{"secure", "", "InvalidParameters"},
		{"into-shell", "", "InvalidParameters"},
		{"itself", "", "InvalidParameters"},
		{"plain", "ssm:GetParameters parameter/app/colour", "AccessDeniedException"},
		{"outer", "ssm:GetParameters parameter/app/colour", "AccessDeniedException"},
		{"outer", "ssm:GetDocument document/plain", "AccessDeniedException"},
	} {
		r.Authorize = func(_ context.Context, action, resource string) error {
			if action+" "+resource == tt.refused {
				return cloud.Errorf("AccessDeniedException", "no")
			}
			return nil
		}
		out, err := r.SendCommand(r.ctx, &shape.SendCommandInput{DocumentName: tt.name, InstanceIds: []string{one}})
		got := cloud.Code(err)
		if err == nil {
			w, err := store.Get(t.Context(), r.Store, store.CommandWishes("h-1"), store.InvocationID(cloud.CommandID(out.Command.CommandId), one))
			if err != nil {
				t.Fatal(err)
			}
			step := w.Value.Steps[0]
			if step.Document != nil {
				step = step.Document.Steps[0]
			}
			got = step.Script
		}
		if got != tt.want {
			t.Errorf("%s without %q: got %q (%v), want %q", tt.name, tt.refused, got, err, tt.want)
		}
	}
	in := script(one)
	in.Parameters["commands"] = []string{"echo {{ ssm-secure:/app/secret }}"}
	if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != "InvalidParameters" {
		t.Errorf("a secret in a command's parameters: got %v", err)
	}
}
