// Command gen writes the request and response structs of control/api/shape from Amazon's public API
// models, which it reads from the module github.com/aws/aws-sdk-go in the module cache.
//
//	go run ./control/api/shape/gen [-check]
//
// It takes names, types and wire names of the operations listed in operations.go, and amends them by
// the tables of later.go: members that newer clients send (served or accepted and ignored), members
// whose absence differs from emptiness, members that are always written. The output is deterministic;
// -check writes nothing and fails if a file would change. Every model also yields the names of its
// other operations, so that the front can tell "not built here" from "no such action".
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api/shape/model"
)

func main() {
	check := flag.Bool("check", false, "compare with the committed files instead of writing them")
	root := flag.String("C", ".", "root of the module")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	sdk, err := model.Module(root, "github.com/aws/aws-sdk-go")
	if err != nil {
		return err
	}
	files := map[string][]byte{} // by path below root
	var all []*writer
	for _, svc := range services() {
		f, err := os.Open(filepath.Join(sdk, "models", "apis", svc.model, "api-2.json"))
		if err != nil {
			return err
		}
		m, err := model.Load(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", svc.pkg, err)
		}
		w, err := newWriter(svc, m)
		if err != nil {
			return fmt.Errorf("%s: %w", svc.pkg, err)
		}
		all = append(all, w)
		for name, src := range w.files() {
			files[filepath.Join("control/api/shape", svc.pkg, name)] = src
		}
	}
	files["control/api/zz_table_test.go"] = table(all)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		src, err := format.Source(files[name])
		if err != nil {
			return fmt.Errorf("format %s: %w", name, err)
		}
		path := filepath.Join(root, name)
		old, _ := os.ReadFile(path)
		switch {
		case bytes.Equal(old, src):
		case check:
			return fmt.Errorf("%s is not what the generator writes: run go generate in control/api/shape/ec2", name)
		default:
			if err := os.WriteFile(path, src, 0o644); err != nil {
				return err
			}
		}
	}
	return stale(root, files, check)
}

// stale removes (or reports) generated files that the generator no longer writes.
func stale(root string, files map[string][]byte, check bool) error {
	old, err := filepath.Glob(filepath.Join(root, "control/api/shape/*/zz_*.go"))
	if err != nil {
		return err
	}
	for _, path := range old {
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if _, ok := files[rel]; ok {
			continue
		}
		if check {
			return fmt.Errorf("%s is left over: run go generate in control/api/shape/ec2", rel)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
