package tools

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listed is a file as ls shows it.
type listed struct {
	name string // as it was named, or its own in a directory
	path string
	info fs.FileInfo
	stat *syscall.Stat_t
}

// recently is what ls shows with the time of day: half a year of 365.2425 days.
const recently = 31556952 / 2 * time.Second

func ls(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "1aAdFhilnRrSt")
	if err != nil {
		return c.usage("[-1aAdFhilnRrSt] [FILE]...")
	}
	if len(rest) == 0 {
		rest = []string{"."}
	}
	l := lister{Call: c, set: set}
	var files, directories []listed
	for _, name := range rest {
		f, err := look(name, c.path(name))
		if err != nil {
			l.trouble(name, err)
			continue
		}
		// A link that is named is followed, except in a long listing.
		if to, err := os.Stat(f.path); err == nil && !has(set, 'l') && !has(set, 'n') && !has(set, 'd') && to.IsDir() {
			f.info = to
		}
		if f.info.IsDir() && !has(set, 'd') {
			directories = append(directories, f)
		} else {
			files = append(files, f)
		}
	}
	l.show(files)
	for _, d := range l.sorted(directories) {
		if len(rest) > 1 || has(set, 'R') {
			if l.shown {
				fmt.Fprintln(c.Stdout)
			}
			fmt.Fprintf(c.Stdout, "%s:\n", d.name)
		}
		l.directory(d)
	}
	return l.code
}

// lister lists, and remembers what went wrong.
type lister struct {
	*Call
	set   map[byte]string
	code  int
	shown bool
}

func (l *lister) trouble(name string, err error) {
	if e, ok := err.(*fs.PathError); ok {
		err = e.Err
	}
	fmt.Fprintf(l.Stderr, "ls: %s: %v\n", name, err)
	l.code = 2
}

func look(name, path string) (listed, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return listed{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return listed{}, fmt.Errorf("it has no numbers of a file")
	}
	return listed{name, path, info, stat}, nil
}

func (l *lister) directory(d listed) {
	l.shown = true
	entries, err := os.ReadDir(d.path)
	if err != nil {
		l.trouble(d.name, err)
	}
	var names []string
	if has(l.set, 'a') {
		names = append(names, ".", "..")
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") || has(l.set, 'a') || has(l.set, 'A') {
			names = append(names, e.Name())
		}
	}
	var list []listed
	var blocks int64
	for _, n := range names {
		f, err := look(n, filepath.Join(d.path, n))
		if err != nil { // it has gone since
			continue
		}
		list, blocks = append(list, f), blocks+f.stat.Blocks
	}
	if has(l.set, 'l') || has(l.set, 'n') {
		fmt.Fprintf(l.Stdout, "total %s\n", l.size(blocks/2*1024, 1024))
	}
	list = l.sorted(list)
	l.show(list)
	if !has(l.set, 'R') {
		return
	}
	for _, f := range list {
		if f.info.IsDir() && f.name != "." && f.name != ".." {
			f.name = strings.TrimSuffix(d.name, "/") + "/" + f.name
			fmt.Fprintf(l.Stdout, "\n%s:\n", f.name)
			l.directory(f)
		}
	}
}

func (l *lister) sorted(list []listed) []listed {
	slices.SortStableFunc(list, func(a, b listed) int {
		order := 0
		switch {
		case has(l.set, 't'):
			order = b.info.ModTime().Compare(a.info.ModTime())
		case has(l.set, 'S'):
			order = cmp.Compare(b.info.Size(), a.info.Size())
		}
		order = cmp.Or(order, strings.Compare(a.name, b.name))
		if has(l.set, 'r') {
			return -order
		}
		return order
	})
	return list
}

// show writes a line for each, in columns as wide as they must be.
func (l *lister) show(list []listed) {
	l.shown = l.shown || len(list) > 0
	list = l.sorted(list)
	rows := make([][]string, len(list))
	for k, f := range list {
		if has(l.set, 'i') {
			rows[k] = append(rows[k], strconv.FormatUint(f.stat.Ino, 10))
		}
		if has(l.set, 'l') || has(l.set, 'n') {
			rows[k] = append(rows[k], l.long(f)...)
		}
		rows[k] = append(rows[k], l.named(f))
	}
	width := map[int]int{}
	for _, r := range rows {
		for k, cell := range r {
			width[k] = max(width[k], len(cell))
		}
	}
	owner := 2 // the columns of owner and group stand to the left
	if has(l.set, 'i') {
		owner = 3
	}
	for _, r := range rows {
		for k, cell := range r[:len(r)-1] {
			if k == owner || k == owner+1 {
				fmt.Fprintf(l.Stdout, "%-*s ", width[k], cell)
			} else {
				fmt.Fprintf(l.Stdout, "%*s ", width[k], cell)
			}
		}
		io.WriteString(l.Stdout, r[len(r)-1]+"\n")
	}
}

// long is mode, links, owner, group, size and time.
func (l *lister) long(f listed) []string {
	uid, gid := strconv.Itoa(int(f.stat.Uid)), strconv.Itoa(int(f.stat.Gid))
	if !has(l.set, 'n') {
		uid, gid = cmp.Or(nameOf("/etc/passwd", uid), uid), cmp.Or(nameOf("/etc/group", gid), gid)
	}
	size := l.size(f.info.Size(), 1)
	if f.info.Mode()&fs.ModeDevice != 0 {
		size = fmt.Sprintf("%d, %d", unix.Major(f.stat.Rdev), unix.Minor(f.stat.Rdev))
	}
	layout := "Jan _2 15:04"
	if age := time.Since(f.info.ModTime()); age < 0 || age > recently {
		layout = "Jan _2  2006"
	}
	return []string{modeText(f.stat.Mode), strconv.FormatUint(uint64(f.stat.Nlink), 10), uid, gid, size, f.info.ModTime().Format(layout)}
}

// size is in units, or with a letter: rounded up, with one digit after the point below ten.
func (l *lister) size(n, unit int64) string {
	if !has(l.set, 'h') {
		return strconv.FormatInt(n/unit, 10)
	}
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	letter, div := 0, int64(1024)
	for n > 1023*div && letter < 4 {
		div *= 1024
		letter++
	}
	if tenths := (n*10 + div - 1) / div; tenths < 100 {
		return fmt.Sprintf("%d.%d%c", tenths/10, tenths%10, "KMGTP"[letter])
	}
	return fmt.Sprintf("%d%c", (n+div-1)/div, "KMGTP"[letter])
}

func (l *lister) named(f listed) string {
	name := f.name
	switch mode := f.info.Mode(); {
	case mode&fs.ModeSymlink != 0 && (has(l.set, 'l') || has(l.set, 'n')):
		if to, err := os.Readlink(f.path); err == nil {
			name += " -> " + to
		}
	case !has(l.set, 'F'):
	case mode.IsDir():
		name += "/"
	case mode&fs.ModeSymlink != 0:
		name += "@"
	case mode&fs.ModeNamedPipe != 0:
		name += "|"
	case mode&fs.ModeSocket != 0:
		name += "="
	case mode.IsRegular() && mode&0o111 != 0:
		name += "*"
	}
	return name
}

// modeText is the mode in ten letters, as POSIX has them.
func modeText(mode uint32) string {
	kind := map[uint32]byte{
		unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}[mode&unix.S_IFMT]
	text := []byte("-rwxrwxrwx")
	text[0] = cmp.Or(kind, '-')
	for k := range 9 {
		if mode&(1<<(8-k)) == 0 {
			text[1+k] = '-'
		}
	}
	for _, s := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		if mode&s.bit != 0 {
			if text[s.at] == '-' {
				s.letter -= 'a' - 'A'
			}
			text[s.at] = s.letter
		}
	}
	return string(text)
}
