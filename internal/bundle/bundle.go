// Package bundle is the directory where the daemons of a host meet: one per instance, under the run
// directory, each file with exactly one producer.
//
// The agent writes what should be (machine.json, metadata.json, credentials.json, command requests);
// the shim, the metadata service and the Run Command gateway read that and write what is. Nobody asks
// another daemon for a fact that a file holds, so any of them may be away, killed or replaced while
// guests run on. Files appear whole or not at all: they are written under a temporary name, synced and
// renamed. Readers refuse fields that they do not know: a format change is a decision, not an accident.
package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Root is a host's run directory.
type Root string

// Instances returns the directory of all instance directories.
func (r Root) Instances() string { return filepath.Join(string(r), "instances") }

// Instance returns the directory of one instance; it need not exist.
func (r Root) Instance(id cloud.InstanceID) Dir {
	return Dir(filepath.Join(r.Instances(), string(id)))
}

// Handover is the socket at which the agent gives listening sockets to unprivileged daemons.
func (r Root) Handover() string { return filepath.Join(string(r), "handover.sock") }

// Door is the socket at which the control plane reads consoles and command output.
func (r Root) Door() string { return filepath.Join(string(r), "door.sock") }

// Sessions is the gateway's socket, where the door sends what is about sessions.
func (r Root) Sessions() string { return filepath.Join(string(r), "admin", "gateway", "sessions") }

// Admin is the socket of a daemon's metrics, health and profiles. It is in a directory of the daemon's own:
// no other can take its place.
func (r Root) Admin(daemon string) string {
	return filepath.Join(string(r), "admin", daemon, "sock")
}

// Etcd is the socket of the embedded etcd.
func (r Root) Etcd() string { return filepath.Join(string(r), "control", "etcd.sock") }

// Objects is the object store's socket, where the API sends what is signed for S3.
func (r Root) Objects() string { return filepath.Join(string(r), "objects", "s3.sock") }

// ObjectDoor is the socket at which the object store asks the control plane whom a request is from.
func (r Root) ObjectDoor() string { return filepath.Join(string(r), "control", "iam.sock") }

// GuestAPI is the socket at which the API takes the connections that the metadata service carries for guests.
func (r Root) GuestAPI() string { return filepath.Join(string(r), "control", "guests.sock") }

// List returns the instances that have a directory, in order of their IDs.
func (r Root) List() ([]cloud.InstanceID, error) { return r.list("i") }

func (r Root) list(prefix string) ([]cloud.InstanceID, error) {
	entries, err := os.ReadDir(r.Instances())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []cloud.InstanceID
	for _, e := range entries {
		if id := cloud.InstanceID(e.Name()); e.IsDir() && cloud.WellFormed(id, prefix) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Dir is one instance's directory.
type Dir string

// ID returns the instance that the directory belongs to.
func (d Dir) ID() cloud.InstanceID { return cloud.InstanceID(filepath.Base(string(d))) }

// Path returns the path of a file in the directory.
func (d Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// File is one row of the table of files: who writes it and who reads it.
type File struct {
	Name      string
	Producer  string
	Consumers []string
}

// Files returns the table of files in an instance directory. docs/architecture.md shows the same table;
// a test compares them.
func Files() []File {
	return []File{
		{"machine.json", "agent/host", []string{"shim"}},
		{"reboots.json", "agent/host", []string{"agent/host"}},
		{"metadata.json", "agent/host", []string{"imds", "gateway"}},
		{"credentials.json", "agent/host", []string{"imds"}},
		{"ticket.json", "agent/host", []string{"imds"}},
		{"commands/ID/request.json, commands/ID.cancel", "agent/host", []string{"gateway"}},
		{"commands/ID.json", "gateway", []string{"agent/host"}},
		{"commands/ID/{stdout,stderr}", "gateway", []string{"agent/door"}},
		{"commands/ID/sent", "gateway", []string{"gateway"}},
		{"commands/ID/trimmed", "gateway", []string{"agent/door"}},
		{"commands/agent.json", "gateway", []string{"agent/host"}},
		{"shim.sock, status.json, console.log", "shim", []string{"agent/host", "agent/door", "agent/unit"}},
		{"shim.log, qemu.log, qmp.sock", "shim", []string{"operator", "shim"}},
		{PortSocket, "shim", []string{"gateway"}},
		{"node.json", "agent/host", []string{"gateway"}},
	}
}

// Commands returns the directory of the instance's commands.
func (d Dir) Commands() string { return d.Path("commands") }

// Read returns the value stored at path. A missing file is fs.ErrNotExist; a field that T does not have,
// or anything behind the value, is an error.
func Read[T any](path string) (T, error) {
	var v T
	data, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("decode %s: %v", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, fmt.Errorf("decode %s: there is more behind the value", path)
	}
	return v, nil
}

// Temporary reports whether a file name is one that Write uses before it renames.
func Temporary(name string) bool { return strings.HasPrefix(name, ".") }
