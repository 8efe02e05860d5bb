//go:build walk

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rsc.io/script"
)

// warm is a process that has imported the AWS CLI, see testdata/cli.py.
type warm struct {
	mu  sync.Mutex // one call at a time
	in  io.Writer
	out *bufio.Reader
	dir string // for what a call prints
}

// warmCLI returns nil for an AWS CLI that is not a program of a Python which has it as a module: that is started each time.
func warmCLI(t *testing.T) *warm {
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Fatal("the walkthrough needs the AWS CLI: apt-get install awscli")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	python := strings.Fields(strings.TrimPrefix(string(first), "#!"))
	if len(python) != 1 || !strings.Contains(python[0], "python") {
		t.Logf("%s is not started by a Python", path)
		return nil
	}
	cmd := exec.Command(python[0], filepath.Join("testdata", "cli.py"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Logf("the AWS CLI's process: %v", err)
		}
	})
	w := &warm{in: in, out: bufio.NewReader(out), dir: t.TempDir()}
	if line, err := w.out.ReadString('\n'); line != "ready\n" {
		t.Logf("%s has no AWS CLI as a module: %q, %v", python[0], line, err)
		return nil
	}
	return w
}

// aws is run for the AWS CLI.
func (w *warm) aws(s *script.State, args ...string) (stdout, stderr string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	env := map[string]string{}
	for _, e := range s.Environ() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	files := [2]string{filepath.Join(w.dir, "out"), filepath.Join(w.dir, "err")}
	request := struct {
		Args []string          `json:"args"`
		Env  map[string]string `json:"env"`
		Dir  string            `json:"dir"`
		Out  string            `json:"out"`
		Err  string            `json:"err"`
	}{args, env, s.Getwd(), files[0], files[1]}
	if err := json.NewEncoder(w.in).Encode(request); err != nil {
		return "", "", err
	}
	line, err := w.out.ReadString('\n')
	if err != nil {
		return "", "", fmt.Errorf("the AWS CLI's process: %w", err)
	}
	var printed [2]string
	for n, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", "", err
		}
		printed[n] = string(text)
	}
	if status, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || status != 0 {
		return printed[0], printed[1], fmt.Errorf("exit status %s", strings.TrimSpace(line))
	}
	return printed[0], printed[1], nil
}
