package cloud

import "strings"

// OutputPlace is where the outputs of a command go as objects, beside what is shown of them.
type OutputPlace struct {
	Bucket string
	Prefix string `json:",omitempty"`
}

// Delivery is what is left to do of that.
type Delivery struct {
	Command CommandID
	Grant   string       // by which the control plane acts for who sent the command; sealed
	Steps   []StepResult // names and actions, for an end without results
	Done    []InstanceID `json:",omitempty"`
}

// OutputPart is one object: a piece of a stream of a command.
type OutputPart struct {
	Key    string
	Stream string // stdout or stderr
	From   int64
	To     int64
}

// Key returns where an output of a step is in the bucket, as Systems Manager lays it out:
// PREFIX/COMMAND/INSTANCE/awsrunShellScript/STEP/stdout.
func (p OutputPlace) Key(c Command, i InstanceID, s StepResult, stream string) string {
	step := s.Name
	if c.DocumentName == "AWS-RunShellScript" {
		step = "0.awsrunShellScript" // Amazon's document of this name is of the schema whose steps have no names, and scripts know the path
	}
	parts := []string{string(c.ID), string(i), strings.ReplaceAll(s.Action, ":", ""), step, stream}
	if prefix := strings.Trim(p.Prefix, "/"); prefix != "" {
		parts = append([]string{prefix}, parts...)
	}
	return strings.Join(parts, "/")
}

// Parts returns the objects that an invocation's outputs become, of which the host has so many bytes; where nothing was
// printed there is none. Where a step's part ends its guest has told: what makes no sense is put right, and no byte is left out
// or told twice.
func (p OutputPlace) Parts(c Command, d Delivery, inv Invocation, stdout, stderr int64) (all []OutputPart) {
	steps := inv.Steps
	if len(steps) == 0 && len(d.Steps) > 0 { // it has ended without the guest's word
		steps = d.Steps[:1]
	}
	for k, s := range steps {
		for _, stream := range []string{"stdout", "stderr"} {
			length := stdout
			if stream == "stderr" {
				length = stderr
			}
			if from, to := (Invocation{Steps: steps}).Part(k, stream, length); to > from {
				all = append(all, OutputPart{p.Key(c, inv.Instance, s, stream), stream, from, to})
			}
		}
	}
	return all
}

// Part returns where in a stream of so many bytes the output of a step is.
func (i Invocation) Part(step int, stream string, length int64) (from, to int64) {
	for k, s := range i.Steps[:step+1] {
		end := s.StdoutEnd
		if stream == "stderr" {
			end = s.StderrEnd
		}
		if from, to = to, min(max(to, end), length); k == len(i.Steps)-1 {
			to = length
		}
	}
	return from, to
}
