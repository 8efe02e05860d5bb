package parts

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
)

// MIME as Python's email package reads it, which is what cloud-init uses: it forgives what the standard library here
// refuses, such as a last boundary that is missing or lines that end in two ways.

// header is the headers of a message: names in lower case.
type header map[string]string

// headers takes the headers off a message. They end at an empty line, or at a line that is no header.
func headers(text []byte) (header, []byte) {
	h := header{}
	last := ""
	for len(text) > 0 {
		line, rest := cut(text)
		if len(line) == 0 {
			return h, rest
		}
		name, value, ok := strings.Cut(string(line), ":")
		switch {
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				h[last] += " " + strings.TrimSpace(string(line))
			}
		case ok && name != "" && !strings.ContainsAny(name, " \t"):
			last = strings.ToLower(name)
			if _, twice := h[last]; twice { // the first counts
				last = ""
			} else {
				h[last] = strings.TrimSpace(value)
			}
		case bytes.HasPrefix(line, []byte("From ")): // a mailbox's mark
		default:
			return h, text
		}
		text = rest
	}
	return h, nil
}

// cut returns the first line, without its end, and the rest.
func cut(text []byte) (line, rest []byte) {
	end := bytes.IndexByte(text, '\n')
	if end < 0 {
		return bytes.TrimSuffix(text, []byte("\r")), nil
	}
	return bytes.TrimSuffix(text[:end], []byte("\r")), text[end+1:]
}

// contentType is the type of a message, in lower case, and its parameters. One that is not there or makes no sense is
// plain text, as in the RFC.
func (h header) contentType() (string, map[string]string) {
	kind, params := parameters(h["content-type"])
	if strings.Count(kind, "/") != 1 {
		return "text/plain", params
	}
	return kind, params
}

// parameters reads a header's value with parameters. The library knows all forms; what it refuses is read with less
// care.
func parameters(value string) (string, map[string]string) {
	if kind, params, err := mime.ParseMediaType(value); err == nil {
		return kind, params
	}
	fields := strings.Split(value, ";")
	params := map[string]string{}
	for _, f := range fields[1:] {
		k, v, _ := strings.Cut(f, "=")
		params[strings.ToLower(strings.TrimSpace(k))] = strings.Trim(strings.TrimSpace(v), `"`)
	}
	return strings.ToLower(strings.TrimSpace(fields[0])), params
}

// fileName is the name that a part has, safe to be one in a directory of ours.
func (h header) fileName() string {
	if _, params := parameters(h["content-disposition"]); params["filename"] != "" {
		return clean(params["filename"])
	}
	_, params := h.contentType()
	return clean(params["name"])
}

// clean keeps of a file's name what may stand in one: cloud-init's selection, with _ for a slash. Names of dots alone are none.
func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' {
			return '_'
		}
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.()", r) {
			return r
		}
		return -1
	}, name)
	if name = name[:min(len(name), 200)]; strings.Trim(name, ".") == "" {
		return ""
	}
	return name
}

// decode takes off what carried the bytes through the mail.
func (h header) decode(body []byte) ([]byte, error) {
	var r io.Reader
	switch coding := strings.ToLower(h["content-transfer-encoding"]); coding {
	case "", "7bit", "8bit", "binary":
		return body, nil
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, bytes.NewReader(bytes.Join(bytes.Fields(body), nil)))
	case "quoted-printable":
		r = quotedprintable.NewReader(bytes.NewReader(body))
	default:
		return nil, fmt.Errorf("the transfer encoding %.40q is not supported", coding)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", h["content-transfer-encoding"], err)
	}
	return out, nil
}

// split returns what stands between the boundaries. The line's end before a boundary belongs to it.
func split(body []byte, boundary string) [][]byte {
	var list [][]byte
	mark := []byte("--" + boundary)
	start := -1 // of the part that is open
	for at := 0; at < len(body); {
		line, rest := cut(body[at:])
		next := len(body) - len(rest)
		tail, ok := bytes.CutPrefix(line, mark)
		tail, last := bytes.CutPrefix(tail, []byte("--"))
		if ok && len(bytes.Trim(tail, " \t")) == 0 {
			if start >= 0 {
				list = append(list, unended(body[start:at]))
			}
			start = next
			if last {
				return list
			}
		}
		at = next
	}
	if start >= 0 && start < len(body) { // the last boundary is missing
		list = append(list, unended(body[start:]))
	}
	return list
}

func unended(part []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(part, []byte("\n")), []byte("\r"))
}
