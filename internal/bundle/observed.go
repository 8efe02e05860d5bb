//go:build linux

// The build tag lets deciders that read the formats of this package be checked for js/wasm.

package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Invocation returns what the gateway has seen of a command: Pending if nothing yet, fs.ErrNotExist if
// it was never asked for. StdoutBytes and StderrBytes are what the command printed; the files may hold
// less, when it was more than is kept.
func (d Dir) Invocation(id cloud.CommandID) (cloud.Invocation, error) {
	inv, err := observed[cloud.Invocation](d, string(id)+".json")
	if err == nil && (inv.Command != id || inv.Instance != d.ID()) {
		return cloud.Invocation{}, fmt.Errorf("read the state of command %s on %s: it speaks of another", id, d.ID())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return inv, err
	}
	if _, err := os.Lstat(d.Path("commands", string(id))); err != nil {
		return inv, err
	}
	return cloud.Invocation{
		Command: id, Instance: d.ID(), Status: cloud.InvocationPending, Details: string(cloud.InvocationPending), ResponseCode: -1,
	}, nil
}

// Agent returns what the gateway knows of the agent in the guest; fs.ErrNotExist if it never connected.
func (d Dir) Agent() (cloud.AgentPing, error) {
	return observed[cloud.AgentPing](d, "agent.json")
}

// observedLimit is far more than the gateway writes: an invocation has some 300 bytes for each step.
const observedLimit = 1 << 20

// observed reads a file of the gateway's: a plain one in commands/, of a size that it can have.
func observed[T any](d Dir, name string) (T, error) {
	var v T
	root, err := os.OpenRoot(d.Commands())
	if err != nil {
		return v, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return v, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return v, err
	}
	if !info.Mode().IsRegular() || info.Size() > observedLimit {
		return v, fmt.Errorf("read %s: it is not a file that a gateway writes", d.Path("commands", name))
	}
	dec := json.NewDecoder(io.LimitReader(f, observedLimit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("decode %s: %v", d.Path("commands", name), err)
	}
	return v, nil
}
