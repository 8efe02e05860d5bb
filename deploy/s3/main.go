// Program ichiro-s3 is the object store: S3 over files of this host.
//
// It is versitygw's S3 front over its store of plain files, one for each object, below STATE/objects. Nobody reaches it but the
// API's front, which sends on what is signed for s3, so that one endpoint serves everything; and whom a request is
// from and what they may do it asks the control plane at its door, as the rest of the API does. It knows no
// secret: a signature is verified with a key that is good for a day.
//
// It runs as a user of its own, who owns the objects and nothing else, and can open nothing else (Landlock). What an object is lies in extended attributes of
// its file and appears with it, or in files beside where the file system has none.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// memory is what the collector of garbage keeps to when it can: a request needs 128 KiB of buffer, and a part of an
// upload twice that.
const memory = 64 << 20

func main() { os.Exit(service.Main("s3", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-s3", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "the host's run `directory`")
	state := flags.String("state", "/var/lib/ichiro", "state `directory`; the objects lie below objects/ in it")
	region := flags.String("region", "ichiro-1", "name of the region: what requests must be signed for")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	debug.SetMemoryLimit(memory)
	if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		os.Stdout = null // versitygw greets there; a daemon's log is not the place
	}
	objects, err := filepath.Abs(filepath.Join(*state, "objects"))
	if err != nil {
		return err
	}
	root := bundle.Root(*dir)
	store, err := open(objects)
	if err != nil {
		return err
	}
	bounded, err := reserve(store, objects, *state)
	if err != nil {
		return err
	}
	if err := confine(log, objects, root.Objects(), root.Admin("s3")); err != nil {
		return err
	}
	return service.Run(ctx,
		&front{store: bounded, door: root.ObjectDoor(), path: root.Objects(), region: *region, log: log, ready: make(chan struct{})},
		service.Admin(root.Admin("s3")))
}
