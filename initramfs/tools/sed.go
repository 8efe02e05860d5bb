package tools

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// edit is one command of a sed program.
type edit struct {
	from, to *where // nil: always; to nil: only where from says
	not      bool
	action   byte // s p d q
	re       *regexp.Regexp
	with     string
	all      bool
	show     bool
	inside   bool // between from and to
}

// where is an address: a line's number, the last line, or an expression.
type where struct {
	line int
	last bool
	re   *regexp.Regexp
}

func (w *where) here(number int, last bool, line string) bool {
	switch {
	case w.re != nil:
		return w.re.MatchString(line)
	case w.last:
		return last
	}
	return number == w.line
}

func (e *edit) applies(number int, last bool, line string) bool {
	yes := true
	switch {
	case e.from == nil:
	case e.to == nil:
		yes = e.from.here(number, last, line)
	case e.inside:
		e.inside = !e.to.here(number, last, line)
	default:
		yes = e.from.here(number, last, line)
		e.inside = yes && (e.to.re != nil || e.to.last && !last || e.to.line > number)
	}
	return yes != e.not
}

// program reads commands that stand on lines or between semicolons.
func program(text string, extended bool) ([]*edit, error) {
	var list []*edit
	for {
		text = strings.TrimLeft(text, " \t\n;")
		if text == "" {
			return list, nil
		}
		if text[0] == '#' {
			_, text, _ = strings.Cut(text, "\n")
			continue
		}
		e := &edit{}
		var err error
		if e.from, text, err = position(text, extended); err != nil {
			return nil, err
		}
		if e.from != nil && strings.HasPrefix(text, ",") {
			if e.to, text, err = position(text[1:], extended); err != nil {
				return nil, err
			}
		}
		if text = strings.TrimLeft(text, " "); strings.HasPrefix(text, "!") {
			e.not, text = true, text[1:]
		}
		if text == "" {
			return nil, fmt.Errorf("a command is missing")
		}
		e.action, text = text[0], text[1:]
		switch e.action {
		case 'p', 'd', 'q':
		case 's':
			if text, err = e.substitution(text, extended); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("command %q is not known here: only s, p, d and q", e.action)
		}
		list = append(list, e)
	}
}

func position(text string, extended bool) (*where, string, error) {
	switch {
	case text == "":
	case text[0] == '$':
		return &where{last: true}, text[1:], nil
	case text[0] == '/':
		pattern, rest, ok := until(text[1:], '/')
		if !ok {
			return nil, "", fmt.Errorf("address %q has no end", text)
		}
		re, err := regexp.Compile(expression(pattern, extended))
		return &where{re: re}, rest, err
	case text[0] >= '0' && text[0] <= '9':
		end := 0
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(text[:end])
		return &where{line: n}, text[end:], err
	}
	return nil, text, nil
}

// until cuts at the next mark that is not escaped; an escaped mark loses its backslash.
func until(text string, mark byte) (before, after string, ok bool) {
	var out []byte
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			if text[i+1] != mark {
				out = append(out, '\\')
			}
			i++
			out = append(out, text[i])
		case text[i] == mark:
			return string(out), text[i+1:], true
		default:
			out = append(out, text[i])
		}
	}
	return "", "", false
}

// substitution reads what follows an s and returns what follows its flags.
func (e *edit) substitution(text string, extended bool) (string, error) {
	if text == "" {
		return "", fmt.Errorf("command s has no expression")
	}
	mark := text[0]
	pattern, rest, ok := until(text[1:], mark)
	with, rest, ok2 := until(rest, mark)
	if !ok || !ok2 {
		return "", fmt.Errorf("command s%s has no end", text)
	}
	pattern = expression(pattern, extended)
flags:
	for rest != "" {
		switch rest[0] {
		case 'g':
			e.all = true
		case 'p':
			e.show = true
		case 'i', 'I':
			pattern = "(?i)" + pattern
		default:
			break flags
		}
		rest = rest[1:]
	}
	var err error
	e.re, err = regexp.Compile(pattern)
	e.with = with
	return rest, err
}

// replace does what s does to one line.
func (e *edit) replace(line string) (string, bool) {
	limit := 1
	if e.all {
		limit = -1
	}
	found := e.re.FindAllStringSubmatchIndex(line, limit)
	if len(found) == 0 {
		return line, false
	}
	var out strings.Builder
	at := 0
	group := func(m []int, n int) {
		if 2*n+1 < len(m) && m[2*n] >= 0 {
			out.WriteString(line[m[2*n]:m[2*n+1]])
		}
	}
	for _, m := range found {
		out.WriteString(line[at:m[0]])
		for i := 0; i < len(e.with); i++ {
			switch b := e.with[i]; {
			case b == '&':
				group(m, 0)
			case b == '\\' && i+1 < len(e.with):
				i++
				switch b := e.with[i]; {
				case b >= '0' && b <= '9':
					group(m, int(b-'0'))
				case b == 'n':
					out.WriteByte('\n')
				case b == 't':
					out.WriteByte('\t')
				default:
					out.WriteByte(b)
				}
			default:
				out.WriteByte(b)
			}
		}
		at = m[1]
	}
	out.WriteString(line[at:])
	return out.String(), true
}

func sed(_ context.Context, c *Call) int {
	const usage = "[-nEri] [-e] PROGRAM [FILE]...   (commands s, p, d, q)"
	var programs []string
	args := c.Args
	var plain []string
	for i := 0; i < len(args); i++ { // -e may be repeated
		if args[i] == "-e" && i+1 < len(args) {
			i++
			programs = append(programs, args[i])
			continue
		}
		plain = append(plain, args[i])
	}
	set, rest, err := options(plain, "nEri")
	if err != nil {
		return c.usage(usage)
	}
	if len(programs) == 0 {
		if len(rest) == 0 {
			return c.usage(usage)
		}
		programs, rest = rest[:1], rest[1:]
	}
	text := strings.Join(programs, "\n")
	extended := has(set, 'E') || has(set, 'r')
	if _, err := program(text, extended); err != nil {
		return c.fail(err)
	}
	return c.inputs(rest, func(name string, r io.Reader) error {
		edits, err := program(text, extended) // fresh: ranges do not reach into the next file
		if err != nil {
			return err
		}
		if !has(set, 'i') || name == "-" {
			return apply(edits, r, c.Stdout, has(set, 'n'))
		}
		var out bytes.Buffer
		if err := apply(edits, r, &out, has(set, 'n')); err != nil {
			return err
		}
		info, err := os.Stat(c.path(name))
		if err != nil {
			return err
		}
		return os.WriteFile(c.path(name), out.Bytes(), info.Mode().Perm())
	})
}

func apply(edits []*edit, r io.Reader, w io.Writer, silent bool) error {
	var lines []string
	if err := eachLine(r, func(line string) bool { lines = append(lines, line); return true }); err != nil {
		return err
	}
next:
	for i, line := range lines {
		quit := false
		for _, e := range edits {
			if !e.applies(i+1, i+1 == len(lines), line) {
				continue
			}
			switch e.action {
			case 'd':
				continue next
			case 'p':
				fmt.Fprintln(w, line)
			case 'q':
				quit = true
			case 's':
				var changed bool
				if line, changed = e.replace(line); changed && e.show {
					fmt.Fprintln(w, line)
				}
			}
			if quit {
				break
			}
		}
		if !silent {
			fmt.Fprintln(w, line)
		}
		if quit {
			return nil
		}
	}
	return nil
}
