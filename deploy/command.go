package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// command shows what a command prints in a guest of this host, from its beginning and as it comes, and ends as it ends.
func command(ctx context.Context, args []string, _ *slog.Logger) error {
	l, rest, err := parse("command", args, nil)
	if err != nil {
		return err
	}
	if len(rest) < 2 || len(rest) > 3 || rest[0] != "follow" {
		return service.Usagef("usage: ichiro command follow COMMAND [INSTANCE]")
	}
	if _, kind := bundle.ParseCommandFile(rest[1]); kind != bundle.CommandAsked {
		return service.Usagef("%q is no ID of a command", rest[1])
	}
	root := bundle.Root(l.Run)
	f := follower{host: cloud.Host{ID: "this one", Door: "unix:" + root.Door()}, id: cloud.CommandID(rest[1]), out: os.Stdout, err: os.Stderr}
	if len(rest) == 3 {
		if f.instance = cloud.InstanceID(rest[2]); !cloud.WellFormed(f.instance, "i", cloud.ManagedPrefix) {
			return service.Usagef("%q is no ID of an instance", rest[2])
		}
	} else if f.instance, err = whose(root, f.id); err != nil {
		return err
	}
	return f.follow(ctx)
}

// whose returns the instance of this host, or the machine that comes to it, that a command was sent to, if it is one.
func whose(root bundle.Root, id cloud.CommandID) (found cloud.InstanceID, err error) {
	guests, err := root.List()
	machines, failed := root.ListNodes()
	if err = errors.Join(err, failed); err != nil {
		return "", err
	}
	for _, i := range append(guests, machines...) {
		if _, err := os.Lstat(root.Instance(i).Path("commands", string(id))); err != nil {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("command %s was sent to %s, %s and maybe more instances: name one", id, found, i)
		}
		found = i
	}
	if found == "" {
		return "", fmt.Errorf("command %s was sent to no instance of this host", id)
	}
	return found, nil
}

// follower shows one command on one instance.
type follower struct {
	host     cloud.Host
	instance cloud.InstanceID
	id       cloud.CommandID
	out, err io.Writer
	at       [2]int64
}

// lookEvery is between two looks at a command that has nothing new.
const lookEvery = 100 * time.Millisecond

// follow returns the command's code as an exitCode, and nil for 0.
func (f *follower) follow(ctx context.Context) error {
	for {
		inv, err := door.Client{}.Invocation(ctx, f.host, f.instance, f.id) // before the outputs: they are whole if it has ended
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("command %s was not sent to instance %s of this host", f.id, f.instance)
		}
		if err != nil {
			return err
		}
		news, err := f.copy(ctx)
		switch {
		case err != nil:
			return err
		case news:
			continue
		case inv.Status.Terminal():
			return f.end(inv)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// copy shows a page of each output, and reports whether there was any.
func (f *follower) copy(ctx context.Context) (news bool, err error) {
	for n, to := range []io.Writer{f.out, f.err} {
		page, err := door.Client{}.Page(ctx, f.host, f.instance, f.id, []string{"stdout", "stderr"}[n], f.at[n], door.MaxRead)
		if err != nil {
			return false, err
		}
		if _, err := to.Write(page); err != nil {
			return false, err
		}
		f.at[n] += int64(len(page))
		news = news || len(page) > 0
	}
	return news, nil
}

// end tells of an end that a code does not.
func (f *follower) end(inv cloud.Invocation) error {
	for n, printed := range []int64{inv.StdoutBytes, inv.StderrBytes} {
		if printed > f.at[n] {
			fmt.Fprintf(f.err, "ichiro: %d bytes of %s were not kept\n", printed-f.at[n], []string{"stdout", "stderr"}[n])
		}
	}
	switch {
	case inv.Status == cloud.InvocationSuccess:
		return nil
	case inv.Status == cloud.InvocationFailed && inv.Details == string(cloud.InvocationFailed) && inv.ResponseCode > 0:
		return exitCode(inv.ResponseCode)
	}
	return fmt.Errorf("command %s on %s: %s", f.id, f.instance, inv.Details)
}
