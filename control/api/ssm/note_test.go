package ssm

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
)

// The audit tells which command was sent or cancelled, and which text a document had.
func TestWhatTheAuditKeepsOfACall(t *testing.T) {
	r := newRig(t)
	var id string
	for _, c := range []struct {
		name string
		call func(ctx context.Context) error
		want string
	}{
		{"create", func(ctx context.Context) error {
			_, err := r.CreateDocument(ctx, &shape.CreateDocumentInput{Name: "greet", Content: greet("hello")})
			return err
		}, `{"version":"1","sha256":"` + sum(greet("hello")) + `"}`},
		{"update", func(ctx context.Context) error {
			_, err := r.UpdateDocument(ctx, &shape.UpdateDocumentInput{Name: "greet", Content: greet("bye")})
			return err
		}, `{"version":"2","sha256":"` + sum(greet("bye")) + `"}`},
		{"share", func(ctx context.Context) error {
			_, err := r.ModifyDocumentPermission(ctx, &shape.ModifyDocumentPermissionInput{Name: "greet", PermissionType: "Share", AccountIdsToAdd: []string{"All"}})
			return err
		}, `{"added":["all"]}`},
		{"send", func(ctx context.Context) error {
			out, err := r.SendCommand(ctx, &shape.SendCommandInput{DocumentName: "greet", InstanceIds: []string{one, two}})
			id = out.Command.CommandId
			return err
		}, `{"command":"ID","version":"1","sha256":"` + sum(greet("hello")) + `"}`},
		{"default", func(ctx context.Context) error {
			_, err := r.UpdateDocumentDefaultVersion(ctx, &shape.UpdateDocumentDefaultVersionInput{Name: "greet", DocumentVersion: "2"})
			return err
		}, `{"version":"2","sha256":"` + sum(greet("bye")) + `"}`},
		{"delete", func(ctx context.Context) error {
			_, err := r.DeleteDocument(ctx, &shape.DeleteDocumentInput{Name: "greet", DocumentVersion: "1"})
			return err
		}, `{"version":"1","sha256":"` + sum(greet("hello")) + `"}`},
		{"cancel", func(ctx context.Context) error {
			_, err := r.CancelCommand(ctx, &shape.CancelCommandInput{CommandId: id, InstanceIds: []string{two}})
			return err
		}, `{"command":"ID","instances":["` + two + `"]}`},
		{"put", func(ctx context.Context) error {
			_, err := r.PutParameter(ctx, &shape.PutParameterInput{Name: "p", Type: "SecureString", Value: secret})
			return err
		}, `{"version":"1"}`},
	} {
		ctx, kept := api.WithRemark(r.ctx)
		if err := c.call(ctx); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, err := json.Marshal(*kept)
		if want := strings.ReplaceAll(c.want, "ID", id); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, want)
		}
	}
}
