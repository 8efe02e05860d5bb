package ssm

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// documentActions are the actions on documents, each with the document that it needs permission for.
func (s *Service) documentActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateDocument", s.CreateDocument, api.Resource(func(in *shape.CreateDocumentInput) []string { return documentARN(in.Name) })),
		api.Do("UpdateDocument", s.UpdateDocument, api.Resource(func(in *shape.UpdateDocumentInput) []string { return documentARN(in.Name) })),
		api.Do("UpdateDocumentDefaultVersion", s.UpdateDocumentDefaultVersion,
			api.Resource(func(in *shape.UpdateDocumentDefaultVersionInput) []string { return documentARN(in.Name) })),
		api.Do("DeleteDocument", s.DeleteDocument, api.Resource(func(in *shape.DeleteDocumentInput) []string { return documentARN(in.Name) })),
		api.Do("GetDocument", s.GetDocument, ro, api.Resource(func(in *shape.GetDocumentInput) []string { return documentARN(in.Name) })),
		api.Do("DescribeDocument", s.DescribeDocument, ro, api.Resource(func(in *shape.DescribeDocumentInput) []string { return documentARN(in.Name) })),
		api.Do("ListDocumentVersions", s.ListDocumentVersions, ro, api.Resource(func(in *shape.ListDocumentVersionsInput) []string { return documentARN(in.Name) })),
		api.Do("ListDocuments", s.ListDocuments, ro),
		api.Do("ModifyDocumentPermission", s.ModifyDocumentPermission,
			api.Resource(func(in *shape.ModifyDocumentPermissionInput) []string { return documentARN(in.Name) })),
		api.Do("DescribeDocumentPermission", s.DescribeDocumentPermission, ro,
			api.Resource(func(in *shape.DescribeDocumentPermissionInput) []string { return documentARN(in.Name) })),
	}
}

func documentARN(name string) []string { return []string{"document/" + ownName(name)} }

// CreateDocument keeps a document, whose version 1 is the default.
func (s *Service) CreateDocument(ctx context.Context, in *shape.CreateDocumentInput) (*shape.CreateDocumentOutput, error) {
	d := cloud.Document{Account: caller(ctx), Name: in.Name, Type: in.DocumentType, Target: in.TargetType, Default: 1, Last: 1}
	if d.Type == "" {
		d.Type = typeCommand
	}
	if err := creatable(in, d); err != nil {
		return nil, err
	}
	v, err := examine(d.Type, in.DocumentFormat, in.Content)
	if err != nil {
		return nil, err
	}
	if d.Tags, err = merge(nil, in.Tags); err != nil {
		return nil, err
	}
	v.Number, v.Name, v.DisplayName, v.Created = 1, in.VersionName, in.DisplayName, s.Now().UTC()
	d.Versions = []cloud.DocumentVersion{v}
	id := cloud.DocumentID(d.Account, d.Name)
	err = s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		if _, err := store.MirroredGet(snap, store.Documents, id); err == nil {
			return nil, cloud.Errorf("DocumentAlreadyExists", "Document with name %s already exists: update it, or choose another name", d.Name)
		}
		all, err := s.documents(ctx, snap)
		if err == nil && len(all) >= maxDocuments {
			err = cloud.Errorf("DocumentLimitExceeded", "There are %d documents, and that is the most: delete some", len(all))
		}
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		store.Create(t, store.Documents, id, d)
		store.Put(t, store.DocumentTexts, d.TextID(1), in.Content)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	note{Version: "1", SHA256: v.Sha256}.on(ctx)
	return &shape.CreateDocumentOutput{DocumentDescription: describe(text{d, v, in.Content, string(d.Account)})}, nil
}

// creatable refuses names, types and wishes that no document may have, or none has yet.
func creatable(in *shape.CreateDocumentInput, d cloud.Document) error {
	lower := strings.ToLower(in.Name)
	reserved := slices.ContainsFunc([]string{"aws", "amazon", "amzn"}, func(p string) bool { return strings.HasPrefix(lower, p) })
	switch {
	case !documentName.MatchString(in.Name):
		return cloud.Errorf("ValidationException", "Name has 3 to 128 letters, digits, and characters of _ - .")
	case reserved:
		return cloud.Errorf("ValidationException", "Names that begin with aws, amazon or amzn are those of the documents that every account has: choose another name")
	case d.Type != typeCommand && d.Type != typeSession:
		return cloud.Errorf("ValidationException", "DocumentType is %.40q: Command and Session are there", in.DocumentType)
	case len(in.Attachments) > 0 || len(in.Requires) > 0:
		return cloud.Errorf("ValidationException", "Attachments and Requires are not there yet: leave them out")
	}
	return namable(in.VersionName, in.DisplayName, in.TargetType)
}

func namable(version, display, target string) error {
	switch {
	case version != "" && !versionName.MatchString(version):
		return cloud.Errorf("ValidationException", "VersionName has 1 to 128 letters, digits, and characters of _ - .")
	case len(display) > 1024:
		return cloud.Errorf("ValidationException", "DisplayName may have 1024 characters")
	case target != "" && (len(target) > 200 || !targetType.MatchString(target)):
		return cloud.Errorf("ValidationException", "TargetType is such as /AWS::EC2::Instance, of at most 200 characters")
	}
	return nil
}

// UpdateDocument adds a version, which becomes the latest and not the default.
func (s *Service) UpdateDocument(ctx context.Context, in *shape.UpdateDocumentInput) (*shape.UpdateDocumentOutput, error) {
	if len(in.Attachments) > 0 {
		return nil, cloud.Errorf("ValidationException", "Attachments are not there yet: leave them out")
	}
	if err := namable(in.VersionName, in.DisplayName, in.TargetType); err != nil {
		return nil, err
	}
	var d cloud.Document
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.document(ctx, snap, in.Name)
		if err != nil {
			return nil, err
		}
		latest, _ := o.Value.Version("$LATEST", "")
		if in.DocumentVersion != "" {
			of, err := o.Value.Version(in.DocumentVersion, "")
			if err != nil {
				return nil, err
			}
			if of.Number != latest.Number {
				return nil, cloud.Errorf("InvalidDocumentVersion", "Only the latest version of document %s can be updated: give $LATEST", o.Value.Name)
			}
		}
		format := in.DocumentFormat
		if format == "" {
			format = latest.Format
		}
		v, err := examine(o.Value.Type, format, in.Content)
		if err != nil {
			return nil, err
		}
		v.Name, v.DisplayName, v.Created = in.VersionName, in.DisplayName, s.Now().UTC()
		if v.DisplayName == "" {
			v.DisplayName = latest.DisplayName
		}
		if d, err = o.Value.Update(v); err != nil {
			return nil, err
		}
		if in.TargetType != "" {
			d.Target = in.TargetType
		}
		t := store.NewTxn()
		store.Update(t, store.Documents, o, d)
		store.Put(t, store.DocumentTexts, d.TextID(d.Last), in.Content)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	added := d.Versions[len(d.Versions)-1]
	note{Version: strconv.Itoa(added.Number), SHA256: added.Sha256}.on(ctx)
	return &shape.UpdateDocumentOutput{DocumentDescription: describe(text{d, added, in.Content, string(d.Account)})}, nil
}

// UpdateDocumentDefaultVersion chooses the version that is taken where none is named.
func (s *Service) UpdateDocumentDefaultVersion(ctx context.Context, in *shape.UpdateDocumentDefaultVersionInput) (*shape.UpdateDocumentDefaultVersionOutput, error) {
	var v cloud.DocumentVersion
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.document(ctx, snap, in.Name)
		if err != nil {
			return nil, err
		}
		if v, err = o.Value.Version(in.DocumentVersion, ""); err != nil {
			return nil, err
		}
		next := o.Value
		next.Default = v.Number
		t := store.NewTxn()
		store.Update(t, store.Documents, o, next)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	note{Version: strconv.Itoa(v.Number), SHA256: v.Sha256}.on(ctx)
	return &shape.UpdateDocumentDefaultVersionOutput{Description: &shape.DocumentDefaultVersionDescription{
		Name: ownName(in.Name), DefaultVersion: strconv.Itoa(v.Number), DefaultVersionName: v.Name}}, nil
}

// DeleteDocument removes a document, or one version of it. Commands that were sent have their steps and go on.
func (s *Service) DeleteDocument(ctx context.Context, in *shape.DeleteDocumentInput) (*shape.DeleteDocumentOutput, error) {
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.document(ctx, snap, in.Name)
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		if in.DocumentVersion == "" && in.VersionName == "" {
			if len(o.Value.Shared) > 0 {
				return nil, cloud.Errorf("InvalidDocumentOperation", "Document %s is shared: stop that first, by modify-document-permission", o.Value.Name)
			}
			store.Delete(t, store.Documents, o)
			for _, v := range o.Value.Versions {
				store.Remove(t, store.DocumentTexts, o.Value.TextID(v.Number))
			}
			return t, nil
		}
		v, err := o.Value.Version(in.DocumentVersion, in.VersionName)
		if err != nil {
			return nil, err
		}
		next, err := o.Value.Without(v.Number)
		if err != nil {
			return nil, err
		}
		note{Version: strconv.Itoa(v.Number), SHA256: v.Sha256}.on(ctx)
		store.Update(t, store.Documents, o, next)
		store.Remove(t, store.DocumentTexts, o.Value.TextID(v.Number))
		return t, nil
	})
	return &shape.DeleteDocumentOutput{}, err
}

// GetDocument shows the text of a version.
func (s *Service) GetDocument(ctx context.Context, in *shape.GetDocumentInput) (*shape.GetDocumentOutput, error) {
	t, err := s.text(ctx, s.Mirror.Snapshot(), in.Name, in.DocumentVersion, in.VersionName)
	if err != nil {
		return nil, err
	}
	v := t.version
	translate := map[string]func([]byte) ([]byte, error){"JSON": document.ToJSON, "YAML": document.ToYAML}[in.DocumentFormat]
	switch {
	case in.DocumentFormat == "" || in.DocumentFormat == v.Format:
	case translate == nil:
		return nil, cloud.Errorf("ValidationException", "DocumentFormat is JSON or YAML, not %.20q", in.DocumentFormat)
	default:
		other, err := translate([]byte(t.content))
		if err != nil {
			return nil, err
		}
		t.content, v.Format = string(other), in.DocumentFormat
	}
	out := &shape.GetDocumentOutput{
		Name: t.doc.Name, Content: t.content, DisplayName: v.DisplayName, DocumentFormat: v.Format, DocumentType: t.doc.Type,
		DocumentVersion: strconv.Itoa(v.Number), VersionName: v.Name, Status: "Active",
	}
	if !v.Created.IsZero() {
		out.CreatedDate = &v.Created
	}
	return out, nil
}

// DescribeDocument shows all of a version but its text.
func (s *Service) DescribeDocument(ctx context.Context, in *shape.DescribeDocumentInput) (*shape.DescribeDocumentOutput, error) {
	t, err := s.text(ctx, s.Mirror.Snapshot(), in.Name, in.DocumentVersion, in.VersionName)
	if err != nil {
		return nil, err
	}
	return &shape.DescribeDocumentOutput{Document: describe(t)}, nil
}

// describe is a version of a document in Systems Manager's shape.
func describe(t text) *shape.DocumentDescription {
	v := t.version
	out := &shape.DocumentDescription{
		Name: t.doc.Name, Owner: t.owner, DisplayName: v.DisplayName, DocumentType: t.doc.Type, DocumentFormat: v.Format, SchemaVersion: v.Schema,
		DocumentVersion: strconv.Itoa(v.Number), VersionName: v.Name, DefaultVersion: strconv.Itoa(t.doc.Default),
		LatestVersion: strconv.Itoa(t.doc.Versions[len(t.doc.Versions)-1].Number), Hash: v.Sha256, HashType: "Sha256", Status: "Active",
		PlatformTypes: platforms, TargetType: t.doc.Target, Tags: tags(t.doc.Tags),
	}
	if !v.Created.IsZero() {
		out.CreatedDate = &v.Created
	}
	out.Description, out.Parameters = parameters(t.content)
	return out
}

// platforms are where documents run: what guests there are.
var platforms = []string{"Linux"}

// ListDocumentVersions shows the versions of a document, from old to new.
func (s *Service) ListDocumentVersions(ctx context.Context, in *shape.ListDocumentVersionsInput) (*shape.ListDocumentVersionsOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	t, ok := builtin(in.Name)
	if !ok {
		o, err := s.document(ctx, snap, in.Name)
		if err != nil {
			return nil, err
		}
		t.doc = o.Value
	}
	var out []shape.DocumentVersionInfo
	for _, v := range t.doc.Versions {
		info := shape.DocumentVersionInfo{
			Name: t.doc.Name, DocumentVersion: strconv.Itoa(v.Number), VersionName: v.Name, DisplayName: v.DisplayName, DocumentFormat: v.Format,
			IsDefaultVersion: ptr(v.Number == t.doc.Default), Status: "Active",
		}
		if !v.Created.IsZero() {
			info.CreatedDate = &v.Created
		}
		out = append(out, info)
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(v shape.DocumentVersionInfo) string {
		return strings.Repeat("0", 4-len(v.DocumentVersion)) + v.DocumentVersion
	})
	return &shape.ListDocumentVersionsOutput{DocumentVersions: cut, NextToken: next}, nil
}

// documents returns the caller's own documents.
func (s *Service) documents(ctx context.Context, snap *store.Snapshot) ([]cloud.Document, error) {
	all, err := store.Mirrored(snap, store.Documents)
	var out []cloud.Document
	for _, o := range all {
		if o.Value.Account == caller(ctx) {
			out = append(out, o.Value)
		}
	}
	return out, err
}

// ListDocuments shows the caller's documents and those that every account has.
func (s *Service) ListDocuments(ctx context.Context, in *shape.ListDocumentsInput) (*shape.ListDocumentsOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	filters := map[string][]string{}
	for _, f := range in.DocumentFilterList {
		filters[strings.ToUpper(f.Key[:min(1, len(f.Key))])+f.Key[min(1, len(f.Key)):]] = []string{f.Value}
	}
	for _, f := range in.Filters {
		filters[f.Key] = f.Values
	}
	if len(in.DocumentFilterList)+len(in.Filters) > len(filters) {
		return nil, cloud.Errorf("InvalidFilterKey", "A filter key is given twice: give one with all its values")
	}
	own, err := s.documents(ctx, snap)
	if err != nil {
		return nil, err
	}
	var all []text
	for _, d := range own {
		v, _ := d.Version("", "")
		all = append(all, text{doc: d, version: v, owner: string(d.Account)})
	}
	for _, name := range document.Builtins() {
		t, _ := builtin(name)
		all = append(all, t)
	}
	var out []shape.DocumentIdentifier
	for _, t := range all {
		keep := true
		for _, key := range slices.Sorted(maps.Keys(filters)) {
			ok, err := listed(t, key, filters[key])
			if err != nil {
				return nil, err
			}
			keep = keep && ok
		}
		if keep {
			out = append(out, identify(t))
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(v shape.DocumentIdentifier) string { return v.Name })
	return &shape.ListDocumentsOutput{DocumentIdentifiers: cut, NextToken: next}, nil
}

func identify(t text) shape.DocumentIdentifier {
	out := shape.DocumentIdentifier{
		Name: t.doc.Name, Owner: t.owner, DisplayName: t.version.DisplayName, DocumentFormat: t.version.Format, DocumentType: t.doc.Type,
		DocumentVersion: strconv.Itoa(t.version.Number), VersionName: t.version.Name, SchemaVersion: t.version.Schema,
		PlatformTypes: platforms, TargetType: t.doc.Target, Tags: tags(t.doc.Tags),
	}
	if len(t.doc.Versions) > 0 && !t.doc.Versions[0].Created.IsZero() {
		out.CreatedDate = &t.doc.Versions[0].Created
	}
	return out
}

// listed applies one filter of ListDocuments. Names and words match from their beginning, the rest as a whole.
func listed(t text, key string, values []string) (bool, error) {
	any := func(f func(v string) bool) (bool, error) { return slices.ContainsFunc(values, f), nil }
	switch key {
	case "Name":
		return any(func(v string) bool { return strings.HasPrefix(t.doc.Name, v) })
	case "Owner":
		return any(func(v string) bool {
			if v == "Public" {
				return t.doc.Public()
			}
			return v == "All" || (v == "Amazon") == (t.owner == "Amazon") && (v == "Amazon" || v == "Self" || v == "Private")
		})
	case "DocumentType":
		return any(func(v string) bool { return v == t.doc.Type })
	case "PlatformTypes":
		return any(func(v string) bool { return slices.Contains(platforms, v) })
	case "TargetType":
		return any(func(v string) bool { return v == t.doc.Target })
	case "SearchKeyword":
		name := strings.ToLower(t.doc.Name + " " + t.version.DisplayName)
		return any(func(v string) bool { return strings.Contains(name, strings.ToLower(v)) })
	}
	if ofTags(key) {
		return haveTag(t.doc.Tags, key, values), nil
	}
	return false, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known", key)
}
