// Ichiro-session is a person's way into a guest: a shell, or a port of it, through the API.
//
//	ichiro-session shell INSTANCE [COMMAND ...]          ichiro shell; --resume goes on with a session
//	ichiro-session forward INSTANCE LOCAL:[HOST:]PORT    ichiro forward
//
// It needs what the AWS CLI needs: AWS_ENDPOINT_URL, AWS_REGION and a key in the environment; `ichiro shell` sets those
// of its host where there are none. A session goes on when the network does not: it is resumed for two minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/client"
)

const usage = `usage: ichiro shell [-t] [--resume SESSION] [--reason TEXT] INSTANCE [COMMAND ...]
       ichiro forward [--reason TEXT] INSTANCE LOCAL:[HOST:]PORT

A command is on a terminal if input and output are one here, or with -t. Else its input and both outputs are as
they are, to the byte. On a terminal ~. at the beginning of a line ends the session, and ~~ is a ~.`

var errUsage = errors.New("the arguments are not understood")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ichiro:", err)
	}
	os.Exit(code)
}

// failed is the code for what is not the session's own: as ssh has it.
const failed = 255

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return failed, errUsage
	}
	flags := flag.NewFlagSet("ichiro "+args[0], flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	resume := flags.String("resume", "", "session to go on with")
	reason := flags.String("reason", "", "why, for the record")
	terminal := flags.Bool("t", term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())), "the command is on a terminal")
	if err := flags.Parse(args[1:]); err != nil {
		return failed, err
	}
	a, err := fromEnvironment(os.Getenv)
	if err != nil {
		return failed, err
	}
	switch words := flags.Args(); {
	case args[0] == "shell" && *resume != "" && len(words) <= 1:
		s, err := a.resume(ctx, *resume)
		if err != nil {
			return failed, err
		}
		return shell(ctx, a, s)
	case args[0] == "shell" && len(words) > 0:
		s, err := a.start(ctx, shellRequest(words[0], words[1:], *terminal, *reason))
		if err != nil {
			return failed, err
		}
		return shell(ctx, a, s)
	case args[0] == "forward" && len(words) == 2:
		return forward(ctx, a, words[0], words[1], *reason)
	}
	return failed, errUsage
}

// shellRequest asks for a shell, or for one command, on a terminal or not. Words are quoted as the shell in the guest reads them.
func shellRequest(target string, words []string, terminal bool, reason string) request {
	r := request{Target: target, Reason: reason}
	if len(words) > 0 {
		quoted := make([]string, len(words))
		for n, w := range words {
			quoted[n] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		r.DocumentName = "AWS-StartNonInteractiveCommand"
		if terminal {
			r.DocumentName = "AWS-StartInteractiveCommand"
		}
		r.Parameters = map[string][]string{"command": {strings.Join(quoted, " ")}}
	}
	return r
}

// open returns a client of a session that resumes it when its connection breaks.
func open(a *api, s session) *client.Client {
	return client.New(client.Config{
		URL: s.StreamUrl, Token: s.TokenValue, Patience: 2 * time.Minute,
		Resume: func(ctx context.Context) (string, error) {
			next, err := a.resume(ctx, s.SessionId)
			if errors.Is(err, errEnded) {
				return "", nil
			}
			return next.TokenValue, err
		},
	})
}
