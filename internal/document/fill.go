package document

import (
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Fill returns the steps that run on our platform with the caller's parameters in place. Every error is a
// cloud.Error with a code of SendCommand.
func (d Document) Fill(given map[string][]string) ([]cloud.Step, error) {
	values, err := d.values(given)
	if err != nil {
		return nil, err
	}
	var steps []cloud.Step
	for _, s := range d.Steps {
		if !s.runs(values) {
			continue
		}
		if s.Action != shellScript {
			return nil, invalid("step %s has the action %.80q: only %s is supported", s.Name, s.Action, shellScript)
		}
		seconds, ok := timeout(strings.TrimSpace(fill(string(s.Inputs.TimeoutSeconds), values)))
		if !ok {
			return nil, cloud.Errorf("InvalidParameters", "The timeout of step %s must be %d to %d seconds", s.Name, minTimeout, maxTimeout)
		}
		steps = append(steps, cloud.Step{
			Name:             s.Name,
			Action:           s.Action,
			Script:           script(s.Inputs.RunCommand, values),
			WorkingDirectory: fill(string(s.Inputs.WorkingDirectory), values),
			TimeoutSeconds:   seconds,
		})
	}
	if len(steps) == 0 {
		return nil, cloud.Errorf("UnsupportedPlatformType", "The document has no step for %s", platform)
	}
	return steps, nil
}

// runs decides a precondition.
func (s Step) runs(values map[string]Value) bool {
	if s.Precondition == nil {
		return true
	}
	var operand [2]string
	for i, o := range s.Precondition.StringEquals {
		if operand[i] = fill(o, values); o == "platformType" {
			operand[i] = platform
		}
	}
	return operand[0] == operand[1]
}

// script joins the lines of runCommand. A line that is nothing but a placeholder of a list becomes the
// lines of the list.
func script(lines []string, values map[string]Value) string {
	var b strings.Builder
	for _, line := range lines {
		all := []string{fill(line, values)}
		if m := paramRef.FindStringSubmatch(line); m != nil && strings.TrimSpace(line) == m[0] {
			if v, ok := values[m[1]]; ok {
				all = v.Items
			}
		}
		for _, l := range all {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// fill puts values in the place of their placeholders. Braces that name no parameter stay: they may be a
// template for a program that the script calls.
func fill(s string, values map[string]Value) string {
	return paramRef.ReplaceAllStringFunc(s, func(ref string) string {
		if v, ok := values[paramRef.FindStringSubmatch(ref)[1]]; ok {
			return v.text()
		}
		return ref
	})
}
