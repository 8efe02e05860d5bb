// Package service is the skeleton that every program of ichiro hangs on.
//
// Main turns signals into the end of a context, and an error into an exit code: 0 for
// success, 1 for failure, 2 for a command line that makes no sense. Run keeps a daemon's
// tasks: all start together, READY is told when the last one is ready, the first that
// fails ends the rest, and they stop in the reverse of the order in which they are listed
// (list leaf first: the store outlives those who write to it). Readiness is told to
// systemd where NOTIFY_SOCKET is set, and as the line "READY" on the file descriptor that
// ICHIRO_READY_FD names. Admin serves metrics, health and profiles on a unix socket.
//
// The package parses no flags beyond telling a usage error from a failure, starts nothing
// by itself, and knows no other package of ichiro.
package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"
)

// Usage is the error of a command line that makes no sense. Main answers it with exit code 2.
type Usage struct{ Err error }

func (u Usage) Error() string { return u.Err.Error() }
func (u Usage) Unwrap() error { return u.Err }

// Usagef is fmt.Errorf for a Usage.
func Usagef(format string, a ...any) error { return Usage{fmt.Errorf(format, a...)} }

// Parse parses args with flags, which takes no further arguments, and makes every mistake
// a Usage. A request for help comes back as flag.ErrHelp, which Main answers with 0.
func Parse(flags *flag.FlagSet, args []string) error {
	flags.Init(flags.Name(), flag.ContinueOnError)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return Usage{err}
	case flags.NArg() > 0:
		return Usagef("unexpected argument %q", flags.Arg(0))
	}
	return nil
}

// Main runs a program and returns its exit code. SIGINT and SIGTERM end the context; a
// second one ends the process. The logger, which is slog's default too, writes text to stderr, with a time stamp unless
// the journal adds its own, and debug messages if ICHIRO_LOG=debug.
func Main(name string, run func(ctx context.Context, args []string, log *slog.Logger) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal has its default effect again
	journald, _ := journal.StderrIsJournalStream()
	log := newLogger(os.Stderr, name, journald)
	slog.SetDefault(log)
	return exitCode(ctx, os.Stderr, name, run(ctx, os.Args[1:], log))
}

// exitCode tells the user of err, if it is one, and returns the code of the process.
func exitCode(ctx context.Context, stderr io.Writer, name string, err error) int {
	var usage Usage
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 0 // asked to stop, and stopped
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v (see %s -help)\n", name, err, name)
		return 2
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return 1
}

func newLogger(w io.Writer, name string, journald bool) *slog.Logger {
	opt := &slog.HandlerOptions{}
	if strings.EqualFold(os.Getenv("ICHIRO_LOG"), "debug") {
		opt.Level = slog.LevelDebug
	}
	if !journald {
		return slog.New(slog.NewTextHandler(w, opt)).With("program", name)
	}
	// The journal knows the time and the unit already.
	opt.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
