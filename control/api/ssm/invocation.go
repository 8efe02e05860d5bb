package ssm

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// How many characters of output an answer holds: Systems Manager's limits.
const (
	stdoutShown = 24000
	stderrShown = 8000
	pluginShown = 2500
	truncated   = "\n--output truncated--"
	errorLine   = "\n----------ERROR-------\n" // between a plugin's output and its errors
)

// allSteps stands for the whole of a command's output.
const allSteps = -1

// details fills in the steps of an invocation with the beginning of their output.
func (r outputs) details(ctx context.Context, v *shape.CommandInvocation) error {
	o, err := r.command(ctx, r.snap, v.CommandId)
	if err != nil {
		return err
	}
	c := o.Value
	inv := underWay(r.snap, c, r.invocation(r.snap, c, cloud.InstanceID(v.InstanceId)))
	for k, step := range inv.Steps {
		p := shape.CommandPlugin{Name: plugin(c, step), Status: string(step.Status), StatusDetails: step.Details, ResponseCode: number(step.ResponseCode)}
		if !step.Started.IsZero() {
			p.ResponseStartDateTime = &step.Started
		}
		if !step.Ended.IsZero() {
			p.ResponseFinishDateTime = &step.Ended
		}
		if c.Output != nil {
			p.OutputS3BucketName, p.OutputS3KeyPrefix = c.Output.Bucket, c.Output.Prefix
		}
		p.StandardOutputUrl, p.StandardErrorUrl = r.urls(c, inv, k)
		if inv.Status.Terminal() {
			p.Output = r.printed(ctx, c, inv, k)
		}
		v.CommandPlugins = append(v.CommandPlugins, p)
	}
	return nil
}

// hostAway stands in a list for an output whose host does not answer, which is no reason to list nothing.
const hostAway = "--the output's host does not answer: ask again--\n"

// printed is the output of a step with its errors behind it.
func (r outputs) printed(ctx context.Context, c cloud.Command, inv cloud.Invocation, step int) string {
	out, err := r.read(ctx, c, inv, piece{"stdout", step, pluginShown})
	if err != nil {
		return hostAway
	}
	bad, err := r.read(ctx, c, inv, piece{"stderr", step, pluginShown})
	if err != nil {
		bad = hostAway
	}
	if bad != "" {
		out += errorLine + bad
	}
	if text := []rune(out); len(text) > pluginShown {
		out = string(text[:pluginShown-len(truncated)]) + truncated
	}
	return out
}

// underWay returns an invocation that has not ended with its steps, of which its host tells when they all have: each is as the whole,
// since which of them runs is not known here.
func underWay(snap *store.Snapshot, c cloud.Command, inv cloud.Invocation) cloud.Invocation {
	if inv.Status.Terminal() || len(inv.Steps) > 0 {
		return inv
	}
	wish, err := store.MirroredGet(snap, store.CommandWishes(c.Hosts[inv.Instance]), store.InvocationID(c.ID, inv.Instance))
	if err != nil { // it is still to be sent
		return inv
	}
	for k, step := range wish.Value.Steps {
		one := cloud.StepResult{Name: step.Name, Action: step.Action, Status: inv.Status, Details: inv.Details, ResponseCode: -1}
		if k == 0 {
			one.Started = inv.Started
		}
		inv.Steps = append(inv.Steps, one)
	}
	return inv
}

// plugin is what Systems Manager calls a step: by its name, but for the document whose step has none there.
func plugin(c cloud.Command, step cloud.StepResult) string {
	if ownName(c.DocumentName) == document.RunShellScript {
		return step.Action
	}
	return step.Name
}

// piece says which part of an output is asked for.
type piece struct {
	stream string
	step   int // or allSteps
	limit  int // in characters
}

// outputs reads outputs for one answer of the API, in which a host that has not answered is not waited for again.
type outputs struct {
	*Service
	snap *store.Snapshot
	away map[cloud.HostID]error
}

func (s *Service) outputs(snap *store.Snapshot) outputs {
	return outputs{s, snap, map[cloud.HostID]error{}}
}

// What stands in the place of an output of which the host has nothing any more, and never will.
const (
	lostWithHost = "--output lost: its host has left the cloud--\n"
	lostOnHost   = "--output lost: its host has it no more, as when its instance is gone--\n"
)

// read returns the beginning of a piece, cut at a character and with a word that it is cut. The error says that the output's host
// does not answer: what it has is not lost.
func (r outputs) read(ctx context.Context, c cloud.Command, inv cloud.Invocation, p piece) (string, error) {
	from, to := int64(0), inv.StdoutBytes
	if p.stream == "stderr" {
		to = inv.StderrBytes
	}
	if p.step != allSteps {
		from, to = inv.Part(p.step, p.stream, to)
	}
	if from == to {
		return "", nil
	}
	host, err := store.MirroredGet(r.snap, store.Hosts, c.Hosts[inv.Instance])
	if err != nil {
		return lostWithHost, nil
	}
	if err := r.away[host.Value.ID]; err != nil {
		return "", err
	}
	data, err := r.Door.Part(ctx, host.Value, inv.Instance, c.ID, p.stream, from, int(min(to-from, int64(p.limit*utf8.UTFMax))))
	if err != nil {
		r.Log.Warn("output is not to be had", "command", c.ID, "instance", inv.Instance, "host", host.Value.ID, "err", err)
		err = cloud.Errorf("InternalServerError", "The output is on %s, which does not answer: try again, and look at `ichiro status` there. How the command ended is in ListCommandInvocations", host.Value.ID)
		r.away[host.Value.ID] = err
		return "", err
	}
	if len(data) == 0 {
		return lostOnHost, nil
	}
	text := []rune(strings.ToValidUTF8(string(data), "\uFFFD"))
	if len(text) <= p.limit && int64(len(data)) >= to-from {
		return string(text), nil
	}
	return string(text[:min(len(text), p.limit-len(truncated))]) + truncated, nil
}

// GetCommandInvocation shows one command on one instance, with its output once it has ended; or one step of it, by PluginName.
func (s *Service) GetCommandInvocation(ctx context.Context, in *shape.GetCommandInvocationInput) (*shape.GetCommandInvocationOutput, error) {
	snap := s.Mirror.Snapshot()
	o, err := s.command(ctx, snap, in.CommandId)
	if err != nil {
		return nil, err
	}
	c, id := o.Value, cloud.InstanceID(in.InstanceId)
	if _, ok := c.Hosts[id]; !ok {
		return nil, cloud.Errorf("InvocationDoesNotExist", "Command %s was not sent to instance %.40s", c.ID, in.InstanceId)
	}
	inv := underWay(snap, c, s.invocation(snap, c, id))
	out := &shape.GetCommandInvocationOutput{
		CommandId: string(c.ID), InstanceId: string(id), Comment: c.Comment, DocumentName: c.DocumentName, DocumentVersion: c.DocumentVersion,
		Status: string(inv.Status), StatusDetails: inv.Details, ResponseCode: number(inv.ResponseCode),
		CloudWatchOutputConfig: &shape.CloudWatchOutputConfig{CloudWatchLogGroupName: "", CloudWatchOutputEnabled: ptr(false)},
	}
	step, err := selected(c, inv, in.PluginName)
	if err != nil {
		return nil, err
	}
	started, ended := inv.Started, inv.Ended
	if step != allSteps {
		one := inv.Steps[step]
		out.PluginName = plugin(c, one)
		out.StandardOutputUrl, out.StandardErrorUrl = s.urls(c, inv, step)
		if len(inv.Steps) > 1 {
			out.Status, out.StatusDetails, out.ResponseCode = string(one.Status), one.Details, number(one.ResponseCode)
			started, ended = one.Started, one.Ended
		}
	}
	if !started.IsZero() {
		out.ExecutionStartDateTime = started.UTC().Format(clock)
	}
	if !ended.IsZero() {
		out.ExecutionEndDateTime = ended.UTC().Format(clock)
		out.ExecutionElapsedTime = fmt.Sprintf("PT%.3fS", ended.Sub(started).Seconds())
	}
	if r := s.outputs(snap); inv.Status.Terminal() {
		if out.StandardOutputContent, err = r.read(ctx, c, inv, piece{"stdout", step, stdoutShown}); err != nil {
			return nil, err
		}
		if out.StandardErrorContent, err = r.read(ctx, c, inv, piece{"stderr", step, stderrShown}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// clock is how a command's times are written in an invocation.
const clock = "2006-01-02T15:04:05.000Z"

// selected returns the step that a PluginName means: by its name, or by its action if that is one step's only. Without a name
// it is the only step, or all together if there are several: Systems Manager would want a name, but shows nothing of the whole.
// Of one that was never sent there are no steps.
func selected(c cloud.Command, inv cloud.Invocation, name string) (int, error) {
	switch {
	case len(inv.Steps) == 0:
		return allSteps, nil
	case name == "" && len(inv.Steps) == 1:
		return 0, nil
	case name == "":
		return allSteps, nil
	}
	var names []string
	found := allSteps
	for k, step := range inv.Steps {
		if step.Name == name || plugin(c, step) == name {
			return k, nil
		}
		if step.Action == name {
			if found != allSteps {
				return found, cloud.Errorf("InvalidPluginName", "Command %s has several steps of %.80q: name one of %v", c.ID, name, append(names, step.Name))
			}
			found = k
		}
		names = append(names, step.Name)
	}
	if found == allSteps {
		return found, cloud.Errorf("InvalidPluginName", "Command %s has no step %.40q: it has %v", c.ID, name, names)
	}
	return found, nil
}
