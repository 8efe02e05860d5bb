package ssm

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// gatehouse is a host's door with the sessions that it knows.
type gatehouse struct {
	known map[cloud.SessionID]*cloud.SessionEnd
	ended []cloud.SessionID
}

func (g *gatehouse) Relay(cloud.Host, cloud.Session, http.ResponseWriter, *http.Request) error {
	return nil
}

func (g *gatehouse) Terminate(_ context.Context, _ cloud.Host, s cloud.Session) (bool, error) {
	_, ok := g.known[s.ID]
	g.ended = append(g.ended, s.ID)
	return ok, nil
}

func (g *gatehouse) Session(_ context.Context, _ cloud.Host, s cloud.Session) (*cloud.SessionEnd, bool, error) {
	end, ok := g.known[s.ID]
	return end, ok, nil
}

func sessionRig(t *testing.T) (*rig, *gatehouse) {
	r := newRig(t)
	g := &gatehouse{known: map[cloud.SessionID]*cloud.SessionEnd{}}
	r.Sessions = g
	r.ctx = api.WithCaller(t.Context(), api.Identity{Account: "000000000000", ARN: "arn:aws:iam::000000000000:user/a/ann b"})
	return r, g
}

func (r *rig) begin() *shape.StartSessionOutput {
	r.Helper()
	out, err := r.StartSession(r.ctx, &shape.StartSessionInput{Target: one})
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func TestRefusedSessions(t *testing.T) {
	r, _ := sessionRig(t)
	for name, c := range map[string]struct {
		code string
		in   shape.StartSessionInput
	}{
		"an agent that is away":        {"TargetNotConnected", shape.StartSessionInput{Target: two}},
		"no agent":                     {"TargetNotConnected", shape.StartSessionInput{Target: mute}},
		"somebody else's":              {"TargetNotConnected", shape.StartSessionInput{Target: other}},
		"no instance":                  {"TargetNotConnected", shape.StartSessionInput{Target: "../x"}},
		"an empty name":                {"TargetNotConnected", shape.StartSessionInput{}},
		"an unknown document":          {"InvalidDocument", shape.StartSessionInput{Target: one, DocumentName: "x"}},
		"a document of commands":       {"InvalidDocument", shape.StartSessionInput{Target: one, DocumentName: "AWS-RunShellScript"}},
		"a parameter that is not one":  {"InvalidParameters", shape.StartSessionInput{Target: one, Parameters: map[string][]string{"x": {"y"}}}},
		"a command that is missing":    {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartInteractiveCommand"}},
		"a port that is none":          {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartPortForwardingSession", Parameters: map[string][]string{"portNumber": {"65536"}}}},
		"a port with a tail":           {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartPortForwardingSession", Parameters: map[string][]string{"portNumber": {"80;x"}}}},
		"the instance's metadata":      {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartPortForwardingSessionToRemoteHost", Parameters: map[string][]string{"host": {"169.254.169.254"}}}},
		"a host with a blank":          {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartPortForwardingSessionToRemoteHost", Parameters: map[string][]string{"host": {"a b"}}}},
		"a reason that is too long":    {"ValidationException", shape.StartSessionInput{Target: one, Reason: strings.Repeat("é", 257)}},
		"two values for one parameter": {"InvalidParameters", shape.StartSessionInput{Target: one, DocumentName: "AWS-StartPortForwardingSession", Parameters: map[string][]string{"portNumber": {"80", "81"}}}},
	} {
		if _, err := r.StartSession(r.ctx, &c.in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

func TestSessionFromItsStartToItsEnd(t *testing.T) {
	r, g := sessionRig(t)
	out := r.begin()
	id := cloud.SessionID(out.SessionId)
	if !strings.HasPrefix(out.SessionId, "ann_b-") || !id.WellFormed() {
		t.Errorf("got the ID %q, want one of ann_b", out.SessionId)
	}
	kept, err := store.MirroredGet(r.Mirror.Snapshot(), store.Sessions, id)
	if err != nil || strings.Contains(kept.Value.Token, out.TokenValue) || len(out.TokenValue) < 40 {
		t.Errorf("the token is weak, or is kept: %v, %v", kept.Value, err)
	}
	if p := kept.Value.Plan; p.Kind != cloud.SessionShell || p.Idle != 20*time.Minute {
		t.Errorf("got the plan %+v", p)
	}
	again, err := r.ResumeSession(r.ctx, &shape.ResumeSessionInput{SessionId: out.SessionId})
	if err != nil || again.TokenValue == "" || again.TokenValue == out.TokenValue {
		t.Errorf("resumed with %+v, %v", again, err)
	}
	stranger := api.WithCaller(t.Context(), api.Identity{Account: "000000000000", ARN: "arn:aws:iam::000000000000:user/eve"})
	if _, err := r.ResumeSession(stranger, &shape.ResumeSessionInput{SessionId: out.SessionId}); cloud.Code(err) != "AccessDeniedException" {
		t.Errorf("another user resumed: %v", err)
	}
	foreign := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.TerminateSession(foreign, &shape.TerminateSessionInput{SessionId: out.SessionId}); cloud.Code(err) != "DoesNotExistException" {
		t.Errorf("another account terminated: %v", err)
	}
	list := func(state string, f ...shape.SessionFilter) []shape.Session {
		t.Helper()
		got, err := r.DescribeSessions(r.ctx, &shape.DescribeSessionsInput{State: state, Filters: f})
		if err != nil {
			t.Fatal(err)
		}
		return got.Sessions
	}
	if got := list("Active", shape.SessionFilter{Key: "Target", Value: one}); len(got) != 1 || got[0].Status != "Connected" {
		t.Errorf("got %+v, want the session", got)
	}
	if got := list("Active", shape.SessionFilter{Key: "Target", Value: two}); len(got) != 0 {
		t.Errorf("got %+v, want none", got)
	}
	var told []cloud.Session
	deaf := errors.New("the disk is full")
	r.Ended = func(x cloud.Session) error {
		told = append(told, x)
		return deaf
	}
	g.known[id] = nil
	if _, err := r.TerminateSession(r.ctx, &shape.TerminateSessionInput{SessionId: out.SessionId}); err != nil || len(g.ended) != 1 {
		t.Errorf("the host was told %v, %v", g.ended, err)
	}
	if got := list("Active"); len(got) != 1 || got[0].Status != "Terminating" {
		t.Errorf("got %+v, want Terminating", got)
	}
	if dead, err := r.ResumeSession(r.ctx, &shape.ResumeSessionInput{SessionId: out.SessionId}); err != nil || dead.TokenValue != "" {
		t.Errorf("a session that ends was resumed: %+v, %v", dead, err)
	}
	g.known[id] = &cloud.SessionEnd{At: start.Add(time.Minute), Code: 129, Reason: "terminated"}
	sessions := &Sessions{r.Service}
	mirrored := func() {
		t.Helper()
		rev, err := r.Store.Head(r.ctx)
		if err == nil {
			err = r.Mirror.WaitRev(r.ctx, rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := sessions.Reconcile(r.ctx); !errors.Is(err, deaf) {
		t.Errorf("the audit could not be told: got %v", err)
	}
	mirrored()
	told, deaf = nil, nil
	for range 2 { // and then only once, by whoever is there when the one that could not has had its time
		if err := sessions.Reconcile(r.ctx); err != nil || len(told) > 0 {
			t.Errorf("told %v, %v at once", told, err)
		}
	}
	r.now = start.Add(3 * time.Minute)
	for range 2 {
		if err := sessions.Reconcile(r.ctx); err != nil {
			t.Fatal(err)
		}
		mirrored()
	}
	if got := list("History"); len(got) != 1 || got[0].Status != "Terminated" || !got[0].EndDate.Equal(start.Add(time.Minute)) || len(told) != 1 {
		t.Errorf("got %+v, told %d times", got, len(told))
	}
	r.now = start.Add(31 * 24 * time.Hour)
	if err := sessions.Reconcile(r.ctx); err != nil {
		t.Fatal(err)
	}
	mirrored()
	if got := list("History"); len(got) != 0 {
		t.Errorf("got %+v after a month, want none", got)
	}
}

func TestSessionThatNobodyKnowsIsLost(t *testing.T) {
	r, g := sessionRig(t)
	never, gone := r.begin(), r.begin()
	g.known[cloud.SessionID(gone.SessionId)] = nil
	sessions := &Sessions{r.Service}
	ended := func() (n int) {
		t.Helper()
		if err := sessions.Reconcile(r.ctx); err != nil {
			t.Fatal(err)
		}
		out, err := r.DescribeSessions(r.ctx, &shape.DescribeSessionsInput{State: "History"})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Sessions)
	}
	if n := ended(); n != 0 {
		t.Errorf("%d ended at once", n)
	}
	r.now = start.Add(tokenLife + time.Second)
	if n := ended(); n != 1 {
		t.Errorf("%d ended when %s's token had expired, want 1", n, never.SessionId)
	}
	r.write(func(t *store.Txn) { store.Remove(t, store.Instances, cloud.InstanceID(one)) })
	if n := ended(); n != 2 {
		t.Errorf("%d ended when the instance was gone, want 2", n)
	}
}

func TestSessionsComeInPages(t *testing.T) {
	r, _ := sessionRig(t)
	for range 5 {
		r.begin()
	}
	in := &shape.DescribeSessionsInput{State: "Active", MaxResults: number(2)}
	seen := map[string]bool{}
	for {
		out, err := r.DescribeSessions(r.ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range out.Sessions {
			seen[x.SessionId] = true
		}
		if in.NextToken = out.NextToken; in.NextToken == "" {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("got %d of 5 sessions", len(seen))
	}
}

func TestPlans(t *testing.T) {
	r, _ := sessionRig(t)
	own := `{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"idleSessionTimeout":5,"maxSessionDuration":"60","runAsEnabled":true,"runAsDefaultUser":"admin","shellProfile":{"linux":"cd /tmp"}}}`
	for name, d := range map[string]shape.CreateDocumentInput{
		preferences: {Content: own, DocumentType: "Session"},
		"tail": {DocumentType: "Session", DocumentFormat: "YAML", Content: "schemaVersion: '1.0'\nsessionType: InteractiveCommands\n" +
			"parameters:\n  lines:\n    type: String\n    default: '10'\nproperties:\n  linux:\n    commands: tail -n {{lines}} /var/log/messages\n"},
		"work": {Content: `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{"runCommand":["a"]}}]}`},
	} {
		d.Name = name
		if _, err := r.CreateDocument(r.ctx, &d); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"work", "nothing", "AWS-RunShellScript"} {
		if _, err := r.StartSession(r.ctx, &shape.StartSessionInput{Target: one, DocumentName: name}); cloud.Code(err) != "InvalidDocument" {
			t.Errorf("a session of %s: got %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		document string
		given    map[string][]string
		want     cloud.SessionPlan
	}{
		"preferences of the account": {preferences, nil, cloud.SessionPlan{Kind: cloud.SessionShell, Command: "cd /tmp\nexec \"$SHELL\" -l", User: "admin", Idle: 5 * time.Minute, Longest: time.Hour}},
		"a port under them": {"AWS-StartPortForwardingSessionToRemoteHost", map[string][]string{"host": {"db"}, "portNumber": {"5432"}},
			cloud.SessionPlan{Kind: cloud.SessionPort, Host: "db", Port: 5432, User: "admin", Idle: 5 * time.Minute, Longest: time.Hour}},
		"one of the account's own, in YAML": {"arn:aws:ssm:ichiro-1:000000000000:document/tail", map[string][]string{"lines": {"3"}},
			cloud.SessionPlan{Kind: cloud.SessionCommand, Command: "tail -n 3 /var/log/messages", User: "admin", Idle: 5 * time.Minute, Longest: time.Hour}},
		"a command whose text looks like a parameter": {"AWS-StartInteractiveCommand", map[string][]string{"command": {"echo {{command}}"}},
			cloud.SessionPlan{Kind: cloud.SessionCommand, Command: "echo {{command}}", User: "admin", Idle: 5 * time.Minute, Longest: time.Hour}},
	} {
		got, _, err := r.sessionPlan(r.ctx, r.Mirror.Snapshot(), c.document, c.given)
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestConnectionStatus(t *testing.T) {
	r, _ := sessionRig(t)
	for target, want := range map[string]string{one: "connected", two: "notconnected", other: "notconnected", "": "notconnected"} {
		if out, err := r.GetConnectionStatus(r.ctx, &shape.GetConnectionStatusInput{Target: target}); err != nil || out.Status != want {
			t.Errorf("%q: got %v, %v, want %s", target, out, err, want)
		}
	}
}
