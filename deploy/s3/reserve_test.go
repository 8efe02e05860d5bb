package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3response"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// What objects may not take is the same by all ways that an object comes.
func TestObjectsLeaveTheControlPlaneItsRoom(t *testing.T) {
	length := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		free uint64
		size *int64
		want bool
	}{
		"there is room":                       {spare + 100, length(100), true},
		"it would take one byte too many":     {spare + 99, length(100), false},
		"there is none, and it has no length": {spare - 1, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := reserved{backend.BackendUnsupported{}, "", spare, func(string) (uint64, error) { return c.free, nil }}
			_, put := r.PutObject(t.Context(), s3response.PutObjectInput{ContentLength: c.size})
			_, part := r.UploadPart(t.Context(), &s3.UploadPartInput{ContentLength: c.size})
			for way, err := range map[string]error{"put": put, "part": part} {
				if refused := errors.Is(err, errReserved); refused == c.want {
					t.Errorf("%s: got %v, want it taken: %t", way, err, c.want)
				}
			}
			if c.free < spare {
				_, copied := r.CopyObject(t.Context(), s3response.CopyObjectInput{})
				_, part := r.UploadPartCopy(t.Context(), &s3.UploadPartCopyInput{})
				if !errors.Is(copied, errReserved) || !errors.Is(part, errReserved) {
					t.Errorf("copies: got %v and %v", copied, part)
				}
			}
		})
	}
}

func TestOnlyASharedFileSystemIsReserved(t *testing.T) {
	state := t.TempDir()
	own, far := filepath.Join(state, "objects"), "/proc"
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{own: true, far: false} {
		b, err := reserve(backend.BackendUnsupported{}, dir, state)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := b.(reserved); got != want {
			t.Errorf("%s beside %s: reserved %t, want %t", dir, state, got, want)
		}
	}
	if free, err := available(own); err != nil || free == 0 {
		t.Errorf("free: %d, %v", free, err)
	}
	if _, err := reserve(backend.BackendUnsupported{}, filepath.Join(state, "none"), state); err == nil || !strings.Contains(err.Error(), "look where objects are") {
		t.Errorf("a directory that is not there: %v", err)
	}
}
