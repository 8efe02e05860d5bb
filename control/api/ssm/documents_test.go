package ssm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// greet is a document that says a word and a name.
func greet(word string) string {
	return fmt.Sprintf(`{"schemaVersion": "2.2", "description": "Greets.", "parameters": {"who": {"type": "String", "default": "you", "allowedPattern": "[a-z]+"}},
  "mainSteps": [{"action": "aws:runShellScript", "name": "greet", "inputs": {"runCommand": ["echo %s {{ who }}"], "timeoutSeconds": "60"}}]}`, word)
}

const shell = `{"schemaVersion": "1.0", "description": "A shell.", "sessionType": "Standard_Stream", "inputs": {"idleSessionTimeout": "20"}}`

func (r *rig) create(name, content string) *shape.DocumentDescription {
	r.Helper()
	out, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: name, Content: content})
	if err != nil {
		r.Fatal(err)
	}
	return out.DocumentDescription
}

func (r *rig) update(name, content string) {
	r.Helper()
	if _, err := r.UpdateDocument(r.ctx, &shape.UpdateDocumentInput{Name: name, Content: content, DocumentVersion: "$LATEST"}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) scriptOf(c *shape.Command) string {
	r.Helper()
	o, err := store.Get(r.Context(), r.Store, store.CommandWishes("h-1"), store.InvocationID(cloud.CommandID(c.CommandId), one))
	if err != nil {
		r.Fatal(err)
	}
	return o.Value.Steps[0].Script
}

func TestADocumentsLife(t *testing.T) {
	r := newRig(t)
	d := r.create("greet", greet("hello"))
	if d.Hash != sum(greet("hello")) || d.DocumentVersion != "1" || d.LatestVersion != "1" || d.DefaultVersion != "1" || d.SchemaVersion != "2.2" ||
		d.Status != "Active" || d.Owner != "000000000000" || d.Description != "Greets." || len(d.Parameters) != 1 || d.Parameters[0].DefaultValue != "you" {
		t.Errorf("created: got %+v", d)
	}
	r.update("greet", greet("good morning"))
	if _, err := r.UpdateDocument(r.ctx, &shape.UpdateDocumentInput{Name: "AWS-RunShellScript", Content: greet("no")}); err == nil || !strings.Contains(err.Error(), "nobody changes") {
		t.Errorf("a document that every account has: got %v", err)
	}
	foreign := &shape.GetDocumentInput{Name: "arn:aws:ssm:eu-central-1:111111111111:document/greet"}
	if got, err := r.GetDocument(r.ctx, foreign); cloud.Code(err) != "InvalidDocument" {
		t.Errorf("another account's document of that name: got %+v, %v", got, err)
	}
	says := func(version, want string) {
		t.Helper()
		in := &shape.SendCommandInput{DocumentName: "greet", DocumentVersion: version, InstanceIds: []string{one}, Parameters: map[string][]string{"who": {"ada"}}}
		if got := strings.TrimSpace(r.scriptOf(r.send(in))); got != want {
			t.Errorf("version %q: got %q, want %q", version, got, want)
		}
	}
	says("", "echo hello ada")
	says("$LATEST", "echo good morning ada")
	says("2", "echo good morning ada")
	if _, err := r.UpdateDocumentDefaultVersion(r.ctx, &shape.UpdateDocumentDefaultVersionInput{Name: "greet", DocumentVersion: "2"}); err != nil {
		t.Fatal(err)
	}
	says("", "echo good morning ada")
	says("1", "echo hello ada")
	list, err := r.ListDocumentVersions(r.ctx, &shape.ListDocumentVersionsInput{Name: "greet"})
	if err != nil || len(list.DocumentVersions) != 2 || *list.DocumentVersions[0].IsDefaultVersion || !*list.DocumentVersions[1].IsDefaultVersion {
		t.Errorf("versions: got %+v, %v", list, err)
	}
	got, err := r.GetDocument(r.ctx, &shape.GetDocumentInput{Name: "arn:aws:ssm:eu-central-1:000000000000:document/greet", DocumentVersion: "1"})
	if err != nil || got.Content != greet("hello") {
		t.Errorf("by its ARN: got %+v, %v", got, err)
	}
	if _, err := r.DeleteDocument(r.ctx, &shape.DeleteDocumentInput{Name: "greet", DocumentVersion: "1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.GetDocument(r.ctx, &shape.GetDocumentInput{Name: "greet", DocumentVersion: "1"}); cloud.Code(err) != "InvalidDocumentVersion" {
		t.Errorf("a deleted version: got %v", err)
	}
	if _, err := r.DeleteDocument(r.ctx, &shape.DeleteDocumentInput{Name: "greet"}); err != nil {
		t.Fatal(err)
	}
	if left, err := store.List(r.ctx, r.Store, store.DocumentTexts, store.Range{}); err != nil || len(left.Objects) != 0 {
		t.Errorf("texts are left behind: %v, %v", left, err)
	}
	if _, err := r.SendCommand(r.ctx, &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{one}}); cloud.Code(err) != "InvalidDocument" {
		t.Errorf("a deleted document: got %v", err)
	}
}

func TestRefusedDocuments(t *testing.T) {
	r := newRig(t)
	r.create("greet", greet("hello"))
	for name, c := range map[string]struct {
		code string
		in   shape.CreateDocumentInput
	}{
		"there already":             {"DocumentAlreadyExists", shape.CreateDocumentInput{Name: "greet", Content: greet("x")}},
		"a path for a name":         {"ValidationException", shape.CreateDocumentInput{Name: "../../etc", Content: greet("x")}},
		"a short name":              {"ValidationException", shape.CreateDocumentInput{Name: "ab", Content: greet("x")}},
		"a name of everybody's":     {"ValidationException", shape.CreateDocumentInput{Name: "AWS-Mine", Content: greet("x")}},
		"another type":              {"ValidationException", shape.CreateDocumentInput{Name: "doc", DocumentType: "Automation", Content: greet("x")}},
		"no JSON":                   {"InvalidDocumentContent", shape.CreateDocumentInput{Name: "doc", Content: "{"}},
		"something behind":          {"InvalidDocumentContent", shape.CreateDocumentInput{Name: "doc", Content: greet("x") + "{}"}},
		"plain text":                {"InvalidDocumentContent", shape.CreateDocumentInput{Name: "doc", DocumentFormat: "TEXT", Content: "x"}},
		"an unknown schema":         {"InvalidDocumentSchemaVersion", shape.CreateDocumentInput{Name: "doc", Content: strings.Replace(greet("x"), "2.2", "0.3", 1)}},
		"an unknown action":         {"InvalidDocumentContent", shape.CreateDocumentInput{Name: "doc", Content: strings.Replace(greet("x"), "aws:runShellScript", "aws:formatDisk", 1)}},
		"too large":                 {"MaxDocumentSizeExceeded", shape.CreateDocumentInput{Name: "doc", Content: strings.Repeat(" ", 64<<10) + greet("x")}},
		"a session in a command":    {"InvalidDocumentSchemaVersion", shape.CreateDocumentInput{Name: "doc", Content: shell}},
		"a session of no type":      {"InvalidDocumentContent", shape.CreateDocumentInput{Name: "doc", DocumentType: "Session", Content: `{"schemaVersion": "1.0"}`}},
		"a command in a session":    {"InvalidDocumentSchemaVersion", shape.CreateDocumentInput{Name: "doc", DocumentType: "Session", Content: greet("x")}},
		"attachments":               {"ValidationException", shape.CreateDocumentInput{Name: "doc", Content: greet("x"), Attachments: make([]shape.AttachmentsSource, 1)}},
		"a reserved tag":            {"ValidationException", shape.CreateDocumentInput{Name: "doc", Content: greet("x"), Tags: []shape.Tag{{Key: "aws:x", Value: "y"}}}},
		"a strange name of version": {"ValidationException", shape.CreateDocumentInput{Name: "doc", Content: greet("x"), VersionName: "a b"}},
	} {
		if _, err := r.CreateDocument(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	r.update("greet", greet("good evening"))
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "shell", DocumentType: "Session", Content: shell}); err != nil {
		t.Fatal(err)
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	for name, c := range map[string]struct {
		code string
		err  func() error
	}{
		"an old version is updated": {"InvalidDocumentVersion", func() error {
			_, err := r.UpdateDocument(r.ctx, &shape.UpdateDocumentInput{Name: "greet", DocumentVersion: "1", Content: greet("x")})
			return err
		}},
		"a default that there is not": {"InvalidDocumentVersion", func() error {
			_, err := r.UpdateDocumentDefaultVersion(r.ctx, &shape.UpdateDocumentDefaultVersionInput{Name: "greet", DocumentVersion: "9"})
			return err
		}},
		"a document of everybody's is deleted": {"InvalidDocument", func() error {
			_, err := r.DeleteDocument(r.ctx, &shape.DeleteDocumentInput{Name: "AWS-RunShellScript"})
			return err
		}},
		"another account's": {"InvalidDocument", func() error {
			_, err := r.GetDocument(they, &shape.GetDocumentInput{Name: "greet"})
			return err
		}},
		"sent by another account": {"InvalidDocument", func() error {
			_, err := r.SendCommand(they, &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{other}})
			return err
		}},
		"a session is sent as a command": {"InvalidDocument", func() error {
			_, err := r.SendCommand(r.ctx, &shape.SendCommandInput{DocumentName: "shell", InstanceIds: []string{one}})
			return err
		}},
		"a value that the pattern refuses": {"InvalidParameters", func() error {
			_, err := r.SendCommand(r.ctx, &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{one}, Parameters: map[string][]string{"who": {"$(reboot)"}}})
			return err
		}},
		"another text than the sender knows": {"InvalidDocument", func() error {
			_, err := r.SendCommand(r.ctx, &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{one}, DocumentHash: sum("x"), DocumentHashType: "Sha256"})
			return err
		}},
		"a filter that there is not": {"InvalidFilterKey", func() error {
			_, err := r.ListDocuments(r.ctx, &shape.ListDocumentsInput{Filters: []shape.DocumentKeyValuesFilter{{Key: "Colour", Values: []string{"red"}}}})
			return err
		}},
		"tags of a thing without": {"InvalidResourceType", func() error {
			_, err := r.ListTagsForResource(r.ctx, &shape.ListTagsForResourceInput{ResourceType: "PatchBaseline", ResourceId: "x"})
			return err
		}},
		"tags of no document": {"InvalidResourceId", func() error {
			_, err := r.ListTagsForResource(r.ctx, &shape.ListTagsForResourceInput{ResourceType: "Document", ResourceId: "nothing"})
			return err
		}},
	} {
		if err := c.err(); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	in := &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{one}, DocumentHash: sum(greet("hello")), DocumentHashType: "Sha256"}
	r.send(in) // the text that the sender knows
}

func TestDocumentsAreListedByFilters(t *testing.T) {
	r := newRig(t)
	r.create("greet", greet("hello"))
	r.create("green", greet("leaf"))
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "shell", DocumentType: "Session", Content: shell}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.AddTagsToResource(r.ctx, &shape.AddTagsToResourceInput{ResourceType: "Document", ResourceId: "green", Tags: []shape.Tag{{Key: "team", Value: "a"}, {Key: "old", Value: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RemoveTagsFromResource(r.ctx, &shape.RemoveTagsFromResourceInput{ResourceType: "Document", ResourceId: "green", TagKeys: []string{"old", "none"}}); err != nil {
		t.Fatal(err)
	}
	if out, err := r.ListTagsForResource(r.ctx, &shape.ListTagsForResourceInput{ResourceType: "Document", ResourceId: "green"}); err != nil || len(out.TagList) != 1 || out.TagList[0].Key != "team" {
		t.Errorf("tags: got %+v, %v", out, err)
	}
	for name, c := range map[string]struct {
		key, value, want string
	}{
		"ours":       {"Owner", "Self", "green greet shell"},
		"Amazon's":   {"Owner", "Amazon", strings.Join(document.Builtins(), " ")},
		"everybody":  {"Owner", "All", strings.Join(document.Builtins(), " ") + " green greet shell"},
		"by name":    {"Name", "gree", "green greet"},
		"by type":    {"DocumentType", "Session", "shell"},
		"by tag":     {"tag:team", "a", "green"},
		"no windows": {"PlatformTypes", "Windows", ""},
	} {
		var got []string
		next := ""
		for first := true; first || next != ""; first = false { // page by page
			size := int64(1)
			out, err := r.ListDocuments(r.ctx, &shape.ListDocumentsInput{Filters: []shape.DocumentKeyValuesFilter{{Key: c.key, Values: []string{c.value}}}, MaxResults: &size, NextToken: next})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, d := range out.DocumentIdentifiers {
				got = append(got, d.Name)
			}
			next = out.NextToken
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", name, got, c.want)
		}
	}
}

// Ten who update one document at the same time make ten versions.
func TestUpdatesAtTheSameTimeAreAllKept(t *testing.T) {
	r := newRig(t)
	r.create("greet", greet("hello"))
	var wg sync.WaitGroup
	for n := range 10 {
		wg.Go(func() {
			_, err := r.UpdateDocument(r.ctx, &shape.UpdateDocumentInput{Name: "greet", Content: greet(fmt.Sprint("hello ", n))})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for n := range 11 {
		got, err := r.GetDocument(context.WithoutCancel(r.ctx), &shape.GetDocumentInput{Name: "greet", DocumentVersion: fmt.Sprint(n + 1)})
		if err != nil {
			t.Fatal(err)
		}
		seen[got.Content] = true
	}
	if len(seen) != 11 {
		t.Errorf("got %d texts, want 11", len(seen))
	}
}

func TestADocumentInYAML(t *testing.T) {
	r := newRig(t)
	text := "schemaVersion: \"2.2\"\ndescription: Greets.\nmainSteps:\n- action: aws:runShellScript\n  name: greet\n  inputs:\n    runCommand:\n    - echo hello\n"
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "yaml", Content: text}); cloud.Code(err) != "InvalidDocumentContent" {
		t.Errorf("as JSON: got %v", err)
	}
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "yaml", Content: text, DocumentFormat: "YAML"}); err != nil {
		t.Fatal(err)
	}
	if got := r.scriptOf(r.send(&shape.SendCommandInput{DocumentName: "yaml", InstanceIds: []string{one}})); strings.TrimSpace(got) != "echo hello" {
		t.Errorf("got %q", got)
	}
	for format, want := range map[string]bool{"": true, "YAML": true, "JSON": false} {
		got, err := r.GetDocument(r.ctx, &shape.GetDocumentInput{Name: "yaml", DocumentFormat: format})
		if err != nil || (got.Content == text) != want || !want && !json.Valid([]byte(got.Content)) {
			t.Errorf("as %q: got %+v, %v", format, got, err)
		}
	}
}
