// Package userdata tells what the user data of an instance asks for.
//
// User data is whatever bytes someone gave to RunInstances. Their first bytes tell the kind, as cloud-init has it; gzip
// may be around any of them. This package unpacks and names, no more, so that our init, which runs a script by itself,
// links nothing else. What lies within other kinds is read by the packages below:
//
//	parts     MIME, archives, includes: one user data becomes a list of parts
//	jinja     the template of a part and the instance's data become a part
//	yaml      YAML 1.1, as PyYAML has it
//
// The bytes are hostile until proven otherwise: unpacking is bounded, and no kind is guessed from anything but the
// beginning.
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

// The kinds, by their first bytes. Those of scripts with a frequency have only a MIME type.
const (
	Empty       Kind = "empty"
	Script      Kind = "script"
	PerBoot     Kind = "script per boot"
	PerInstance Kind = "script per instance"
	PerOnce     Kind = "script per once"
	CloudConfig Kind = "cloud-config"
	Archive     Kind = "cloud-config-archive"
	JSONPatch   Kind = "cloud-config-jsonp"
	Include     Kind = "include"
	IncludeOnce Kind = "include-once"
	Boothook    Kind = "cloud-boothook"
	PartHandler Kind = "part-handler"
	Upstart     Kind = "upstart-job"
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
	Kind  Kind
	Body  []byte
	Name  string // of the file that it becomes; empty before it has one
	Type  string // the MIME type that came with it, if one did
	Merge string // how a cloud-config joins those before it, if a header says so
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
	{"#upstart-job", Upstart},
	{"## template: jinja", Template},
}

// mimeWithin is how far cloud-init looks for the header that makes a message of user data.
const mimeWithin = 4096

// Handled tells whether our init carries out a kind by itself; all others are package provision's.
func (k Kind) Handled() bool { return k == Script || k == Empty }

// Parse unpacks user data and names it. ErrTooLarge if it unpacks to too much; another error
// if it begins as gzip and is none.
func Parse(raw []byte) (Part, error) {
	for range 2 { // cloud-init unpacks once; twice is common where tools pack by themselves
		if !bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
			break
		}
		body, err := Unpack(raw)
		if err != nil {
			return Part{}, err
		}
		raw = body
	}
	head := bytes.ToLower(raw[:min(len(raw), mimeWithin)])
	if bytes.Contains(head, []byte("mime-version:")) || bytes.HasPrefix(head, []byte("content-type: multipart/")) {
		return Part{Kind: Multipart, Body: raw}, nil
	}
	return Part{Kind: Sniff(raw), Body: raw}, nil
}

// Unpack takes gzip off. ErrTooLarge if there is too much within.
func Unpack(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unpack user data: %v", err)
	}
	body, err := io.ReadAll(io.LimitReader(z, MaxUnpacked+1))
	if err != nil {
		return nil, fmt.Errorf("unpack user data: %v", err)
	}
	if len(body) > MaxUnpacked {
		return nil, ErrTooLarge
	}
	return body, nil
}

// Sniff names the kind of a part by its beginning; white space before it does not count.
func Sniff(b []byte) Kind {
	b = bytes.TrimLeft(b, " \t\r\n\v\f")
	if len(b) == 0 {
		return Empty
	}
	for _, k := range kinds {
		if len(b) >= len(k.prefix) && bytes.EqualFold(b[:len(k.prefix)], []byte(k.prefix)) {
			return k.kind
		}
	}
	return Unknown
}

// Executable is what the file of a script holds: lines end as Unix ends them when the first does not. An error if the
// kernel will not run it, for the reason that authors overlook.
func Executable(script []byte) ([]byte, error) {
	if !bytes.HasPrefix(script, []byte("#!")) {
		return nil, errors.New("the script does not begin with #!: nothing may stand before it, no white space either")
	}
	if first := bytes.IndexByte(script, '\n'); first > 0 && script[first-1] == '\r' {
		script = bytes.ReplaceAll(script, []byte("\r\n"), []byte("\n"))
	}
	return script, nil
}
