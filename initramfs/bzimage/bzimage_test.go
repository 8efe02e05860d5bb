package bzimage

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/initramfs/codec"
)

func TestExtractTakesDebiansKernel(t *testing.T) {
	list, _ := filepath.Glob("/boot/vmlinuz-*-amd64")
	if len(list) == 0 {
		t.Skip("no kernel in /boot: apt-get install linux-image-cloud-amd64")
	}
	image, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	release, err := Release(image)
	if want := strings.TrimPrefix(filepath.Base(list[0]), "vmlinuz-"); err != nil || release != want {
		t.Errorf("release: got %q, %v; want %q", release, err, want)
	}
	kernel, err := Extract(image)
	if err != nil || !strings.HasPrefix(string(kernel), "\x7fELF") {
		t.Errorf("extract: got %d bytes, %v; want an ELF", len(kernel), err)
	}
}

// wrapper is a boot sector around a payload.
func wrapper(payload []byte) []byte {
	b := make([]byte, 1024)
	b[offSetupSects] = 1
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x20f)
	binary.LittleEndian.PutUint16(b[offKernelVersion:], 0x100)
	copy(b[0x300:], "6.1.0-test (x) #1\x00")
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	return append(b, payload...)
}

func TestExtractRefuses(t *testing.T) {
	text, err := codec.Encode(codec.Gzip, []byte("this is no kernel at all"))
	if err != nil {
		t.Fatal(err)
	}
	outside := wrapper(text)
	binary.LittleEndian.PutUint32(outside[offPayloadLength:], 1<<30)
	for _, c := range []struct {
		name  string
		image []byte
		want  error
	}{
		{"an empty file", nil, ErrNotKernel},
		{"something else", make([]byte, 4096), ErrNotKernel},
		{"a payload outside of the file", outside, ErrNotKernel},
		{"a packing that we do not know", wrapper([]byte("BZh91AY&SY")), codec.ErrUnknown},
		{"a payload that is no ELF", wrapper(text), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Extract(c.image)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func FuzzExtract(f *testing.F) {
	text, err := codec.Encode(codec.Gzip, []byte("\x7fELF\x02\x01\x01"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapper(text))
	f.Fuzz(func(t *testing.T, image []byte) {
		Release(image)
		if kernel, err := Extract(image); err == nil && len(kernel) > MaxKernel {
			t.Errorf("unpacked %d bytes", len(kernel))
		}
	})
}
