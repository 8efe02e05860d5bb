package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A Pager makes and opens NextTokens. A token is sealed with the store's revision and the last key shown,
// and bound to the caller and to all other parameters of the request: any control process with the same
// key can serve the next page, from the same revision, to the same caller asking the same question.
type Pager struct{ aead cipher.AEAD }

// NewPager returns a pager; key has 32 bytes and is the same in all control processes.
func NewPager(key []byte) (*Pager, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Pager{aead}, err
}

// Bounds are what MaxResults (or MaxItems) may be, and what it is if not given. Default 0 means all.
type Bounds struct{ Default, Min, Max int64 }

// A Page is one page as asked for.
type Page struct {
	Size     int    // at most so many items; 0 for all
	After    string // the last key already shown, "" at first
	Revision int64  // the store's revision of the first page, 0 at first
	pager    *Pager
	binding  []byte
}

// Page reads NextToken and MaxResults (Marker and MaxItems of IAM) from an Input struct and refuses those
// that are out of bounds, forged, or made for another question or caller.
func (p *Pager) Page(ctx context.Context, in any, b Bounds) (*Page, error) {
	v := reflect.Indirect(reflect.ValueOf(in))
	pg := &Page{Size: int(b.Default), pager: p, binding: binding(ctx, v)}
	for _, name := range []string{"MaxResults", "MaxItems"} {
		f := v.FieldByName(name)
		if !f.IsValid() || f.IsNil() {
			continue
		}
		n := f.Elem().Int()
		if n < b.Min || n > b.Max {
			return nil, cloud.Errorf("InvalidParameterValue", "Value ( %d ) for parameter %s is invalid. Expecting a value from %d to %d", n, name, b.Min, b.Max)
		}
		pg.Size = int(n)
	}
	for _, name := range []string{"NextToken", "Marker"} {
		f := v.FieldByName(name)
		if !f.IsValid() || f.Len() == 0 {
			continue
		}
		if err := pg.open(f.String()); err != nil {
			return nil, err
		}
	}
	return pg, nil
}

// Next returns the token for the page after the one that ends with the key last, read at revision.
func (pg *Page) Next(revision int64, last string) string {
	a := pg.pager.aead
	nonce := make([]byte, a.NonceSize(), a.NonceSize()+8+len(last)+a.Overhead())
	_, _ = rand.Read(nonce) // it never fails
	plain := append(binary.BigEndian.AppendUint64(nil, uint64(revision)), last...)
	return base64.RawURLEncoding.EncodeToString(a.Seal(nonce, nonce, plain, pg.binding))
}

func (pg *Page) open(token string) error {
	invalid := cloud.Errorf("InvalidNextToken", "The token is not valid for this request: start again without one")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	a := pg.pager.aead
	if err != nil || len(raw) < a.NonceSize() {
		return invalid
	}
	plain, err := a.Open(nil, raw[:a.NonceSize()], raw[a.NonceSize():], pg.binding)
	if err != nil || len(plain) < 8 {
		return invalid
	}
	pg.Revision, pg.After = int64(binary.BigEndian.Uint64(plain)), string(plain[8:])
	return nil
}

// Cut returns the page of items, which it sorts by key, and the token for the next one, "" at the end.
// Keys are unique; a key deleted meanwhile does no harm.
func Cut[T any](pg *Page, revision int64, items []T, key func(T) string) ([]T, string) {
	slices.SortFunc(items, func(a, b T) int {
		ka, kb := key(a), key(b)
		switch {
		case ka < kb:
			return -1
		case ka > kb:
			return 1
		}
		return 0
	})
	if pg.After != "" {
		i, found := slices.BinarySearchFunc(items, pg.After, func(item T, k string) int {
			switch ki := key(item); {
			case ki < k:
				return -1
			case ki > k:
				return 1
			}
			return 0
		})
		if found {
			i++
		}
		items = items[i:]
	}
	if pg.Size <= 0 || len(items) <= pg.Size {
		return items, ""
	}
	items = items[:pg.Size]
	return items, pg.Next(revision, key(items[pg.Size-1]))
}

// binding hashes who asks what, without the page.
func binding(ctx context.Context, in reflect.Value) []byte {
	c := reflect.New(in.Type()).Elem()
	c.Set(in)
	for _, name := range []string{"MaxResults", "MaxItems", "NextToken", "Marker"} {
		if f := c.FieldByName(name); f.IsValid() {
			f.SetZero()
		}
	}
	question, err := json.Marshal(c.Interface())
	if err != nil {
		panic(fmt.Sprintf("api: an input struct has no JSON form: %v", err))
	}
	id := CallerFrom(ctx)
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %s", in.Type().String(), id.Account, id.ARN, question)
	return h.Sum(nil)
}
