package document

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/pattern"
)

// Parameter declares what a caller may give.
type Parameter struct {
	Type           string `json:"type"`
	Description    string `json:"description,omitempty"`
	Default        *Value `json:"default,omitempty"`
	AllowedValues  []Text `json:"allowedValues,omitempty"`
	AllowedPattern string `json:"allowedPattern,omitempty"`
	MinItems       *int   `json:"minItems,omitempty"`
	MaxItems       *int   `json:"maxItems,omitempty"`
	MinChars       *int   `json:"minChars,omitempty"`
	MaxChars       *int   `json:"maxChars,omitempty"`
	DisplayType    string `json:"displayType,omitempty"` // for consoles
	Interpolation  string `json:"interpolationType,omitempty"`
}

// envVar is the interpolation by environment variable. The other, and the default, is by text.
const envVar = "ENV_VAR"

// Value is a parameter's value: one string, or a list. A mapping is one string, which is its JSON; a list may be of such.
type Value struct {
	Items []string
	List  bool
	maps  bool   // what Items hold is JSON
	text  string // of a list of the parameter store: what it is inside a longer text
}

// UnmarshalJSON accepts a string, a number, a truth value, a mapping, or a list of one of them.
func (v *Value) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '[' {
		item, isMap, err := scalar(data)
		*v = Value{Items: []string{item}, maps: isMap}
		return err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	*v = Value{Items: []string{}, List: true}
	for n, one := range all {
		item, isMap, err := scalar(one)
		switch {
		case err != nil:
			return err
		case n > 0 && isMap != v.maps:
			return invalid("a list holds mappings beside other values")
		}
		v.Items, v.maps = append(v.Items, item), isMap
	}
	return nil
}

func scalar(data []byte) (text string, isMap bool, err error) {
	if len(data) > 0 && data[0] == '{' {
		var b bytes.Buffer
		err := json.Compact(&b, data)
		return b.String(), true, err
	}
	var t Text
	err = t.UnmarshalJSON(data)
	return string(t), false, err
}

// String is the value inside a longer text: a list shows as JSON, but for one of the parameter store.
func (v Value) String() string {
	if len(v.Items) == 0 && !v.List {
		return ""
	}
	switch {
	case v.text != "":
		return v.text
	case !v.List:
		return v.Items[0]
	case v.maps:
		return "[" + strings.Join(v.Items, ",") + "]"
	}
	return jsonText(v.Items)
}

// The types of parameters that are supported.
const (
	typeString  = "String"
	typeList    = "StringList"
	typeInteger = "Integer"
	typeBoolean = "Boolean"
	typeMap     = "StringMap"
	typeMaps    = "MapList"
)

func isList(kind string) bool { return kind == typeList || kind == typeMaps }
func isMap(kind string) bool  { return kind == typeMap || kind == typeMaps }

// IsList reports whether the parameter takes several values.
func (p Parameter) IsList() bool { return isList(p.Type) }

var paramName = word{pattern.New(`^[A-Za-z0-9]+$`), 128}

func (p Parameter) validate(name string) error {
	switch p.Type {
	case typeString, typeList, typeInteger, typeBoolean, typeMap, typeMaps:
	default:
		return invalid("parameter %s has the type %.40q: String, StringList, Integer, Boolean, StringMap and MapList are supported", name, p.Type)
	}
	switch p.Interpolation {
	case "", "Text", "TEXT":
	case envVar:
		if p.Type != typeString && p.Type != typeInteger && p.Type != typeBoolean {
			return invalid("parameter %s is a %s, which no environment variable holds: leave interpolationType out", name, p.Type)
		}
	default:
		return invalid("interpolationType of parameter %s is %.40q: ENV_VAR is the one that there is beside the default", name, p.Interpolation)
	}
	if _, err := p.pattern(); err != nil {
		return invalid("allowedPattern of parameter %s is not a regular expression: %v", name, err)
	}
	if p.Default == nil || len(References(p.Default.Items...)) > 0 { // what the store has is looked at when it is there
		return nil
	}
	if p.Default.List != isList(p.Type) || p.Default.maps && !isMap(p.Type) {
		return invalid("the default of parameter %s is not a %s", name, p.Type)
	}
	if why := p.refuse(p.Default.Items); why != "" {
		return invalid("the default of parameter %s %s", name, why)
	}
	return nil
}

// pattern returns what a whole value must match.
func (p Parameter) pattern() (*regexp.Regexp, error) {
	return regexp.Compile(`^(?:` + p.AllowedPattern + `)$`)
}

// refuse says why the items are not a value of the parameter; "" if they are.
func (p Parameter) refuse(items []string) string {
	if !isList(p.Type) && len(items) != 1 {
		return "takes one value, and " + strconv.Itoa(len(items)) + " are given"
	}
	switch {
	case p.MinItems != nil && len(items) < *p.MinItems:
		return "needs at least " + strconv.Itoa(*p.MinItems) + " items"
	case p.MaxItems != nil && len(items) > *p.MaxItems:
		return "takes at most " + strconv.Itoa(*p.MaxItems) + " items"
	}
	pattern, err := p.pattern()
	if err != nil {
		return "can not be checked: " + err.Error()
	}
	for _, v := range items {
		if why := p.refuseItem(pattern, v); why != "" {
			return why
		}
	}
	return ""
}

func (p Parameter) refuseItem(pattern *regexp.Regexp, v string) string {
	chars := len([]rune(v))
	switch {
	case p.MinChars != nil && chars < *p.MinChars:
		return "needs at least " + strconv.Itoa(*p.MinChars) + " characters"
	case p.MaxChars != nil && chars > *p.MaxChars:
		return "takes at most " + strconv.Itoa(*p.MaxChars) + " characters"
	case strings.ContainsRune(v, 0):
		return "holds a NUL character"
	case len(p.AllowedValues) > 0 && !slices.Contains(p.AllowedValues, Text(v)):
		return "is none of the allowed values"
	case p.AllowedPattern != "" && !pattern.MatchString(v):
		return "does not match the pattern " + p.AllowedPattern
	case p.Type == typeBoolean && v != "true" && v != "false":
		return "is neither true nor false"
	}
	if isMap(p.Type) {
		var m map[string]json.RawMessage
		if depth([]byte(v)) > maxDepth || json.Unmarshal([]byte(v), &m) != nil {
			return "is not a mapping in JSON"
		}
	}
	if p.Type == typeInteger {
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return "is not an integer"
		}
	}
	return ""
}

// expand returns a default with what the store has in it. That of a list may be a single name, as in Systems Manager's manual.
func (p Parameter) expand(v Value, stored map[string]Value) (Value, error) {
	switch {
	case isList(p.Type):
		v.Items, v.List, v.maps = expand(v.Items, stored), true, isMap(p.Type)
	case v.List:
		return v, problem("is a list, and not a " + p.Type)
	default:
		v.Items = []string{fill(v.Items[0], stored)}
	}
	if why := p.refuse(v.Items); why != "" {
		return v, problem(why)
	}
	return v, nil
}

// values checks what a caller gives and adds the defaults, with what the store has in them.
func (d Document) values(given map[string][]string, stored map[string]Value) (map[string]Value, error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := d.Parameters[name]; !ok {
			return nil, cloud.Errorf("InvalidParameters", "The document has no parameter %.80q", name)
		}
	}
	values := map[string]Value{}
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		p := d.Parameters[name]
		items, ok := given[name]
		switch {
		case ok:
			if why := p.refuse(items); why != "" {
				return nil, cloud.Errorf("InvalidParameters", "Parameter %s %s", name, why)
			}
			values[name] = Value{Items: items, List: isList(p.Type), maps: isMap(p.Type)}
		case p.Default != nil:
			v := *p.Default
			if len(References(v.Items...)) > 0 {
				var err error
				if v, err = p.expand(v, stored); err != nil {
					return nil, cloud.Errorf("InvalidParameters", "The default of parameter %s, with what the parameter store has, %v", name, err)
				}
			}
			values[name] = v
		default:
			return nil, cloud.Errorf("InvalidParameters", "Parameter %s has no default: give a value", name)
		}
	}
	return values, nil
}
