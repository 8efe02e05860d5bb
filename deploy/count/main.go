// Command count runs go test and says what came of it: each package with its time, the whole output of what
// failed, the reason of what was skipped, and how many there were of each. Nothing is skipped silently.
//
//	count SUITE go test ARGUMENTS...   runs one suite and adds its counts to the tally
//	count total                        prints the tally of all suites and removes it
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Output     string
	Elapsed    float64
}

// counts are the leaf tests of a suite by outcome.
type counts struct{ Passed, Failed, Skipped int }

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
		os.Exit(1)
	}
}

func tally() string { return filepath.Join(os.TempDir(), fmt.Sprintf("ichiro-counts-%d", os.Getuid())) }

func run(args []string) error {
	if len(args) == 1 && args[0] == "total" {
		return total()
	}
	if len(args) < 3 {
		return fmt.Errorf("usage: count SUITE go test ARGUMENTS... | count total")
	}
	suite, command := args[0], args[1:]
	if suite == "unit" { // the first of a run
		os.Remove(tally())
	}
	began := time.Now()
	cmd := exec.Command(command[0], append([]string{command[1], "-json"}, command[2:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c, failed := follow(out, os.Stdout)
	err = cmd.Wait()
	fmt.Printf("%s: %v (%.0f s)\n", suite, c, time.Since(began).Seconds())
	f, ferr := os.OpenFile(tally(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if ferr != nil {
		return ferr
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(c); err != nil {
		return err
	}
	switch {
	case err != nil || failed:
		return fmt.Errorf("%s failed", suite)
	case c.Passed == 0:
		return fmt.Errorf("%s ran no test", suite)
	}
	return nil
}

// follow reads events, shows what matters, and counts tests that have no subtests of their own.
func follow(in io.Reader, out io.Writer) (counts, bool) {
	var c counts
	failed := false
	output := map[string][]string{}
	parents := map[string]bool{}
	ended := map[string]string{}
	s := bufio.NewScanner(in)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			fmt.Fprintln(out, s.Text()) // the build's own words
			continue
		}
		key := e.Package + e.ImportPath + " " + e.Test
		for i := range e.Test {
			if e.Test[i] == '/' {
				parents[e.Package+" "+e.Test[:i]] = true
			}
		}
		switch e.Action {
		case "output", "build-output":
			output[key] = append(output[key], e.Output)
		case "build-fail":
			failed = true
			fmt.Fprint(out, strings.Join(output[key], ""))
			delete(output, key)
		case "pass", "fail", "skip":
			switch {
			case e.Test == "" && e.Action == "fail":
				failed = true
				fmt.Fprintf(out, "FAIL %s %.1fs\n%s", e.Package, e.Elapsed, strings.Join(output[key], ""))
				for test, lines := range output { // of tests that never ended
					if test != key && strings.HasPrefix(test, e.Package+" ") {
						fmt.Fprintf(out, "--- LAST %s\n%s", test, strings.Join(lines, ""))
					}
				}
			case e.Test == "" && e.Action == "pass":
				fmt.Fprintf(out, "ok   %s %.1fs\n", e.Package, e.Elapsed)
			case e.Test != "":
				ended[key] = e.Action
				if e.Action == "fail" {
					failed = true
					fmt.Fprintf(out, "--- FAIL %s\n%s", key, strings.Join(output[key], ""))
				}
				if e.Action == "skip" {
					fmt.Fprintf(out, "--- SKIP %s: %s\n", key, reason(output[key]))
				}
			}
			delete(output, key)
		}
	}
	for key, action := range ended {
		if parents[key] {
			continue
		}
		switch action {
		case "pass":
			c.Passed++
		case "fail":
			c.Failed++
		case "skip":
			c.Skipped++
		}
	}
	return c, failed || s.Err() != nil
}

// reason is what a test said when it skipped itself.
func reason(lines []string) string {
	lines = slices.DeleteFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, "=== ") || strings.HasPrefix(strings.TrimSpace(l), "--- ")
	})
	return strings.TrimSpace(strings.Join(lines, " "))
}

func total() error {
	f, err := os.Open(tally())
	if err != nil {
		return err
	}
	defer os.Remove(tally())
	defer f.Close()
	var sum counts
	for d := json.NewDecoder(f); ; {
		var c counts
		if err := d.Decode(&c); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		sum.Passed += c.Passed
		sum.Failed += c.Failed
		sum.Skipped += c.Skipped
	}
	fmt.Println(sum)
	return nil
}
