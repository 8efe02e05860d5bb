package mgs_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

func TestACommandReachesTheStockAgentAndItsResultTheDisk(t *testing.T) {
	s := newSite(t)
	status, body := s.call("AmazonSSM.UpdateInstanceInformation", `{"InstanceId":"`+string(mine)+`","AgentVersion":"3.3.1.0","ComputerName":"box","PlatformName":"Debian","PlatformType":"Linux","PlatformVersion":"12"}`)
	if status != http.StatusOK || body != "{}" {
		t.Fatalf("got %d %s", status, body)
	}
	a := s.agent()
	id := s.put(cloud.Step{Name: "x", Script: "echo hallo", TimeoutSeconds: 2, WorkingDirectory: "/srv"})
	j := a.job()
	var content struct {
		CommandID       string `json:"CommandId"`
		DocumentContent json.RawMessage
	}
	check(t, json.Unmarshal([]byte(j.Content), &content))
	if j.JobID != "aws.ssm."+string(id)+"."+string(mine) || j.Topic != "aws.ssm.sendCommand" || content.CommandID != string(id) {
		t.Errorf("got job %+v", j)
	}
	want := `{"schemaVersion":"2.2","description":"a command of ichiro","mainSteps":[{"action":"aws:runShellScript","name":"step1",` +
		`"inputs":{"runCommand":["echo hallo"],"timeoutSeconds":"5","workingDirectory":"/srv"}}]}`
	if string(content.DocumentContent) != want {
		t.Errorf("got document\n%s\nwant\n%s", content.DocumentContent, want)
	}
	a.ack(j.JobID, 200, "")
	s.seen(id, cloud.InvocationInProgress)
	a.acknowledged(a.reply(j.JobID, "InProgress", nil, nil))
	one := map[string]any{"step1": step("Failed", 3, "hallo\n", "oh\n")}
	a.acknowledged(a.reply(j.JobID, "Failed", map[string]int{"Failed": 1}, one))
	// It is acknowledged, so it is on disk: no waiting here.
	inv, err := s.root.Instance(mine).Invocation(id)
	if err != nil || inv.Status != cloud.InvocationFailed || inv.ResponseCode != 3 || inv.StdoutBytes != 6 || len(inv.Steps) != 1 || inv.Steps[0].Name != "x" {
		t.Errorf("got %+v, %v", inv, err)
	}
	if out, errs := s.output(id, "stdout"), s.output(id, "stderr"); out != "hallo\n" || errs != "oh\n" {
		t.Errorf("got %q and %q", out, errs)
	}
	if p, err := s.root.Instance(mine).Agent(); err != nil || !p.Connected || p.Version != "3.3.1.0" || p.PlatformName != "Debian" || p.PlatformType != "Linux" || p.ComputerName != "box" {
		t.Errorf("got %+v, %v", p, err)
	}
	a.acknowledged(a.reply(j.JobID, "InProgress", nil, nil)) // overtaken
	a.acknowledged(a.reply(j.JobID, "Success", nil, one))
	if inv, _ := s.root.Instance(mine).Invocation(id); inv.Status != cloud.InvocationFailed {
		t.Errorf("a late reply made it %+v", inv)
	}
}

func TestStepsAreKeptThoughTheLastWordOvertakesThem(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	id := s.put(cloud.Step{Name: "a", Script: "1", TimeoutSeconds: 60}, cloud.Step{Name: "b", Script: "2", TimeoutSeconds: 60})
	j := a.job()
	a.ack(j.JobID, 200, "")
	a.acknowledged(a.reply(j.JobID, "InProgress", nil, map[string]any{"step1": step("Failed", 7, "one\n", "")}))
	last := a.reply(j.JobID, "Failed", map[string]int{"Success": 1, "Failed": 1}, nil)
	a.reply(j.JobID, "InProgress", nil, map[string]any{"step2": step("Success", 0, "two\n", "")})
	a.acknowledged(last)
	inv := s.seen(id, cloud.InvocationFailed)
	if len(inv.Steps) != 2 || inv.Steps[0].ResponseCode != 7 || inv.Steps[1].Status != cloud.InvocationSuccess || inv.ResponseCode != 7 {
		t.Errorf("got %+v", inv)
	}
	if out := s.output(id, "stdout"); out != "one\ntwo\n" {
		t.Errorf("got %q", out)
	}
}

func TestCancellationReachesTheStockAgent(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	id := s.put()
	j := a.job()
	a.ack(j.JobID, 200, "")
	s.seen(id, cloud.InvocationInProgress)
	s.wish(cloud.CommandWish{Command: id, Instance: mine, Cancel: true})
	c := a.job()
	if c.Topic != "aws.ssm.cancelCommand" || c.Content != `{"CancelMessageId":"`+j.JobID+`"}` || c.JobID == j.JobID {
		t.Errorf("got %+v", c)
	}
	a.ack(c.JobID, 200, "")
	a.acknowledged(a.reply(j.JobID, "Cancelled", nil, map[string]any{"step1": step("Cancelled", 137, "", "")}))
	if inv := s.seen(id, cloud.InvocationCancelled); inv.ResponseCode != 137 {
		t.Errorf("got %+v", inv)
	}
}

func TestAJobIsSentOnceWhateverBreaks(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	id := s.put(cloud.Step{Name: "a", Script: "1", TimeoutSeconds: 60}, cloud.Step{Name: "b", Script: "2", TimeoutSeconds: 60})
	j := a.job()
	a.acknowledged(a.reply(j.JobID, "InProgress", nil, map[string]any{"step1": step("Success", 0, "one", "")}))
	lost := s.put()
	a.job() // the agent dies with it, before it has said a word
	a.ws.Close()
	b := s.agent()
	if got := b.job(); !strings.Contains(got.JobID, string(lost)) {
		t.Fatalf("got job %s, want that of %s only", got.JobID, lost)
	}
	b.ack("aws.ssm."+string(lost)+"."+string(mine), 51405, "duplicate")
	s.seen(lost, cloud.InvocationInProgress)
	// What the agent has kept meanwhile comes now, and the first step is known from before.
	b.reply(j.JobID, "InProgress", nil, map[string]any{"step2": step("Success", 0, "two", "")})
	b.acknowledged(b.reply(j.JobID, "Success", map[string]int{"Success": 2}, nil))
	if inv := s.seen(id, cloud.InvocationSuccess); len(inv.Steps) != 2 || s.output(id, "stdout") != "onetwo" {
		t.Errorf("got %+v, %q", inv, s.output(id, "stdout"))
	}
}

func TestTheStockAgentIsNotGivenMoreThanItTakes(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	given := map[string]bool{}
	for range 12 {
		s.put()
	}
	var first string
	for range 10 {
		first = a.job().JobID
		given[first] = true
	}
	last := a.reply(first, "Success", nil, map[string]any{"step1": step("Success", 0, "", "")})
	for { // the next message that is not the acknowledgement is the eleventh job
		m := a.receive()
		if m.Type == frame.JobReplyAck && strings.Contains(string(m.Payload), last) {
			continue
		}
		var j job
		check(t, json.Unmarshal(m.Payload, &j))
		if m.Type != frame.Job || given[j.JobID] {
			t.Fatalf("got %s %s, want another job", m.Type, m.Payload)
		}
		return
	}
}

func TestWhatTheStockAgentDoesNotTakeFailsWithTheReason(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	id := s.put()
	a.ack(a.job().JobID, 51406, "bad\x1b[2J document")
	s.seen(id, cloud.InvocationFailed)
	if got := s.output(id, "stderr"); got != "ichiro: the stock agent refused the command (51406): bad?[2J document\n" {
		t.Errorf("got %q", got)
	}
	id = s.put(cloud.Step{Name: "a", Script: "echo {{ ssm:secret }}", TimeoutSeconds: 60})
	s.seen(id, cloud.InvocationFailed)
	if got := s.output(id, "stderr"); !strings.Contains(got, "would replace") {
		t.Errorf("got %q", got)
	}
}

// What a step needs besides its script, a shell does: it is run here to see that the values arrive and do nothing.
func TestTheShellGivesAStepWhatTheStockAgentCannot(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	value := "it's $(touch hacked) `touch hacked` \"'; touch hacked #\n"
	s.put(cloud.Step{
		Name: "x", Script: `printf %s "$SSM_who"; umask`, TimeoutSeconds: 60, Umask: "027", Finally: true,
		Environment: map[string]string{"SSM_who": value, "B": "2"},
	})
	var content struct {
		DocumentContent struct {
			MainSteps []struct {
				Inputs struct {
					RunCommand  []string `json:"runCommand"`
					FinallyStep bool     `json:"finallyStep"`
				} `json:"inputs"`
			} `json:"mainSteps"`
		}
	}
	check(t, json.Unmarshal([]byte(a.job().Content), &content))
	in := content.DocumentContent.MainSteps[0].Inputs
	cmd := exec.Command("sh", "-c", in.RunCommand[0])
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil || string(out) != value+"0027\n" || !in.FinallyStep {
		t.Errorf("got %q, %v, finally %v", out, err, in.FinallyStep)
	}
	if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
		t.Errorf("a value ran: %v", left)
	}
	for name, step := range map[string]cloud.Step{
		"more than a script":   {Download: &cloud.StepDownload{URL: "https://x/"}},
		"a user or limits":     {Script: "id", User: "nobody"},
		"a relative directory": {Script: "id", WorkingDirectory: "here"},
		"cannot set":           {Script: "id", Environment: map[string]string{"a;b": "c"}},
	} {
		step.Name, step.TimeoutSeconds = "x", 60
		id := s.put(step)
		s.seen(id, cloud.InvocationFailed)
		if got := s.output(id, "stderr"); !strings.Contains(got, name) || !strings.Contains(got, "own agent") {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// The last word may come before a step's result, and again: neither is acknowledged before the end is on disk.
func TestALastWordThatIsRepeatedIsAcknowledgedWhenItIsKept(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	id := s.put(cloud.Step{Name: "a", Script: "1", TimeoutSeconds: 60}, cloud.Step{Name: "b", Script: "2", TimeoutSeconds: 60})
	j := a.job()
	first := a.reply(j.JobID, "Success", map[string]int{"Success": 2}, nil)
	second := a.reply(j.JobID, "Success", map[string]int{"Success": 2}, nil)
	both := map[string]any{"step1": step("Success", 0, "one", ""), "step2": step("Success", 0, "two", "")}
	a.reply(j.JobID, "InProgress", nil, both)
	a.acknowledged(first)
	if inv, err := s.root.Instance(mine).Invocation(id); err != nil || inv.Status != cloud.InvocationSuccess {
		t.Errorf("acknowledged with %+v, %v on disk", inv, err)
	}
	a.acknowledged(second)
	if got := s.output(id, "stdout"); got != "onetwo" {
		t.Errorf("got %q", got)
	}
}

func TestAGuestSpeaksForItselfOnly(t *testing.T) {
	s := newSite(t)
	for name, body := range map[string]string{
		"AmazonSSM.UpdateInstanceInformation":          `{"InstanceId":"` + string(neighbor) + `"}`,
		"AmazonSSM.ListInstanceAssociations":           `{"InstanceId":"` + string(neighbor) + `"}`,
		"EC2WindowsMessageDeliveryService.GetMessages": `{"Destination":"` + string(neighbor) + `"}`,
	} {
		if status, got := s.call(name, body); status != http.StatusBadRequest || !strings.Contains(got, "InvalidInstanceId") {
			t.Errorf("%s: got %d %s", name, status, got)
		}
	}
	if status, got := s.call("AmazonSSM.GetParameters", `{}`); status != http.StatusBadRequest || !strings.Contains(got, "UnsupportedOperation") {
		t.Errorf("got %d %s", status, got)
	}
	if status, _ := s.token(neighbor); status != http.StatusForbidden {
		t.Errorf("a token of another instance: got %d", status)
	}
	s.dial("nonsense").closed()
	_, token := s.token(mine)
	a := s.dial(token)
	s.put()
	a.job()
	s.dial(token).closed() // a token opens one channel
}

func TestAHostileAgentLosesItsChannel(t *testing.T) {
	for name, say := range map[string]func(a *agent){
		"noise":                           func(a *agent) { a.ws.WriteMessage(websocket.BinaryMessage, []byte("noise")) },
		"a second text":                   func(a *agent) { a.ws.WriteMessage(websocket.TextMessage, []byte("{}")) },
		"a message longer than any":       func(a *agent) { a.ws.WriteMessage(websocket.BinaryMessage, make([]byte, 200<<10)) },
		"an answer to a neighbor's job":   func(a *agent) { a.ack("aws.ssm.00000000-0000-0000-0000-000000000001."+string(neighbor), 200, "") },
		"a reply to a job that is a path": func(a *agent) { a.reply("aws.ssm.../../etc."+string(mine), "Success", nil, nil) },
		"a reply whose content is not JSON": func(a *agent) {
			a.send(frame.JobReply, map[string]string{"jobId": "aws.ssm.00000000-0000-0000-0000-000000000001." + string(mine), "content": "{"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			a := s.agent()
			id := s.put()
			a.job()
			say(a)
			a.closed()
			s.seen(id, cloud.InvocationPending)
		})
	}
}

func TestOurOwnAgentComesFirst(t *testing.T) {
	s := newSite(t)
	a := s.agent()
	s.put()
	a.job()
	ours := s.ourAgent()
	a.closed()
	s.agent().closed()
	id := s.put()
	for {
		f, err := ours.Receive()
		check(t, err)
		if r, ok := f.(*wire.Request); ok && r.ID == id {
			return
		}
	}
}
