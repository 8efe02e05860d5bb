package ssm

import (
	"context"
	"crypto/sha1" // #nosec G505: what DocumentHashType Sha1 asks for
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// The types of documents that an account may have.
const (
	typeCommand = "Command"
	typeSession = "Session"
)

// maxDocuments is how many documents an account may have: Systems Manager's limit.
const maxDocuments = 500

// maxText is how large a document may be, of any type.
const maxText = 64 << 10

var (
	documentName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,128}$`)
	versionName  = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)
	targetType   = regexp.MustCompile(`^/[\w.\-:/]*$`)
)

// ownName returns a document's name, which may be given as an ARN.
func ownName(name string) string {
	if _, after, ok := strings.Cut(name, ":document/"); ok && strings.HasPrefix(name, "arn:") {
		return after
	}
	return name
}

// text is one version of a document, whoever's it is.
type text struct {
	doc     cloud.Document
	version cloud.DocumentVersion
	content string
	owner   string
}

// builtin is a document that every account has, as if it were the account's own.
func builtin(name string) (text, bool) {
	content, version, ok := document.Builtin(name)
	if !ok {
		return text{}, false
	}
	number, _ := strconv.Atoi(version)
	v := cloud.DocumentVersion{Number: number, Schema: schemaOf(content), Format: "JSON", Sha256: sum(content)}
	if !json.Valid([]byte(content)) {
		v.Format = "YAML"
	}
	d := cloud.Document{Name: ownName(name), Type: typeCommand, Default: number, Last: number, Versions: []cloud.DocumentVersion{v}}
	return text{doc: d, version: v, content: content, owner: "Amazon"}, true
}

// document returns the caller's own document.
func (s *Service) document(ctx context.Context, snap *store.Snapshot, name string) (store.Object[cloud.Document], error) {
	o, err := store.MirroredGet(snap, store.Documents, cloud.DocumentID(caller(ctx), ownName(name)))
	if _, _, ok := document.Builtin(name); ok {
		return o, cloud.Errorf("InvalidDocument", "Document %.128s is one that every account has, and nobody changes: create one of your own from what get-document shows", name)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && !s.own(ctx, name) {
		return o, cloud.Errorf("InvalidDocument", "Document with name %.128s does not exist: see list-documents", name)
	}
	return o, err
}

// text returns a version of a document that the caller may use, with its content.
func (s *Service) text(ctx context.Context, snap *store.Snapshot, name, version, called string) (text, error) {
	t, ok := builtin(name)
	if !ok {
		o, err := s.document(ctx, snap, name)
		if err != nil {
			return text{}, err
		}
		t = text{doc: o.Value, owner: string(o.Value.Account)}
	}
	var err error
	if t.version, err = t.doc.Version(version, called); err != nil || ok {
		return t, err
	}
	content, err := store.Get(ctx, s.Store, store.DocumentTexts, t.doc.TextID(t.version.Number))
	if errors.Is(err, store.ErrNotFound) { // deleted since the snapshot
		return t, cloud.Errorf("InvalidDocumentVersion", "Document %s has no version %d any more: see list-document-versions", t.doc.Name, t.version.Number)
	}
	t.content = content.Value
	return t, err
}

func sum(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

// hashed reports whether hash is the content's, as SendCommand's DocumentHash and DocumentHashType say.
func hashed(content, kind, hash string) error {
	var have string
	switch kind {
	case "", "Sha256":
		have = sum(content)
	case "Sha1":
		h := sha1.Sum([]byte(content)) // #nosec G401: to compare with what a caller has, not to protect
		have = hex.EncodeToString(h[:])
	default:
		return cloud.Errorf("ValidationException", "DocumentHashType is Sha256 or Sha1, not %.20q", kind)
	}
	if hash != "" && !strings.EqualFold(hash, have) {
		return cloud.Errorf("InvalidDocument", "The hash of the document is %s, and not the DocumentHash that was given: it is another text", have)
	}
	return nil
}

// schemaOf reads a document's schemaVersion as well as one can before it is parsed.
func schemaOf(content string) string {
	var v struct{ SchemaVersion string }
	if json.Unmarshal([]byte(content), &v) == nil {
		return v.SchemaVersion
	}
	if m := yamlSchema.FindStringSubmatch(content); m != nil {
		return m[1]
	}
	return ""
}

var yamlSchema = regexp.MustCompile(`(?m)^schemaVersion:[ \t]*["']?([0-9.]+)`)

// examine returns what is known of a text, or why it is not a document of the type.
func examine(kind, format, content string) (cloud.DocumentVersion, error) {
	v := cloud.DocumentVersion{Format: format, Sha256: sum(content), Schema: schemaOf(content)}
	if v.Format == "" {
		v.Format = "JSON"
	}
	switch {
	case len(content) > maxText:
		return v, cloud.Errorf("MaxDocumentSizeExceeded", "The document has %d bytes, and at most %d are allowed: make it smaller", len(content), maxText)
	case v.Format != "JSON" && v.Format != "YAML":
		return v, cloud.Errorf("InvalidDocumentContent", "DocumentFormat is %.20q: write the document in JSON or YAML", format)
	case !utf8.ValidString(content):
		return v, cloud.Errorf("InvalidDocumentContent", "The document is not text in UTF-8")
	case v.Format == "JSON" && !json.Valid([]byte(content)):
		return v, cloud.Errorf("InvalidDocumentContent", "The document is not JSON: if it is YAML, say so by DocumentFormat")
	case kind == typeSession:
		return v, session(v, content)
	}
	if !slices.Contains([]string{"1.2", "2.0", "2.2"}, v.Schema) {
		return v, cloud.Errorf("InvalidDocumentSchemaVersion", "schemaVersion is %.20q: a Command document has 2.2", v.Schema)
	}
	_, err := document.Parse([]byte(content))
	var e cloud.Error
	if errors.As(err, &e) && e.Code == "InvalidDocument" { // in SendCommand's words; in CreateDocument's it is the content that is wrong
		err = cloud.Errorf("InvalidDocumentContent", "%s", e.Message)
	}
	return v, err
}

// session looks at what makes a document one of a session; the rest is read when a session starts.
func session(v cloud.DocumentVersion, content string) error {
	raw, err := document.ToJSON([]byte(content))
	if err != nil {
		return cloud.Errorf("InvalidDocumentContent", "%s", err)
	}
	var d sessionDocument
	if err := json.Unmarshal(raw, &d); err != nil {
		return cloud.Errorf("InvalidDocumentContent", "The document is not one of a session: %v", err)
	}
	types := []string{"Standard_Stream", "InteractiveCommands", "NonInteractiveCommands", "Port"}
	switch {
	case d.SchemaVersion != "1.0":
		return cloud.Errorf("InvalidDocumentSchemaVersion", "schemaVersion is %.20q: a Session document has 1.0", d.SchemaVersion)
	case !slices.Contains(types, d.SessionType):
		return cloud.Errorf("InvalidDocumentContent", "sessionType is %.40q: give one of %s", d.SessionType, strings.Join(types, ", "))
	}
	return nil
}

// parameters are those that a text declares, in Systems Manager's shape.
func parameters(content string) (description string, out []shape.DocumentParameter) {
	d, err := document.Parse([]byte(content))
	if err != nil { // a document of a session, or one that was written for a newer version of ours
		var any struct{ Description string }
		_ = json.Unmarshal([]byte(content), &any)
		return any.Description, nil
	}
	for name, p := range d.Parameters {
		v := shape.DocumentParameter{Name: name, Type: p.Type, Description: p.Description}
		if p.Default != nil {
			v.DefaultValue = p.Default.String()
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b shape.DocumentParameter) int { return strings.Compare(a.Name, b.Name) })
	return d.Description, out
}

// commit carries out a change that decide makes of what there is, again if somebody else was faster.
func (s *Service) commit(ctx context.Context, decide func(snap *store.Snapshot) (*store.Txn, error)) error {
	return store.Change(ctx, s.Store, s.Mirror, decide)
}
