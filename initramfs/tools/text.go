package tools

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// eachLine calls f with every line, without its end, until f says false.
func eachLine(r io.Reader, f func(line string) bool) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" && !f(strings.TrimSuffix(line, "\n")) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// count reads "-5" and "-n 5" alike.
func count(c *Call) (n int, fromStart bool, rest []string, err error) {
	args := slices.Clone(c.Args)
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		args = append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	set, rest, err := options(args, "n:c:q")
	if err != nil {
		return 0, false, nil, err
	}
	n = 10
	if v, ok := set['n']; ok {
		fromStart = strings.HasPrefix(v, "+")
		if n, err = strconv.Atoi(strings.TrimPrefix(v, "+")); err != nil || n < 0 {
			return 0, false, nil, fmt.Errorf("%q is no number of lines", v)
		}
	}
	return n, fromStart, rest, nil
}

func head(_ context.Context, c *Call) int {
	if len(c.Args) > 1 && c.Args[0] == "-c" {
		n, err := strconv.ParseInt(c.Args[1], 10, 64)
		if err != nil {
			return c.usage("[-n LINES | -c BYTES] [FILE]...")
		}
		return c.inputs(c.Args[2:], func(_ string, r io.Reader) error {
			_, err := io.Copy(c.Stdout, io.LimitReader(r, n))
			return err
		})
	}
	n, _, rest, err := count(c)
	if err != nil {
		return c.fail(err)
	}
	return c.inputs(rest, func(_ string, r io.Reader) error {
		left := n
		return eachLine(r, func(line string) bool {
			if left <= 0 {
				return false
			}
			left--
			fmt.Fprintln(c.Stdout, line)
			return left > 0
		})
	})
}

func tail(_ context.Context, c *Call) int {
	n, fromStart, rest, err := count(c)
	if err != nil {
		return c.fail(err)
	}
	return c.inputs(rest, func(_ string, r io.Reader) error {
		var kept []string
		number := 0
		err := eachLine(r, func(line string) bool {
			number++
			switch {
			case fromStart && number >= n:
				fmt.Fprintln(c.Stdout, line)
			case !fromStart:
				kept = append(kept, line)
				if len(kept) > 2*n+1000 {
					kept = slices.Clone(kept[len(kept)-n:])
				}
			}
			return true
		})
		for _, line := range kept[max(0, len(kept)-n):] {
			fmt.Fprintln(c.Stdout, line)
		}
		return err
	})
}

func wc(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "lwcm")
	if err != nil {
		return c.usage("[-lwcm] [FILE]...")
	}
	return c.inputs(rest, func(name string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var out []string
		add := func(letter byte, n int) {
			if has(set, letter) || len(set) == 0 && letter != 'm' {
				out = append(out, strconv.Itoa(n))
			}
		}
		add('l', bytes.Count(data, []byte("\n")))
		add('w', len(bytes.Fields(data)))
		add('m', utf8.RuneCount(data))
		add('c', len(data))
		if name != "-" {
			out = append(out, name)
		}
		_, err = fmt.Fprintln(c.Stdout, strings.Join(out, " "))
		return err
	})
}

func tee(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "a")
	if err != nil {
		return c.usage("[-a] [FILE]...")
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if has(set, 'a') {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	outs := []io.Writer{c.Stdout}
	for _, n := range rest {
		f, err := os.OpenFile(c.path(n), flags, 0o666)
		if err != nil {
			return c.fail(err)
		}
		defer f.Close()
		outs = append(outs, f)
	}
	if _, err := io.Copy(io.MultiWriter(outs...), c.Stdin); err != nil {
		return c.fail(err)
	}
	return 0
}

func sortLines(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "nru")
	if err != nil {
		return c.usage("[-nru] [FILE]...")
	}
	var lines []string
	code := c.inputs(rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool { lines = append(lines, line); return true })
	})
	compare := strings.Compare
	if has(set, 'n') {
		value := func(s string) float64 {
			s = strings.TrimSpace(s)
			end := 0
			for end < len(s) && strings.IndexByte("+-.0123456789", s[end]) >= 0 {
				end++
			}
			v, _ := strconv.ParseFloat(s[:end], 64)
			return v
		}
		compare = func(a, b string) int {
			switch x, y := value(a), value(b); {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return strings.Compare(a, b)
		}
	}
	slices.SortStableFunc(lines, compare)
	if has(set, 'r') {
		slices.Reverse(lines)
	}
	if has(set, 'u') {
		lines = slices.Compact(lines)
	}
	for _, line := range lines {
		fmt.Fprintln(c.Stdout, line)
	}
	return code
}

func uniq(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "cdu")
	if err != nil {
		return c.usage("[-cdu] [FILE]")
	}
	last, times := "", 0
	flush := func() {
		if times == 0 || has(set, 'd') && times == 1 || has(set, 'u') && times > 1 {
			return
		}
		if has(set, 'c') {
			fmt.Fprintf(c.Stdout, "%7d ", times)
		}
		fmt.Fprintln(c.Stdout, last)
	}
	code := c.inputs(rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool {
			if times > 0 && line != last {
				flush()
				times = 0
			}
			last = line
			times++
			return true
		})
	})
	flush()
	return code
}

// list reads "1,3-5,7-" into a question.
func list(s string) (func(int) bool, error) {
	type span struct{ from, to int }
	var spans []span
	for _, part := range strings.Split(s, ",") {
		a, b, isRange := strings.Cut(part, "-")
		from, to := 1, 1<<30
		var err error
		if a != "" {
			if from, err = strconv.Atoi(a); err != nil || from < 1 {
				return nil, fmt.Errorf("%q is no list of numbers", s)
			}
		}
		if !isRange {
			to = from
		} else if b != "" {
			if to, err = strconv.Atoi(b); err != nil {
				return nil, fmt.Errorf("%q is no list of numbers", s)
			}
		}
		spans = append(spans, span{from, to})
	}
	return func(n int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return n >= s.from && n <= s.to })
	}, nil
}

func cut(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "d:f:c:s")
	if err != nil || has(set, 'f') == has(set, 'c') {
		return c.usage("-f LIST [-d CHARACTER] [-s] | -c LIST  [FILE]...")
	}
	wanted, err := list(set['f'] + set['c'])
	if err != nil {
		return c.fail(err)
	}
	by := set['d']
	if by == "" {
		by = "\t"
	}
	return c.inputs(rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool {
			parts, glue := strings.Split(line, by), by
			if has(set, 'c') {
				parts, glue = strings.Split(line, ""), ""
			} else if len(parts) == 1 {
				if !has(set, 's') {
					fmt.Fprintln(c.Stdout, line)
				}
				return true
			}
			var out []string
			for i, p := range parts {
				if wanted(i + 1) {
					out = append(out, p)
				}
			}
			fmt.Fprintln(c.Stdout, strings.Join(out, glue))
			return true
		})
	})
}

// span expands "a-z" and the usual escapes and classes of tr.
func span(s string) []rune {
	for class, text := range map[string]string{"[:lower:]": "a-z", "[:upper:]": "A-Z", "[:digit:]": "0-9", "[:alpha:]": "A-Za-z",
		"[:alnum:]": "A-Za-z0-9", "[:space:]": " \\t\\n\\r\\v\\f"} {
		s = strings.ReplaceAll(s, class, text)
	}
	s = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r", `\v`, "\v", `\f`, "\f", `\0`, "\x00", `\\`, `\`).Replace(s)
	in := []rune(s)
	var out []rune
	for i := 0; i < len(in); i++ {
		if i+2 < len(in) && in[i+1] == '-' && in[i+2] >= in[i] {
			for r := in[i]; r <= in[i+2]; r++ {
				out = append(out, r)
			}
			i += 2
			continue
		}
		out = append(out, in[i])
	}
	return out
}

func tr(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "dsc")
	if err != nil || len(rest) == 0 || len(rest) > 2 {
		return c.usage("[-cds] SET1 [SET2]")
	}
	from := span(rest[0])
	var to []rune
	if len(rest) == 2 {
		to = span(rest[1])
	}
	if len(to) == 0 && !has(set, 'd') && !has(set, 's') {
		return c.usage("[-cds] SET1 [SET2]")
	}
	data, err := io.ReadAll(c.Stdin)
	if err != nil {
		return c.fail(err)
	}
	var out strings.Builder
	last := rune(-1)
	for _, r := range string(data) {
		at := slices.Index(from, r)
		in := (at >= 0) != has(set, 'c')
		if in && has(set, 'd') {
			continue
		}
		if in && len(to) > 0 {
			if at < 0 || at >= len(to) {
				at = len(to) - 1
			}
			r = to[at]
		}
		if in && has(set, 's') && r == last {
			continue
		}
		last = r
		out.WriteRune(r)
	}
	if _, err := io.WriteString(c.Stdout, out.String()); err != nil {
		return c.fail(err)
	}
	return 0
}

func seq(_ context.Context, c *Call) int {
	n := []int{1, 1, 1}
	var err error
	for i, a := range c.Args {
		if i > 2 {
			return c.usage("[FIRST [STEP]] LAST")
		}
		if n[i], err = strconv.Atoi(a); err != nil {
			return c.fail(fmt.Errorf("%q is no whole number", a))
		}
	}
	first, step, last := 1, 1, n[0]
	switch len(c.Args) {
	case 0:
		return c.usage("[FIRST [STEP]] LAST")
	case 2:
		first, last = n[0], n[1]
	case 3:
		first, step, last = n[0], n[1], n[2]
	}
	if step == 0 {
		return c.fail(fmt.Errorf("step is zero"))
	}
	for i := first; step > 0 && i <= last || step < 0 && i >= last; i += step {
		fmt.Fprintln(c.Stdout, i)
	}
	return 0
}

// expression turns POSIX syntax into Go's: basic expressions have their groups and counts
// escaped, extended ones do not.
func expression(s string, extended bool) string {
	if extended {
		return s
	}
	var out strings.Builder
	class := false
	for i := 0; i < len(s); i++ {
		b := s[i]
		switch {
		case class:
			out.WriteByte(b)
			class = b != ']' || s[i-1] == '[' || s[i-1] == '^' && s[i-2] == '['
		case b == '[':
			class = true
			out.WriteByte(b)
		case b == '\\' && i+1 < len(s):
			i++
			if strings.IndexByte("(){}|+?", s[i]) < 0 {
				out.WriteByte('\\')
			}
			out.WriteByte(s[i])
		case strings.IndexByte("(){}|+?", b) >= 0:
			out.WriteByte('\\')
			out.WriteByte(b)
		case b == '*' && (out.Len() == 0 || out.String() == "^"):
			out.WriteString(`\*`)
		default:
			out.WriteByte(b)
		}
	}
	return out.String()
}

func grep(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "EFGivnclqsohHxwre:m:")
	pattern, given := set['e']
	if err != nil || !given && len(rest) == 0 {
		c.usage("[-EFchHilnoqsvwx] [-m NUMBER] [-e] PATTERN [FILE]...")
		return 2
	}
	if !given {
		pattern, rest = rest[0], rest[1:]
	}
	if has(set, 'F') {
		pattern = regexp.QuoteMeta(pattern)
	} else {
		pattern = expression(pattern, has(set, 'E'))
	}
	if has(set, 'w') {
		pattern = `\b(?:` + pattern + `)\b`
	}
	if has(set, 'x') {
		pattern = `^(?:` + pattern + `)$`
	}
	if has(set, 'i') {
		pattern = `(?i)` + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		c.fail(err)
		return 2
	}
	limit := 1 << 30
	if v, ok := set['m']; ok {
		if limit, err = strconv.Atoi(v); err != nil {
			return c.fail(fmt.Errorf("%q is no number", v))
		}
	}
	if has(set, 's') {
		c.Stderr = io.Discard
	}
	found := false
	failed := c.inputs(rest, func(name string, r io.Reader) error {
		hits, number := 0, 0
		prefix := ""
		if len(rest) > 1 && !has(set, 'h') || has(set, 'H') {
			prefix = name + ":"
		}
		err := eachLine(r, func(line string) bool {
			number++
			if re.MatchString(line) == has(set, 'v') {
				return true
			}
			hits++
			found = true
			if has(set, 'q') || has(set, 'l') {
				return false
			}
			if !has(set, 'c') {
				at := prefix
				if has(set, 'n') {
					at += strconv.Itoa(number) + ":"
				}
				if has(set, 'o') {
					for _, m := range re.FindAllString(line, -1) {
						fmt.Fprintln(c.Stdout, at+m)
					}
				} else {
					fmt.Fprintln(c.Stdout, at+line)
				}
			}
			return hits < limit
		})
		switch {
		case has(set, 'l') && hits > 0:
			fmt.Fprintln(c.Stdout, name)
		case has(set, 'c') && !has(set, 'q'):
			fmt.Fprintln(c.Stdout, prefix+strconv.Itoa(hits))
		}
		return err
	})
	switch {
	case found:
		return 0
	case failed != 0:
		return 2
	}
	return 1
}
