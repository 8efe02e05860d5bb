package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// hostID returns the ID of this host, which is made once.
func hostID(path string) (cloud.HostID, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		return cloud.HostID(strings.TrimSpace(string(data))), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	id := "h-" + hex.EncodeToString(b[:])
	return cloud.HostID(id), bundle.WriteBytes(path, []byte(id+"\n"), 0o644)
}

// remove ends the guests of a run directory and removes namespaces, interfaces and rules. It needs neither
// store nor agent.
func remove(ctx context.Context, o options, log *slog.Logger) error {
	units := unit.New(o.root, o.program, log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ids, err := units.Adopt(ctx)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- units.Run(ctx) }()
	var errs []error
	for _, id := range ids {
		errs = append(errs, units.Kill(ctx, id))
	}
	for n := 0; n < len(ids); n++ {
		select {
		case e := <-units.Exited():
			log.Info("guest ended", "instance", e.ID)
		case <-time.After(30 * time.Second):
			errs = append(errs, fmt.Errorf("%d guests do not end: look at %s", len(ids)-n, o.root.Instances()))
			n = len(ids)
		}
	}
	cancel()
	<-ended
	errs = append(errs, eni.Remove(context.WithoutCancel(ctx), eni.Prefix(string(o.root))))
	return errors.Join(errs...)
}
