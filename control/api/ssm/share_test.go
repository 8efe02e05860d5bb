package ssm

import (
	"fmt"
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestDocumentsAreShared(t *testing.T) {
	r := newRig(t)
	content := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["a"]}}]}`
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "mine", Content: content}); err != nil {
		t.Fatal(err)
	}
	who := func() string {
		t.Helper()
		out, err := r.DescribeDocumentPermission(r.ctx, &shape.DescribeDocumentPermissionInput{Name: "mine", PermissionType: "Share"})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(out.AccountIds, out.AccountSharingInfoList)
	}
	for _, tt := range []struct {
		name        string
		in          shape.ModifyDocumentPermissionInput
		code, after string
	}{
		{"nothing yet", shape.ModifyDocumentPermissionInput{}, "", "[] []"},
		{"two accounts", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: []string{"222222222222", "111111111111"}}, "", "[111111111111 222222222222] [{111111111111 $DEFAULT} {222222222222 $DEFAULT}]"},
		{"one of them at a version", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: []string{"111111111111"}, SharedDocumentVersion: "1"}, "", "[111111111111 222222222222] [{111111111111 1} {222222222222 $DEFAULT}]"},
		{"no longer, and one that never was", shape.ModifyDocumentPermissionInput{AccountIdsToRemove: []string{"111111111111", "333333333333"}}, "", "[222222222222] [{222222222222 $DEFAULT}]"},
		{"everybody", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: []string{"All"}, AccountIdsToRemove: []string{"222222222222"}}, "", "[all] [{all $DEFAULT}]"},
		{"no account", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: []string{"x"}}, "ValidationException", "[all] [{all $DEFAULT}]"},
		{"too many", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: strings.Split(strings.Repeat("111111111111 ", 21), " ")}, "ValidationException", "[all] [{all $DEFAULT}]"},
		{"no version", shape.ModifyDocumentPermissionInput{AccountIdsToAdd: []string{"all"}, SharedDocumentVersion: "2"}, "InvalidDocumentVersion", "[all] [{all $DEFAULT}]"},
		{"another permission", shape.ModifyDocumentPermissionInput{PermissionType: "Own"}, "InvalidPermissionType", "[all] [{all $DEFAULT}]"},
		{"a document of every account", shape.ModifyDocumentPermissionInput{Name: "AWS-RunShellScript"}, "InvalidDocument", "[all] [{all $DEFAULT}]"},
	} {
		if tt.in.Name == "" {
			tt.in.Name = "mine"
		}
		if tt.in.PermissionType == "" {
			tt.in.PermissionType = "Share"
		}
		if _, err := r.ModifyDocumentPermission(r.ctx, &tt.in); cloud.Code(err) != tt.code {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.code)
		}
		if got := who(); got != tt.after {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.after)
		}
	}
	if _, err := r.DeleteDocument(r.ctx, &shape.DeleteDocumentInput{Name: "mine"}); cloud.Code(err) != "InvalidDocumentOperation" {
		t.Errorf("a shared document is deleted: %v", err)
	}
	yaml, err := r.GetDocument(r.ctx, &shape.GetDocumentInput{Name: "mine", DocumentFormat: "YAML"})
	if err != nil || yaml.DocumentFormat != "YAML" || !strings.HasPrefix(yaml.Content, "schemaVersion: \"2.2\"\n") {
		t.Errorf("in YAML: got %+v, %v", yaml, err)
	}
	if _, err := r.GetDocument(r.ctx, &shape.GetDocumentInput{Name: "mine", DocumentFormat: "TEXT"}); cloud.Code(err) != "ValidationException" {
		t.Errorf("as text: got %v", err)
	}
}

func TestLabelsOfParameters(t *testing.T) {
	r := newRig(t)
	r.put("/p", "String", "one")
	r.put("/p", "", "two")
	label := func(version int64, labels ...string) string {
		out, err := r.LabelParameterVersion(r.ctx, &shape.LabelParameterVersionInput{Name: "/p", ParameterVersion: &version, Labels: labels})
		if err != nil {
			return cloud.Code(err)
		}
		return fmt.Sprint(*out.ParameterVersion, out.InvalidLabels)
	}
	value := func(name string) string {
		out, err := r.GetParameter(r.ctx, &shape.GetParameterInput{Name: name})
		if err != nil {
			return cloud.Code(err)
		}
		return out.Parameter.Value + out.Parameter.Selector
	}
	for _, tt := range []struct{ name, got, want string }{
		{"a label", label(1, "live", "old"), "1 []"},
		{"by it", value("/p:live"), "one:live"},
		{"it moves", label(2, "live"), "2 []"},
		{"to there", value("/p:live"), "two:live"},
		{"the other stays", value("/p:old"), "one:old"},
		{"what no label may be", label(2, "1st", "awsome", "SSM", "a b", "fine"), "2 [1st awsome SSM a b]"},
		{"no such version", label(3, "x"), "ParameterVersionNotFound"},
		{"no such label", value("/p:none"), "ParameterVersionNotFound"},
		{"too many", label(2, "a", "b", "c", "d", "e", "f", "g", "h", "i"), "ParameterVersionLabelLimitExceeded"},
		{"none of them", value("/p:a"), "ParameterVersionNotFound"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, tt.got, tt.want)
		}
	}
	latest, err := r.LabelParameterVersion(r.ctx, &shape.LabelParameterVersionInput{Name: "/p", Labels: []string{"newest"}})
	if err != nil || *latest.ParameterVersion != 2 {
		t.Errorf("the latest: got %+v, %v", latest, err)
	}
	byPath, err := r.GetParametersByPath(r.ctx, &shape.GetParametersByPathInput{Path: "/", ParameterFilters: []shape.ParameterStringFilter{{Key: "Label", Values: []string{"old"}}}})
	if err != nil || len(byPath.Parameters) != 1 || byPath.Parameters[0].Value != "one" {
		t.Errorf("by path and label: got %+v, %v", byPath, err)
	}
	in := script(one)
	in.Parameters["commands"] = []string{"echo {{ssm:/p:old}}"}
	r.send(in)
	gone, err := r.UnlabelParameterVersion(r.ctx, &shape.UnlabelParameterVersionInput{Name: "/p", ParameterVersion: ptr(int64(1)), Labels: []string{"old", "live"}})
	if err != nil || fmt.Sprint(gone.RemovedLabels, gone.InvalidLabels) != "[old] [live]" || value("/p:live") != "two:live" {
		t.Errorf("unlabelled: got %+v, %v", gone, err)
	}
	label(1, "kept")
	for range 98 {
		r.put("/p", "", "more")
	}
	if _, err := r.PutParameter(r.ctx, &shape.PutParameterInput{Name: "/p", Value: "x", Overwrite: ptr(true)}); cloud.Code(err) != "ParameterMaxVersionLimitExceeded" {
		t.Errorf("the oldest version, which has a label, is dropped: %v", err)
	}
}
