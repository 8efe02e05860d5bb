// Package document reads Run Command documents and turns them into steps for a guest.
//
// A document (schema 1.2, 2.0 or 2.2, in JSON or YAML) declares typed parameters and steps. Parse refuses what this
// package does not know, rather than to have something else done than was written; steps for other platforms may say
// what they like, and are skipped by their precondition. Fill checks a caller's values against the declarations and puts
// them in the place of {{ name }}, once: a value is never searched for further placeholders, and braces that name no
// parameter are left for the script. A parameter with interpolationType ENV_VAR is never put into a script: it is there as the
// variable SSM_<name>.
//
//	text -> Parse -> Document -> Fill(values) -> []cloud.Step -> the agent in the guest
//
// Callers are the API, which shows the errors (Systems Manager's codes) to its user as they are, and the agent, for
// a document that lies in the guest. Both may be given hostile text: size, depth and numbers are bounded.
package document

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/pattern"
)

// Limits of Systems Manager: a document's size, and how long a script may run, in seconds.
const (
	maxSize        = 64 << 10
	minTimeout     = 5
	maxTimeout     = 172800 // 48 hours
	defaultTimeout = 3600
	maxSteps       = 64 // ours: what one request to an agent holds
	maxDepth       = 32 // ours: no document of Systems Manager's own has more than ten levels
)

// platform is what the steps run on.
const platform = "Linux"

// Document is a parsed Run Command document.
type Document struct {
	SchemaVersion string               `json:"schemaVersion"`
	Description   string               `json:"description,omitempty"`
	Assume        json.RawMessage      `json:"assumeRole,omitempty"` // of automation: refused
	Parameters    map[string]Parameter `json:"parameters,omitempty"`
	Steps         []Step               `json:"mainSteps,omitempty"`
	Runtime       map[string]plugin    `json:"runtimeConfig,omitempty"` // what schema 1.2 has for steps
}

// Step is one of a document's mainSteps.
type Step struct {
	Action       string          `json:"action"`
	Name         string          `json:"name"`
	Description  string          `json:"description,omitempty"`
	Precondition *Precondition   `json:"precondition,omitempty"`
	Inputs       json.RawMessage `json:"inputs"`
	Timeout      Text            `json:"timeoutSeconds,omitempty"` // some authors write it here
	OnFailure    Text            `json:"onFailure,omitempty"`      // this and the next two may stand among the inputs
	OnSuccess    Text            `json:"onSuccess,omitempty"`
	FinallyStep  Text            `json:"finallyStep,omitempty"`
	IsEnd        bool            `json:"isEnd,omitempty"` // of automation: refused

	finally bool   // what FinallyStep says
	action  action // what Inputs say; nil for a step of another platform
}

// Precondition runs a step only where both operands are equal. One may be platformType.
type Precondition struct {
	StringEquals []string `json:"StringEquals"`
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

// UnmarshalJSON accepts a string or a list of strings, numbers and truth values.
func (t *Texts) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '[' {
		var one Text
		err := one.UnmarshalJSON(data)
		*t = Texts{string(one)}
		return err
	}
	var all []Text
	err := json.Unmarshal(data, &all)
	*t = nil
	for _, s := range all {
		*t = append(*t, string(s))
	}
	return err
}

func invalid(format string, args ...any) error {
	return cloud.Errorf("InvalidDocument", format, args...)
}

// Parse reads a document in JSON or YAML. Every error is a cloud.Error with a code of CreateDocument.
func Parse(content []byte) (Document, error) {
	var d Document
	if len(content) > maxSize {
		return d, cloud.Errorf("MaxDocumentSizeExceeded", "the document has %d bytes, at most %d are allowed: make it smaller", len(content), maxSize)
	}
	content, err := ToJSON(content)
	if err != nil {
		return d, err
	}
	if err := strict(content, &d); err != nil {
		if cloud.Code(err) != "" {
			return d, err
		}
		return d, invalid("the document is not one of schema 1.2, 2.0 or 2.2 as ichiro knows them: %v", err)
	}
	if err := d.unfold(); err != nil {
		return d, err
	}
	return d, d.validate()
}

// strict decodes JSON with unknown fields refused.
func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return invalid("something follows the document: remove it")
	}
	return nil
}

// word is a form with a greatest length. The length is no part of the pattern: {1,128} is compiled to 128 states.
type word struct {
	form *pattern.Pattern
	most int
}

// MatchString reports whether the whole of s has the form.
func (w word) MatchString(s string) bool { return len(s) <= w.most && w.form.MatchString(s) }

var (
	nameForm = word{pattern.New(`^[A-Za-z0-9_-]+$`), 128}
	// paramRef is a placeholder: of a parameter of the document, or of the store as {{ssm:NAME}} or {{ssm:NAME:VERSION}}.
	paramRef = pattern.New(`\{\{\s*([A-Za-z0-9]+|ssm(?:-secure)?:[A-Za-z0-9_./:-]+)\s*\}\}`)
)

func (d *Document) validate() error {
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
	for n := range d.Steps {
		s := &d.Steps[n]
		if err := s.lift(); err != nil {
			return err
		}
		finally, err := strconv.ParseBool(cmp.Or(string(s.FinallyStep), "false"))
		s.finally = finally
		switch {
		case err != nil:
			return invalid("finallyStep of step %.80s is %.40q: give true or false", s.Name, s.FinallyStep)
		case !nameForm.MatchString(s.Name):
			return invalid("step name %.80q is not made of letters, digits, - and _", s.Name)
		case seen[s.Name]:
			return invalid("two steps are named %s: rename one", s.Name)
		case s.finally && n != len(d.Steps)-1:
			return invalid("step %s is a finallyStep, and not the last: put it at the end", s.Name)
		}
		seen[s.Name] = true
		if err := d.validateStep(s); err != nil {
			return err
		}
	}
	return nil
}

// lift takes what decides about the steps that follow from among the inputs, where Systems Manager has it for every action:
// https://docs.aws.amazon.com/systems-manager/latest/userguide/documents-command-ssm-plugin-reference.html#shared-inputs
func (s *Step) lift() error {
	var inputs map[string]json.RawMessage
	if json.Unmarshal(s.Inputs, &inputs) != nil {
		return nil // whoever reads them says so
	}
	had := len(inputs)
	for name, to := range map[string]*Text{"onFailure": &s.OnFailure, "onSuccess": &s.OnSuccess, "finallyStep": &s.FinallyStep} {
		if raw, ok := inputs[name]; ok {
			if err := to.UnmarshalJSON(raw); err != nil {
				return err
			}
			delete(inputs, name)
		}
	}
	if len(inputs) == had {
		return nil
	}
	var err error
	s.Inputs, err = json.Marshal(inputs)
	return err
}

func (d *Document) validateStep(s *Step) (err error) {
	switch {
	case s.Precondition != nil && len(s.Precondition.StringEquals) != 2:
		return invalid("the precondition of step %s needs StringEquals with two operands", s.Name)
	case s.Precondition != nil && d.SchemaVersion != "2.2":
		return invalid("step %s has a precondition, which needs schemaVersion 2.2", s.Name)
	case s.OnFailure != "" && s.OnFailure != "exit" && s.OnFailure != "successAndExit":
		return invalid("onFailure of step %s is %.40q: give exit or successAndExit, or leave it out to go on", s.Name, s.OnFailure)
	case s.OnSuccess != "" && s.OnSuccess != "exit":
		return invalid("onSuccess of step %s is %.40q: give exit, or leave it out to go on", s.Name, s.OnSuccess)
	case s.IsEnd:
		return invalid("step %s has isEnd, which automation documents have: give onSuccess: exit", s.Name)
	}
	s.action, err = parseAction(s)
	if err != nil && s.elsewhere() {
		s.action, err = nil, nil
	}
	return err
}

// elsewhere reports whether the step is for another platform than ours, whatever the parameters are.
func (s *Step) elsewhere() bool {
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
