package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/deploy/process"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Down takes the host down: supervisor, daemons, guests, what the agent made in the kernel, and the run
// directory. It can be called after anything, also twice.
func Down(ctx context.Context, l Layout, log *slog.Logger) error {
	if _, err := os.Stat(l.Run); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if up, err := bundle.Read[shim.Process](filepath.Join(l.Run, "up.json")); err == nil {
		log.Info("ending the supervisor", "pid", up.PID)
		if err := process.End(up, 30*time.Second); err != nil {
			return err
		}
	}
	lock, err := l.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := l.endLeft(log); err != nil {
		return err
	}
	if err := l.remove(ctx, log); err != nil {
		return err
	}
	return l.clean()
}

// remove has the agent's own program end the guests and remove what it made in the kernel.
func (l Layout) remove(ctx context.Context, log *slog.Logger) error {
	log.Info("removing guests, interfaces and namespaces")
	cmd := exec.CommandContext(ctx, l.program("ichiro-agent"), "remove", "--run", l.Run, "--state", l.State)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("remove guests and interfaces: %w", err)
	}
	return nil
}

// clean removes what a host keeps under its run directory, and the directory itself when nothing of
// anybody else is in it.
func (l Layout) clean() error {
	ours := []string{"instances", "networks", "admin", "control", "objects", "daemons", "netns", "exports", "network.json", "up.json", "handover.sock", "door.sock", "lock"}
	all, err := os.ReadDir(l.Run)
	if err != nil {
		return err
	}
	for _, e := range all {
		mine := slices.ContainsFunc(ours, func(name string) bool {
			// A daemon that was killed while it wrote a file has left it under the name that it has before it is whole.
			return e.Name() == name || strings.HasPrefix(e.Name(), "."+name+"-")
		})
		if mine {
			if err := os.RemoveAll(filepath.Join(l.Run, e.Name())); err != nil {
				return err
			}
		}
	}
	left, err := os.ReadDir(l.Run)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		names := make([]string, len(left))
		for i, e := range left {
			names[i] = e.Name()
		}
		slices.Sort(names)
		return fmt.Errorf("%s holds what is not ours, and stays: %v", l.Run, names)
	}
	return os.Remove(l.Run)
}
