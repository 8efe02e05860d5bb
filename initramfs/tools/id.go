package tools

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// person is who a process runs as, or who somebody is by passwd and group.
type person struct {
	uid, gid string
	groups   []string // gid among them
}

// database are the lines of passwd or group with so many fields at least.
func database(file string, least int) (lines [][]string) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(f) >= least {
			lines = append(lines, f)
		}
	}
	return lines
}

// nameOf returns who has a number in passwd or group, "" for nobody.
func nameOf(file, number string) string {
	for _, f := range database(file, 3) {
		if f[2] == number {
			return f[0]
		}
	}
	return ""
}

func userName(uid int) string {
	n := strconv.Itoa(uid)
	if name := nameOf("/etc/passwd", n); name != "" {
		return name
	}
	return n
}

// myself is the process.
func myself() person {
	p := person{uid: strconv.Itoa(os.Geteuid()), gid: strconv.Itoa(os.Getegid())}
	p.groups = []string{p.gid}
	list, _ := os.Getgroups()
	for _, g := range list {
		if n := strconv.Itoa(g); !slices.Contains(p.groups, n) {
			p.groups = append(p.groups, n)
		}
	}
	return p
}

// somebody finds a user by name or number.
func somebody(name string) (p person, ok bool) {
	for _, f := range database("/etc/passwd", 4) {
		if f[0] == name || f[2] == name {
			name, p.uid, p.gid, ok = f[0], f[2], f[3], true
			break
		}
	}
	p.groups = []string{p.gid}
	for _, f := range database("/etc/group", 4) {
		if slices.Contains(strings.Split(f[3], ","), name) && !slices.Contains(p.groups, f[2]) {
			p.groups = append(p.groups, f[2])
		}
	}
	return p, ok
}

func id(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "uGgn")
	if err != nil || len(rest) > 1 {
		return c.usage("[-u | -g | -G] [-n] [USER]")
	}
	p := myself()
	if len(rest) == 1 {
		var ok bool
		if p, ok = somebody(rest[0]); !ok {
			return c.fail(fmt.Errorf("'%s': no such user", rest[0]))
		}
	}
	show := func(file, number string) string {
		if name := nameOf(file, number); has(set, 'n') && name != "" {
			return name
		}
		return number
	}
	both := func(file, number string) string {
		if name := nameOf(file, number); name != "" {
			return number + "(" + name + ")"
		}
		return number
	}
	groups := make([]string, len(p.groups))
	switch {
	case has(set, 'u'):
		fmt.Fprintln(c.Stdout, show("/etc/passwd", p.uid))
	case has(set, 'g'):
		fmt.Fprintln(c.Stdout, show("/etc/group", p.gid))
	case has(set, 'G'):
		for k, g := range p.groups {
			groups[k] = show("/etc/group", g)
		}
		fmt.Fprintln(c.Stdout, strings.Join(groups, " "))
	default:
		for k, g := range p.groups {
			groups[k] = both("/etc/group", g)
		}
		fmt.Fprintf(c.Stdout, "uid=%s gid=%s groups=%s\n", both("/etc/passwd", p.uid), both("/etc/group", p.gid), strings.Join(groups, ","))
	}
	return 0
}
