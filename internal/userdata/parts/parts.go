// Package parts makes the list of its parts from user data.
//
// MIME messages and archives are opened, URLs of includes are read (by whoever calls: this package has no network),
// whatever is packed is unpacked, until every part is one that is carried out by itself: scripts, cloud-config, boothooks,
// templates. Each gets the file name that cloud-init would give it. What cannot be had is told and the rest goes on.
//
//	user data --> parse --> MIME ------> each part --> parse by its type
//	                   \--> archive ---> each entry
//	                   \--> include ---> each URL ---> as user data again
//	                   \--> a part
//
// Everything is bounded, in a way that a sentence can name: see the limits.
package parts

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/userdata"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// Limits of one user data.
const (
	MaxParts    = 256      // and containers
	MaxDepth    = 10       // of messages within messages, archives, includes
	MaxIncludes = 64       // URLs in all
	MaxBytes    = 64 << 20 // of all parts together, unpacked
)

// Options is what Expand needs from the world.
type Options struct {
	Get         func(ctx context.Context, url string) ([]byte, error) // reads a URL; nil: includes are refused
	Kept        func(url string) ([]byte, bool)                       // what include-once read at an earlier boot; nil: nothing
	Keep        func(url string, body []byte)                         // for the next boot; nil: not
	LaunchIndex string                                                // ami-launch-index; parts for another are left out
}

// Expand returns the parts in order, and what could not be read.
func Expand(ctx context.Context, raw []byte, o Options) ([]userdata.Part, []error) {
	e := expander{Options: o, ctx: ctx}
	e.message(raw, "user data", 0)
	return e.parts, e.troubles
}

// expander is one call of Expand.
type expander struct {
	Options
	ctx      context.Context
	parts    []userdata.Part
	troubles []error
	opened   int // parts and containers
	numbered int // parts, for their names: cloud-init counts also those that nothing is done with
	includes int
	bytes    int
	open     []string // the URLs that are being read
	full     bool
}

func (e *expander) trouble(format string, args ...any) {
	e.troubles = append(e.troubles, fmt.Errorf(format, args...))
}

// enter counts what is opened; false if it is too much, which is told once.
func (e *expander) enter(where string, size, depth int) bool {
	e.opened++
	e.bytes += size
	var what string
	switch {
	case e.full:
		return false
	case depth > MaxDepth:
		e.trouble("%s: more than %d levels within one another", where, MaxDepth)
		return false
	case e.opened > MaxParts:
		what = fmt.Sprintf("more than %d parts", MaxParts)
	case e.bytes > MaxBytes:
		what = fmt.Sprintf("more than %d MiB", MaxBytes>>20)
	default:
		return true
	}
	e.full = true
	e.trouble("%s: user data has %s: the rest is left out", where, what)
	return false
}

// message reads bytes as user data is read: packed or not, a message or one part.
func (e *expander) message(raw []byte, where string, depth int) {
	p, err := userdata.Parse(raw)
	if err != nil {
		e.trouble("%s: %w", where, err)
		return
	}
	if !e.enter(where, len(p.Body), depth) {
		return
	}
	if p.Kind == userdata.Multipart {
		e.entity(p.Body, where, depth)
		return
	}
	e.part(p, where, depth)
}

// entity opens a MIME message or a part of one.
func (e *expander) entity(text []byte, where string, depth int) {
	h, body := headers(text)
	kind, params := h.contentType()
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		if params["boundary"] == "" {
			e.trouble("%s: a %s without a boundary has no parts", where, kind)
			return
		}
		list := split(body, params["boundary"])
		if len(list) == 0 {
			e.trouble("%s: the boundary %.70q is not in the message", where, params["boundary"])
		}
		for i, text := range list {
			name := fmt.Sprintf("%s, part %d", where, i+1)
			if e.enter(name, 0, depth+1) {
				e.entity(text, name, depth+1)
			}
		}
	case kind == "message/rfc822":
		if e.enter(where, 0, depth+1) {
			e.entity(body, where, depth+1)
		}
	default:
		e.leaf(h, kind, body, where, depth)
	}
}

// types of MIME and the kinds that they stand for. Those that are not here, or Unknown here, need a look at the bytes.
var types = map[string]userdata.Kind{
	"text/x-shellscript":              userdata.Unknown, // cloud-init looks too: tools put anything into these
	"text/plain":                      userdata.Unknown,
	"text/x-not-multipart":            userdata.Unknown,
	"text/x-shellscript-per-boot":     userdata.PerBoot,
	"text/x-shellscript-per-instance": userdata.PerInstance,
	"text/x-shellscript-per-once":     userdata.PerOnce,
	"text/cloud-config":               userdata.CloudConfig,
	"text/cloud-config-archive":       userdata.Archive,
	"text/cloud-config-jsonp":         userdata.JSONPatch,
	"text/x-include-url":              userdata.Include,
	"text/x-include-once-url":         userdata.IncludeOnce,
	"text/cloud-boothook":             userdata.Boothook,
	"text/part-handler":               userdata.PartHandler,
	"text/upstart-job":                userdata.Upstart,
	"text/jinja2":                     userdata.Template,
}

// packing are the types of parts that are packed.
var packing = []string{"application/gzip", "application/gzip-compressed", "application/gzipped", "application/x-compress",
	"application/x-compressed", "application/x-gunzip", "application/x-gzip", "application/x-gzip-compressed"}

// leaf takes a part of a message that is no container.
func (e *expander) leaf(h header, kind string, body []byte, where string, depth int) {
	body, err := h.decode(body)
	if err != nil {
		e.trouble("%s: %w", where, err)
		return
	}
	p := userdata.Part{Type: kind, Name: h.fileName(), Body: body, Merge: cmp.Or(h["merge-type"], h["x-merge-type"])}
	if i := h["launch-index"]; i != "" && i != e.LaunchIndex {
		return
	}
	if slices.Contains(packing, kind) {
		if p.Body, err = userdata.Unpack(body); err != nil {
			e.trouble("%s: %w", where, err)
			return
		}
		kind = "text/plain"
	}
	e.typed(p, kind, where, depth)
}

// typed names the kind of a part that has a type.
func (e *expander) typed(p userdata.Part, kind, where string, depth int) {
	var known bool
	if p.Kind, known = types[kind]; known && p.Kind == userdata.Unknown {
		p.Kind = userdata.Sniff(p.Body)
		if p.Kind == userdata.Unknown && kind == "text/x-shellscript" {
			p.Kind = userdata.Script // and running it will say what is wrong
		}
	} else if !known {
		p.Kind = userdata.Unknown
	}
	if e.enter(where, len(p.Body), depth) {
		e.part(p, where, depth)
	}
}

// part takes what is no message: it is opened further or it is one of the result's.
func (e *expander) part(p userdata.Part, where string, depth int) {
	if p.Name != "" {
		where += " (" + p.Name + ")"
	}
	if p.Kind != userdata.Include && p.Kind != userdata.IncludeOnce && p.Kind != userdata.Archive {
		e.numbered++
	}
	switch p.Kind {
	case userdata.Empty:
	case userdata.Include, userdata.IncludeOnce:
		e.include(p, where, depth)
	case userdata.Archive:
		e.archive(p.Body, where, depth)
	case userdata.PartHandler:
		e.trouble("%s: a part handler is Python for cloud-init: it is not supported", where)
	case userdata.Upstart:
		e.trouble("%s: an upstart job is not supported: no system of today runs it", where)
	case userdata.JSONPatch:
		e.trouble("%s: a JSON patch of cloud-config is not supported: give the directives as #cloud-config", where)
	case userdata.Unknown:
		// Not one byte of it is told: what nobody can name may be a password that was put there by mistake.
		if p.Type != "" {
			e.trouble("%s: nothing is done with type %.60q and %d bytes that begin with no mark of a kind", where, p.Type, len(p.Body))
		} else {
			e.trouble("%s: nothing is done with %d bytes that begin with no mark of a kind, such as #! or #cloud-config", where, len(p.Body))
		}
	default:
		if p.Name == "" {
			p.Name = fmt.Sprintf("part-%03d", e.numbered)
		}
		e.parts = append(e.parts, p)
	}
}

// include reads the URLs of a part, one in a line.
func (e *expander) include(p userdata.Part, where string, depth int) {
	once := p.Kind == userdata.IncludeOnce
	for line := range strings.Lines(string(p.Body)) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if strings.HasPrefix(lower, "#include-once") {
			once, line = true, line[len("#include-once"):]
		} else if strings.HasPrefix(lower, "#include") {
			once, line = false, line[len("#include"):]
		}
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if e.includes++; e.includes > MaxIncludes {
			e.trouble("%s: user data includes more than %d URLs: %s and what follows is left out", where, MaxIncludes, shown(line))
			return
		}
		e.url(line, once, where, depth)
	}
}

// shown is of a URL what a log may have: a presigned one has its secret behind the question mark, others before the @.
func shown(url string) string {
	url, _, query := strings.Cut(url, "?")
	if scheme, rest, ok := strings.Cut(url, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		url = scheme + "://" + host[strings.LastIndexByte(host, '@')+1:] + "/" + path
	}
	if query {
		url += "?..."
	}
	return fmt.Sprintf("%.200s", url)
}

// url reads one URL and takes what it has as user data.
func (e *expander) url(url string, once bool, where string, depth int) {
	where = fmt.Sprintf("%s, include %s", where, shown(url))
	if slices.Contains(e.open, url) {
		e.trouble("%s: it includes itself", where)
		return
	}
	body, kept := []byte(nil), false
	if once && e.Kept != nil {
		body, kept = e.Kept(url)
	}
	if !kept {
		if e.Get == nil {
			e.trouble("%s: nothing here reads URLs", where)
			return
		}
		var err error
		if body, err = e.Get(e.ctx, url); err != nil {
			e.trouble("%s: %w", where, err)
			return
		}
		if once && e.Keep != nil {
			e.Keep(url, body)
		}
	}
	e.open = append(e.open, url)
	e.message(body, where, depth+1)
	e.open = e.open[:len(e.open)-1]
}

// archive opens a list of parts in YAML.
func (e *expander) archive(text []byte, where string, depth int) {
	doc, err := yaml.Load(text)
	if err != nil {
		e.trouble("%s: %w", where, err)
		return
	}
	if doc.Root.Kind != yaml.List {
		e.trouble("%s: an archive is a list, and this is a %s", where, doc.Root.Kind)
		return
	}
	for i, entry := range doc.Root.List {
		e.entry(entry, fmt.Sprintf("%s, entry %d", where, i+1), depth+1)
	}
}

// entry takes one part of an archive: a text, or a mapping with one.
func (e *expander) entry(entry *yaml.Value, where string, depth int) {
	content := entry.Get("content")
	if entry.Kind == yaml.String {
		content = entry
	}
	if content == nil || content.Kind != yaml.String && content.Kind != yaml.Bytes {
		e.trouble("%s: an entry is a text, or a mapping with a text as its content", where)
		return
	}
	if index := entry.Get("launch-index"); index != nil && index.Str() != e.LaunchIndex {
		return
	}
	p := userdata.Part{Body: []byte(content.Text), Name: clean(field(entry, "filename")), Type: strings.ToLower(field(entry, "type")),
		Merge: cmp.Or(field(entry, "Merge-Type"), field(entry, "X-Merge-Type"))}
	kind := p.Type
	if kind == "" {
		kind = "text/plain"
		if userdata.Sniff(p.Body) == userdata.Unknown && content.Kind == yaml.String {
			kind = "text/cloud-config"
		}
	}
	e.typed(p, kind, where, depth)
}

func field(entry *yaml.Value, key string) string {
	if v := entry.Get(key); v != nil && v.Kind != yaml.Null {
		return v.Str()
	}
	return ""
}
