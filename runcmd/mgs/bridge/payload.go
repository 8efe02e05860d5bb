package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

const (
	topicStart = "aws.ssm.startSession"
	topicAck   = "agent_task_acknowledge"
)

// task is the payload of an interactive_shell.
type task struct {
	Content       string
	TaskID        cloud.SessionID `json:"TaskId"`
	Topic         string
	SchemaVersion int
}

// order is what a task contains.
type order struct {
	DocumentName    string
	DocumentContent document
	SessionID       cloud.SessionID `json:"SessionId"`
	Parameters      struct{}
	RunAsUser       string
	SessionOwner    string
}

type document struct {
	SchemaVersion string            `json:"schemaVersion"`
	Description   string            `json:"description"`
	SessionType   cloud.SessionKind `json:"sessionType"`
	Inputs        inputs            `json:"inputs"`
	Parameters    struct{}          `json:"parameters"`
	Properties    any               `json:"properties"`
}

type inputs struct {
	S3Bucket   string  `json:"s3BucketName"`
	S3Prefix   string  `json:"s3KeyPrefix"`
	Cloudwatch string  `json:"cloudWatchLogGroupName"`
	RunAs      bool    `json:"runAsEnabled"`
	RunUser    string  `json:"runAsDefaultUser"`
	Profile    profile `json:"shellProfile"`
}

type profile struct {
	Linux string `json:"linux"`
}

// commands are the properties of a session that runs one.
type commands struct {
	Linux struct {
		Commands string `json:"commands"`
		Elevated bool   `json:"runAsElevated"`
	} `json:"linux"`
}

// port are those of one that forwards.
type port struct {
	Port  string `json:"portNumber"`
	Local string `json:"localPortNumber"`
	Type  string `json:"type"`
	Host  string `json:"host,omitempty"`
}

// secret finds what the agent would ask the parameter store for, and replace.
var secret = regexp.MustCompile(`\{\{\s*ssm(-secure)?:`)

// newTask returns what asks the agent for a session; an error is one for the session's user.
func newTask(id cloud.SessionID, p cloud.SessionPlan) (task, error) {
	o := order{
		DocumentName: "SSM-SessionManagerRunShell", SessionID: id, RunAsUser: p.User,
		DocumentContent: document{
			SchemaVersion: "1.0", Description: "a session of ichiro", SessionType: p.Kind,
			Inputs: inputs{RunAs: p.User != "", RunUser: p.User}, Properties: struct{}{},
		},
	}
	if o.SessionOwner, _, _ = strings.Cut(string(id), "-"); secret.MatchString(p.Command) {
		return task{}, errors.New("the command has {{ssm:...}} in its text, which the stock agent would replace")
	}
	switch p.Kind {
	case cloud.SessionShell:
		o.DocumentContent.Inputs.Profile.Linux = strings.TrimSuffix(p.Command, cloud.ThenShell) // the agent's shell goes on by itself
	case cloud.SessionCommand, cloud.SessionBatch:
		var c commands
		c.Linux.Commands, c.Linux.Elevated = p.Command, p.User == "" || p.User == "root"
		o.DocumentContent.Properties = c
	case cloud.SessionPort:
		if p.Host != "" && cloud.ForwardHostDenied(p.Host) {
			return task{}, fmt.Errorf("%.60s may not be reached through a session", p.Host)
		}
		o.DocumentContent.Properties = port{Port: strconv.Itoa(p.Port), Local: "0", Type: "LocalPortForwarding", Host: p.Host}
	default:
		return task{}, fmt.Errorf("the stock agent knows no sessions of kind %.40q", p.Kind)
	}
	content, err := json.Marshal(o)
	if err != nil {
		return task{}, fmt.Errorf("encode session %s: %v", id, err)
	}
	return task{Content: string(content), TaskID: id, Topic: topicStart, SchemaVersion: 1}, nil
}

// closing is the payload of a channel_closed, on either channel.
func closing(id cloud.SessionID, text string) map[string]any {
	return map[string]any{
		"MessageType": frame.Closed, "MessageId": newID().String(), "DestinationId": string(id), "SessionId": string(id),
		"SchemaVersion": 1, "CreatedDate": time.Now().UTC().Format(time.RFC3339), "Output": text,
	}
}

// completion is the payload of an agent_task_complete.
type completion struct {
	TaskID cloud.SessionID `json:"TaskId"`
	Status string          `json:"FinalTaskStatus"`
	Output string
}

func parseCompletion(payload []byte) (completion, error) {
	var c completion
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, errors.New("agent_task_complete is not of JSON")
	}
	if !c.TaskID.WellFormed() {
		return c, errors.New("agent_task_complete is of no session")
	}
	return c, nil
}

// acknowledged is the payload of the answer.
func acknowledged(c completion, message frame.ID) map[string]any {
	return map[string]any{"SchemaVersion": 1, "MessageId": message.String(), "TaskId": string(c.TaskID), "Topic": topicAck}
}

// request is the payload of a HandshakeRequest, as far as it matters.
type request struct {
	AgentVersion           string
	RequestedClientActions []struct {
		ActionType       string
		ActionParameters json.RawMessage
	}
}

// pluginVersion is for whom we pass: agents multiplex the connections of a port for plugins from 1.1.70 on.
const pluginVersion = "1.3.0.0"

// firstMux is the first version of the agent that multiplexes them.
var firstMux = []int{3, 0, 196}

// response returns the answer to a HandshakeRequest for a session of a plan; an error is one for the session's user.
func response(payload []byte, p cloud.SessionPlan) ([]byte, error) {
	var in request
	if err := json.Unmarshal(payload, &in); err != nil || len(in.RequestedClientActions) > 8 {
		return nil, errors.New("the agent's handshake cannot be read")
	}
	if p.Kind == cloud.SessionPort && older(in.AgentVersion, firstMux) {
		return nil, fmt.Errorf("the stock agent %s does not multiplex ports: 3.0.196 does", printable.Word(in.AgentVersion, wordMost))
	}
	done := []map[string]any{}
	for _, a := range in.RequestedClientActions {
		status, trouble := 1, ""
		var t struct{ SessionType cloud.SessionKind }
		switch err := json.Unmarshal(a.ActionParameters, &t); {
		case a.ActionType != "SessionType":
			status, trouble = 3, "unsupported action"
		case err != nil || t.SessionType != p.Kind:
			return nil, fmt.Errorf("the agent has begun a session of another kind: %s", printable.Word(string(t.SessionType), wordMost))
		}
		done = append(done, map[string]any{"ActionType": a.ActionType, "ActionStatus": status, "ActionResult": nil, "Error": trouble})
	}
	return json.Marshal(map[string]any{"ClientVersion": pluginVersion, "ProcessedClientActions": done, "Errors": nil})
}

// older reports whether a version is one before another, or none.
func older(version string, than []int) bool {
	parts := strings.Split(version, ".")
	for n, want := range than {
		if n >= len(parts) {
			return true
		}
		got, err := strconv.Atoi(parts[n])
		switch {
		case err != nil || got < want:
			return true
		case got > want:
			return false
		}
	}
	return false
}

// exitCode reads the payload of an ExitCode: a number in decimal or of four bytes; -1 for neither.
func exitCode(b []byte) int {
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n >= 0 && n <= 255 && len(b) != 4 {
		return n
	}
	if len(b) == 4 && b[0]|b[1]|b[2] == 0 {
		return int(b[3])
	}
	return -1
}

// wordMost is how much of a stock agent's word is shown.
const wordMost = 512
