package wire

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const id = cloud.CommandID("01234567-89ab-cdef-0123-456789abcdef")

var frames = []Frame{
	&Hello{Version: 1, Agent: "v0.1", Boot: "b", PlatformType: "Linux", Commands: []cloud.CommandID{id}},
	&Welcome{Version: 1, Epoch: 7, Instance: "i-0123456789abcdef0"},
	&Request{ID: id, Steps: []Step{{Name: "a", Script: "echo <&>", Timeout: time.Hour}}, Environment: map[string]string{"A": "b"}, Offsets: [Streams]int64{3, 4}, Limit: 5, Resume: true},
	&Accepted{ID: id},
	&Output{ID: id, Stream: Stderr, Offset: 1 << 40, Data: []byte("\x00data")},
	&Ack{ID: id, Stream: Stdout, Offset: 9},
	&Result{ID: id, Now: 3, Steps: []StepResult{{Outcome: Failed, Code: 3, Started: 1, Ended: 2}}, Outputs: [Streams]int64{1, 2}},
	&Cancel{ID: id},
	&Done{ID: id},
	&Metadata{},
}

func TestFramesSurviveTheWire(t *testing.T) {
	for _, want := range frames {
		msg, err := Append(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(msg)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, msg string }{
		{"nothing", ""},
		{"an unknown kind", "x{}"},
		{"JSON that is cut short", `r{"ID":"` + string(id)},
		{"an ID that is a path", `d{"ID":"../../etc/passwd"}`},
		{"an ID that is empty", `d{"ID":""}`},
		{"an ID that is too long", `d{"ID":"` + strings.Repeat("a", 37) + `"}`},
		{"an output that is cut short", "o\x24abc"},
		{"an output of no stream", "o\x01a\x02\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"a negative offset", "o\x01a\x00\xff\x00\x00\x00\x00\x00\x00\x00"},
		{"an output that is too large", "o\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("x", MaxData+1)},
		{"an ack with a tail", "a\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00x"},
		{"a step's output of negative length", `e{"ID":"a","Steps":[{"Outputs":[0,-1]}]}`},
		{"a result with too many steps", `e{"ID":"a","Steps":[{}` + strings.Repeat(`,{}`, MaxSteps) + `]}`},
		{"a result of negative length", `e{"ID":"a","Outputs":[-1,0]}`},
		{"a hello with too many commands", `h{"Commands":["a"` + strings.Repeat(`,"a"`, MaxHello) + `]}`},
	} {
		if f, err := Decode([]byte(tt.msg)); err == nil {
			t.Errorf("%s: got %+v, want an error", tt.name, f)
		}
	}
}

// What a guest nests is skipped or refused, and costs what its bytes do and half a megabyte at most: encoding/json keeps eight
// bytes of each level, and goes down 10,000.
func TestNestingIsBounded(t *testing.T) {
	const size = 1 << 20
	for _, kind := range []byte{kindHello, kindWelcome, kindRequest, kindAccepted, kindResult, kindCancel, kindDone, kindMetadata, kindOrder, kindTerminate} {
		for _, field := range []string{"ID", "Steps", "Commands", "nobody"} {
			for _, one := range []string{"[", `{"a":`, `[{"Steps":`} {
				for _, depth := range []int{9_000, size / len(one)} {
					msg := []byte(string(kind) + `{"` + field + `":` + strings.Repeat(one, depth))
					before := allocated()
					f, err := Decode(msg)
					spent := allocated() - before
					if err == nil {
						t.Errorf("%c %s %s: got %+v, want an error", kind, field, one, f)
					}
					if spent > 4*uint64(len(msg))+512<<10 {
						t.Errorf("%c %s %s: %d bytes deep by %d cost %d", kind, field, one, len(msg), depth, spent)
					}
				}
			}
		}
	}
	deep := "d" + `{"ID":"` + string(id) + `","nobody":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + "}"
	if f, err := Decode([]byte(deep)); err != nil || !reflect.DeepEqual(f, &Done{ID: id}) {
		t.Errorf("got %+v, %v, want what it says beside what nobody knows", f, err)
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// FuzzDecode holds for both sides: they share the decoder.
func FuzzDecode(f *testing.F) {
	for _, fr := range frames {
		msg, err := Append(nil, fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		fr, err := Decode(msg)
		if err != nil {
			return
		}
		again, err := Append(nil, fr)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("decode what was decoded: %v", err)
		}
		second, err := Append(nil, back)
		if err != nil || string(second) != string(again) {
			t.Fatalf("got %q, %v, want %q", second, err, again)
		}
	})
}
