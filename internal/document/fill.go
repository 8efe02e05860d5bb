package document

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Sources is what an account has that its documents may name. A function that is nil has nothing.
type Sources struct {
	// Document returns the text of a document, by name or ARN and version, as aws:runDocument names it with documentType
	// SSMDocument. The version is empty for the default one.
	Document func(name, version string) (content []byte, err error)
	// Parameter returns a value of the parameter store, which {{ssm:NAME}} names. The selector of a version may be empty.
	Parameter func(name, selector string) (Stored, error)
}

// Stored is a value of the parameter store. That of a StringList has commas between its items.
type Stored struct {
	Text string
	List bool
}

// value is the stored one as that of a placeholder: a list becomes its items where a list may be, and is text elsewhere.
func (s Stored) value() Value {
	if !s.List {
		return Value{Items: []string{s.Text}}
	}
	return Value{Items: strings.Split(s.Text, ","), List: true, text: s.Text}
}

// maxNested is how deep documents may run documents. One that runs itself ends here.
const maxNested = 4

// Fill returns the steps that run on our platform with the caller's parameters in place. Every error is a
// cloud.Error with a code of SendCommand. A document that runs others of the account is refused: see FillWith.
func (d Document) Fill(given map[string][]string) ([]cloud.Step, error) {
	return d.FillWith(given, Sources{})
}

// FillWith is Fill with the account's documents and parameters at hand. The documents of every account are known without.
func (d Document) FillWith(given map[string][]string, from Sources) ([]cloud.Step, error) {
	left := maxSteps
	return d.fill(given, from, 0, &left)
}

func (d Document) fill(given map[string][]string, from Sources, level int, left *int) ([]cloud.Step, error) {
	stored, err := d.stored(given, from)
	if err != nil {
		return nil, err
	}
	values, err := d.values(given, stored)
	if err != nil {
		return nil, err
	}
	maps.Copy(values, stored)
	f := &filler{document: &d, values: values, from: from, level: level, left: left}
	var steps []cloud.Step
	for _, s := range d.Steps {
		if !f.runs(&s) {
			continue
		}
		if s.action == nil {
			return nil, invalid("step %s has the action %.80q, which is not supported on %s", s.Name, s.Action, platform)
		}
		if *left--; *left < 0 {
			return nil, invalid("the documents have more than %d steps together", maxSteps)
		}
		step := cloud.Step{Name: s.Name, Action: s.Action, OnFailure: string(s.OnFailure), OnSuccess: string(s.OnSuccess), Finally: s.finally}
		for name, p := range d.Parameters {
			if p.Interpolation == envVar {
				f.set(&step, "SSM_"+name, values[name].String())
			}
		}
		f.outer = s.Timeout
		if err := s.action.fill(f, &step); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	if len(steps) == 0 {
		return nil, cloud.Errorf("UnsupportedPlatformType", "The document has no step for %s", platform)
	}
	return steps, nil
}

// filler puts values into the steps of one document.
type filler struct {
	document *Document
	values   map[string]Value
	from     Sources
	level    int
	left     *int // how many more steps there may be, those of nested documents included
	outer    Text // the timeout that the step has beside its inputs

	downloaded bool // a step before has downloaded something
}

// refuse is for what only the values make wrong.
func refuse(format string, args ...any) error {
	return cloud.Errorf("InvalidParameters", format, args...)
}

// runs decides a precondition.
func (f *filler) runs(s *Step) bool {
	if s.Precondition == nil {
		return true
	}
	var operand [2]string
	for i, o := range s.Precondition.StringEquals {
		if operand[i] = f.text(Text(o)); o == "platformType" {
			operand[i] = platform
		}
	}
	return operand[0] == operand[1]
}

func (f *filler) timeout(s *cloud.Step, t Text) (err error) {
	if t == "" {
		t = f.outer
	}
	var ok bool
	if s.TimeoutSeconds, ok = timeout(strings.TrimSpace(f.text(t))); !ok {
		return refuse("The timeout of step %s must be %d to %d seconds", s.Name, minTimeout, maxTimeout)
	}
	return nil
}

func (f *filler) set(s *cloud.Step, name, value string) {
	if s.Environment == nil {
		s.Environment = map[string]string{}
	}
	s.Environment[name] = value
}

// other returns the filled steps of another document.
func (f *filler) other(name string, given map[string][]string) ([]cloud.Step, error) {
	if f.level+1 >= maxNested {
		return nil, invalid("documents run documents more than %d deep", maxNested)
	}
	content, err := f.find(name)
	if err != nil {
		return nil, err
	}
	d, err := Parse(content)
	if err != nil {
		return nil, err
	}
	return d.fill(given, f.from, f.level+1, f.left)
}

func (f *filler) find(path string) ([]byte, error) {
	// The version follows the last colon, but for an ARN's own colons: they are before its slash.
	name, version := path, ""
	if at := strings.LastIndexByte(path, ':'); at > strings.LastIndexByte(path, '/') && (!strings.HasPrefix(path, "arn:") || strings.Contains(path, "/")) {
		name, version = path[:at], path[at+1:]
	}
	if text, _, ok := Builtin(name); ok {
		return []byte(text), nil
	}
	if f.from.Document == nil {
		return nil, cloud.Errorf("InvalidDocument", "Document with name %.128s does not exist", name)
	}
	return f.from.Document(name, version)
}

// script joins the lines of runCommand. A value that goes in by the environment is not pasted.
func (f *filler) script(lines []string) string {
	pasted := map[string]Value{}
	for name, v := range f.values {
		if f.document.Parameters[name].Interpolation != envVar {
			pasted[name] = v
		}
	}
	var b strings.Builder
	for _, l := range expand(lines, pasted) {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}

func (f *filler) lines(lines []string) []string { return expand(lines, f.values) }

func (f *filler) text(t Text) string { return fill(string(t), f.values) }

// object returns the JSON of a mapping that a document writes as one, or as a string with placeholders. In a mapping the
// placeholders are replaced in its strings, so that a value never becomes a key or a further string.
func (f *filler) object(raw json.RawMessage) (string, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		var inner map[string]any
		if json.Unmarshal([]byte(v), &inner) == nil { // JSON before values are in it: they stay strings
			return jsonText(f.within(inner)), nil
		}
		return f.text(Text(v)), nil
	case map[string]any:
		return jsonText(f.within(v)), nil
	}
	return "", errors.New("it is neither a mapping nor a string")
}

func (f *filler) within(v any) any {
	switch v := v.(type) {
	case string:
		if m := paramRef.FindStringSubmatch(v); m != nil && strings.TrimSpace(v) == m[0] {
			if value, ok := f.values[m[1]]; ok && value.List {
				return value.Items
			}
		}
		return f.text(Text(v))
	case map[string]any:
		out := map[string]any{}
		for k, item := range v {
			out[k] = f.within(item)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, item := range v {
			filled := f.within(item)
			if list, ok := filled.([]string); ok { // of a placeholder: its items are some of these
				for _, one := range list {
					out = append(out, one)
				}
				continue
			}
			out = append(out, filled)
		}
		return out
	}
	return v
}

// expand fills lines. One that is nothing but a placeholder of a list becomes the lines of the list.
func expand(lines []string, values map[string]Value) (all []string) {
	for _, line := range lines {
		if m := paramRef.FindStringSubmatch(line); m != nil && strings.TrimSpace(line) == m[0] {
			if v, ok := values[m[1]]; ok {
				all = append(all, v.Items...)
				continue
			}
		}
		all = append(all, fill(line, values))
	}
	return all
}

// fill puts values in the place of their placeholders. Braces that name no parameter stay: they may be a
// template for a program that the script calls.
func fill(s string, values map[string]Value) string {
	return paramRef.ReplaceAllStringFunc(s, func(ref string) string {
		if v, ok := values[paramRef.FindStringSubmatch(ref)[1]]; ok {
			return v.String()
		}
		return ref
	})
}
