package document

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/pattern"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// ToJSON returns the JSON of a document that is written in JSON or YAML.
func ToJSON(content []byte) ([]byte, error) {
	if text := bytes.TrimSpace(content); len(text) > 0 && text[0] == '{' {
		if d := depth(text); d > maxDepth {
			return nil, invalid("the document has %d levels, at most %d are allowed", d, maxDepth)
		}
		return text, nil // a mapping that begins with a brace in YAML is JSON, or an author's oversight
	}
	doc, err := yaml.Load(content)
	if err != nil {
		return nil, invalid("the document is neither JSON nor YAML: %v", err)
	}
	if doc.Root.Kind != yaml.Map {
		return nil, invalid("the document is no mapping of JSON or YAML, but %s", doc.Root.Kind)
	}
	var b bytes.Buffer
	if err := writeJSON(&b, doc.Root, 1); err != nil {
		return nil, err
	}
	if b.Len() > 4*maxSize { // aliases multiply
		return nil, invalid("the document has %d bytes when its aliases are followed", b.Len())
	}
	return b.Bytes(), nil
}

// depth returns how many levels JSON text has, without an opinion on whether it is any.
func depth(text []byte) (most int) {
	at, quoted := 0, false
	for n := 0; n < len(text); n++ {
		switch c := text[n]; {
		case quoted && c == '\\':
			n++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			at++
			most = max(most, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return most
}

// decimal is what is an integer in JSON, too.
var decimal = pattern.New(`^-?(0|[1-9][0-9]*)$`)

// writeJSON writes a value of YAML as JSON. What is a number or a truth value to everybody is one here; other words stay what their
// author wrote, whatever YAML 1.1 has for them: no is an answer, 22:22 two ports, and 2.20 a version.
func writeJSON(b *bytes.Buffer, v *yaml.Value, level int) error {
	if level > maxDepth {
		return invalid("line %d: the document has more than %d levels", v.Line, maxDepth)
	}
	switch {
	case v.Kind == yaml.Null:
		b.WriteString("null")
	case v.Kind == yaml.Bool && strings.EqualFold(v.Word, strconv.FormatBool(v.Bool)):
		b.WriteString(strconv.FormatBool(v.Bool))
	case v.Kind == yaml.Int && decimal.MatchString(v.Word):
		b.WriteString(v.Word)
	case v.Kind == yaml.List:
		b.WriteByte('[')
		for n, item := range v.List {
			if n > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, item, level+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case v.Kind == yaml.Map:
		b.WriteByte('{')
		for n, e := range v.Map {
			if n > 0 {
				b.WriteByte(',')
			}
			if e.Key.Kind == yaml.List || e.Key.Kind == yaml.Map {
				return invalid("line %d: a key is not a word", v.Line)
			}
			quote(b, written(e.Key))
			b.WriteByte(':')
			if err := writeJSON(b, e.Value, level+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	default:
		quote(b, written(v))
	}
	return nil
}

// written is a scalar as text.
func written(v *yaml.Value) string {
	if v.Kind == yaml.Bytes {
		return v.Text // what has the tag !!binary is written in base64
	}
	return v.Word
}

func quote(b *bytes.Buffer, s string) { b.WriteString(jsonText(s)) }

// jsonText returns v as JSON, with <, > and & as they are: they are for the shell, not for a browser.
func jsonText(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(v) // strings, and what was decoded from JSON, always encode
	return strings.TrimSuffix(b.String(), "\n")
}

// plugin is what schema 1.2 has for a kind of step: its inputs, once or more often.
type plugin struct {
	Description string          `json:"description,omitempty"`
	Settings    json.RawMessage `json:"settings,omitempty"`
	Properties  json.RawMessage `json:"properties"`
}

// unfold turns the steps of schema 1.2 into those of the later ones, in the order of their plugins' names, as they
// have none of their own.
func (d *Document) unfold() error {
	switch {
	case d.SchemaVersion != "1.2" && d.SchemaVersion != "2.0" && d.SchemaVersion != "2.2":
		return invalid("schemaVersion is %.20q: 1.2, 2.0 and 2.2 are supported", d.SchemaVersion)
	case d.Assume != nil:
		return invalid("assumeRole is for automation documents, which are not run here")
	case d.SchemaVersion != "1.2" && d.Runtime != nil:
		return invalid("runtimeConfig is of schema 1.2: write mainSteps")
	case d.SchemaVersion == "1.2" && d.Steps != nil:
		return invalid("mainSteps are of schema 2.2: write runtimeConfig, or another schemaVersion")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Runtime)) {
		p := d.Runtime[name]
		var all []json.RawMessage
		if text := bytes.TrimSpace(p.Properties); len(text) > 0 && text[0] == '[' {
			if err := json.Unmarshal(text, &all); err != nil {
				return invalid("properties of %.80q are not read: %v", name, err)
			}
		} else if len(text) > 0 {
			all = append(all, text)
		}
		short := name[strings.IndexByte(name, ':')+1:]
		for n, inputs := range all {
			step := Step{Action: name, Name: short, Inputs: inputs}
			if len(all) > 1 {
				step.Name += strconv.Itoa(n)
			}
			d.Steps = append(d.Steps, step)
		}
	}
	d.Runtime = nil
	return nil
}
