// Package jinja fills the instance's data into user data that asks for it by "## template: jinja".
//
// It knows the part of the language that provisioning uses: {{ v1.region }}, {{ ds.meta_data.local_hostname }}, names in
// brackets, numbers of a list, the filter default, comments. A name with a dash may be written with it or with an
// underscore, and what stands below v1 may be written without it, as in cloud-init. Everything else, such as blocks, is an
// error that names its line: half a template is not carried out.
package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// Missing stands in the result, with the name after it, where the data has nothing: cloud-init's mark.
const Missing = "CI_MISSING_JINJA_VAR/"

// ErrSyntax is returned for a template that is malformed or uses what is not supported.
var ErrSyntax = errors.New("template not understood")

// tag is one {{ }}, {% %} or {# #} and the text before it.
type tag struct {
	before string
	kind   byte // of the brackets; 0: none followed
	inner  string
}

// next takes the text until the end of a tag off s. ok is false if the tag is never closed.
func next(s string) (t tag, rest string, ok bool) {
	for at := 0; ; at++ {
		brace := strings.IndexByte(s[at:], '{')
		if brace < 0 || at+brace+1 == len(s) {
			return tag{before: s}, "", true
		}
		at += brace
		closing, known := map[byte]string{'{': "}}", '%': "%}", '#': "#}"}[s[at+1]]
		if !known {
			continue
		}
		t = tag{before: s[:at], kind: s[at+1]}
		t.inner, rest, ok = strings.Cut(s[at+2:], closing)
		return t, rest, ok
	}
}

// Render returns the text below the first line with the data in it, and the names that the data does not have.
func Render(text string, data *yaml.Value) (out string, missing []string, err error) {
	const space = " \t\r\n"
	_, rest, _ := strings.Cut(text, "\n")
	line := 2
	var b strings.Builder
	for trim := false; ; { // trim: the tag before said so with -}}
		t, after, ok := next(rest)
		line += strings.Count(t.before, "\n")
		if trim {
			t.before = strings.TrimLeft(t.before, space)
		}
		if !ok {
			return "", nil, fmt.Errorf("%w: line %d: {%c is never closed", ErrSyntax, line, t.kind)
		}
		lines := strings.Count(t.inner, "\n")
		inner, left := strings.CutPrefix(t.inner, "-")
		inner, trim = strings.CutSuffix(inner, "-")
		if left {
			t.before = strings.TrimRight(t.before, space)
		}
		b.WriteString(t.before)
		switch t.kind {
		case 0:
			return b.String(), missing, nil
		case '%':
			return "", nil, fmt.Errorf("%w: line %d: blocks such as {%%%.40s%%} are not supported, only {{ names }}", ErrSyntax, line, inner)
		case '{':
			v, name, err := evaluate(inner, data)
			switch {
			case err != nil:
				return "", nil, fmt.Errorf("%w: line %d: {{%.60s}}: %v", ErrSyntax, line, inner, err)
			case v == nil:
				missing = append(missing, name)
				b.WriteString(Missing + name)
			default:
				b.WriteString(v.Str())
			}
		}
		line += lines
		rest = after
	}
}

// evaluate finds the value of an expression; nil and its name if there is none.
func evaluate(text string, data *yaml.Value) (*yaml.Value, string, error) {
	s := scanner{rest: text}
	v, name, err := s.operand(data)
	for err == nil && s.take("|") {
		v, err = s.filter(v, data)
	}
	if err == nil && s.peek() != 0 {
		err = fmt.Errorf("nothing is done with %.40q", s.rest)
	}
	return v, name, err
}

// scanner reads an expression from its left.
type scanner struct{ rest string }

// peek is the next byte that is no space; 0 at the end.
func (s *scanner) peek() byte {
	if s.rest = strings.TrimLeft(s.rest, " \t\r\n"); s.rest == "" {
		return 0
	}
	return s.rest[0]
}

func (s *scanner) take(token string) (ok bool) {
	s.peek()
	s.rest, ok = strings.CutPrefix(s.rest, token)
	return ok
}

func (s *scanner) quote() bool { return s.peek() == '"' || s.peek() == '\'' }

// operand is a literal or a path of names.
func (s *scanner) operand(data *yaml.Value) (*yaml.Value, string, error) {
	if s.quote() {
		text, err := s.literal()
		return &yaml.Value{Kind: yaml.String, Text: text}, "", err
	}
	name := s.name()
	if name == "" {
		return nil, "", errors.New("a name is expected")
	}
	if _, err := strconv.Atoi(name); err == nil {
		return &yaml.Value{Kind: yaml.String, Text: name}, "", nil
	}
	v := lookup(data, name)
	if v == nil {
		v = lookup(data.Get("v1"), name)
	}
	for path := name; ; path += "." + name {
		var err error
		if name, err = s.step(); err != nil || name == "" {
			return v, path, err
		}
		v = lookup(v, name)
	}
}

// step is one name further down, after a point or in brackets; empty if there is none.
func (s *scanner) step() (name string, err error) {
	switch {
	case s.take("."):
		if name = s.name(); name == "" {
			return "", errors.New("a name is expected after the point")
		}
	case s.take("["):
		if s.quote() {
			name, err = s.literal()
		} else {
			name = s.name()
			_, err = strconv.Atoi(name)
		}
		if err != nil || name == "" || !s.take("]") {
			return "", errors.New("between brackets is a quoted name or a number")
		}
	}
	return name, nil
}

// name takes letters, digits, underscores and dashes.
func (s *scanner) name() string {
	s.peek()
	end := 0
	for end < len(s.rest) && (s.rest[end] == '_' || s.rest[end] == '-' || s.rest[end] >= '0' && s.rest[end] <= '9' ||
		s.rest[end]|0x20 >= 'a' && s.rest[end]|0x20 <= 'z') {
		end++
	}
	name := s.rest[:end]
	s.rest = s.rest[end:]
	return name
}

func (s *scanner) literal() (string, error) {
	text, rest, ok := strings.Cut(s.rest[1:], s.rest[:1])
	if !ok || strings.Contains(text, `\`) {
		return "", errors.New("a quoted text is never closed, or has a backslash")
	}
	s.rest = rest
	return text, nil
}

// filter applies what stands after a bar.
func (s *scanner) filter(v, data *yaml.Value) (*yaml.Value, error) {
	if name := s.name(); name != "default" && name != "d" {
		return nil, fmt.Errorf("the filter %.40q is not supported, only default", name)
	}
	other := &yaml.Value{Kind: yaml.String}
	orEmpty := false
	if s.take("(") {
		var err error
		if other, _, err = s.operand(data); err != nil {
			return nil, err
		}
		if s.take(",") {
			if word := s.name(); word != "true" && word != "True" {
				return nil, fmt.Errorf("default takes a second argument that is true, not %.20q", word)
			}
			orEmpty = true
		}
		if !s.take(")") {
			return nil, errors.New("a parenthesis is never closed")
		}
	}
	if v == nil || orEmpty && v.Str() == "" {
		return other, nil
	}
	return v, nil
}

// lookup finds a name in a mapping, in either spelling, or a number in a list.
func lookup(v *yaml.Value, name string) *yaml.Value {
	if v == nil {
		return nil
	}
	if v.Kind == yaml.List {
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(v.List) {
			return v.List[i]
		}
		return nil
	}
	if found := v.Get(name); found != nil {
		return found
	}
	for _, e := range v.Map {
		if spelled(e.Key.Text) == spelled(name) {
			return e.Value
		}
	}
	return nil
}

var spelled = strings.NewReplacer("-", "_", ".", "_").Replace
