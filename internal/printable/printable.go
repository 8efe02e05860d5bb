// Package printable makes words of strangers fit to be shown: guests, machines and users' files name themselves, and what they
// say reaches logs, terminals and tables, where an escape sequence would be obeyed and a line break would begin a line of the
// stranger's own.
package printable

import "strings"

// Word returns what may be shown of s: what is not printable ASCII becomes a question mark, and no more than most characters are
// kept. It reads no more of s than it keeps.
func Word(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == most {
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b.WriteByte(byte(r))
		n++
	}
	return b.String()
}
