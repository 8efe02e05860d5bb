// Package wire is what the agent in a guest and the gateway on its host say to each other.
//
// The agent dials; both sides then send frames, one per websocket message. The first byte of a
// message names the frame. Output and Ack, which carry the bulk, are binary; the others are JSON
// behind that byte. Either side may be hostile to the other: every frame has a largest size and every
// list a largest length, and what does not decode ends the connection.
//
//	agent                         gateway
//	Hello  ---------------------->            who and which boot
//	       <---------------------- Welcome    which connection this is (epoch)
//	       <---------------------- Request    again after each connect, with the offsets to go on from
//	Accepted, Output, Result ---->
//	       <---------------------- Ack, Cancel
//	       <---------------------- Done       the result is kept: forget the command
//	       <---------------------- Metadata   the guest's metadata has changed: to those whose Hello says that they listen
//
// A Request for a command that the agent knows runs nothing: it says where to continue. So a lost
// connection needs no state beyond what both sides keep on disk. Unknown JSON fields are ignored, which
// lets either side be newer; what changes meaning raises Version.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	// Version is the newest protocol that this package speaks.
	Version = 1
	// Path is where a gateway serves agents.
	Path = "/v1/agent"
	// MaxData is the largest payload of an Output frame.
	MaxData = 64 << 10
	// MaxToGateway bounds a message from an agent: an Output frame, or a Result of MaxSteps steps.
	MaxToGateway = MaxData + 4096
	// MaxToAgent bounds a message from a gateway: a document's scripts are at most 64 KiB of JSON
	// each way in Systems Manager, parameters included; four times that leaves room for escapes.
	MaxToAgent = 1 << 20
	// MaxSteps bounds the steps of one command.
	MaxSteps = 64
	// Reboot is the exit code by which a step asks to be run again after a reboot of the guest; Skip and SkipFailed those
	// by which it ends the command, as a success and as a failure. They are Systems Manager's.
	Reboot, Skip, SkipFailed = 194, 168, 169
	// maxID is the length of a UUID.
	maxID = 36
	// maxOffset is the largest at which something begins: it leaves room to add to it.
	maxOffset = 1 << 62
)

// Stream names one of a command's outputs.
type Stream byte

// The streams of a command.
const (
	Stdout Stream = iota
	Stderr
	Streams // how many there are
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// Frame is one of the types below.
type Frame interface{ kind() byte }

// Hello is an agent's first frame.
type Hello struct {
	Version      int
	Agent        string // the agent's own version
	Boot         string // the guest's boot ID
	PlatformType string
	PlatformName string
	PlatformVer  string
	ComputerName string
	Commands     []cloud.CommandID `json:",omitempty"` // those that it still keeps
	Listens      bool              `json:",omitempty"` // it understands Metadata
	Level        int               `json:",omitempty"` // of the steps that it understands
	Sessions     bool              `json:",omitempty"` // it understands Order and Terminate
}

// Welcome answers Hello.
type Welcome struct {
	Version  int
	Epoch    uint64 // grows with every connection of this instance
	Instance cloud.InstanceID
}

// Step is one thing that a command does: it runs Script, unless Download or Document says otherwise.
type Step struct {
	Name      string
	Script    string
	Directory string        `json:",omitempty"` // relative to a directory of the command's own; the root if empty
	Timeout   time.Duration // of the execution
	OnFailure string        `json:",omitempty"` // exit, successAndExit or ""
	OnSuccess string        `json:",omitempty"` // exit or ""

	// Only agents whose Hello names Level 1 understand the rest.
	Finally     bool                `json:",omitempty"` // it runs however the steps before have ended
	Environment map[string]string   `json:",omitempty"` // of this step, besides the request's
	User        string              `json:",omitempty"`
	Umask       string              `json:",omitempty"`
	Limits      cloud.StepLimits    `json:",omitzero"`
	Download    *cloud.StepDownload `json:",omitempty"`
	Document    *cloud.StepDocument `json:",omitempty"`
}

// Level is the kind of steps that this package's agents understand. An agent from before has none.
const Level = 1

// Level returns which level of agents understands the step.
func (s Step) Level() int {
	if s.Finally || len(s.Environment) > 0 || !s.Plain() || s.Directory != "" && s.Directory[0] != '/' {
		return 1
	}
	return 0
}

// Plain reports whether the step is a script that needs nothing but its directory and its environment.
func (s Step) Plain() bool {
	return s.User == "" && s.Umask == "" && s.Limits == (cloud.StepLimits{}) && s.Download == nil && s.Document == nil
}

// NewStep returns the step that a document's step is on the wire.
func NewStep(s cloud.Step) Step {
	return Step{
		Name: s.Name, Script: s.Script, Directory: s.WorkingDirectory, Timeout: time.Duration(s.TimeoutSeconds) * time.Second,
		OnFailure: s.OnFailure, OnSuccess: s.OnSuccess, Finally: s.Finally, Environment: s.Environment,
		User: s.User, Umask: s.Umask, Limits: s.Limits, Download: s.Download, Document: s.Document,
	}
}

// Request asks to run a command, or to go on telling about it.
type Request struct {
	ID          cloud.CommandID
	Steps       []Step
	Environment map[string]string `json:",omitempty"`
	Offsets     [Streams]int64    // what the gateway has of each output
	Limit       int64             // of each output; what is beyond is counted and dropped
	Cancel      bool              `json:",omitempty"`
	// Resume means that the command may have been given to another boot of the guest: if the agent does
	// not know it, it must not run it.
	Resume bool `json:",omitempty"`
}

// Accepted says that the command is in the agent's journal and starts. Output and Result imply it.
type Accepted struct{ ID cloud.CommandID }

// Output is a piece of an output. Data is only valid until the next Receive.
type Output struct {
	ID     cloud.CommandID
	Stream Stream
	Offset int64
	Data   []byte
}

// Ack says that the gateway keeps everything before Offset.
type Ack struct {
	ID     cloud.CommandID
	Stream Stream
	Offset int64
}

// Outcome is how a step ended.
type Outcome string

// How a step may end.
const (
	Success     Outcome = "success"
	Failed      Outcome = "failed"
	TimedOut    Outcome = "timedout"
	Cancelled   Outcome = "cancelled"
	Skipped     Outcome = "skipped"     // a step before has ended the command; one that comes after runs all the same
	Interrupted Outcome = "interrupted" // the guest or its agent went down: it started and nobody saw the end, or it never starts
)

// StepResult is the end of one step. Times are on the guest's clock since boot.
type StepResult struct {
	Outcome Outcome
	Code    int
	Started time.Duration
	Ended   time.Duration
	Outputs [Streams]int64 `json:",omitzero"` // how long each output was when it had ended; that of the last step is the Result's
}

// Result is the end of a command: the steps that ran, in order, and the bytes each output had.
type Result struct {
	ID      cloud.CommandID
	Now     time.Duration // on the same clock as the steps
	Steps   []StepResult
	Outputs [Streams]int64
}

// Cancel asks to end a command.
type Cancel struct{ ID cloud.CommandID }

// Done says that the gateway will not ask for the command again.
type Done struct{ ID cloud.CommandID }

// Metadata says that the guest's metadata has changed since the Welcome or the last Metadata. What it is now, the
// metadata service tells.
type Metadata struct{}

const (
	kindHello    = 'h'
	kindWelcome  = 'w'
	kindRequest  = 'r'
	kindAccepted = 'y'
	kindOutput   = 'o'
	kindAck      = 'a'
	kindResult   = 'e'
	kindCancel   = 'c'
	kindDone     = 'd'
	kindMetadata = 'm'
)

func (*Hello) kind() byte    { return kindHello }
func (*Welcome) kind() byte  { return kindWelcome }
func (*Request) kind() byte  { return kindRequest }
func (*Accepted) kind() byte { return kindAccepted }
func (*Output) kind() byte   { return kindOutput }
func (*Ack) kind() byte      { return kindAck }
func (*Result) kind() byte   { return kindResult }
func (*Cancel) kind() byte   { return kindCancel }
func (*Done) kind() byte     { return kindDone }
func (*Metadata) kind() byte { return kindMetadata }

// Append appends the message for f to dst.
func Append(dst []byte, f Frame) ([]byte, error) {
	dst = append(dst, f.kind())
	switch f := f.(type) {
	case *Output:
		dst = appendPosition(dst, f.ID, f.Stream, f.Offset)
		return append(dst, f.Data...), nil
	case *Ack:
		return appendPosition(dst, f.ID, f.Stream, f.Offset), nil
	}
	body, err := json.Marshal(f)
	return append(dst, body...), err
}

// appendPosition writes: length of ID, ID, stream, offset (8 bytes, big endian).
func appendPosition(dst []byte, id cloud.CommandID, s Stream, offset int64) []byte {
	dst = append(dst, byte(len(id)))
	dst = append(dst, id...)
	dst = append(dst, byte(s))
	return binary.BigEndian.AppendUint64(dst, uint64(offset))
}

var errShort = errors.New("frame is cut short")

// Decode returns the frame in msg. An Output's Data aliases msg.
func Decode(msg []byte) (Frame, error) {
	if len(msg) == 0 {
		return nil, errShort
	}
	kind, body := msg[0], msg[1:]
	var f Frame
	switch kind {
	case kindOutput:
		id, s, offset, data, err := position(body)
		if err == nil && len(data) > MaxData {
			err = fmt.Errorf("output of %d bytes is too large", len(data))
		}
		if err == nil && offset > maxOffset {
			err = errors.New("offset is out of range") // its end would have no acknowledgement
		}
		return &Output{ID: id, Stream: s, Offset: offset, Data: data}, err
	case kindAck:
		id, s, offset, rest, err := position(body)
		if err == nil && len(rest) > 0 {
			err = errors.New("ack has a tail")
		}
		return &Ack{ID: id, Stream: s, Offset: offset}, err
	case kindHello:
		f = &Hello{}
	case kindWelcome:
		f = &Welcome{}
	case kindRequest:
		f = &Request{}
	case kindAccepted:
		f = &Accepted{}
	case kindResult:
		f = &Result{}
	case kindCancel:
		f = &Cancel{}
	case kindDone:
		f = &Done{}
	case kindMetadata:
		f = &Metadata{}
	case kindOrder:
		f = &Order{}
	case kindTerminate:
		f = &Terminate{}
	default:
		return nil, fmt.Errorf("frame of unknown kind %d", kind)
	}
	if err := json.Unmarshal(body, f); err != nil {
		return nil, fmt.Errorf("decode frame of kind %c: %v", kind, err)
	}
	return f, check(f)
}

func position(b []byte) (id cloud.CommandID, s Stream, offset int64, rest []byte, err error) {
	if len(b) == 0 || len(b) < 1+int(b[0])+1+8 {
		return "", 0, 0, nil, errShort
	}
	n := int(b[0])
	id, b = cloud.CommandID(b[1:1+n]), b[1+n:]
	s, offset, rest = Stream(b[0]), int64(binary.BigEndian.Uint64(b[1:9])), b[9:]
	if s >= Streams {
		return "", 0, 0, nil, fmt.Errorf("stream %d does not exist", s)
	}
	if offset < 0 || offset > maxOffset+MaxData {
		return "", 0, 0, nil, errors.New("offset is out of range")
	}
	return id, s, offset, rest, checkID(id)
}

func check(f Frame) error {
	switch f := f.(type) {
	case *Hello:
		if len(f.Commands) > MaxHello {
			return fmt.Errorf("hello names %d commands, at most %d are allowed", len(f.Commands), MaxHello)
		}
		for _, id := range f.Commands {
			if err := checkID(id); err != nil {
				return err
			}
		}
	case *Request:
		if len(f.Steps) > MaxSteps {
			return fmt.Errorf("request has %d steps, at most %d are allowed", len(f.Steps), MaxSteps)
		}
		for _, o := range f.Offsets {
			if o < 0 {
				return errors.New("offset is negative")
			}
		}
		return checkID(f.ID)
	case *Result:
		if len(f.Steps) > MaxSteps {
			return fmt.Errorf("result has %d steps, at most %d are allowed", len(f.Steps), MaxSteps)
		}
		outputs := [][Streams]int64{f.Outputs}
		for _, s := range f.Steps {
			outputs = append(outputs, s.Outputs)
		}
		for _, o := range outputs {
			if slices.Min(o[:]) < 0 || slices.Max(o[:]) > maxOffset {
				return errors.New("output has a length that cannot be")
			}
		}
		return checkID(f.ID)
	case *Accepted:
		return checkID(f.ID)
	case *Cancel:
		return checkID(f.ID)
	case *Done:
		return checkID(f.ID)
	case *Order:
		return checkSession(f.ID)
	case *Terminate:
		return checkSession(f.ID)
	}
	return nil
}

// MaxHello bounds the commands that a Hello names: with 39 bytes each they fit MaxToGateway.
const MaxHello = 1000

// checkID accepts what a UUID is made of. An ID that passes is a safe file name.
func checkID(id cloud.CommandID) error {
	if len(id) == 0 || len(id) > maxID {
		return fmt.Errorf("command ID has %d characters", len(id))
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-') {
			return errors.New("command ID is not a UUID")
		}
	}
	return nil
}
