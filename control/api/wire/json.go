package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxJSONDepth bounds the recursion of DecodeJSON; documents in requests are strings, so real ones need 6.
const maxJSONDepth = 32

// DecodeJSON fills the struct that dst points to from a JSON 1.1 body. An empty body is an empty request.
// Names are compared exactly. ignored is as in Form.Decode, with JSON's member names.
func DecodeJSON(body []byte, dst any, ignored []string) error {
	return DecodeREST(body, nil, dst, ignored)
}

// DecodeREST is DecodeJSON for a request of which some parameters are not in the body but in the path or the query string.
func DecodeREST(body []byte, apart map[string]string, dst any, ignored []string) error {
	v := reflect.ValueOf(dst).Elem()
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return &Error{Kind: Malformed, Reason: "the body is not UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return &Error{Kind: Malformed, Reason: "the body is not JSON"}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &Error{Kind: Malformed, Reason: "something follows the JSON object"}
	}
	obj, ok := tree.(map[string]any)
	if !ok {
		return &Error{Kind: Malformed, Reason: "the body is not a JSON object"}
	}
	d := jsonDecoder{ignored}
	for name, value := range apart {
		if _, both := obj[name]; both {
			return &Error{Kind: InvalidValue, Parameter: name, Reason: "it may be given once"}
		}
		obj[name] = value
		if f := planOf(v.Type()).byIn[name]; f != nil && (f.typ.kind == kindInt || f.typ.kind == kindFloat) {
			obj[name] = json.Number(value)
		}
	}
	return d.structure(obj, planOf(v.Type()), v, "", 0)
}

type jsonDecoder struct{ ignored []string }

func (d *jsonDecoder) structure(obj map[string]any, t *typ, v reflect.Value, path string, depth int) error {
	for _, c := range sorted(obj) {
		if c.value == nil { // null is absent
			continue
		}
		below := c.key
		if path != "" {
			below = path + "." + c.key
		}
		f := t.byIn[c.key]
		if f == nil {
			if ignores(d.ignored, below) {
				continue
			}
			return &Error{Kind: UnknownParameter, Parameter: below, Path: below}
		}
		if err := d.value(c.value, f.typ, v.Field(f.index), below, depth+1); err != nil {
			return err
		}
	}
	for i := range t.fields {
		if f := &t.fields[i]; f.required && obj[f.in] == nil {
			name := f.in
			if path != "" {
				name = path + "." + name
			}
			return &Error{Kind: MissingParameter, Parameter: name}
		}
	}
	return nil
}

func (d *jsonDecoder) value(x any, t *typ, v reflect.Value, path string, depth int) error {
	if depth > maxJSONDepth {
		return &Error{Kind: Malformed, Reason: "parameter " + clip(path) + " is nested too deep"}
	}
	bad := func(want string) error {
		return &Error{Kind: InvalidValue, Parameter: path, Reason: "it must be " + want}
	}
	switch t.kind {
	case kindStruct:
		obj, ok := x.(map[string]any)
		if !ok {
			return bad("an object")
		}
		return d.structure(obj, t, deref(v, t), path, depth)
	case kindList:
		arr, ok := x.([]any)
		if !ok {
			return bad("a list")
		}
		out := reflect.MakeSlice(t.goType, len(arr), len(arr))
		for i, e := range arr {
			if e == nil {
				return bad("a list without null")
			}
			if err := d.value(e, t.elem, out.Index(i), path, depth+1); err != nil {
				return err
			}
		}
		v.Set(out)
		return nil
	case kindMap:
		obj, ok := x.(map[string]any)
		if !ok {
			return bad("an object")
		}
		out := reflect.MakeMapWithSize(t.goType, len(obj))
		for _, c := range sorted(obj) {
			if c.value == nil {
				continue
			}
			elem := reflect.New(t.goType.Elem()).Elem()
			if err := d.value(c.value, t.elem, elem, path+"."+c.key, depth+1); err != nil {
				return err
			}
			out.SetMapIndex(reflect.ValueOf(c.key), elem)
		}
		v.Set(out)
		return nil
	}
	return jsonScalar(x, t, v, bad)
}

func jsonScalar(x any, t *typ, v reflect.Value, bad func(string) error) error {
	switch t.kind {
	case kindString, kindStringPtr:
		s, ok := x.(string)
		if !ok {
			return bad("a string")
		}
		deref(v, t).SetString(s)
	case kindBool:
		b, ok := x.(bool)
		if !ok {
			return bad("true or false")
		}
		deref(v, t).SetBool(b)
	case kindBlob:
		s, ok := x.(string)
		if !ok {
			return bad("base64")
		}
		b, ok := parseBlob(s)
		if !ok {
			return bad("base64")
		}
		v.SetBytes(b)
	case kindTime:
		if s, ok := x.(string); ok {
			at, ok := parseTime(s)
			if !ok {
				return bad("a time in seconds since 1970")
			}
			deref(v, t).Set(reflect.ValueOf(at))
			return nil
		}
		n, ok := x.(json.Number)
		if !ok {
			return bad("a time in seconds since 1970")
		}
		at, ok := parseEpoch(n.String())
		if !ok {
			return bad("a time in seconds since 1970")
		}
		deref(v, t).Set(reflect.ValueOf(at))
	case kindInt, kindFloat:
		n, ok := x.(json.Number)
		if !ok {
			return bad("a number")
		}
		if reason := scalar(n.String(), t, v); reason != "" {
			return bad("a number of its kind")
		}
	}
	return nil
}

// AppendJSON appends the JSON 1.1 form of the struct that out points to (or is).
func AppendJSON(b []byte, out any) []byte {
	v := reflect.Indirect(reflect.ValueOf(out))
	return jsonStruct(b, planOf(v.Type()), v, true)
}

func jsonStruct(b []byte, t *typ, v reflect.Value, top bool) []byte {
	b = append(b, '{')
	first := true
	for i := range t.fields {
		f := &t.fields[i]
		fv := v.Field(f.index)
		// A response's own lists are always there; the others when someone made them.
		if absent(fv, f.typ) && (!top || f.typ.kind != kindList) && !f.keep {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(jsonString(b, f.out), ':')
		b = jsonValue(b, f.typ, fv)
	}
	return append(b, '}')
}

func jsonValue(b []byte, t *typ, v reflect.Value) []byte {
	if t.ptr {
		v = v.Elem()
	}
	switch t.kind {
	case kindStruct:
		return jsonStruct(b, t, v, false)
	case kindList:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = jsonValue(b, t.elem, v.Index(i))
		}
		return append(b, ']')
	case kindMap:
		b = append(b, '{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(jsonString(b, k.String()), ':')
			b = jsonValue(b, t.elem, v.MapIndex(k))
		}
		return append(b, '}')
	case kindString, kindStringPtr:
		return jsonString(b, v.String())
	case kindBool:
		return strconv.AppendBool(b, v.Bool())
	case kindInt:
		return strconv.AppendInt(b, v.Int(), 10)
	case kindFloat:
		f := v.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	case kindTime:
		return appendEpoch(b, v.Interface().(time.Time))
	case kindBlob:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v.Bytes())
		return append(b, '"')
	}
	panic(fmt.Sprintf("wire: no JSON form for kind %d", t.kind))
}

// appendEpoch writes seconds with three decimals where there are milliseconds, as the services do.
func appendEpoch(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms%1000 == 0 {
		return strconv.AppendInt(b, ms/1000, 10)
	}
	if ms < 0 {
		b, ms = append(b, '-'), -ms
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	return append(b, '.', byte('0'+ms%1000/100), byte('0'+ms%100/10), byte('0'+ms%10))
}

const hexDigits = "0123456789abcdef"

// jsonString appends s quoted; bytes that are not UTF-8 become U+FFFD.
func jsonString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, "\ufffd"...)
			} else {
				b = append(b, s[i:i+n]...)
			}
			i += n
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
