// Package userdata decides what the user data of an instance asks for.
//
// User data is whatever bytes someone gave to RunInstances. Their first bytes tell the kind,
// as cloud-init has it; gzip may be around any of them. Today a script is carried out by our
// init and every other kind is named, so that init can say what it did not do instead of
// doing nothing silently. The bytes are hostile until proven otherwise: unpacking is
// bounded, and no kind is guessed from anything but the beginning.
package userdata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// Kind is what user data asks for.
type Kind string

// The kinds, by their first bytes.
const (
	Empty       Kind = "empty"
	Script      Kind = "script"
	CloudConfig Kind = "cloud-config"
	Archive     Kind = "cloud-config-archive"
	JSONPatch   Kind = "cloud-config-jsonp"
	Include     Kind = "include"
	IncludeOnce Kind = "include-once"
	Boothook    Kind = "cloud-boothook"
	PartHandler Kind = "part-handler"
	Template    Kind = "jinja template"
	Multipart   Kind = "MIME multipart"
	Unknown     Kind = "unknown"
)

// MaxUnpacked bounds unpacked user data. RunInstances takes 16 KiB; gzip's best is about 1000:1.
const MaxUnpacked = 16 << 20

// ErrTooLarge is returned for user data that unpacks to more than MaxUnpacked.
var ErrTooLarge = errors.New("user data unpacks to more than 16 MiB")

// Part is one piece of user data and what it is.
type Part struct {
	Kind Kind
	Body []byte
}

// kinds in the order of matching: of two prefixes of one another the longer stands first.
var kinds = []struct {
	prefix string
	kind   Kind
}{
	{"#!", Script},
	{"#cloud-config-archive", Archive},
	{"#cloud-config-jsonp", JSONPatch},
	{"#cloud-config", CloudConfig},
	{"#include-once", IncludeOnce},
	{"#include", Include},
	{"#cloud-boothook", Boothook},
	{"#part-handler", PartHandler},
	{"## template: jinja", Template},
	{"Content-Type: multipart/", Multipart},
	{"MIME-Version:", Multipart},
}

// Handled tells whether our init carries out a kind.
func (k Kind) Handled() bool { return k == Script || k == Empty }

// Parse unpacks user data and names it. ErrTooLarge if it unpacks to too much; another error
// if it begins as gzip and is none.
func Parse(raw []byte) (Part, error) {
	for range 2 { // cloud-init unpacks once; twice is common where tools pack by themselves
		if !bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
			break
		}
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return Part{}, fmt.Errorf("unpack user data: %v", err)
		}
		body, err := io.ReadAll(io.LimitReader(z, MaxUnpacked+1))
		if err != nil {
			return Part{}, fmt.Errorf("unpack user data: %v", err)
		}
		if len(body) > MaxUnpacked {
			return Part{}, ErrTooLarge
		}
		raw = body
	}
	return Part{Kind: kind(raw), Body: raw}, nil
}

func kind(b []byte) Kind {
	if len(bytes.TrimSpace(b)) == 0 {
		return Empty
	}
	for _, k := range kinds {
		if len(b) >= len(k.prefix) && bytes.EqualFold(b[:len(k.prefix)], []byte(k.prefix)) {
			return k.kind
		}
	}
	return Unknown
}
