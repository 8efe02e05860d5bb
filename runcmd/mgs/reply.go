package mgs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// What the agent answers to a job before it begins.
const (
	ackTaken     = 200
	ackDuplicate = 51405 // it has it already, from before
)

// ack is the payload of an agent_job_ack.
type ack struct {
	JobID   string `json:"jobId"`
	Status  int    `json:"statusCode"`
	Message string `json:"errorMessage"`
}

// reply is the payload of an agent_job_reply, with what is in its content.
type reply struct {
	command cloud.CommandID
	status  string // of the document
	sent    time.Time
	steps   map[int]stepResult // those that it tells of
	counted int                // steps that have ended, of those that it may tell of elsewhere
}

// stepResult is what the agent says of one step.
type stepResult struct {
	Status string    `json:"status"`
	Code   int       `json:"code"`
	Start  time.Time `json:"-"`
	End    time.Time `json:"-"`
	Stdout string    `json:"standardOutput"`
	Stderr string    `json:"standardError"`

	StartText string `json:"startDateTime"`
	EndText   string `json:"endDateTime"`
}

// The cut that the stock agent makes by itself. We hold it to it, with room for its notice.
const maxStdout, maxStderr = 24_000*4 + 64, 8_000*4 + 64

// parseReply reads an agent_job_reply. What it does not understand it leaves out; what does not belong to the instance it
// refuses.
func parseReply(payload []byte, id cloud.InstanceID) (reply, error) {
	var outer struct {
		JobID   string `json:"jobId"`
		Content string `json:"content"`
	}
	if err := json.Unmarshal(payload, &outer); err != nil {
		return reply{}, errors.New("reply is not of JSON")
	}
	var r reply
	var err error
	if r.command, err = commandOf(outer.JobID, id); err != nil {
		return r, err
	}
	var in struct {
		Sent   string                `json:"dateTime"`
		Status string                `json:"documentStatus"`
		Counts map[string]int        `json:"runtimeStatusCounts"`
		Steps  map[string]stepResult `json:"runtimeStatus"`
		Info   struct {
			Sent   string         `json:"dateTime"`
			Counts map[string]int `json:"runtimeStatusCounts"`
		} `json:"additionalInfo"`
	}
	if err := json.Unmarshal([]byte(outer.Content), &in); err != nil {
		return r, errors.New("content of the reply is not of JSON")
	}
	if in.Sent == "" {
		in.Sent = in.Info.Sent
	}
	if len(in.Counts) == 0 {
		in.Counts = in.Info.Counts
	}
	r.status, r.sent, r.steps = in.Status, clock(in.Sent), map[int]stepResult{}
	for n := range wire.MaxSteps {
		s, ok := in.Steps[stepName(n)]
		if !ok || !ended(s.Status) {
			continue
		}
		s.Start, s.End = clock(s.StartText), clock(s.EndText)
		s.Stdout, s.Stderr = s.Stdout[:min(len(s.Stdout), maxStdout)], s.Stderr[:min(len(s.Stderr), maxStderr)]
		r.steps[n] = s
	}
	for status, n := range in.Counts {
		if ended(status) && n > 0 && n <= wire.MaxSteps {
			r.counted = min(r.counted+n, wire.MaxSteps)
		}
	}
	return r, nil
}

// clock reads a time of the guest's; zero if it is none that can be reckoned with.
func clock(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 2000 || t.Year() > 2200 {
		return time.Time{}
	}
	return t
}

// ended reports whether a document or step with the status has ended. One that waits for a reboot has not.
func ended(status string) bool {
	_, ok := outcomes[status]
	return ok
}

var outcomes = map[string]wire.Outcome{
	"Success": wire.Success,
	"Failed":  wire.Failed, "TimedOut": wire.TimedOut, "Cancelled": wire.Cancelled,
}

// run is what is known of a command that was given to the agent.
type run struct {
	asked int // steps
	size  int // of their outputs
	steps map[int]stepResult
	final *reply    // the last word, when it has come
	sent  time.Time // first, by this gateway; zero if by another
	heard bool      // the agent has said a word of it
	told  bool      // its end, to those who receive: nothing is taken any more
}

// maxRun bounds what is held of the outputs of one command while it goes on.
const maxRun = 1 << 20

// take adds what a reply tells. A step that has ended stays as it was first told, and so does the document: replies
// overtake each other.
func (r *run) take(in reply) {
	if r.told {
		return
	}
	for n, s := range in.steps {
		if _, ok := r.steps[n]; !ok && n < r.asked {
			if r.size += len(s.Stdout) + len(s.Stderr); r.size > maxRun {
				s.Stdout, s.Stderr = "", ""
			}
			if r.steps == nil {
				r.steps = map[int]stepResult{}
			}
			r.steps[n] = s
		}
	}
	if r.final == nil && ended(in.status) {
		in.steps = nil
		r.final = &in
	}
}

// complete reports whether all that the last word speaks of has come.
func (r *run) complete() bool {
	if r.final == nil {
		return false
	}
	return len(r.steps) >= r.asked || r.final.counted > 0 && len(r.steps) >= r.final.counted
}

// result is the end of the command in our own words: its outputs, which are those of its steps one after the other, and
// how each step ended, up to the first that nothing is known of. The document's status decides over the steps'.
func (r *run) result(id cloud.CommandID) (stdout, stderr string, out *wire.Result) {
	outcome := outcomes[r.final.status]
	base := r.final.sent
	for s := range maps.Values(r.steps) {
		if s.End.After(base) {
			base = s.End
		}
	}
	out = &wire.Result{ID: id, Now: longest}
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return longest
		}
		return longest - min(max(base.Sub(t), 0), longest)
	}
	var so, se strings.Builder
	fair := true // the steps add up to what is said of the document
	for n := range r.asked {
		s, ok := r.steps[n]
		if !ok {
			break
		}
		so.WriteString(s.Stdout)
		se.WriteString(s.Stderr)
		o := outcomes[s.Status]
		if outcome == wire.Success {
			o = wire.Success // a failure that the document said not to mind
		}
		fair = fair && o == wire.Success
		out.Steps = append(out.Steps, wire.StepResult{
			Outcome: o, Code: s.Code, Started: since(s.Start), Ended: since(s.End), Outputs: [wire.Streams]int64{int64(so.Len()), int64(se.Len())},
		})
	}
	switch {
	case len(out.Steps) == 0:
		code := -1
		if outcome == wire.Success {
			code = 0
		}
		out.Steps = []wire.StepResult{{Outcome: outcome, Code: code, Started: longest, Ended: longest}}
	case outcome != wire.Success && fair || outcome != wire.Success && outcome != wire.Failed:
		out.Steps[len(out.Steps)-1].Outcome = outcome
	}
	out.Outputs = [wire.Streams]int64{int64(so.Len()), int64(se.Len())}
	return so.String(), se.String(), out
}

// longest is how long ago something may have been that a guest tells of: a command's longest time and more.
const longest = 60 * 24 * time.Hour

// refusal is the end of a command that the agent did not take, with the reason where its user looks.
func refusal(id cloud.CommandID, why string) (stderr string, out *wire.Result) {
	stderr = fmt.Sprintf("ichiro: %s\n", why)
	out = &wire.Result{ID: id, Steps: []wire.StepResult{{Outcome: wire.Failed, Code: -1}}}
	out.Outputs[wire.Stderr] = int64(len(stderr))
	return stderr, out
}

// refused tells why the agent did not take a job: in our words, but for the agent's own message.
func (a ack) refused() string {
	const most = 500
	message := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(a.Message[:min(len(a.Message), most)], "?"))
	return fmt.Sprintf("the stock agent refused the command (%d): %s", a.Status, message)
}
