package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ichiro-metal/ichiro/deploy/host"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// session becomes ichiro-session, which knows how sessions are spoken: with its terminal, its signals and its exit code.
// Where the environment has no key, it is given this host's, as `ichiro env` prints it.
func session(name string) func(context.Context, []string, *slog.Logger) error {
	return func(_ context.Context, args []string, _ *slog.Logger) error {
		l, rest, err := own(args)
		if err != nil {
			return err
		}
		environment := os.Environ()
		if os.Getenv("AWS_ACCESS_KEY_ID") == "" {
			text, err := host.Env(l)
			if err != nil {
				return fmt.Errorf("AWS_ACCESS_KEY_ID is not set, and %w", err)
			}
			for line := range strings.Lines(text) {
				environment = append(environment, strings.TrimPrefix(strings.TrimSpace(line), "export "))
			}
		}
		path := filepath.Join(l.Bin, "ichiro-session")
		return fmt.Errorf("run %s: %v", path, syscall.Exec(path, slices.Concat([]string{path, name}, rest), environment))
	}
}

// own takes --run and --state from before the words; the rest is the other program's.
func own(args []string) (host.Layout, []string, error) {
	where := map[string]string{"run": "/run/ichiro", "state": "/var/lib/ichiro"}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, joined := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		if _, ours := where[name]; !ours {
			break
		}
		if args = args[1:]; !joined {
			if len(args) == 0 {
				return host.Layout{}, nil, service.Usagef("--%s needs a directory", name)
			}
			value, args = args[0], args[1:]
		}
		where[name] = value
	}
	l, err := host.NewLayout(where["state"], where["run"])
	return l, args, err
}
