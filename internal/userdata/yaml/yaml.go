// Package yaml reads YAML 1.1 as PyYAML's safe loader does, for that is what cloud-config is written in.
//
// The library parses: anchors, styles, block scalars. What a plain word means is decided here, because the library
// follows YAML 1.2 and the authors of cloud-config have learned 1.1 by what cloud-init did with it: yes, no, on and off
// are booleans, 0644 is octal, 0o644 is a word, 12:30:00 is a number to the base of 60, 1e3 is a word and 1.0e+3 a number,
// of two equal keys the last counts, << merges. A value keeps its line, so that a complaint can name it.
//
// The text may be hostile: what aliases multiply is counted, depth is bounded, a panic of the library is an error.
package yaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	lib "go.yaml.in/yaml/v3"
)

// Limits of one document, after its aliases are followed.
const (
	MaxValues = 100_000
	MaxDepth  = 100
)

// Errors that a caller may ask for.
var (
	ErrSyntax   = errors.New("malformed YAML")
	ErrTooLarge = errors.New("YAML with too many values or levels")
)

// Kind is what a value is.
type Kind string

// The kinds.
const (
	Null   Kind = "null"
	Bool   Kind = "boolean"
	Int    Kind = "integer"
	Float  Kind = "number"
	String Kind = "string"
	Bytes  Kind = "binary"
	Time   Kind = "timestamp"
	List   Kind = "list"
	Map    Kind = "mapping"
)

// Value is one value of a document.
type Value struct {
	Kind  Kind
	Line  int
	Text  string // of a String and of Bytes, what they are; of another scalar, as Python prints it
	Word  string // as it is written, of a scalar
	Bool  bool
	Int   int64 // the nearest there is
	Float float64
	List  []*Value
	Map   []Entry // in the order of the text
}

// Entry is one key of a mapping and what it has.
type Entry struct {
	Key, Value *Value
}

// Get returns what a mapping has at a key that is a string; nil if nothing or if v is no mapping.
func (v *Value) Get(key string) *Value {
	if v == nil {
		return nil
	}
	for _, e := range v.Map {
		if e.Key.Kind == String && e.Key.Text == key {
			return e.Value
		}
	}
	return nil
}

// Document is what a text says.
type Document struct {
	Root   *Value   // Null for a text without a document
	Doubts []string // what PyYAML takes without a word, and an author hardly meant
}

// Load reads a text of at most one document.
func Load(text []byte) (doc Document, err error) {
	defer func() {
		if p := recover(); p != nil { // the library's panics are for broken invariants; a guest's bytes may break them
			err = fmt.Errorf("%w: the parser gave up: %v", ErrSyntax, p)
		}
	}()
	d := lib.NewDecoder(bytes.NewReader(text))
	var root, more lib.Node
	if err := d.Decode(&root); errors.Is(err, io.EOF) {
		return Document{Root: &Value{Kind: Null, Text: "None"}}, nil
	} else if err != nil {
		return Document{}, fmt.Errorf("%w: %v", ErrSyntax, err)
	}
	if err := d.Decode(&more); err == nil {
		return Document{}, fmt.Errorf("%w: line %d begins a second document", ErrSyntax, more.Line)
	} else if !errors.Is(err, io.EOF) {
		return Document{}, fmt.Errorf("%w: %v", ErrSyntax, err)
	}
	b := builder{open: map[*lib.Node]bool{}}
	v, err := b.build(&root, 0)
	if err != nil {
		return Document{}, err
	}
	return Document{Root: v, Doubts: b.doubts}, nil
}

// builder makes values of the library's nodes.
type builder struct {
	values int
	open   map[*lib.Node]bool // that are being built: an alias to one of them would never end
	doubts []string
}

func (b *builder) build(n *lib.Node, depth int) (*Value, error) {
	if b.values++; b.values > MaxValues || depth > MaxDepth {
		return nil, fmt.Errorf("%w: more than %d values or %d levels", ErrTooLarge, MaxValues, MaxDepth)
	}
	if b.open[n] {
		return nil, fmt.Errorf("%w: line %d: a value contains itself", ErrSyntax, n.Line)
	}
	switch n.Kind {
	case lib.DocumentNode:
		if len(n.Content) != 1 {
			return &Value{Kind: Null, Text: "None"}, nil
		}
		return b.build(n.Content[0], depth)
	case lib.AliasNode:
		return b.build(n.Alias, depth+1)
	case lib.ScalarNode:
		return scalar(n)
	}
	b.open[n] = true
	defer delete(b.open, n)
	switch tag := tagOf(n); {
	case n.Kind == lib.SequenceNode && (tag == "" || tag == "!!seq"):
		return b.list(n, depth)
	case n.Kind == lib.MappingNode && (tag == "" || tag == "!!map"):
		return b.mapping(n, depth)
	default:
		return nil, fmt.Errorf("%w: line %d: no value has the tag %.60q", ErrSyntax, n.Line, tag)
	}
}

// tagOf is the tag that the text gives a value; empty if it gives none.
func tagOf(n *lib.Node) string {
	if n.Style&lib.TaggedStyle == 0 {
		return ""
	}
	return n.ShortTag()
}

func (b *builder) list(n *lib.Node, depth int) (*Value, error) {
	v := &Value{Kind: List, Line: n.Line}
	for _, c := range n.Content {
		item, err := b.build(c, depth+1)
		if err != nil {
			return nil, err
		}
		v.List = append(v.List, item)
	}
	return v, nil
}

// mapping builds a mapping. Its own keys stand above those that << brings, wherever it stands.
func (b *builder) mapping(n *lib.Node, depth int) (*Value, error) {
	v := &Value{Kind: Map, Line: n.Line}
	own := map[[2]string]int{}
	var merged []*Value
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		if k.Kind == lib.ScalarNode && k.Style == 0 && k.Value == "<<" {
			from, err := b.sources(c, depth)
			if err != nil {
				return nil, err
			}
			merged = append(merged, from...)
			continue
		}
		key, err := b.build(k, depth+1)
		if err != nil {
			return nil, err
		}
		if key.Kind == List || key.Kind == Map {
			return nil, fmt.Errorf("%w: line %d: a %s cannot be a key", ErrSyntax, k.Line, key.Kind)
		}
		value, err := b.build(c, depth+1)
		if err != nil {
			return nil, err
		}
		if at, ok := own[identity(key)]; ok {
			b.doubts = append(b.doubts, fmt.Sprintf("line %d: key %.60q stands there twice: the last counts, line %d does not",
				k.Line, key.Str(), v.Map[at].Key.Line))
			v.Map[at] = Entry{key, value}
			continue
		}
		own[identity(key)] = len(v.Map)
		v.Map = append(v.Map, Entry{key, value})
	}
	for _, from := range merged { // of two that bring the same key the first counts
		for _, e := range from.Map {
			if _, ok := own[identity(e.Key)]; !ok {
				own[identity(e.Key)] = len(v.Map)
				v.Map = append(v.Map, e)
			}
		}
	}
	return v, nil
}

// sources are the mappings that << names: one or a list.
func (b *builder) sources(n *lib.Node, depth int) ([]*Value, error) {
	v, err := b.build(n, depth+1)
	if err != nil {
		return nil, err
	}
	list := []*Value{v}
	if v.Kind == List {
		list = v.List
	}
	for _, from := range list {
		if from.Kind != Map {
			return nil, fmt.Errorf("%w: line %d: << needs a mapping or a list of mappings, and has a %s", ErrSyntax, n.Line, from.Kind)
		}
	}
	return list, nil
}

// identity tells keys apart: 1 and "1" are two.
func identity(key *Value) [2]string { return [2]string{string(key.Kind), key.Text} }
