//go:build linux

package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// The commands of an instance lie in its directory commands/, which the gateway may write to and the
// instance directory itself may not be:
//
//	commands/ID/request.json      CommandRequest        agent/host -> gateway
//	commands/ID.cancel            empty                 agent/host -> gateway
//	commands/ID.json              cloud.Invocation      gateway -> agent/host
//	commands/ID/{stdout,stderr}   bytes, growing        gateway -> agent/door
//	commands/ID/sent              the gateway's own     which boot of the guest was given the command
//	commands/ID/trimmed           empty                 gateway -> agent/door: the outputs were removed to make room
//	commands/agent.json           cloud.AgentPing       gateway -> agent/host
//
// A request's directory is made under a temporary name: whoever watches commands/ (NewWatcher with
// depth 3) sees a request, its cancellation and each of its states as one event there, and is not woken
// for output.

// Trimmed is the name of the file that stands for outputs which were removed because later ones needed the room.
const Trimmed = "trimmed"

// commandsMode lets the gateway, through the directory's group, write below commands/; what is made
// there inherits the group.
const commandsMode = os.ModeSetgid | 0o770

// CommandRequest is what the gateway is asked to deliver.
type CommandRequest struct {
	cloud.CommandWish
	// Environment is added to that of every script. The guest's agent sets AWS_SSM_INSTANCE_ID,
	// SSM_COMMAND_ID, AWS_SSM_PLATFORM_NAME and AWS_SSM_PLATFORM_VERSION.
	Environment map[string]string `json:",omitempty"`
	// Begun means that the guest was given the command before the host was booted, which has forgotten that: it must not begin again.
	Begun bool `json:",omitempty"`
}

// CommandFile names what an entry of commands/ is about.
type CommandFile int

// What the entries of commands/ are.
const (
	CommandNone     CommandFile = iota // not about a command: agent.json, or a temporary name
	CommandAsked                       // commands/ID
	CommandCancel                      // commands/ID.cancel
	CommandObserved                    // commands/ID.json
)

// ParseCommandFile returns the command that an entry of commands/ is about.
func ParseCommandFile(name string) (cloud.CommandID, CommandFile) {
	kind := CommandAsked
	if id, ok := strings.CutSuffix(name, ".cancel"); ok {
		name, kind = id, CommandCancel
	} else if id, ok := strings.CutSuffix(name, ".json"); ok {
		name, kind = id, CommandObserved
	}
	if len(name) != len("00000000-0000-0000-0000-000000000000") || strings.Trim(name, "0123456789abcdef-") != "" {
		return "", CommandNone
	}
	return cloud.CommandID(name), kind
}

// CommandOutput returns the path of stdout or stderr of a command.
func (d Dir) CommandOutput(id cloud.CommandID, stream string) string {
	return d.Path("commands", string(id), stream)
}

// MakeCommands makes the directory of commands for a gateway that runs under the group. It appears under
// its name when the gateway may read it: one that saw it earlier would not watch it.
func (d Dir) MakeCommands(group int) error {
	if _, err := os.Lstat(d.Commands()); err == nil {
		return share(d.Commands(), group)
	}
	temp := d.Path(".commands")
	if err := os.RemoveAll(temp); err != nil { // of a writer that was killed
		return err
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		return err
	}
	if err := share(temp, group); err != nil {
		return err
	}
	return os.Rename(temp, d.Commands())
}

func share(dir string, group int) error {
	if err := os.Lchown(dir, -1, group); err != nil {
		return err
	}
	return os.Chmod(dir, commandsMode)
}

// PutCommand asks the gateway for what the wish says: to run the command, or, if it says so, to cancel
// it. To ask again changes nothing.
//
// It, RemoveCommand, Invocation and Agent follow no link, wait for no pipe, and believe no name that they read:
// the gateway parses what guests send and may one day be made to plant links, pipes and lies here, and the
// caller has more rights than the gateway.
func (d Dir) PutCommand(req CommandRequest) error {
	id := string(req.Command)
	if _, kind := ParseCommandFile(id); kind != CommandAsked {
		return fmt.Errorf("command ID %.40q is not a UUID in lower case", id)
	}
	if req.Cancel {
		err := putAt(unix.AT_FDCWD, d.Path("commands", id+".cancel"), nil, unix.O_CREAT|unix.O_EXCL, 0o640, false)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if _, err := os.Lstat(d.Path("commands", id)); err == nil {
		return nil
	}
	req.Cancel = false // ID.cancel says it
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode command %s: %v", id, err)
	}
	temp := d.Path("commands", "."+id)
	err = unix.Mkdir(temp, 0o770)
	if errors.Is(err, fs.ErrExist) { // of a writer that was killed
		if err = d.removeCommands("." + id); err == nil {
			err = unix.Mkdir(temp, 0o770)
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", temp, err)
	}
	// From here on by descriptor: the gateway, which may write to commands/, could have put another in its place.
	dir, err := openAt(unix.AT_FDCWD, temp, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Fchmod(dir, unix.S_ISGID|0o770); err != nil {
		return fmt.Errorf("share %s: %w", temp, err)
	}
	if err := putAt(dir, "request.json", append(data, '\n'), unix.O_CREAT|unix.O_EXCL, 0o640, true); err != nil {
		return err
	}
	return os.Rename(temp, d.Path("commands", id))
}

// RemoveCommand removes all that is kept of a command. A guest that still runs it is told to stop.
func (d Dir) RemoveCommand(id cloud.CommandID) error {
	if _, kind := ParseCommandFile(string(id)); kind != CommandAsked {
		return fmt.Errorf("command ID %.40q is not a UUID in lower case", id)
	}
	return d.removeCommands(string(id), string(id)+".cancel", string(id)+".json")
}

// removeCommands removes entries of commands/ with all that is in them, and follows no link.
func (d Dir) removeCommands(names ...string) error {
	root, err := os.OpenRoot(d.Commands())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range names {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}
