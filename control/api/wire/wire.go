// Package wire turns requests into Go structs and Go structs into responses, in the four dialects that
// AWS clients speak to us: the EC2 query protocol, the Query protocol (IAM, STS), JSON 1.1 (SSM) and REST-JSON
// (Resource Groups).
//
// The structs are those of control/api/shape. A field's names are its own unless its tag says otherwise:
//
//	wire:"in=BlockDeviceMapping,out=blockDeviceMapping,item=member,flat,required,keep"
//
// in is the name in requests, out in responses, item the element of a list, key and value the parts of a
// map's entry; flat is a list without a container element, required is asked for by Decode, keep is a
// string written even when empty. A type is looked at once; its plan is kept for ever.
//
// Every byte decoded here is hostile. Work is bounded by the size of the body and the number of keys: a
// list index is a sort key, never a length. What a request holds and nobody reads is an error,
// UnknownParameter, unless the caller lists it as accepted and ignored. Output is deterministic: fields
// in the order of the struct, maps sorted.
package wire

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Protocol is a dialect of the AWS API.
type Protocol int

// The protocols.
const (
	EC2   Protocol = iota + 1 // form in, XML with <item> out
	Query                     // form with .member in, XML with <XResult> out
	JSON                      // JSON 1.1 both ways, action in X-Amz-Target
	REST                      // JSON both ways, action by method and path, parameters also in these and the query string
)

// ContentType returns the media type of responses.
func (p Protocol) ContentType() string {
	switch p {
	case JSON:
		return "application/x-amz-json-1.1"
	case REST:
		return "application/json"
	}
	return "text/xml;charset=UTF-8"
}

type kind int

const (
	kindString kind = iota
	kindStringPtr
	kindBool
	kindInt
	kindFloat
	kindTime
	kindBlob
	kindStruct
	kindList
	kindMap
)

// A typ is the plan of a Go type: how its values look on the wire.
type typ struct {
	kind   kind
	ptr    bool // the value is behind a pointer
	goType reflect.Type
	elem   *typ // of a list or map
	fields []field
	byIn   map[string]*field
}

type field struct {
	name, in, out, item, key, value string
	index                           int
	flat, required, keep            bool
	typ                             *typ
}

var (
	plans    sync.Map // reflect.Type -> *typ, complete ones only
	plansMu  sync.Mutex
	timeType = reflect.TypeFor[time.Time]()
)

// planOf returns the plan of t. It panics if t is no wire type: that is a defect of the program.
func planOf(t reflect.Type) *typ {
	if p, ok := plans.Load(t); ok {
		return p.(*typ)
	}
	plansMu.Lock()
	defer plansMu.Unlock()
	fresh := map[reflect.Type]*typ{}
	p := build(t, fresh)
	for t, p := range fresh {
		plans.Store(t, p)
	}
	return p
}

func build(t reflect.Type, fresh map[reflect.Type]*typ) *typ {
	if p, ok := plans.Load(t); ok {
		return p.(*typ)
	}
	if p := fresh[t]; p != nil {
		return p
	}
	p := &typ{goType: t}
	fresh[t] = p
	base := t
	if t.Kind() == reflect.Pointer {
		p.ptr, base = true, t.Elem()
	}
	switch {
	case base == timeType:
		p.kind = kindTime
	case base.Kind() == reflect.String:
		p.kind = kindString
		if p.ptr {
			p.kind = kindStringPtr
		}
	case base.Kind() == reflect.Bool:
		p.kind = kindBool
	case base.Kind() == reflect.Int64:
		p.kind = kindInt
	case base.Kind() == reflect.Float64:
		p.kind = kindFloat
	case base.Kind() == reflect.Slice && base.Elem().Kind() == reflect.Uint8:
		p.kind = kindBlob
	case base.Kind() == reflect.Slice:
		p.kind, p.elem = kindList, build(base.Elem(), fresh)
	case base.Kind() == reflect.Map && base.Key().Kind() == reflect.String:
		p.kind, p.elem = kindMap, build(base.Elem(), fresh)
	case base.Kind() == reflect.Struct:
		p.kind = kindStruct
		p.fields = make([]field, base.NumField())
		p.byIn = make(map[string]*field, base.NumField())
		for i := range p.fields {
			f := &p.fields[i]
			sf := base.Field(i)
			*f = parseTag(sf.Name, sf.Tag.Get("wire"))
			f.index, f.typ = i, build(sf.Type, fresh)
			p.byIn[f.in] = f
		}
	default:
		panic("wire: no wire form for Go type " + t.String())
	}
	return p
}

func parseTag(name, tag string) field {
	f := field{name: name, in: name, out: name, key: "key", value: "value"}
	for word := range strings.SplitSeq(tag, ",") {
		k, v, _ := strings.Cut(word, "=")
		switch k {
		case "in":
			f.in = v
		case "out":
			f.out = v
		case "item":
			f.item = v
		case "key":
			f.key = v
		case "value":
			f.value = v
		case "flat":
			f.flat = true
		case "required":
			f.required = true
		case "keep":
			f.keep = true
		case "":
		default:
			panic("wire: unknown word " + k + " in the tag of " + name)
		}
	}
	return f
}

// An Error is a request that cannot be understood. Kind is one of the constants below.
type Error struct {
	Kind      Kind
	Parameter string // as the client spells it
	Reason    string
	Path      string // of an unknown parameter: without list numbers, as the lists of ignored ones spell it
}

// A Kind is what is wrong with a request.
type Kind int

// The kinds of Error.
const (
	Malformed        Kind = iota + 1 // not a form or JSON at all, or beyond a bound
	UnknownParameter                 // nothing reads it
	MissingParameter                 // required and absent
	InvalidValue                     // not of the parameter's type
)

func (e *Error) Error() string {
	switch e.Kind {
	case UnknownParameter:
		return "The parameter " + clip(e.Parameter) + " is not recognized"
	case MissingParameter:
		return "The request must contain the parameter " + clip(e.Parameter)
	case InvalidValue:
		return "Value for parameter " + clip(e.Parameter) + " is invalid: " + e.Reason
	default:
		return "The request is malformed: " + e.Reason
	}
}

// clip bounds what an answer repeats of a request.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// absent reports whether v is its field's "not given".
func absent(v reflect.Value, t *typ) bool {
	switch t.kind {
	case kindString:
		return v.Len() == 0
	case kindList, kindMap, kindBlob:
		return v.IsNil()
	default:
		return t.ptr && v.IsNil()
	}
}

// parseTime accepts what clients send: ISO 8601 with or without fraction and zone, a date alone, a date as in HTTP,
// or epoch seconds.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02", "Mon, 02 Jan 2006 15:04:05 GMT"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), inYears(t)
		}
	}
	return parseEpoch(s)
}

// inYears refuses times that would not survive our own output, which has four digits for a year.
func inYears(t time.Time) bool { return t.Year() >= 1 && t.Year() <= 9999 }

type entry[T any] struct {
	key   string
	value T
}

// sorted returns a map's entries in the order of their keys.
func sorted[T any](m map[string]T) []entry[T] {
	out := make([]entry[T], 0, len(m))
	for k, v := range m {
		out = append(out, entry[T]{k, v})
	}
	slices.SortFunc(out, func(a, b entry[T]) int { return cmp.Compare(a.key, b.key) })
	return out
}
