package yaml

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Str is a value as Python's str prints it: what cloud-init makes of a list's item that is no string. A yes that an
// author did not quote is "True" in a command, here as there.
func (v *Value) Str() string {
	switch {
	case v == nil:
		return "None"
	case v.Kind == List || v.Kind == Map || v.Kind == Bytes:
		return v.repr()
	}
	return v.Text
}

// repr is a value as it stands within another.
func (v *Value) repr() string {
	switch v.Kind {
	case String:
		return quoted(v.Text, false)
	case Bytes:
		return "b" + quoted(v.Text, true)
	case List:
		items := make([]string, len(v.List))
		for i, item := range v.List {
			items[i] = item.repr()
		}
		return "[" + strings.Join(items, ", ") + "]"
	case Map:
		items := make([]string, len(v.Map))
		for i, e := range v.Map {
			items[i] = e.Key.repr() + ": " + e.Value.repr()
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	return v.Text
}

// quoted is a Python literal of a string, or of bytes without their b.
func quoted(s string, raw bool) string {
	quote := `'`
	if strings.Contains(s, `'`) && !strings.Contains(s, `"`) {
		quote = `"`
	}
	var b strings.Builder
	b.WriteString(quote)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if raw || r == utf8.RuneError && n <= 1 {
			r, n = rune(s[0]), 1
		}
		s = s[n:]
		switch {
		case string(r) == quote || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f || raw && r > '~' || r <= 0xff && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + quote
}
