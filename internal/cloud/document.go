package cloud

import (
	"slices"
	"strconv"
	"time"
)

// Document is an account's own Systems Manager document: what is known of it, without the texts of its versions, which
// lie apart and never change.
type Document struct {
	Account  AccountID
	Name     string
	Type     string            // Command or Session
	Target   string            `json:",omitempty"` // TargetType, such as /AWS::EC2::Instance
	Tags     Tags              `json:",omitempty"`
	Default  int               // the version that is taken where none is named
	Last     int               // the newest that there has been: a number is never given twice
	Versions []DocumentVersion // from old to new
	Shared   []DocumentShare   `json:",omitempty"` // by account
}

// DocumentVersion is one text of a document.
type DocumentVersion struct {
	Number      int
	Name        string `json:",omitempty"` // VersionName, of the caller's choice
	DisplayName string `json:",omitempty"`
	Schema      string // schemaVersion
	Format      string // JSON or YAML
	Sha256      string // of the text, in hexadecimal
	Created     time.Time
}

// MaxDocumentVersions is how many versions a document may have had: Systems Manager's limit.
const MaxDocumentVersions = 1000

// DocumentID is the ID under which a document is kept: names are an account's own.
func DocumentID(account AccountID, name string) string { return string(account) + "/" + name }

// TextID is the ID under which the text of a version is kept.
func (d Document) TextID(version int) string {
	return DocumentID(d.Account, d.Name) + "/" + strconv.Itoa(version)
}

// Version returns the version that is meant by a number, $LATEST, $DEFAULT or "" (the default), or by its name where
// name is not empty. If both are given they must be of the same version.
func (d Document) Version(version, name string) (DocumentVersion, error) {
	var number int
	switch version {
	case "", "$DEFAULT":
		number = d.Default
	case "$LATEST":
		number = d.Versions[len(d.Versions)-1].Number
	default:
		number, _ = strconv.Atoi(version) // what is no number is no version's
	}
	for _, v := range d.Versions {
		if name != "" && v.Name == name && (version == "" || v.Number == number) || name == "" && v.Number == number {
			return v, nil
		}
	}
	if name != "" {
		version = name
	}
	return DocumentVersion{}, Errorf("InvalidDocumentVersion", "Document %s has no version %.128s: see list-document-versions", d.Name, version)
}

// Update returns the document with a new version, which is not the default yet.
func (d Document) Update(v DocumentVersion) (Document, error) {
	latest := d.Versions[len(d.Versions)-1]
	switch {
	case d.Last >= MaxDocumentVersions:
		return d, Errorf("DocumentVersionLimitExceeded", "Document %s has had %d versions, and that is the most: make a new document", d.Name, d.Last)
	case v.Sha256 == latest.Sha256:
		return d, Errorf("DuplicateDocumentContent", "The content is that of version %d of document %s, the latest", latest.Number, d.Name)
	case v.Name != "" && slices.ContainsFunc(d.Versions, func(o DocumentVersion) bool { return o.Name == v.Name }):
		return d, Errorf("DuplicateDocumentVersionName", "Document %s has a version named %s: choose another name", d.Name, v.Name)
	}
	d.Last++
	v.Number = d.Last
	d.Versions = append(slices.Clone(d.Versions), v)
	return d, nil
}

// Without returns the document without one of its versions, which may not be the default.
func (d Document) Without(number int) (Document, error) {
	if number == d.Default {
		return d, Errorf("InvalidDocumentOperation", "Version %d is the default of document %s: make another one the default first, or delete the document", number, d.Name)
	}
	d.Versions = slices.DeleteFunc(slices.Clone(d.Versions), func(v DocumentVersion) bool { return v.Number == number })
	return d, nil
}
