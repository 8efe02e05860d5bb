package wire

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Reply is what surrounds an answer: who answers, to what.
type Reply struct {
	Protocol  Protocol
	Action    string
	Namespace string // of XML answers
	RequestID string
}

// Append appends the whole body of a successful answer. out is an Output struct or a pointer to one.
func (r Reply) Append(b []byte, out any) []byte {
	if r.Protocol == JSON || r.Protocol == REST {
		return AppendJSON(b, out)
	}
	v := reflect.Indirect(reflect.ValueOf(out))
	t := planOf(v.Type())
	e := xmlEncoder{protocol: r.Protocol}
	b = append(b, xmlHeader...)
	b = append(append(append(b, '<'), r.Action...), `Response xmlns="`...)
	b = append(escape(b, r.Namespace), `">`...)
	if r.Protocol == EC2 {
		b = text(b, "requestId", r.RequestID)
		if len(t.fields) == 0 { // an action whose model has no answer says only that it was done
			b = text(b, "return", "true")
		}
		b = e.structure(b, t, v, true)
	} else {
		b = open(b, r.Action+"Result") // even when empty: clients of UpdateRole insist
		b = e.structure(b, t, v, true)
		b = shut(b, r.Action+"Result")
		b = open(b, "ResponseMetadata")
		b = text(b, "RequestId", r.RequestID)
		b = shut(b, "ResponseMetadata")
	}
	return shut(b, r.Action+"Response")
}

// AppendError appends the whole body of a refusal. receiver says that the fault is ours.
func (r Reply) AppendError(b []byte, code, message string, receiver bool) []byte {
	switch r.Protocol {
	case JSON, REST:
		b = append(jsonString(append(b, `{"__type":`...), code), `,"Message":`...)
		b = append(jsonString(b, message), `,"message":`...)
		return append(jsonString(b, message), '}')
	case Query:
		kind := "Sender"
		if receiver {
			kind = "Receiver"
		}
		b = append(append(b, xmlHeader...), `<ErrorResponse`...)
		if r.Namespace != "" {
			b = append(escape(append(b, ` xmlns="`...), r.Namespace), '"')
		}
		b = append(b, "><Error>"...)
		b = text(text(text(b, "Type", kind), "Code", code), "Message", message)
		b = shut(b, "Error")
		return shut(text(b, "RequestId", r.RequestID), "ErrorResponse")
	default:
		b = append(append(b, xmlHeader...), "<Response><Errors><Error>"...)
		b = text(text(b, "Code", code), "Message", message)
		b = append(b, "</Error></Errors>"...)
		return shut(text(b, "RequestID", r.RequestID), "Response")
	}
}

const xmlHeader = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

type xmlEncoder struct{ protocol Protocol }

func (e *xmlEncoder) structure(b []byte, t *typ, v reflect.Value, top bool) []byte {
	for i := range t.fields {
		f := &t.fields[i]
		fv := v.Field(f.index)
		// A response's own lists are always there; the others when someone made them.
		if absent(fv, f.typ) && (!top || f.typ.kind != kindList || f.flat) && !f.keep {
			continue
		}
		b = e.field(b, f, fv)
	}
	return b
}

func (e *xmlEncoder) field(b []byte, f *field, v reflect.Value) []byte {
	switch {
	case f.typ.kind == kindList && f.flat:
		for i := range v.Len() {
			b = e.element(b, f.out, f, f.typ.elem, v.Index(i))
		}
		return b
	case f.typ.kind == kindMap && f.flat:
		return e.entries(b, f.out, f, f.typ, v)
	}
	return e.element(b, f.out, f, f.typ, v)
}

func (e *xmlEncoder) element(b []byte, name string, f *field, t *typ, v reflect.Value) []byte {
	b = append(append(b, '<'), name...)
	start := len(b)
	b = append(b, '>')
	b = e.content(b, f, t, v)
	if len(b) == start+1 {
		return append(b[:start], "/>"...)
	}
	return shut(b, name)
}

func (e *xmlEncoder) content(b []byte, f *field, t *typ, v reflect.Value) []byte {
	if t.ptr {
		if v.IsNil() {
			return b
		}
		v = v.Elem()
	}
	switch t.kind {
	case kindStruct:
		return e.structure(b, t, v, false)
	case kindList:
		item := f.item
		if item == "" {
			item = "item"
			if e.protocol == Query {
				item = "member"
			}
		}
		for i := range v.Len() {
			b = e.element(b, item, f, t.elem, v.Index(i))
		}
		return b
	case kindMap:
		return e.entries(b, "entry", f, t, v)
	case kindString, kindStringPtr:
		return escape(b, v.String())
	case kindBool:
		return strconv.AppendBool(b, v.Bool())
	case kindInt:
		return strconv.AppendInt(b, v.Int(), 10)
	case kindFloat:
		return strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case kindTime:
		at := v.Interface().(time.Time).UTC()
		if e.protocol == Query && at.Nanosecond() == 0 {
			return at.AppendFormat(b, "2006-01-02T15:04:05Z")
		}
		return at.AppendFormat(b, "2006-01-02T15:04:05.000Z")
	case kindBlob:
		return base64.StdEncoding.AppendEncode(b, v.Bytes())
	}
	panic(fmt.Sprintf("wire: no XML form for kind %d", t.kind))
}

func (e *xmlEncoder) entries(b []byte, name string, f *field, t *typ, v reflect.Value) []byte {
	for _, k := range sortedKeys(v) {
		b = open(b, name)
		b = text(b, f.key, k.String())
		b = e.element(b, f.value, f, t.elem, v.MapIndex(k))
		b = shut(b, name)
	}
	return b
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	return keys
}

func open(b []byte, name string) []byte {
	return append(append(append(b, '<'), name...), '>')
}

func shut(b []byte, name string) []byte {
	return append(append(append(b, "</"...), name...), '>')
}

func text(b []byte, name, s string) []byte {
	return shut(escape(open(b, name), s), name)
}

// escape appends s as XML text. What XML cannot hold (most control characters, bytes that are not UTF-8)
// becomes U+FFFD, as encoding/xml does.
func escape(b []byte, s string) []byte {
	if !strings.ContainsFunc(s, special) {
		return append(b, s...)
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '&':
			b = append(b, "&amp;"...)
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case r == '"':
			b = append(b, "&#34;"...)
		case r == '\r':
			b = append(b, "&#xD;"...)
		case special(r) && r != '\n' && r != '\t':
			b = append(b, "\ufffd"...)
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return b
}

func special(r rune) bool {
	return r < ' ' || r == '&' || r == '<' || r == '>' || r == '"' || r == utf8.RuneError || r == 0xfffe || r == 0xffff
}
