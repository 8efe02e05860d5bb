//go:build walk

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/tools/txtar"
	"rsc.io/script"
)

// TestWalk runs the scripts in docs/walkthrough, each in a directory of its own against the shared host, with
// the AWS CLI as it comes. Beside the commands of rsc.io/script a script has
//
//	aws ARGUMENT...             the AWS CLI, pointed at the host
//	until REGEXP COMMAND...     repeats a command until it succeeds and what it prints matches
//	keep NAME                   puts what the last command printed into the variable NAME
//	guest INSTANCE COMMAND...   a shell command in a guest, by Run Command
func TestWalk(t *testing.T) {
	// Where pyenv keeps the AWS CLI, what is found in PATH is a script that looks for it, and takes as long as the CLI itself.
	if out, err := exec.Command("pyenv", "which", "aws").Output(); err == nil {
		t.Setenv("PATH", filepath.Dir(strings.TrimSpace(string(out)))+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	h := the(t)
	cli := warmCLI(t)
	h.image(t)
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "walkthrough", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			before := traces(t, h)
			h.walk(t, cli, f)
			h.clean(t, before)
		})
	}
}

func (h *host) walk(t *testing.T, cli *warm, file string) {
	w := walker{h, cli}
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := script.NewState(t.Context(), dir, []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "AWS_PAGER=", "AWS_DEFAULT_REGION=" + h.region, "AWS_DEFAULT_OUTPUT=text",
		"AWS_ACCESS_KEY_ID=" + h.key[0], "AWS_SECRET_ACCESS_KEY=" + h.key[1], "ENDPOINT=" + h.url, "AWS_ENDPOINT_URL=" + h.url,
		"ICHIRO=" + filepath.Join(bin, "ichiro"), "RUNCMD=" + filepath.Join(bin, "ichiro-runcmd"), "RUN=" + h.run(), "STATE=" + h.state(), "CERTIFICATE=" + h.run("control", "identity.crt"),
	})
	if err == nil {
		err = s.ExtractFiles(archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &script.Engine{Cmds: script.DefaultCmds(), Conds: script.DefaultConds()}
	e.Cmds["aws"] = script.Command(script.CmdUsage{Summary: "run the AWS CLI", Args: "argument..."}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		out, errs, err := w.run(s, append([]string{"aws"}, args...))
		return func(*script.State) (string, string, error) { return out, errs, err }, nil
	})
	e.Cmds["until"] = script.Command(script.CmdUsage{Summary: "repeat a command until its output matches", Args: "regexp command..."}, w.until)
	e.Cmds["keep"] = script.Command(script.CmdUsage{Summary: "keep the last output, or what the group of a pattern matches of it, in a variable", Args: "name [pattern]"}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		out := strings.TrimSpace(s.Stdout())
		switch len(args) {
		case 1:
		case 2:
			pattern, err := regexp.Compile(args[1])
			if err != nil {
				return nil, err
			}
			found := pattern.FindStringSubmatch(out)
			if len(found) != 2 {
				return nil, fmt.Errorf("%q is not one group in %q", args[1], out)
			}
			out = found[1]
		default:
			return nil, script.ErrUsage
		}
		return nil, s.Setenv(args[0], out)
	})
	e.Cmds["guest"] = script.Command(script.CmdUsage{Summary: "run a shell command in a guest", Args: "instance command..."}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		out, errs, err := w.run(s, append([]string{"guest"}, args...))
		return func(*script.State) (string, string, error) { return out, errs, err }, nil
	})
	var log bytes.Buffer
	err = e.Execute(s, filepath.Base(file), bufio.NewReader(bytes.NewReader(archive.Comment)), &log)
	if closed := s.CloseAndWait(&log); err == nil {
		err = closed
	}
	t.Logf("%s", log.String())
	if err != nil {
		t.Error(err)
	}
	for id := range h.all(t) { // what a script that failed has left
		t.Errorf("the script leaves %s", id)
		h.terminate(t, id)
	}
}

// walker runs the commands of scripts.
type walker struct {
	h   *host
	cli *warm // nil: the CLI is started for each call
}

// run runs a program as a script has its surroundings.
func (w walker) run(s *script.State, argv []string) (stdout, stderr string, err error) {
	switch argv[0] {
	case "guest":
		return w.inGuest(s.Context(), argv[1:])
	case "aws":
		endpoint, _ := s.LookupEnv("ENDPOINT")
		argv = slices.Insert(slices.Clone(argv), 1, "--endpoint-url", endpoint)
		if w.cli != nil {
			return w.cli.aws(s, argv[1:]...)
		}
	}
	var out, errs strings.Builder
	cmd := exec.CommandContext(s.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.Getwd(), s.Environ(), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// inGuest sends a command to the agent of a guest and waits for its end. What it printed is there even if it failed.
func (w walker) inGuest(ctx context.Context, args []string) (stdout, stderr string, err error) {
	if len(args) < 2 {
		return "", "", script.ErrUsage
	}
	sent, err := w.h.ssm.SendCommand(ctx, &ssm.SendCommandInput{InstanceIds: args[:1], DocumentName: aws.String("AWS-RunShellScript"),
		Parameters: map[string][]string{"commands": {strings.Join(args[1:], " ")}}})
	if err != nil {
		return "", err.Error(), err
	}
	var done *ssm.GetCommandInvocationOutput
	err = poll(func() (err error) {
		done, err = w.h.ssm.GetCommandInvocation(ctx, &ssm.GetCommandInvocationInput{InstanceId: &args[0], CommandId: sent.Command.CommandId})
		if err == nil && (done.Status == "Pending" || done.Status == "InProgress") {
			err = fmt.Errorf("the command in %s is %s", args[0], done.Status)
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	if done.Status != "Success" {
		err = fmt.Errorf("the command in %s ended as %s", args[0], done.Status)
	}
	return aws.ToString(done.StandardOutputContent), aws.ToString(done.StandardErrorContent), err
}

func (w walker) until(s *script.State, args ...string) (script.WaitFunc, error) {
	if len(args) < 2 {
		return nil, script.ErrUsage
	}
	want, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return nil, err
	}
	var out, errs string
	err = poll(func() error {
		if s.Context().Err() != nil {
			return fatal{context.Cause(s.Context())}
		}
		var err error
		if out, errs, err = w.run(s, args[1:]); err == nil && !want.MatchString(out) {
			err = fmt.Errorf("%q does not match %s", out, args[0])
		}
		return err
	})
	return func(*script.State) (string, string, error) { return out, errs, err }, nil
}
