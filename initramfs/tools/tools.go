// Package tools is the small guest's shell and the commands that scripts expect beside it.
//
// One program has many names: /bin/sh and /bin/ls are the same file, and the name under which it
// is called chooses the tool. The shell is mvdan.cc/sh, the file commands are u-root's libraries,
// the rest is short and ours. A tool gets all that it may touch in a Call, so that the shell
// runs it within itself: under emulation a fork and exec costs 20 times what `cat` does.
// The tools know the options that provisioning scripts use, not all that GNU's have; an option
// that is not known is an error, never silently dropped.
package tools

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Call is one use of a tool.
type Call struct {
	Args   []string // without the tool's own name
	Name   string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Dir    string
	Env    func(string) (string, bool)
}

// tool does its work and returns the exit code.
type tool func(ctx context.Context, c *Call) int

// lookup returns the tool of a name.
func lookup(name string) (tool, bool) {
	if t, ok := own()[name]; ok {
		return t, true
	}
	if make, ok := library()[name]; ok {
		return adapt(make), true
	}
	return nil, false
}

// Names lists all names under which this program is a tool, in order.
func Names() []string {
	var names []string
	for n := range own() {
		names = append(names, n)
	}
	for n := range library() {
		names = append(names, n)
	}
	names = append(names, shells...)
	names = append(names, builtins...)
	slices.Sort(names)
	return slices.Compact(names)
}

// Main runs the tool that argv[0] names and returns its exit code. Called by another name it
// takes the tool's from its first argument.
func Main(argv []string) int {
	name := filepath.Base(argv[0])
	args := argv[1:]
	if name == "init" && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch {
	case slices.Contains(shells, strings.TrimPrefix(name, "-")):
		return shell(args)
	case slices.Contains(builtins, name):
		return builtin(name, args)
	}
	t, ok := lookup(name)
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: no such tool; the tools are %v\n", name, Names())
		return 127
	}
	dir, _ := os.Getwd()
	return t(context.Background(), &Call{Args: args, Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Dir: dir, Env: os.LookupEnv})
}

// fail says what went wrong and returns the exit code for it.
func (c *Call) fail(err error) int {
	fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
	return 1
}

// usage says how the tool is called.
func (c *Call) usage(text string) int {
	fmt.Fprintf(c.Stderr, "usage: %s %s\n", c.Name, text)
	return 2
}

// path resolves a file name against the caller's directory.
func (c *Call) path(name string) string {
	if filepath.IsAbs(name) || c.Dir == "" {
		return name
	}
	return filepath.Join(c.Dir, name)
}
