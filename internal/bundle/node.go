//go:build linux

package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A machine that is no guest and registered with Run Command has a directory among those of the instances, with an ID of its
// own form. What goes by instances does not see it (Root.List).

// NodeFile is the file that says by which key such a machine is known.
const NodeFile = "node.json"

// Node is its content.
type Node struct {
	Instance cloud.InstanceID
	Key      string // SHA-256 of its public key (PKIX), in hex
}

// ListNodes returns the machines that have a directory, in order of their IDs.
func (r Root) ListNodes() ([]cloud.InstanceID, error) { return r.list(cloud.ManagedPrefix) }

// Node reads the key of a machine; fs.ErrNotExist if there is no such machine, or it may not connect yet.
func (d Dir) Node() (Node, error) {
	var n Node
	plain, err := ReadPlain(d.Path(NodeFile), 4<<10)
	if err != nil {
		return n, err
	}
	dec := json.NewDecoder(bytes.NewReader(plain.Data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&n); err != nil {
		return n, fmt.Errorf("decode %s: %v", d.Path(NodeFile), err)
	}
	if n.Instance != d.ID() {
		return n, fmt.Errorf("%s speaks of %.40q", d.Path(NodeFile), n.Instance)
	}
	return n, nil
}
