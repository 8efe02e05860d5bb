package mgs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// The topics of jobs.
const (
	topicSend   = "aws.ssm.sendCommand"
	topicCancel = "aws.ssm.cancelCommand"
)

// job is the payload of an agent_job.
type job struct {
	Content       string
	JobID         string `json:"JobId"`
	Topic         string
	SchemaVersion int
}

// order is the content of a job that runs a document.
type order struct {
	Parameters             struct{}
	DocumentContent        document
	CommandID              string `json:"CommandId"`
	DocumentName           string
	OutputS3KeyPrefix      string
	OutputS3BucketName     string
	CloudWatchLogGroupName string
	CloudWatchOutput       string `json:"CloudWatchOutputEnabled"`
}

type document struct {
	SchemaVersion string         `json:"schemaVersion"`
	Description   string         `json:"description"`
	MainSteps     []documentStep `json:"mainSteps"`
}

type documentStep struct {
	Action string `json:"action"`
	Name   string `json:"name"`
	Inputs inputs `json:"inputs"`
}

type inputs struct {
	RunCommand       []string `json:"runCommand"`
	TimeoutSeconds   string   `json:"timeoutSeconds"`
	WorkingDirectory string   `json:"workingDirectory"`
	OnFailure        string   `json:"onFailure,omitempty"`
	OnSuccess        string   `json:"onSuccess,omitempty"`
	Finally          bool     `json:"finallyStep,omitempty"`
}

// The stock agent takes timeouts within these bounds, and one hour for any other.
const minTimeout, maxTimeout = 5 * time.Second, 48 * time.Hour

// secret finds what the stock agent would ask the parameter store for. Ours has been filled in on the way; what still
// looks so came out of a value, and is to be taken literally, which that agent cannot.
var secret = regexp.MustCompile(`\{\{\s*ssm(-secure)?:`)

// stepName is the name of a step in the document that we make: the user's may be of a form that the agent refuses.
func stepName(n int) string { return "step" + strconv.Itoa(n+1) }

// newJob returns the job that runs a command.
func newJob(id cloud.InstanceID, r *wire.Request) (job, error) {
	o := order{
		CommandID: string(r.ID), DocumentName: "AWS-RunShellScript", CloudWatchOutput: "false",
		DocumentContent: document{SchemaVersion: "2.2", Description: "a command of ichiro"},
	}
	for n, s := range r.Steps {
		script, err := translate(s)
		if err != nil {
			return job{}, fmt.Errorf("step %s %w: give the instance ichiro's own agent for it", s.Name, err)
		}
		seconds := int(min(max(s.Timeout, minTimeout), maxTimeout) / time.Second)
		o.DocumentContent.MainSteps = append(o.DocumentContent.MainSteps, documentStep{
			Action: "aws:runShellScript", Name: stepName(n),
			Inputs: inputs{
				RunCommand: []string{script}, TimeoutSeconds: strconv.Itoa(seconds), WorkingDirectory: s.Directory,
				OnFailure: s.OnFailure, OnSuccess: s.OnSuccess, Finally: s.Finally,
			},
		})
	}
	content, err := json.Marshal(o)
	if err != nil {
		return job{}, fmt.Errorf("encode command %s: %v", r.ID, err)
	}
	return job{Content: string(content), JobID: jobID(r.ID, id), Topic: topicSend, SchemaVersion: 1}, nil
}

// newCancel returns the job that ends another. Its own ID must be of the same form: that of no command.
func newCancel(id cloud.InstanceID, command, own cloud.CommandID) (job, error) {
	content, err := json.Marshal(struct {
		Victim string `json:"CancelMessageId"`
	}{jobID(command, id)})
	if err != nil {
		return job{}, err
	}
	return job{Content: string(content), JobID: jobID(own, id), Topic: topicCancel, SchemaVersion: 1}, nil
}

// variable is a name that the shell takes for one of a variable.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// translate returns the script of a step with what the stock agent knows nothing of, as far as a shell can do it: the step's
// environment, in quotes that let nothing of a value be taken for text of the script, and its umask.
func translate(s wire.Step) (string, error) {
	switch {
	case s.Download != nil || s.Document != nil:
		return "", errors.New("is more than a script, which the stock agent is not asked for")
	case s.User != "" || s.Limits != (cloud.StepLimits{}):
		return "", errors.New("has a user or limits, which the stock agent does not know")
	case s.Directory != "" && !strings.HasPrefix(s.Directory, "/"):
		return "", errors.New("has a relative directory, which means another one to the stock agent")
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		if !variable.MatchString(name) {
			return "", fmt.Errorf("has a variable %q, which a shell cannot set", name)
		}
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(s.Environment[name], "'", `'\''`))
	}
	if s.Umask != "" {
		fmt.Fprintf(&b, "umask %s\n", s.Umask)
	}
	b.WriteString(s.Script)
	if secret.MatchString(b.String()) || secret.MatchString(s.Directory) {
		return "", errors.New("has {{ssm:...}} in its text, which the stock agent would replace")
	}
	return b.String(), nil
}

func jobID(command cloud.CommandID, id cloud.InstanceID) string {
	return "aws.ssm." + string(command) + "." + string(id)
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

var errNotOurs = errors.New("job is of no command of this instance")

// commandOf returns the command of a job, which must be the instance's own.
func commandOf(job string, id cloud.InstanceID) (cloud.CommandID, error) {
	s, ok := strings.CutPrefix(job, "aws.ssm.")
	if !ok {
		return "", errNotOurs
	}
	s, ok = strings.CutSuffix(s, "."+string(id))
	if !ok || !uuid.MatchString(s) {
		return "", errNotOurs
	}
	return cloud.CommandID(s), nil
}
