package provision

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The system's files of accounts: lines of fields with colons between.

// entry is the fields of a name in passwd, group or shadow; nil if it has none.
func (r *run) entry(database, name string) []string {
	fields := map[string]int{"passwd": 7, "group": 4, "shadow": 9}[database]
	for _, line := range r.lines(database) {
		if f := strings.Split(line, ":"); f[0] == name && len(f) >= fields {
			return f
		}
	}
	return nil
}

func (r *run) lines(database string) []string {
	text, err := os.ReadFile(r.path("/etc/" + database))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

// taken tells whether somebody has a number.
func (r *run) taken(database string, id int) bool {
	for _, line := range r.lines(database) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.Itoa(id) {
			return true
		}
	}
	return false
}

// free is the first number for people that nobody has, in neither file: a user's group has the user's.
func (r *run) free(database string) int {
	id := 1000
	for r.taken("passwd", id) && database == "passwd" || r.taken("group", id) {
		id++
	}
	return id
}

func (r *run) addLine(database, line string) error {
	return r.rewrite(database, append(r.lines(database), line))
}

// editLine changes the fields of a name.
func (r *run) editLine(database, name string, change func(fields []string)) error {
	f := r.entry(database, name)
	if f == nil {
		return fmt.Errorf("%s has no line for %s", "/etc/"+database, name)
	}
	change(f)
	list := r.lines(database)
	for i, line := range list {
		if strings.HasPrefix(line, name+":") {
			list[i] = strings.Join(f, ":")
		}
	}
	return r.rewrite(database, list)
}

func (r *run) rewrite(database string, list []string) error {
	mode := os.FileMode(0o644)
	if database == "shadow" {
		mode = 0o640
	}
	file := "/etc/" + database
	if info, err := os.Stat(r.path(file)); err == nil {
		mode = info.Mode().Perm()
	}
	return r.store(file, strings.TrimLeft(strings.Join(list, "\n"), "\n")+"\n", mode)
}

// ids are the numbers of an owner and a group, by name or number; -1 for one that is empty.
func (r *run) ids(owner, group string) (uid, gid int, err error) {
	if uid, err = r.id("passwd", owner); err == nil {
		gid, err = r.id("group", group)
	}
	return uid, gid, err
}

func (r *run) id(database, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if name == "root" {
		return 0, nil
	}
	if f := r.entry(database, name); f != nil {
		return strconv.Atoi(f[2])
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return n, nil
	}
	return -1, fmt.Errorf("%s has no %.40s", "/etc/"+database, name)
}
