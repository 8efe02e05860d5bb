package wire

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a form. 1,000 identifiers or 200 filters of a few values are usual; the rest is room.
const (
	maxKeys  = 20000
	maxNodes = 50000 // parts of keys; each costs some 300 bytes
	maxDepth = 16
)

// A Form is a parsed form body or query string: a tree of its keys' dotted parts.
type Form struct {
	root  node
	nodes int
}

type node struct {
	name     string // full key
	value    string
	set      bool
	children map[string]*node
}

// ParseForm parses an application/x-www-form-urlencoded body or query string.
func ParseForm(raw string) (*Form, error) {
	f := new(Form)
	keys := 0
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		if keys++; keys > maxKeys {
			return nil, &Error{Kind: Malformed, Reason: fmt.Sprintf("more than %d parameters", maxKeys)}
		}
		k, v, _ := strings.Cut(pair, "=")
		k, err := url.QueryUnescape(k)
		if err != nil {
			return nil, &Error{Kind: Malformed, Reason: "a parameter's name is not properly escaped"}
		}
		if v, err = url.QueryUnescape(v); err != nil {
			return nil, &Error{Kind: Malformed, Reason: "the value of " + clip(k) + " is not properly escaped"}
		}
		if err := f.put(k, v); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *Form) put(key, value string) error {
	n, end := &f.root, 0
	for depth := 0; ; depth++ {
		if depth == maxDepth {
			return &Error{Kind: Malformed, Reason: "parameter " + clip(key) + " is nested too deep"}
		}
		part, _, more := strings.Cut(key[end:], ".")
		end += len(part)
		child := n.children[part]
		if child == nil {
			if f.nodes++; f.nodes > maxNodes {
				return &Error{Kind: Malformed, Reason: "too many parameters"}
			}
			child = &node{name: key[:end]}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[part] = child
		}
		n = child
		if !more {
			break
		}
		end++ // the dot
	}
	if n.set {
		return &Error{Kind: Malformed, Reason: "parameter " + clip(key) + " is given twice"}
	}
	n.value, n.set = value, true
	return nil
}

// Get returns the value of a top-level parameter.
func (f *Form) Get(key string) string {
	if n := f.root.children[key]; n != nil {
		return n.value
	}
	return ""
}

// Has reports whether there is a top-level parameter of that name.
func (f *Form) Has(key string) bool { return f.root.children[key] != nil }

// Drop forgets top-level parameters that are not the action's, such as Action and Version.
func (f *Form) Drop(keys ...string) {
	for _, k := range keys {
		delete(f.root.children, k)
	}
}

// Decode fills the struct that dst points to. ignored lists parameters, without list numbers, that are
// accepted with all that is below them and have no effect.
func (f *Form) Decode(p Protocol, dst any, ignored []string) error {
	d := formDecoder{protocol: p, ignored: ignored}
	v := reflect.ValueOf(dst).Elem()
	return d.structure(&f.root, planOf(v.Type()), v, "")
}

type formDecoder struct {
	protocol Protocol
	ignored  []string
}

// value decodes n into v. path is n's name without list numbers.
func (d *formDecoder) value(n *node, f *field, t *typ, v reflect.Value, path string) error {
	switch t.kind {
	case kindStruct:
		if n.set && n.value != "" {
			return d.misfit(n, "it has parts and no value of its own")
		}
		return d.structure(n, t, deref(v, t), path)
	case kindList:
		return d.list(n, f, t, v, path)
	case kindMap:
		return d.entries(n, f, t, v, path)
	}
	if len(n.children) > 0 {
		return d.unknown(sorted(n.children)[0].value, path)
	}
	if reason := scalar(n.value, t, v); reason != "" {
		return d.misfit(n, reason)
	}
	return nil
}

func (d *formDecoder) structure(n *node, t *typ, v reflect.Value, path string) error {
	for _, c := range sorted(n.children) {
		below := c.key
		if path != "" {
			below = path + "." + c.key
		}
		f := t.byIn[c.key]
		if f == nil {
			if err := d.unknown(c.value, below); err != nil {
				return err
			}
			continue
		}
		if err := d.value(c.value, f, f.typ, v.Field(f.index), below); err != nil {
			return err
		}
	}
	for i := range t.fields {
		if f := &t.fields[i]; f.required && n.children[f.in] == nil {
			name := f.in
			if n.name != "" {
				name = n.name + "." + f.in
			}
			return &Error{Kind: MissingParameter, Parameter: name}
		}
	}
	return nil
}

func (d *formDecoder) list(n *node, f *field, t *typ, v reflect.Value, path string) error {
	if n.set && n.value != "" {
		return d.misfit(n, "a list's values are numbered: "+clip(n.name)+".1")
	}
	numbered := n
	if d.protocol == Query && !f.flat {
		item := cmp.Or(f.item, "member")
		for _, c := range sorted(n.children) {
			if c.key != item {
				if err := d.unknown(c.value, path+"."+c.key); err != nil {
					return err
				}
			}
		}
		numbered = n.children[item]
	}
	if numbered == nil { // an empty list: Name= or only ignored parts
		v.Set(reflect.MakeSlice(t.goType, 0, 0))
		return nil
	}
	elems, err := d.numbered(numbered)
	if err != nil {
		return err
	}
	out := reflect.MakeSlice(t.goType, len(elems), len(elems))
	for i, e := range elems {
		if err := d.value(e, f, t.elem, out.Index(i), path); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// numbered returns the children of n in the order of their numbers, whatever gaps there are.
func (d *formDecoder) numbered(n *node) ([]*node, error) {
	type element struct {
		number uint64
		node   *node
	}
	elems := make([]element, 0, len(n.children))
	for _, c := range sorted(n.children) {
		i, err := strconv.ParseUint(c.key, 10, 32)
		if err != nil || i == 0 || c.key[0] == '0' || c.key[0] == '+' {
			return nil, &Error{Kind: UnknownParameter, Parameter: c.value.name}
		}
		elems = append(elems, element{i, c.value})
	}
	slices.SortFunc(elems, func(a, b element) int { return cmp.Compare(a.number, b.number) })
	out := make([]*node, len(elems))
	for i, e := range elems {
		out[i] = e.node
	}
	return out, nil
}

func (d *formDecoder) entries(n *node, f *field, t *typ, v reflect.Value, path string) error {
	out := reflect.MakeMap(t.goType)
	v.Set(out)
	if n.set && n.value != "" {
		return d.misfit(n, "a map's entries are numbered")
	}
	numbered := n
	if !f.flat {
		for _, c := range sorted(n.children) {
			if c.key != "entry" {
				return &Error{Kind: UnknownParameter, Parameter: c.value.name}
			}
		}
		if numbered = n.children["entry"]; numbered == nil {
			return nil
		}
	}
	elems, err := d.numbered(numbered)
	if err != nil {
		return err
	}
	for _, e := range elems {
		for _, c := range sorted(e.children) {
			if c.key != f.key && c.key != f.value {
				return &Error{Kind: UnknownParameter, Parameter: c.value.name}
			}
		}
		key := e.children[f.key]
		if key == nil || len(key.children) > 0 {
			return d.misfit(e, "an entry needs a "+f.key)
		}
		elem := reflect.New(t.goType.Elem()).Elem()
		if val := e.children[f.value]; val != nil {
			if err := d.value(val, f, t.elem, elem, path); err != nil {
				return err
			}
		}
		out.SetMapIndex(reflect.ValueOf(key.value), elem)
	}
	return nil
}

func (d *formDecoder) unknown(n *node, path string) error {
	if ignores(d.ignored, path) {
		return nil
	}
	for !n.set && len(n.children) > 0 { // name a key that the client really sent
		n = sorted(n.children)[0].value
	}
	return &Error{Kind: UnknownParameter, Parameter: n.name, Path: path}
}

func (d *formDecoder) misfit(n *node, reason string) error {
	return &Error{Kind: InvalidValue, Parameter: n.name, Reason: reason}
}

// ignores reports whether path or something above it is in the list.
func ignores(list []string, path string) bool {
	for _, p := range list {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return false
}

// deref returns what v points to, making it if there is nothing.
func deref(v reflect.Value, t *typ) reflect.Value {
	if !t.ptr {
		return v
	}
	if v.IsNil() {
		v.Set(reflect.New(t.goType.Elem()))
	}
	return v.Elem()
}

// scalar sets v from text; it returns what is wrong with the text, or "".
func scalar(s string, t *typ, v reflect.Value) string {
	switch t.kind {
	case kindString, kindStringPtr:
		deref(v, t).SetString(s)
	case kindBool:
		b, ok := map[string]bool{"true": true, "false": false, "True": true, "False": false, "1": true, "0": false}[s]
		if !ok {
			return "it must be true or false"
		}
		deref(v, t).SetBool(b)
	case kindInt:
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return "it must be an integer"
		}
		deref(v, t).SetInt(i)
	case kindFloat:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return "it must be a number"
		}
		deref(v, t).SetFloat(f)
	case kindTime:
		at, ok := parseTime(s)
		if !ok {
			return "it must be a time such as 2006-01-02T15:04:05Z"
		}
		deref(v, t).Set(reflect.ValueOf(at))
	case kindBlob:
		b, ok := parseBlob(s)
		if !ok {
			return "it must be base64"
		}
		v.SetBytes(b)
	}
	return ""
}

// parseBlob decodes base64 as the clients write it; line breaks inside are skipped by the decoder.
func parseBlob(s string) ([]byte, bool) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		b, err = base64.RawStdEncoding.DecodeString(s)
	}
	if b == nil {
		b = []byte{}
	}
	return b, err == nil
}

// parseEpoch reads seconds since 1970, possibly with a fraction, to the millisecond.
func parseEpoch(s string) (time.Time, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < -62135596800 || f > 253402300799 { // years 1 to 9999
		return time.Time{}, false
	}
	return time.UnixMilli(int64(math.Round(f * 1000))).UTC(), true
}
