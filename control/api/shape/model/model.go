// Package model reads Amazon's public API models (api-2.json) and knows how their members are named
// on the wire.
//
// It is the generator's eye and the codec tests' second witness: gen prunes a Model to the operations
// that ichiro lists and writes Go structs whose tags come from Tag; the tests in control/api/wire make
// structs at run time from Amazon's protocol test cases with the same Tag. Nothing in a running daemon
// imports it. Only names and types are read: documentation texts are in other files, which it never opens.
package model

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A Model is one service's api-2.json.
type Model struct {
	Metadata   Metadata
	Operations map[string]*Operation
	Shapes     map[string]*Shape
}

// Metadata is what a model says of its service as a whole.
type Metadata struct {
	APIVersion   string `json:"apiVersion"`
	Protocol     string // ec2, query, json, rest-json
	TargetPrefix string `json:"targetPrefix"`
	XMLNamespace string `json:"xmlNamespace"`
}

// An Operation names the shapes of its request and response; either may be nil.
type Operation struct {
	Name          string
	HTTP          HTTP
	Input, Output *Ref
}

// HTTP says where an operation is, which matters to rest-json only.
type HTTP struct {
	Method     string
	RequestURI string `json:"requestUri"` // with {Member} for a part that is a member of the request
}

// A Ref is a use of a shape by a member, list, map or operation.
type Ref struct {
	Shape           string
	LocationName    string
	QueryName       string
	Flattened       bool
	TimestampFormat string
	XMLAttribute    bool `json:"xmlAttribute"`
}

// A Shape is a type of the model.
type Shape struct {
	Type       string
	Members    map[string]*Ref
	Required   []string
	Member     *Ref // of a list
	Key, Value *Ref // of a map
	Flattened  bool

	TimestampFormat string
}

// Load decodes a model.
func Load(r io.Reader) (*Model, error) {
	m := new(Model)
	if err := json.NewDecoder(r).Decode(m); err != nil {
		return nil, fmt.Errorf("decode model: %v", err)
	}
	return m, nil
}

// Reach returns the sorted names of all shapes that the references lead to.
func (m *Model) Reach(refs ...*Ref) []string {
	seen := map[string]bool{}
	var walk func(*Ref)
	walk = func(r *Ref) {
		if r == nil || seen[r.Shape] {
			return
		}
		seen[r.Shape] = true
		s := m.Shapes[r.Shape]
		for _, x := range s.Members {
			walk(x)
		}
		walk(s.Member)
		walk(s.Key)
		walk(s.Value)
	}
	for _, r := range refs {
		walk(r)
	}
	return slices.Sorted(maps.Keys(seen))
}

// Field returns the Go name of a member.
func Field(member string) string { return strings.ToUpper(member[:1]) + member[1:] }

// Tag returns the body of the wire tag of a struct's member: empty when all names are the member's own.
// See package wire for the meaning of each word.
func (m *Model) Tag(s *Shape, member string) string {
	ref := s.Members[member]
	t := m.Shapes[ref.Shape]
	field := Field(member)
	in, out := member, member
	if ref.LocationName != "" {
		in, out = ref.LocationName, ref.LocationName
	}
	item, flat := "", ref.Flattened || t.Flattened
	if t.Type == "list" {
		item = t.Member.LocationName
	}
	switch m.Metadata.Protocol {
	case "ec2":
		if ref.LocationName != "" {
			in = Field(ref.LocationName)
		}
		if ref.QueryName != "" {
			in = ref.QueryName
		}
		if t.Type == "list" && item == "" && !flat {
			item = "member"
		}
		if item == "item" {
			item = ""
		}
	case "query":
		if item == "member" {
			item = ""
		}
	case "json", "rest-json": // a request's member in the path or the query string has its own name there
		item, flat = "", false
	}
	if flat && item != "" && m.Metadata.Protocol != "ec2" {
		in, out = item, item
	} else if flat && item != "" {
		out = item
	}
	var words []string
	add := func(cond bool, word string) {
		if cond {
			words = append(words, word)
		}
	}
	add(in != field, "in="+in)
	add(out != field, "out="+out)
	add(item != "" && !flat, "item="+item)
	if t.Type == "map" {
		add(t.Key.LocationName != "" && t.Key.LocationName != "key", "key="+t.Key.LocationName)
		add(t.Value.LocationName != "" && t.Value.LocationName != "value", "value="+t.Value.LocationName)
	}
	add(flat, "flat")
	add(slices.Contains(s.Required, member), "required")
	return strings.Join(words, ",")
}
