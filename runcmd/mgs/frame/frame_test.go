package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func message() Message {
	id, err := ParseID("00112233-4455-6677-8899-aabbccddeeff")
	if err != nil {
		panic(err)
	}
	return Message{
		Type: Output, Created: time.UnixMilli(0x0102030405), Sequence: 7, Flags: SYN,
		ID: id, PayloadType: Data, Payload: []byte("abc"),
	}
}

// The digest of "abc" is the first example of FIPS 180-2; the halves of the UUID are swapped.
const golden = "00000074" +
	"6f75747075745f73747265616d5f64617461" + "2020202020202020202020202020" +
	"00000001" + "0000000102030405" + "0000000000000007" + "0000000000000001" +
	"8899aabbccddeeff" + "0011223344556677" +
	"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" +
	"00000001" + "00000003" + "616263"

func TestTheBytesAreThoseOfTheStockPrograms(t *testing.T) {
	m := message()
	got, err := Append(nil, &m)
	if err != nil || hex.EncodeToString(got) != golden {
		t.Fatalf("got %x, %v\nwant %s", got, err, golden)
	}
	back, err := Decode(got)
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Fatalf("got %+v, %v\nwant %+v", back, err, m)
	}
}

func TestWhatIsMalformedIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func([]byte) []byte
		want error
	}{
		{"nothing", func([]byte) []byte { return nil }, ErrShort},
		{"a header that ends early", func(b []byte) []byte { return b[:HeaderSize-1] }, ErrShort},
		{"a payload that ends early", func(b []byte) []byte { return b[:len(b)-1] }, ErrShort},
		{"a tail", func(b []byte) []byte { return append(b, 0) }, ErrShape},
		{"another length of the header", func(b []byte) []byte { b[3] = 112; return b }, ErrShape},
		{"a type with a control byte", func(b []byte) []byte { b[atType] = 27; return b }, ErrShape},
		{"no type", func(b []byte) []byte { copy(b[atType:], strings.Repeat(" ", typeSize)); return b }, ErrShape},
		{"another schema", func(b []byte) []byte { b[atSchema+3] = 2; return b }, ErrShape},
		{"a negative sequence number", func(b []byte) []byte { b[atSequence] = 0x80; return b }, ErrShape},
		{"a time after the end of time", func(b []byte) []byte { b[atCreated] = 0xff; return b }, ErrShape},
		{"a payload said to be of 4 GiB", func(b []byte) []byte { copy(b[atPayloadSize:], "\xff\xff\xff\xff"); return b }, ErrShape},
		{"another payload", func(b []byte) []byte { b[HeaderSize] ^= 1; return b }, ErrDigest},
		{"another digest", func(b []byte) []byte { b[atDigest] ^= 1; return b }, ErrDigest},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := message()
			b, err := Append(nil, &m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Decode(c.bend(b)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestWhatCouldNotBeReadIsNotWritten(t *testing.T) {
	for name, bend := range map[string]func(*Message){
		"no type":                    func(m *Message) { m.Type = "" },
		"a type that is too long":    func(m *Message) { m.Type = strings.Repeat("a", typeSize+1) },
		"a negative sequence number": func(m *Message) { m.Sequence = -1 },
		"a payload beyond the bound": func(m *Message) { m.Payload = make([]byte, MaxPayload+1) },
	} {
		m := message()
		bend(&m)
		if b, err := Append(nil, &m); err == nil || len(b) > 0 {
			t.Errorf("%s: got %d bytes, want an error", name, len(b))
		}
	}
}

func TestATypePaddedWithNULsIsRead(t *testing.T) {
	m := message()
	b, _ := Append(nil, &m)
	copy(b[atType+len(Output):atSchema], make([]byte, typeSize))
	if got, err := Decode(b); err != nil || got.Type != Output {
		t.Fatalf("got %q, %v", got.Type, err)
	}
}

func TestAnIDIsReadAsItIsWritten(t *testing.T) {
	id := message().ID
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("got %s, %v, want %s", got, err, id)
	}
	for _, s := range []string{"", "0", strings.Repeat("0", 36), "g0112233-4455-6677-8899-aabbccddeeff", id.String() + "0"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	m := message()
	b, _ := Append(nil, &m)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Append(nil, &m)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		copy(again[atType:atSchema], b[atType:atSchema]) // its padding may have been another
		if !bytes.Equal(again, b) {
			t.Fatalf("%x was read and written as %x", b, again)
		}
	})
}
