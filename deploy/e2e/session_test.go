//go:build vm

package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

// TestSession has a shell in a guest of the small image, as a person would: by ichiro shell, through the API.
func TestSession(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	shell := func(in string, args ...string) (string, int) {
		t.Helper()
		return h.shell(t, id, in, args...)
	}
	out, code := shell("echo I am $USER at $HOME; test -t 0 && echo on a terminal; exit 23\n")
	if code != 23 || !strings.Contains(out, "I am root at /root") || !strings.Contains(out, "on a terminal") {
		t.Errorf("got code %d and %q", code, out)
	}
	out, code = shell("", "cat", "/tmp/nonce")
	if code != 0 || !strings.HasSuffix(strings.TrimSpace(h.memory(t, id)), strings.TrimSpace(out)) || len(out) < 20 {
		t.Errorf("a command has code %d and says %q", code, out)
	}
	everything := make([]byte, 300_000)
	rand.Read(everything)
	out, code = shell(string(everything), "sh", "-c", "cat; exit 7")
	if code != 7 || out != string(everything) {
		t.Errorf("a command in a pipe has code %d and gives %d of %d bytes back", code, len(out), len(everything))
	}
	if out, code = shell("exit 8"); code != 8 { // without the end of its line
		t.Errorf("got code %d and %q", code, out)
	}
	h.stopped(t, id)
	h.survives(t, id, "gateway")
	h.survives(t, id, "control")
	await(t, "eleven sessions in the history", func() error {
		out, err := h.ssm.DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{
			State: ssmtypes.SessionStateHistory, Filters: []ssmtypes.SessionFilter{{Key: ssmtypes.SessionFilterKeyTargetId, Value: aws.String(id)}},
		})
		if err == nil && len(out.Sessions) != 11 {
			err = fmt.Errorf("%d sessions", len(out.Sessions))
		}
		return err
	})
	casts, err := filepath.Glob(h.state("sessions", "*.cast"))
	if err != nil || len(casts) < 11 {
		t.Errorf("the recordings are %v, %v", casts, err)
	}
	audit, err := os.ReadFile(h.state("audit", "audit.jsonl"))
	if err != nil || strings.Count(string(audit), `"SessionEnded"`) < 11 || !strings.Contains(string(audit), `"Code":23`) {
		t.Errorf("the audit lacks the ends of the sessions: %v", err)
	}
}

// converse starts `ichiro shell` in a guest, and returns it with its pipes. It has a minute.
func (h *host) converse(t *testing.T, id string, args ...string) (*exec.Cmd, io.WriteCloser, io.ReadCloser) {
	t.Helper()
	cmd := h.ichiro(append([]string{"shell", "--run", h.run(), "--state", h.state(), id}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() { guard.Stop() })
	return cmd, in, out
}

// stopped has commands in a pipe end when they are stopped here, or cannot be read or given what they should be.
func (h *host) stopped(t *testing.T, id string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	directory, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	for name, c := range map[string]struct {
		script string
		stop   func(p *os.Process, in io.WriteCloser, out io.Closer) error
	}{
		"Ctrl-C": {"echo begun; cat", func(p *os.Process, _ io.WriteCloser, _ io.Closer) error { return p.Signal(os.Interrupt) }},
		"a reader that goes": {"echo begun; cat; while echo on; do :; done", func(_ *os.Process, in io.WriteCloser, out io.Closer) error {
			return errors.Join(in.Close(), out.Close())
		}},
		"a reader that goes, with more input than anybody takes": {"echo begun; while echo on; do :; done", func(_ *os.Process, in io.WriteCloser, out io.Closer) error {
			if _, err := in.Write(make([]byte, 2<<20)); err != nil { // twice what is under way to a guest
				return err
			}
			return out.Close()
		}},
	} {
		cmd, in, out := h.converse(t, id, "sh", "-c", c.script)
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
			t.Fatalf("a command in a pipe says %q, %v", line, err)
		}
		if err := c.stop(cmd.Process, in, out); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 255 {
			t.Errorf("a command ended by %s has code %d, want 255", name, cmd.ProcessState.ExitCode())
		}
		in.Close()
	}
	for name, files := range map[string][2]*os.File{"a full disk": {nil, full}, "input that cannot be read": {directory, nil}} {
		cmd := h.ichiro("shell", "--run", h.run(), "--state", h.state(), id, "sh", "-c", "echo begun; cat; sleep 1000")
		if files[0] != nil { // else there is none
			cmd.Stdin = files[0]
		}
		if files[1] != nil {
			cmd.Stdout = files[1]
		}
		guard := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		err := cmd.Run()
		guard.Stop()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 255 {
			t.Errorf("a command ended by %s: %v, want code 255", name, err)
		}
	}
}

// survives has a shell go on while a daemon on its way is killed.
func (h *host) survives(t *testing.T, id, daemon string) {
	t.Helper()
	cmd, in, out := h.converse(t, id)
	fmt.Fprintf(in, "V=kept; echo begun $((40+2))\n")
	var said strings.Builder
	until := func(text string) {
		t.Helper()
		for buf := make([]byte, 4096); !strings.Contains(said.String(), text); {
			n, err := out.Read(buf)
			if said.Write(buf[:n]); err != nil {
				t.Fatalf("a shell over the %s's death: %v; it said %q", daemon, err, said.String())
			}
		}
	}
	until("begun 42")
	h.kill(t, daemon)
	fmt.Fprintf(in, "echo still $V; exit 9\n")
	until("still kept")
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("a shell over the %s's death: code %d, want 9", daemon, cmd.ProcessState.ExitCode())
	}
}

// forward has `ichiro forward` lead to a port of a guest, and returns what is served there at a path.
func (h *host) forward(t *testing.T, id, port, path string) (served string) {
	t.Helper()
	cmd := h.ichiro("forward", "--run", h.run(), "--state", h.state(), id, "0:"+port)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() }()
	guard := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer guard.Stop()
	line, err := bufio.NewReader(said).ReadString('\n')
	local, _, ok := strings.Cut(line, " leads to ")
	if !ok {
		t.Fatalf("ichiro forward says %q, %v", line, err)
	}
	await(t, "an answer through a port", func() error {
		resp, err := http.Get("http://" + local + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		served = string(body)
		return err
	})
	return served
}

// shell has `ichiro shell` in a guest read what it is given, and returns what it says and its exit code.
func (h *host) shell(t *testing.T, id, in string, args ...string) (string, int) {
	t.Helper()
	cmd := h.ichiro(append([]string{"shell", "--run", h.run(), "--state", h.state(), id}, args...)...)
	guard := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer guard.Stop()
	cmd.Stdin = strings.NewReader(in)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if errs.Len() > 0 {
		t.Logf("ichiro shell said %s", &errs)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
