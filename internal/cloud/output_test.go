package cloud_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestPartsOfAnOutput(t *testing.T) {
	step := func(name string, stdout, stderr int64) cloud.StepResult {
		return cloud.StepResult{Name: name, Action: "aws:runShellScript", StdoutEnd: stdout, StderrEnd: stderr}
	}
	for name, c := range map[string]struct {
		document, prefix string
		steps            []cloud.StepResult
		stdout, stderr   int64
		want             []string
	}{
		"one step":                        {"mine", "", []cloud.StepResult{step("a", 5, 0)}, 5, 0, []string{"c/i/awsrunShellScript/a/stdout 0-5"}},
		"Amazon's document":               {"AWS-RunShellScript", "", []cloud.StepResult{step("runShellScript", 5, 0)}, 5, 0, []string{"c/i/awsrunShellScript/0.awsrunShellScript/stdout 0-5"}},
		"a prefix with slashes around it": {"mine", "/logs/x/", []cloud.StepResult{step("a", 5, 0)}, 5, 0, []string{"logs/x/c/i/awsrunShellScript/a/stdout 0-5"}},
		"several steps": {"mine", "", []cloud.StepResult{step("a", 5, 0), step("b", 5, 2), step("c", 9, 3)}, 9, 3, []string{
			"c/i/awsrunShellScript/a/stdout 0-5", "c/i/awsrunShellScript/b/stderr 0-2", "c/i/awsrunShellScript/c/stdout 5-9", "c/i/awsrunShellScript/c/stderr 2-3"}},
		"an agent that does not tell where": {"mine", "", []cloud.StepResult{step("a", 0, 0), step("b", 0, 0)}, 9, 0, []string{"c/i/awsrunShellScript/b/stdout 0-9"}},
		"one that tells nonsense": {"mine", "", []cloud.StepResult{step("a", 7, 0), step("b", 3, 0), step("c", 1<<40, 0)}, 9, 0, []string{
			"c/i/awsrunShellScript/a/stdout 0-7", "c/i/awsrunShellScript/c/stdout 7-9"}},
		"less kept than was printed": {"mine", "", []cloud.StepResult{step("a", 7, 0), step("b", 12, 0)}, 5, 0, []string{"c/i/awsrunShellScript/a/stdout 0-5"}},
		"an end without results":     {"mine", "", nil, 5, 0, []string{"c/i/awsrunShellScript/first/stdout 0-5"}},
		"nothing printed":            {"mine", "", []cloud.StepResult{step("a", 0, 0)}, 0, 0, nil},
	} {
		d := cloud.Delivery{Steps: []cloud.StepResult{step("first", 0, 0), step("second", 0, 0)}}
		inv := cloud.Invocation{Instance: "i", Steps: c.steps}
		var got []string
		for _, p := range (cloud.OutputPlace{Prefix: c.prefix}).Parts(cloud.Command{ID: "c", DocumentName: c.document}, d, inv, c.stdout, c.stderr) {
			got = append(got, fmt.Sprintf("%s %d-%d", p.Key, p.From, p.To))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
