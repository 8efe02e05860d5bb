package wire_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api/shape/model"
	"github.com/ichiro-metal/ichiro/control/api/wire"
)

// A suite is one element of Amazon's protocol_tests/{input,output}/*.json.
type suite struct {
	model.Model
	Description string
	Cases       []struct {
		Given      model.Operation
		Params     map[string]any
		Serialized struct{ Body string }
		Result     map[string]any
		Response   struct{ Body string }
	}
}

var protocols = map[string]wire.Protocol{"ec2": wire.EC2, "query": wire.Query, "json": wire.JSON}

// notOurs names suites about what no service of ours does, with the reason.
var notOurs = map[string]string{
	"output/ec2/Scalar members":                       "has an XML attribute",
	"output/query/Scalar members":                     "has an XML attribute",
	"output/ec2/Empty string":                         "an empty string is absent in our structs",
	"output/query/Empty string":                       "an empty string is absent in our structs",
	"output/query/Enum output":                        "has no result element, which all our services have",
	"output/json/Lists":                               "has null elements, and we write a response's empty lists",
	"output/json/Ignores extra data":                  "is for clients",
	"output/json/unmodeled non-json response payload": "is for clients",
}

func suites(t *testing.T, direction string, run func(t *testing.T, p wire.Protocol, s *suite)) {
	dir, err := model.Module(".", "github.com/aws/aws-sdk-go")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range protocols {
		raw, err := os.ReadFile(filepath.Join(dir, "models", "protocol_tests", direction, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var all []*suite
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			full := direction + "/" + name + "/" + s.Description
			t.Run(full, func(t *testing.T) {
				if why := notOurs[full]; why != "" {
					t.Skip(why)
				}
				run(t, p, s)
			})
		}
	}
}

func TestRequestsOfTheProtocolTests(t *testing.T) {
	suites(t, "input", func(t *testing.T, p wire.Protocol, s *suite) {
		for _, c := range s.Cases {
			in := reflect.New(typeOf(&s.Model, c.Given.Input, 0))
			if err := decode(p, c.Serialized.Body, in.Interface()); err != nil {
				t.Errorf("%s: %v", c.Serialized.Body, err)
				continue
			}
			if diff := lacks(in, any(c.Params), ""); diff != "" {
				t.Errorf("%s: %s", c.Serialized.Body, diff)
			}
		}
	})
}

func decode(p wire.Protocol, body string, in any) error {
	if p == wire.JSON {
		return wire.DecodeJSON([]byte(body), in, nil)
	}
	form, err := wire.ParseForm(body)
	if err != nil {
		return err
	}
	form.Drop("Action", "Version")
	return form.Decode(p, in, nil)
}

func TestResponsesOfTheProtocolTests(t *testing.T) {
	suites(t, "output", func(t *testing.T, p wire.Protocol, s *suite) {
		for _, c := range s.Cases {
			custom := strings.Contains(c.Response.Body, "TimeCustom") // formats that no service of ours has
			out := reflect.New(typeOf(&s.Model, c.Given.Output, 0))
			set(out.Elem(), any(c.Result))
			got := wire.Reply{Protocol: p, Action: "OperationName"}.Append(nil, out.Interface())
			if custom {
				continue
			}
			if got, want := canonical(t, p, string(got)), canonical(t, p, c.Response.Body); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	})
}

// typeOf makes a Go type of a shape, as the generator would. Recursion is unrolled a few times.
func typeOf(m *model.Model, r *model.Ref, depth int) reflect.Type {
	if r == nil {
		return reflect.TypeFor[struct{}]()
	}
	s := m.Shapes[r.Shape]
	switch s.Type {
	case "structure":
		if depth > 5 {
			return reflect.TypeFor[struct{}]()
		}
		var fields []reflect.StructField
		for name, ref := range s.Members {
			t := typeOf(m, ref, depth+1)
			switch k := m.Shapes[ref.Shape].Type; k {
			case "list", "map", "blob", "string", "character":
			default:
				t = reflect.PointerTo(t)
			}
			fields = append(fields, reflect.StructField{Name: model.Field(name), Type: t, Tag: reflect.StructTag(`wire:"` + m.Tag(s, name) + `"`)})
		}
		slices.SortFunc(fields, func(a, b reflect.StructField) int { return strings.Compare(a.Name, b.Name) })
		return reflect.StructOf(fields)
	case "list":
		return reflect.SliceOf(typeOf(m, s.Member, depth+1))
	case "map":
		return reflect.MapOf(reflect.TypeFor[string](), typeOf(m, s.Value, depth+1))
	case "boolean":
		return reflect.TypeFor[bool]()
	case "integer", "long":
		return reflect.TypeFor[int64]()
	case "float", "double":
		return reflect.TypeFor[float64]()
	case "timestamp":
		return reflect.TypeFor[time.Time]()
	case "blob":
		return reflect.TypeFor[[]byte]()
	default:
		return reflect.TypeFor[string]()
	}
}

// lacks says what of the wanted parameters v has not.
func lacks(v reflect.Value, want any, path string) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return path + " is absent"
		}
		return lacks(v.Elem(), want, path)
	}
	switch want := want.(type) {
	case map[string]any:
		for name, w := range want {
			var f reflect.Value
			if v.Kind() == reflect.Map {
				f = v.MapIndex(reflect.ValueOf(name))
			} else {
				f = v.FieldByName(model.Field(name))
			}
			if !f.IsValid() {
				return path + "." + name + " is absent"
			}
			if diff := lacks(f, w, path+"."+name); diff != "" {
				return diff
			}
		}
		return ""
	case []any:
		if v.Len() != len(want) {
			return fmt.Sprintf("%s: got %d elements, want %d", path, v.Len(), len(want))
		}
		for i, w := range want {
			if diff := lacks(v.Index(i), w, fmt.Sprintf("%s[%d]", path, i)); diff != "" {
				return diff
			}
		}
		return ""
	}
	got := fmt.Sprint(v)
	switch x := v.Interface().(type) {
	case time.Time:
		got = fmt.Sprint(float64(x.Unix()))
	case []byte:
		got = string(x)
	case int64:
		got = fmt.Sprint(float64(x))
	}
	if got != fmt.Sprint(want) {
		return fmt.Sprintf("%s: got %q, want %q", path, got, want)
	}
	return ""
}

// set fills v with a test's result.
func set(v reflect.Value, x any) {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		set(v.Elem(), x)
		return
	}
	switch x := x.(type) {
	case map[string]any:
		for name, e := range x {
			if v.Kind() == reflect.Struct {
				if f := v.FieldByName(model.Field(name)); f.IsValid() {
					set(f, e)
				}
				continue
			}
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			elem := reflect.New(v.Type().Elem()).Elem()
			set(elem, e)
			v.SetMapIndex(reflect.ValueOf(name), elem)
		}
	case []any:
		v.Set(reflect.MakeSlice(v.Type(), len(x), len(x)))
		for i, e := range x {
			set(v.Index(i), e)
		}
	case string:
		if v.Kind() == reflect.Slice {
			v.SetBytes([]byte(x))
		} else {
			v.SetString(x)
		}
	case bool:
		v.SetBool(x)
	case float64:
		switch v.Kind() {
		case reflect.Int64:
			v.SetInt(int64(x))
		case reflect.Float64:
			v.SetFloat(x)
		default:
			v.Set(reflect.ValueOf(time.Unix(int64(x), 0).UTC()))
		}
	}
}

// canonical renders a response without order, name spaces and request ids.
func canonical(t *testing.T, p wire.Protocol, body string) string {
	t.Helper()
	if p == wire.JSON {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		b, _ := json.Marshal(v)
		return string(b)
	}
	dec := xml.NewDecoder(strings.NewReader(body))
	type frame struct {
		name     string
		children []string
		text     string
	}
	stack := []*frame{{}}
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return strings.Join(stack[0].children, "")
		}
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		top := stack[len(stack)-1]
		switch tok := tok.(type) {
		case xml.StartElement:
			stack = append(stack, &frame{name: tok.Name.Local})
		case xml.CharData:
			top.text += string(tok)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
			if !slices.Contains([]string{"requestId", "RequestId", "ResponseMetadata"}, top.name) {
				slices.Sort(top.children)
				parent := stack[len(stack)-1]
				parent.children = append(parent.children, "<"+top.name+">"+strings.TrimSpace(top.text)+strings.Join(top.children, "")+"</>")
			}
		}
	}
}
