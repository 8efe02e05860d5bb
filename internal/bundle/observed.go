//go:build linux

// The build tag lets deciders that read the formats of this package be checked for js/wasm.

package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

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

// observed reads a file of the gateway's: a plain one in commands/, of a size that it can have. That directory is the host's, so
// only the name in it can be a lie.
func observed[T any](d Dir, name string) (T, error) {
	var v T
	plain, err := ReadPlain(d.Path("commands", name), observedLimit)
	if err != nil {
		return v, err
	}
	dec := json.NewDecoder(bytes.NewReader(plain.Data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("decode %s: %v", d.Path("commands", name), err)
	}
	return v, nil
}
