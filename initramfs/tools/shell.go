package tools

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shells are the names of the shell. Scripts for bash find most of what they look for.
var shells = []string{"sh", "bash"}

// builtins are commands that live in the shell and must exist as files too, for env, xargs and
// programs that call them without a shell.
var builtins = []string{"[", "echo", "false", "printf", "pwd", "test", "true"}

// killAfter is how long a process that the shell ends has between INT and KILL.
const killAfter = 2 * time.Second

// shell is sh [-abc...] [-o option] [-c text | file | -s] [arguments], or sh --await.
func shell(args []string) int {
	if len(args) == 1 && args[0] == "--await" {
		return await()
	}
	var params []string
	var text string
	var haveText, interactive, standard bool
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			goto done
		case a == "--login" || a == "--norc" || a == "--noprofile" || a == "--posix":
		case strings.TrimLeft(a, "-+") == "o":
			if len(args) == 0 {
				return complain("option -o needs a name")
			}
			params = append(params, a, args[0])
			args = args[1:]
		default:
			rest := ""
			for _, letter := range a[1:] {
				switch letter {
				case 'c':
					haveText = true
				case 'i':
					interactive = true
				case 's':
					standard = true
				case 'l':
				default:
					rest += string(letter)
				}
			}
			if rest != "" {
				params = append(params, a[:1]+rest)
			}
		}
	}
done:
	name := "sh"
	if haveText {
		if len(args) == 0 {
			return complain("option -c needs a command")
		}
		text, args = args[0], args[1:]
		if len(args) > 0 {
			name, args = args[0], args[1:]
		}
	}
	file := ""
	if !haveText && !standard && len(args) > 0 {
		file, args = args[0], args[1:]
		name = file
	}
	params = append(append(params, "--"), args...)
	switch {
	case haveText:
		return interpret(strings.NewReader(text), name, params)
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			complain(err.Error())
			return 127
		}
		defer f.Close()
		return interpret(f, name, params)
	case interactive || isTerminal(0):
		return converse(params)
	}
	return interpret(os.Stdin, name, params)
}

func complain(text string) int {
	fmt.Fprintln(os.Stderr, "sh: "+text)
	return 2
}

// builtin runs one of the shell's own commands as if it were a program.
func builtin(name string, args []string) int {
	switch name { // the two that programs wait for most need no shell
	case "true":
		return 0
	case "false":
		return 1
	}
	return interpret(strings.NewReader(`"$0" "$@"`), name, append([]string{"--"}, args...))
}

func newRunner(params []string) (*interp.Runner, error) {
	return interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Params(params...),
		interp.ExecHandlers(within, lasting))
}

// lasting is the end of the chain: a program of its own.
func lasting(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return interp.DefaultExecHandler(killAfter)
}

// within runs a tool inside the shell when the name would lead to this very program.
func within(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		h := interp.HandlerCtx(ctx)
		t, ok := lookup(args[0])
		if !ok {
			return next(ctx, args)
		}
		path, err := interp.LookPathDir(h.Dir, h.Env, args[0])
		if err != nil {
			return next(ctx, args)
		}
		if self, err := filepath.EvalSymlinks(path); err != nil || self != ourselves() {
			return next(ctx, args)
		}
		code := t(ctx, &Call{Args: args[1:], Name: args[0], Stdin: h.Stdin, Stdout: h.Stdout, Stderr: h.Stderr, Dir: h.Dir,
			Env: func(k string) (string, bool) { v := h.Env.Get(k); return v.String(), v.IsSet() }})
		if code != 0 {
			return interp.NewExitStatus(uint8(code))
		}
		return nil
	}
}

func ourselves() string {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "/init"
	}
	return self
}

func interpret(r io.Reader, name string, params []string) int {
	program, err := syntax.NewParser().Parse(r, name)
	if err != nil {
		return complain(err.Error())
	}
	runner, err := newRunner(params)
	if err != nil {
		return complain(err.Error())
	}
	return exitCode(runner.Run(context.Background(), program))
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if status, ok := interp.IsExitStatus(err); ok {
		return int(status)
	}
	return complain(err.Error())
}

// converse reads commands from a terminal, one by one.
func converse(params []string) int {
	runner, err := newRunner(params)
	if err != nil {
		return complain(err.Error())
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	prompt := func() {
		host, _ := os.Hostname()
		fmt.Fprintf(os.Stdout, "%s:%s# ", host, runner.Dir)
	}
	code := 0
	parser := syntax.NewParser()
	prompt()
	for {
		err := parser.Interactive(os.Stdin, func(list []*syntax.Stmt) bool {
			if parser.Incomplete() {
				fmt.Fprint(os.Stdout, "> ")
				return true
			}
			for _, stmt := range list {
				ctx, cancel := context.WithCancel(context.Background())
				finished := make(chan struct{})
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					select {
					case <-interrupted:
						cancel()
					case <-finished:
					}
				}()
				code = exitCode(runner.Run(ctx, stmt))
				close(finished)
				<-watched
				cancel()
				if runner.Exited() {
					return false
				}
			}
			prompt()
			return true
		})
		if err == nil || runner.Exited() {
			return code
		}
		complain(err.Error())
		prompt()
	}
}
