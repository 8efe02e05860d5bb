// Package document reads Run Command documents and turns them into scripts.
//
// A document (schema 2.2) declares typed parameters and steps. Parse refuses what this package does not
// carry out, rather than to run something else than was written: only aws:runShellScript steps run,
// and those for other platforms are skipped by their precondition. Fill checks a caller's values
// against the declarations and puts them in the place of {{ name }}, once: a value is never searched
// for further placeholders, and braces that name no parameter are left for the script.
//
// Callers are the API, which shows the errors (Systems Manager's codes) to its user as they are, and
// nobody else: a host gets scripts, not documents.
package document

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Limits of Systems Manager: a document's size, and how long a script may run, in seconds.
const (
	maxSize        = 64 << 10
	minTimeout     = 5
	maxTimeout     = 172800 // 48 hours
	defaultTimeout = 3600
	maxSteps       = 64 // ours: what one request to an agent holds
)

// The type of a step that runs, and the platform it runs on.
const (
	shellScript = "aws:runShellScript"
	platform    = "Linux"
)

// Document is a parsed Run Command document.
type Document struct {
	SchemaVersion string               `json:"schemaVersion"`
	Description   string               `json:"description,omitempty"`
	Parameters    map[string]Parameter `json:"parameters,omitempty"`
	Steps         []Step               `json:"mainSteps"`
}

// Step is one of a document's mainSteps.
type Step struct {
	Action       string        `json:"action"`
	Name         string        `json:"name"`
	Precondition *Precondition `json:"precondition,omitempty"`
	Inputs       Inputs        `json:"inputs"`
}

// Precondition runs a step only where both operands are equal. One may be platformType.
type Precondition struct {
	StringEquals []string `json:"StringEquals"`
}

// Inputs are those of aws:runShellScript. Each may hold placeholders.
type Inputs struct {
	RunCommand       Texts `json:"runCommand"`
	WorkingDirectory Text  `json:"workingDirectory,omitempty"`
	TimeoutSeconds   Text  `json:"timeoutSeconds,omitempty"`
}

// Text is a string which a document may also write as a number or a truth value.
type Text string

// UnmarshalJSON accepts a string, a number or a truth value.
func (t *Text) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) > 0 && data[0] == '"':
		return json.Unmarshal(data, (*string)(t))
	case len(data) > 0 && (data[0] == '{' || data[0] == '[' || data[0] == 'n'):
		return cloud.Errorf("InvalidDocument", "%.40s stands where the document needs a string", data)
	}
	*t = Text(data)
	return nil
}

// Texts is a list of strings, which a document may also write as one.
type Texts []string

// UnmarshalJSON accepts a string or a list of strings.
func (t *Texts) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		err := json.Unmarshal(data, &s)
		*t = Texts{s}
		return err
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func invalid(format string, args ...any) error {
	return cloud.Errorf("InvalidDocument", format, args...)
}

// Parse reads a document in JSON. Every error is a cloud.Error with a code of CreateDocument.
func Parse(content []byte) (Document, error) {
	var d Document
	if len(content) > maxSize {
		return d, cloud.Errorf("MaxDocumentSizeExceeded", "the document has %d bytes, at most %d are allowed: make it smaller", len(content), maxSize)
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		if cloud.Code(err) != "" {
			return d, err
		}
		return d, invalid("the document is not a JSON document of schema 2.2 as ichiro knows it: %v", err)
	}
	if dec.More() {
		return d, invalid("something follows the document: remove it")
	}
	return d, d.validate()
}

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	paramRef = regexp.MustCompile(`\{\{\s*([A-Za-z0-9]+)\s*\}\}`)
)

func (d Document) validate() error {
	if d.SchemaVersion != "2.2" {
		return invalid("schemaVersion is %.20q: only 2.2 is supported", d.SchemaVersion)
	}
	if len(d.Steps) == 0 || len(d.Steps) > maxSteps {
		return invalid("mainSteps has %d steps: give 1 to %d", len(d.Steps), maxSteps)
	}
	for name, p := range d.Parameters {
		if !paramName.MatchString(name) {
			return invalid("parameter name %.80q is not made of letters and digits", name)
		}
		if err := p.validate(name); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, s := range d.Steps {
		switch {
		case !nameForm.MatchString(s.Name):
			return invalid("step name %.80q is not made of letters, digits, - and _", s.Name)
		case seen[s.Name]:
			return invalid("two steps are named %s: rename one", s.Name)
		}
		seen[s.Name] = true
		if err := d.validateStep(s); err != nil {
			return err
		}
	}
	return nil
}

func (d Document) validateStep(s Step) error {
	if s.Precondition != nil && len(s.Precondition.StringEquals) != 2 {
		return invalid("the precondition of step %s needs StringEquals with two operands", s.Name)
	}
	if s.Action != shellScript {
		if s.elsewhere() {
			return nil
		}
		return invalid("step %s has the action %.80q: only %s is supported", s.Name, s.Action, shellScript)
	}
	if len(s.Inputs.RunCommand) == 0 {
		return invalid("step %s has no runCommand", s.Name)
	}
	if t := string(s.Inputs.TimeoutSeconds); t != "" && !paramRef.MatchString(t) {
		if _, ok := timeout(t); !ok {
			return invalid("timeoutSeconds of step %s is %.20q: give %d to %d", s.Name, t, minTimeout, maxTimeout)
		}
	}
	return nil
}

// elsewhere reports whether the step is for another platform than ours, whatever the parameters are.
func (s Step) elsewhere() bool {
	if s.Precondition == nil {
		return false
	}
	p := s.Precondition.StringEquals
	i := slices.Index(p, "platformType")
	return i >= 0 && p[1-i] != platform && !paramRef.MatchString(p[1-i])
}

// timeout reads seconds; the empty string is the default.
func timeout(s string) (int, bool) {
	if s == "" {
		return defaultTimeout, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= minTimeout && n <= maxTimeout
}
