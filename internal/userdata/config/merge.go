package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// How a part joins those before it is said by its Merge-Type header or its own merge_how, and otherwise this: its
// directives replace those of the same name.
const usual = "dict(replace)+list()+str()"

// Merge joins the cloud-configs of one user data, in order. What is malformed is told and left out.
func Merge(parts []userdata.Part) (root *yaml.Value, r Report) {
	root = &yaml.Value{Kind: yaml.Map}
	for _, p := range parts {
		doc, err := yaml.Load(p.Body)
		switch {
		case err != nil:
			r.trouble("%s: %v: nothing of it is done", p.Name, err)
			continue
		case doc.Root.Kind == yaml.Null:
			r.trouble("%s: the cloud-config is empty", p.Name)
			continue
		case doc.Root.Kind != yaml.Map:
			r.trouble("%s: a cloud-config is a mapping of directives, and this is a %s", p.Name, doc.Root.Kind)
			continue
		}
		for _, d := range doc.Doubts {
			r.doubt("%s: %s", p.Name, d)
		}
		said, rest := how(doc.Root)
		m, err := parseMergers(strings.Join(slices.DeleteFunc([]string{said, p.Merge}, func(s string) bool { return s == "" }), "+"))
		if err != nil {
			r.trouble("%s: %v: nothing of it is done", p.Name, err)
			continue
		}
		root = m.merge(root, rest)
	}
	return root, r
}

// Under puts vendor data below user data: what a user says stands, mappings are joined.
func Under(user, vendor *yaml.Value) *yaml.Value {
	m, err := parseMergers("dict()+list()+str()")
	if err != nil {
		panic(err) // the text is above
	}
	return m.merge(user, vendor)
}

// how takes the directive about merging off a config.
func how(root *yaml.Value) (string, *yaml.Value) {
	v := root.Get("merge_how")
	if v == nil || v.Kind == yaml.Null {
		v = root.Get("merge_type")
	}
	rest := &yaml.Value{Kind: yaml.Map, Line: root.Line}
	for _, e := range root.Map {
		if e.Key.Text != "merge_how" && e.Key.Text != "merge_type" {
			rest.Map = append(rest.Map, e)
		}
	}
	if v == nil || v.Kind == yaml.Null {
		return "", rest
	}
	if v.Kind == yaml.String {
		return v.Text, rest
	}
	var words []string
	for _, item := range v.List {
		name, settings := item.Get("name"), item.Get("settings")
		if item.Kind == yaml.List && len(item.List) > 0 {
			name, settings = item.List[0], &yaml.Value{Kind: yaml.List, List: item.List[1:]}
		}
		var options []string
		if settings != nil {
			for _, s := range settings.List {
				options = append(options, s.Str())
			}
		}
		words = append(words, name.Str()+"("+strings.Join(options, ",")+")")
	}
	return strings.Join(words, "+"), rest
}

// mergers say for each type that has one what becomes of two values.
type mergers map[string]map[string]bool

// parseMergers reads text such as dict(no_replace,recurse_list)+list(append).
func parseMergers(text string) (mergers, error) {
	if text == "" {
		text = usual
	}
	m := mergers{}
	for word := range strings.SplitSeq(text, "+") {
		word = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(word)), "-", "_")
		if word == "" {
			continue
		}
		name, options, ok := strings.Cut(word, "(")
		options, closed := strings.CutSuffix(options, ")")
		if !ok || !closed || name != "dict" && name != "list" && name != "str" {
			return nil, fmt.Errorf("the merge type %.60q is not one of dict(), list() and str()", word)
		}
		if m[name] != nil { // the first counts
			continue
		}
		m[name] = map[string]bool{}
		for o := range strings.SplitSeq(options, ",") {
			if o = strings.TrimSpace(o); o == "recurse_array" {
				o = "recurse_list"
			}
			m[name][o] = true
		}
	}
	return m, nil
}

// merge joins a later value to an earlier one. A type that no merger is for keeps the earlier.
func (m mergers) merge(old, later *yaml.Value) *yaml.Value {
	switch {
	case old.Kind == yaml.Map && m["dict"] != nil:
		return m.mappings(old, later, m["dict"])
	case old.Kind == yaml.List && m["list"] != nil:
		return m.lists(old, later, m["list"])
	case old.Kind == yaml.String && m["str"] != nil:
		if m["str"]["append"] && later.Kind == yaml.String {
			return &yaml.Value{Kind: yaml.String, Line: later.Line, Text: old.Text + later.Text}
		}
		return later
	}
	return old
}

func (m mergers) mappings(old, later *yaml.Value, o map[string]bool) *yaml.Value {
	if later.Kind != yaml.Map {
		return old
	}
	out := &yaml.Value{Kind: yaml.Map, Line: old.Line, Map: slices.Clone(old.Map)}
	for _, e := range later.Map {
		at := slices.IndexFunc(out.Map, func(have yaml.Entry) bool { return have.Key.Kind == e.Key.Kind && have.Key.Text == e.Key.Text })
		switch {
		case at < 0:
			out.Map = append(out.Map, e)
		case e.Value.Kind == yaml.Null && o["allow_delete"]:
			out.Map = slices.Delete(out.Map, at, at+1)
		case o["replace"]:
			out.Map[at] = e
		case e.Value.Kind == yaml.Map, e.Value.Kind == yaml.List && o["recurse_list"], e.Value.Kind == yaml.String && o["recurse_str"]:
			out.Map[at] = yaml.Entry{Key: e.Key, Value: m.merge(out.Map[at].Value, e.Value)}
		}
	}
	return out
}

func (m mergers) lists(old, later *yaml.Value, o map[string]bool) *yaml.Value {
	if later.Kind != yaml.List {
		if o["append"] || o["prepend"] || o["no_replace"] {
			return old
		}
		return later
	}
	out := &yaml.Value{Kind: yaml.List, Line: old.Line}
	switch {
	case o["append"]:
		out.List = slices.Concat(old.List, later.List)
		return out
	case o["prepend"]:
		out.List = slices.Concat(later.List, old.List)
		return out
	}
	out.List = slices.Clone(old.List)
	if o["no_replace"] && !o["replace"] {
		return out
	}
	for i := range min(len(old.List), len(later.List)) {
		v := later.List[i]
		if v.Kind == yaml.Map && o["recurse_dict"] || v.Kind == yaml.List && o["recurse_list"] || v.Kind == yaml.String && o["recurse_str"] {
			v = m.merge(old.List[i], v)
		}
		out.List[i] = v
	}
	return out
}
