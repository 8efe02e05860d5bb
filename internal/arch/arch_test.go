package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

const (
	module = "github.com/ichiro-metal/ichiro/"
	root   = "../.."
)

// pkg is what `go list` tells of one of our packages.
type pkg struct {
	ImportPath, Name, Dir              string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string

	dir string // below the root: agent/link
}

// packages returns all of ours, with the tests that the tags net, vm and walk add.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-e", "-tags", "net,vm,walk",
		"-json=ImportPath,Name,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		p.dir = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
})

func list(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (p pkg) tests() []string { return append(slices.Clone(p.TestImports), p.XTestImports...) }

// ours returns the directory of an import path of ours.
func ours(imp string) (dir string, ok bool) { return strings.CutPrefix(imp, module) }

// building returns the top-level directory.
func building(dir string) string { b, _, _ := strings.Cut(dir, "/"); return b }

// within reports whether dir is room or lies below it.
func within(dir, room string) bool { return dir == room || strings.HasPrefix(dir, room+"/") }

// room returns the room that dir is in, "" if nobody placed it. A building's own directory
// is the room of its main alone.
func room(dir string) string {
	for d := dir; d != "."; d = path.Dir(d) {
		if _, ok := rooms[d]; ok && (d == dir || strings.Contains(d, "/")) {
			return d
		}
	}
	return ""
}

func TestBuildingsDoNotImportEachOther(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range append(p.tests(), p.Imports...) {
			if dir, ok := ours(imp); ok && building(dir) != "internal" && building(dir) != building(p.dir) {
				t.Errorf("%s imports %s: what two buildings need belongs in internal/", p.dir, dir)
			}
		}
	}
}

func TestRoomsImportDownwards(t *testing.T) {
	used := map[string]bool{}
	for _, p := range list(t) {
		from := room(p.dir)
		if from == "" {
			t.Errorf("%s is in no room: place it in tables_test.go", p.dir)
			continue
		}
		for _, imp := range p.Imports {
			dir, ok := ours(imp)
			if !ok {
				continue
			}
			to := room(dir)
			edge := from + " -> " + to
			if to == "" || from == to || rooms[to] < rooms[from] {
				continue
			}
			if used[edge] = true; neighbours[edge] == "" {
				t.Errorf("%s (floor %d) imports %s (floor %d): a room uses what is below it", p.dir, rooms[from], dir, rooms[to])
			}
		}
	}
	for edge := range neighbours {
		if !used[edge] {
			t.Logf("note: no longer needed: %s", edge)
		}
	}
}

func TestProgramsContainNoTestHelpers(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			if dir, ok := ours(imp); ok && slices.Contains(testOnly, dir) && !slices.Contains(testOnly, p.dir) {
				t.Errorf("%s imports %s outside of its tests", p.dir, dir)
			}
		}
	}
}

// libraryOf returns the module of the table that holds an import path.
func libraryOf(imp string) (name string) {
	for mod := range libraries {
		if (imp == mod || strings.HasPrefix(imp, mod+"/")) && len(mod) > len(name) {
			name = mod
		}
	}
	return name
}

func TestEachLibraryHasOneDoor(t *testing.T) {
	imported := map[string]bool{}
	doors := map[string]map[string]bool{} // library and building -> doors in use
	for _, p := range list(t) {
		for _, imp := range p.tests() {
			imported[libraryOf(imp)] = true
		}
		for _, imp := range p.Imports {
			first, _, _ := strings.Cut(imp, "/")
			if _, our := ours(imp); our || !strings.Contains(first, ".") {
				continue
			}
			name := libraryOf(imp)
			lib, ok := libraries[name]
			imported[name] = true
			door := slices.IndexFunc(lib.doors, func(d string) bool { return within(p.dir, d) })
			switch {
			case !ok:
				t.Errorf("%s imports %s, which is not in the table of libraries", p.dir, imp)
			case lib.wide || slices.Contains(testOnly, p.dir):
			case door < 0:
				t.Errorf("%s imports %s, whose doors are %v", p.dir, imp, lib.doors)
			default:
				key := name + " in " + building(p.dir)
				if doors[key] == nil {
					doors[key] = map[string]bool{}
				}
				doors[key][lib.doors[door]] = true
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(doors)) {
		if len(doors[key]) > 1 && !strings.HasSuffix(key, " internal") {
			t.Errorf("%s has %d doors: %v", key, len(doors[key]), slices.Sorted(maps.Keys(doors[key])))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		if !imported[name] && !libraries[name].tool {
			t.Errorf("%s is required and imported by nobody", name)
		}
	}
}

func TestDirectRequirementsAreTheTable(t *testing.T) {
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range mod.Require {
		if !r.Indirect {
			got = append(got, r.Path)
		}
	}
	for _, name := range got {
		if libraries[name].why == "" {
			t.Errorf("go.mod requires %s, and the table gives no reason", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		if !slices.Contains(got, name) {
			t.Errorf("the table has %s, and go.mod does not require it directly", name)
		}
	}
}

func TestDecidersArePure(t *testing.T) {
	forbidden := []string{"os", "os/exec", "os/signal", "net", "net/http", "log", "log/slog", "context", "syscall", "io/ioutil"}
	var there []string
	for _, p := range list(t) {
		if !slices.ContainsFunc(pure, func(d string) bool { return within(p.dir, d) }) {
			continue
		}
		there = append(there, "./"+p.dir)
		for _, imp := range p.Imports {
			if slices.Contains(forbidden, imp) {
				t.Errorf("%s imports %s", p.dir, imp)
			}
			if first, _, _ := strings.Cut(imp, "/"); p.dir == "internal/cloud" && strings.Contains(first, ".") {
				t.Errorf("%s imports %s: nouns need the standard library only", p.dir, imp)
			}
		}
		for _, f := range parse(t, p) {
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After"}, sel.Sel.Name) {
						t.Errorf("%s calls time.%s: a decider is told the time", p.dir, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
	cmd := exec.Command("go", append([]string{"vet"}, there...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOOS=js GOARCH=wasm go vet: %v\n%s", err, out)
	}
}

func parse(t *testing.T, p pkg) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func TestEachPackageHasOneComment(t *testing.T) {
	for _, p := range list(t) {
		var comments []string
		for _, f := range parse(t, p) {
			if f.Doc != nil {
				comments = append(comments, f.Doc.Text())
			}
		}
		if len(p.GoFiles) == 0 { // tests only
			continue
		}
		if len(comments) != 1 {
			t.Errorf("%s has %d package comments, want 1", p.dir, len(comments))
			continue
		}
		switch n := strings.Count(strings.TrimSpace(comments[0]), "\n") + 1; {
		case n < 3:
			t.Errorf("%s: the package comment has %d lines, want a story of 3 to 15", p.dir, n)
		case n > 15:
			t.Logf("warning: %s: the package comment has %d lines, more than 15", p.dir, n)
		}
	}
}

// Sizes warn: they are a sign that a room holds two things, not a fault by themselves.
func TestSizes(t *testing.T) {
	for _, p := range list(t) {
		total := 0
		for _, name := range p.GoFiles {
			if strings.HasPrefix(name, "zz_") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			n := strings.Count(string(text), "\n")
			total += n
			if limit := map[bool]int{true: 200, false: 600}[name == "main.go"]; n > limit {
				t.Logf("warning: %s/%s has %d lines, more than %d", p.dir, name, n, limit)
			}
		}
		if total > 1500 {
			t.Logf("warning: %s has %d lines, more than 1500", p.dir, total)
		}
	}
}

// rows returns the cells of the table in docs/architecture.md whose header begins with first.
func rows(t *testing.T, first string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	in := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		var cells []string
		for c := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.Trim(strings.TrimSpace(c), "`"))
		}
		switch {
		case strings.HasPrefix(line, "|") && cells[0] == first:
			in = true
		case !strings.HasPrefix(line, "|"):
			in = false
		case in && !strings.HasPrefix(cells[0], "---"):
			out = append(out, cells)
		}
	}
	if len(out) == 0 {
		t.Fatalf("docs/architecture.md has no table %q", first)
	}
	return out
}

func TestTheFileTableIsTheBundle(t *testing.T) {
	var got, want []string
	for _, r := range rows(t, "file") {
		got = append(got, strings.Join(r, " | "))
	}
	for _, f := range bundle.Files() {
		want = append(want, f.Name+" | "+f.Producer+" | "+strings.Join(f.Consumers, ", "))
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("docs/architecture.md:\n%s\n\nbundle.Files():\n%s", g, w)
	}
}

func TestTheProgramTableIsTheMains(t *testing.T) {
	listed := map[string]bool{}
	for _, r := range rows(t, "program") {
		listed[r[1]] = true
	}
	for _, p := range list(t) {
		if p.Name == "main" && rooms[p.dir] == mains && !listed[p.dir] {
			t.Errorf("%s is a program, and docs/architecture.md does not tell its rights", p.dir)
		}
		delete(listed, p.dir)
	}
	for dir := range listed {
		t.Errorf("docs/architecture.md tells of %s, which is no program", dir)
	}
}
