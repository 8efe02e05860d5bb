package codec

import (
	"bytes"
	"errors"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	long := bytes.Repeat([]byte("more than one block of LZ4 "), legacyBlock/27+1000)
	for _, f := range []Format{Gzip, Zstd, LZ4} {
		for _, data := range [][]byte{[]byte("a"), bytes.Repeat([]byte("kernel "), 1000), long} {
			one, err := Encode(f, data)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			two, err := Encode(f, data)
			if err != nil || !bytes.Equal(one, two) {
				t.Errorf("%s: packing %d bytes twice gave two results (%v)", f, len(data), err)
			}
			got, err := Decode(one, len(data))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes came back as %d, %v", f, len(data), len(got), err)
			}
			if _, err := Decode(one, len(data)-1); len(data) > 1 && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: limit of one byte less: got %v, want ErrTooLarge", f, err)
			}
		}
	}
}

func TestUnknown(t *testing.T) {
	if _, err := Encode("rar", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("encode: got %v, want ErrUnknown", err)
	}
	if _, err := Decode([]byte("BZh9"), 10); !errors.Is(err, ErrUnknown) {
		t.Errorf("decode: got %v, want ErrUnknown", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, format := range []Format{Gzip, Zstd, LZ4} {
		b, err := Encode(format, []byte("a kernel, a kernel"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		if out, err := Decode(b, limit); err == nil && len(out) > limit {
			t.Errorf("unpacked %d bytes", len(out))
		}
	})
}
