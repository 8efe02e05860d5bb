package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// spare is what objects leave free of a file system that the control plane's state shares with them: its store stops on a
// full one, and with it the cloud.
const spare = 1 << 30

// errReserved tells a client that it is not its fault, and that to try again at once is of no use: 507, RFC 4918.
var errReserved = s3err.APIError{
	Code: "InsufficientStorage", HTTPStatusCode: http.StatusInsufficientStorage,
	Description: "The object store's file system has no more room than the control plane needs itself: remove objects, or have the operator give objects a file system of their own.",
}

// reserved is a store that takes no more than leaves so many bytes free.
type reserved struct {
	backend.Backend
	dir   string
	bytes uint64
	free  func(dir string) (uint64, error)
}

// reserve returns the store, bounded where dir shares its file system with the state directory.
func reserve(store backend.Backend, dir, state string) (backend.Backend, error) {
	same, err := shared(dir, state)
	if err != nil || !same {
		return store, err
	}
	return reserved{store, dir, spare, available}, nil
}

func shared(a, b string) (bool, error) {
	var at [2]uint64
	for k, path := range []string{a, b} {
		info, err := os.Stat(path)
		if err != nil {
			return false, fmt.Errorf("look where objects are: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false, nil
		}
		at[k] = st.Dev
	}
	return at[0] == at[1], nil
}

// available is what others than root may still use.
func available(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// room reports whether so many bytes more leave what is reserved. A length that nobody has told counts as none.
func (r reserved) room(length *int64) error {
	free, err := r.free(r.dir)
	if err != nil {
		return fmt.Errorf("see what is free in %s: %w", r.dir, err)
	}
	need := r.bytes
	if length != nil && *length > 0 {
		need += uint64(*length)
	}
	if free < need {
		return errReserved
	}
	return nil
}

func (r reserved) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	if err := r.room(in.ContentLength); err != nil {
		return s3response.PutObjectOutput{}, err
	}
	return r.Backend.PutObject(ctx, in)
}

func (r reserved) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	if err := r.room(in.ContentLength); err != nil {
		return nil, err
	}
	return r.Backend.UploadPart(ctx, in)
}

func (r reserved) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	if err := r.room(nil); err != nil {
		return s3response.CopyPartResult{}, err
	}
	return r.Backend.UploadPartCopy(ctx, in)
}

func (r reserved) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	if err := r.room(nil); err != nil {
		return s3response.CopyObjectOutput{}, err
	}
	return r.Backend.CopyObject(ctx, in)
}
