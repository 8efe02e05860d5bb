package mgs_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/sessions"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/client"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/mux"
)

// serveClients plays the API and the host's door: it relays clients to the hub with what the control plane would know.
func (s *site) serveClients() {
	host := httptest.NewUnstartedServer(s.hub.Handler())
	path := filepath.Join(s.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	check(s.t, err)
	host.Listener.Close()
	host.Listener = l
	host.Start()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		spec, ok := s.specs.Load(filepath.Base(r.URL.Path))
		if !ok {
			http.NotFound(w, r)
			return
		}
		(door.Client{}).Relay(cloud.Host{ID: "h-1", Door: "unix:" + path}, spec.(cloud.Session), w, r)
	}))
	s.t.Cleanup(func() { api.CloseClientConnections(); api.Close(); host.CloseClientConnections(); host.Close() })
	s.api = "ws" + strings.TrimPrefix(api.URL, "http") + "/"
}

// begin makes a session as StartSession does, and returns how a client reaches it.
func (s *site) begin(plan cloud.SessionPlan) (string, client.Config) {
	s.n++
	id := fmt.Sprintf("tester-%d", s.n)
	s.specs.Store(id, cloud.Session{
		ID: cloud.SessionID(id), Owner: "arn:aws:iam::000000000000:root", Target: mine, Plan: plan, Started: time.Now(),
		Token: digest("token-" + id), TokenExpires: time.Now().Add(time.Minute),
	})
	n := 0
	return id, client.Config{URL: s.api + id, Token: "token-" + id, Patience: 10 * time.Second, Resume: func(context.Context) (string, error) {
		n++
		token := fmt.Sprintf("token-%s-%d", id, n)
		v, _ := s.specs.Load(id)
		next := v.(cloud.Session)
		next.Token, next.TokenExpires = digest(token), time.Now().Add(time.Minute)
		s.specs.Store(id, next)
		return token, nil
	}}
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// talk is a client whose outputs are collected.
type talk struct {
	*client.Client
	t         testing.TB
	end       chan error
	stop      context.CancelFunc
	mu        sync.Mutex
	out, errs strings.Builder
	more      chan struct{}
}

func (s *site) converse(cfg client.Config) *talk {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &talk{Client: client.New(cfg), t: s.t, end: make(chan error, 1), stop: cancel, more: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { c.end <- c.Run(ctx) })
	wg.Go(func() {
		for {
			kind, b, err := c.Read()
			if err != nil {
				return
			}
			c.mu.Lock()
			if kind == frame.Stderr {
				c.errs.Write(b)
			} else {
				c.out.Write(b)
			}
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
		}
	})
	s.t.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-c.Begun():
	case err := <-c.end:
		s.t.Fatalf("the session did not begin: %v", err)
	}
	return c
}

func (c *talk) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (c *talk) await(text string) {
	c.t.Helper()
	guard := time.After(30 * time.Second)
	for !strings.Contains(c.said(), text) {
		select {
		case <-c.more:
		case <-guard:
			c.t.Fatalf("%q does not come; got %q", text, c.said())
		}
	}
}

func (c *talk) say(text string) {
	c.t.Helper()
	check(c.t, c.Write(frame.Data, []byte(text)))
}

func (c *talk) wait() (int, string) {
	c.t.Helper()
	select {
	case err := <-c.end:
		check(c.t, err)
	case <-time.After(30 * time.Second):
		c.t.Fatalf("the session does not end; it said %q", c.said())
	}
	return c.Ended()
}

// record waits for the record of a session.
func (s *site) record(id string) (r sessions.Record) {
	s.t.Helper()
	s.await("the record of "+id, func() bool {
		b, err := os.ReadFile(filepath.Join(s.records, id+".json"))
		return err == nil && json.Unmarshal(b, &r) == nil
	})
	return r
}

func TestAShellInAGuestWithTheStockAgent(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionShell, User: "nobody", Command: "echo pro''file" + cloud.ThenShell, Idle: time.Minute})
	c := s.converse(cfg)
	check(t, c.Resize(101, 37))
	c.await("profile\r\n")
	c.say("stty size; tty\r")
	c.await("37 101")
	c.await("/dev/pts/")
	c.say("seq 1 20000; echo sum=$((40+2)); exit 7\r")
	code, text := c.wait()
	if code != 0 || text != "" { // the agent tells no code of a shell
		t.Errorf("got code %d and %q", code, text)
	}
	var want strings.Builder
	for n := range 20000 {
		fmt.Fprintf(&want, "%d\r\n", n+1)
	}
	want.WriteString("sum=42\r\n")
	if !strings.Contains(c.said(), want.String()) {
		t.Errorf("lines are missing, doubled or out of order: %.2000q", c.said())
	}
	asked := a.session(id).asked
	if d := asked.DocumentContent; asked.SessionId != id || asked.RunAsUser != "nobody" || !d.Inputs.RunAs || d.Inputs.RunUser != "nobody" || strings.Contains(d.Inputs.Profile.Linux, "exec") {
		t.Errorf("the agent was asked %+v", asked)
	}
	rec := s.record(id)
	cast, err := os.ReadFile(filepath.Join(s.records, id+".cast"))
	check(t, err)
	if rec.End.Reason != "exit" || rec.Instance != mine || rec.End.Input == 0 || rec.End.Output == 0 || rec.End.Digest != digest(string(cast)) {
		t.Errorf("got the record %+v", rec)
	}
	if !strings.Contains(string(cast), `"r","101x37"`) || !strings.Contains(string(cast), "37 101") || !strings.Contains(string(cast), "sum=42") {
		t.Errorf("the recording lacks what was shown")
	}
	s.await("the end is acknowledged", func() bool { return a.count(a.acked, id) > 0 })
}

func TestACommandInAGuestWithTheStockAgent(t *testing.T) {
	s := newSite(t)
	s.stockAgent()
	id, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionCommand, Command: "read x; echo got-$x; tty", Idle: time.Minute})
	c := s.converse(cfg)
	c.say("word\r")
	c.wait()
	if got := c.said(); !strings.Contains(got, "got-word") || !strings.Contains(got, "/dev/pts/") {
		t.Errorf("got %q", got)
	}
	if rec := s.record(id); rec.End.Reason != "exit" {
		t.Errorf("got %+v", rec)
	}
	id, cfg = s.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "echo out; echo err >&2; exit 9", Idle: time.Minute})
	c = s.converse(cfg)
	if code, text := c.wait(); code != 9 || text != "exit code 9" {
		t.Errorf("got code %d and %q, want 9", code, text)
	}
	if c.said() != "out\n" || c.errs.String() != "err\n" {
		t.Errorf("got %q and %q", c.said(), c.errs.String())
	}
	if rec := s.record(id); rec.End.Reason != "exit" || rec.End.Code != 9 {
		t.Errorf("got %+v", rec)
	}
}

// carrier is a client's session as the multiplexer wants to see it.
type carrier struct {
	*client.Client
	rest []byte
}

func (c *carrier) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		_, b, err := c.Client.Read()
		if err != nil {
			return 0, io.EOF
		}
		c.rest = append([]byte(nil), b...)
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *carrier) Write(p []byte) (int, error) { return len(p), c.Client.Write(frame.Data, p) }
func (c *carrier) Close() error                { return nil }

// echo serves connections that get back what they send, and returns its port.
func echo(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestAPortOfAGuestWithTheStockAgent(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Port: echo(t), Idle: time.Minute})
	c := &carrier{Client: client.New(cfg)}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	<-c.Begun()
	all, err := mux.Client(c)
	check(t, err)
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			conn, err := all.OpenStream()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			want := strings.Repeat(fmt.Sprintf("connection %d ", n), 20_000)
			go io.WriteString(conn, want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("connection %d: got other bytes than were sent: %v", n, err)
			}
		})
	}
	wg.Wait()
	check(t, c.Terminate())
	check(t, <-ended)
	all.Close()
	if rec := s.record(id); rec.End.Reason != "terminated" || rec.Target == "" || rec.End.Output < 3*20_000 {
		t.Errorf("got %+v", rec)
	}
	<-a.session(id).ended
}

func TestASessionOfTheStockAgentOutlivesItsConnections(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	c := s.converse(cfg)
	c.say("stty -echo; PS1=\r")
	c.say("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line-$i-end; done\r")
	for _, line := range []string{"line-300-end", "line-900-end", "line-2000-end"} {
		c.await(line)
		x := a.session(id)
		before := x.dialled()
		x.cut()
		s.await("the agent dials again", func() bool { return x.dialled() > before })
	}
	c.await("line-3000-end")
	a.ws.Close() // the control channel, too
	b := s.agent()
	c.say("read x; echo got-$x\rword\r")
	c.await("got-word")
	var want strings.Builder
	for n := range 3000 {
		fmt.Fprintf(&want, "line-%d-end\r\n", n+1)
	}
	if !strings.Contains(c.said(), want.String()) {
		t.Error("lines are missing, doubled or out of order after the cuts")
	}
	c.say("exit\r")
	<-a.session(id).ended // it has told its end on the channel that is gone
	b.send(frame.TaskComplete, map[string]any{"SchemaVersion": 1, "TaskId": id, "Topic": "agent_task_complete", "FinalTaskStatus": "Success"})
	if m := b.receive(); m.Type != frame.TaskCompleted || !strings.Contains(string(m.Payload), id) {
		t.Errorf("got %s %s, want an acknowledgement", m.Type, m.Payload)
	}
	c.wait()
	if rec := s.record(id); rec.End.Reason != "exit" {
		t.Errorf("got %+v", rec)
	}
}

func TestAClientOfTheStockAgentComesBack(t *testing.T) {
	s := newSite(t)
	s.stockAgent()
	_, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	first := s.converse(cfg)
	first.say("stty -echo; PS1=; V=kept\r")
	first.say("echo on the $((1+1))nd screen\r")
	first.await("on the 2nd screen")
	first.stop()
	var err error
	cfg.Token, err = cfg.Resume(t.Context())
	check(t, err)
	second := s.converse(cfg)
	second.await("on the 2nd screen")
	second.say("echo still-$V; exit\r")
	second.await("still-kept")
	second.wait()
}

func TestTheGatewayEndsSessionsOfTheStockAgent(t *testing.T) {
	for name, c := range map[string]struct {
		plan cloud.SessionPlan
		do   func(*site, *stock, *talk)
		want string
	}{
		"when nothing was said for too long": {cloud.SessionPlan{Kind: cloud.SessionShell, Idle: 300 * time.Millisecond}, nil, "idle"},
		"when it has taken too long":         {cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute, Longest: 400 * time.Millisecond}, nil, "longest"},
		"when its user wants it": {cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute}, func(s *site, _ *stock, c *talk) {
			check(s.t, c.Terminate())
		}, "terminated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			a := s.stockAgent()
			id, cfg := s.begin(c.plan)
			talk := s.converse(cfg)
			s.await("the agent has begun", func() bool { return a.session(id) != nil })
			if c.do != nil {
				c.do(s, a, talk)
			}
			talk.wait()
			if rec := s.record(id); rec.End.Reason != c.want {
				t.Errorf("got %+v, want %s", rec, c.want)
			}
			<-a.session(id).ended // nothing is left in the guest
			if a.count(a.dismiss, id) == 0 {
				t.Error("the agent was not told on the control channel")
			}
		})
	}
}

func TestWhatTheStockAgentCannotDoFailsWithTheReason(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	for name, c := range map[string]struct {
		plan cloud.SessionPlan
		want string
	}{
		"a command with a secret": {cloud.SessionPlan{Kind: cloud.SessionCommand, Command: "echo {{ssm:secret}}", Idle: time.Minute}, "would replace"},
		"the guest's metadata":    {cloud.SessionPlan{Kind: cloud.SessionPort, Host: "169.254.169.254", Port: 80, Idle: time.Minute}, ""},
		"a disguise of it":        {cloud.SessionPlan{Kind: cloud.SessionPort, Host: "2852039166", Port: 80, Idle: time.Minute}, ""},
	} {
		id, cfg := s.begin(c.plan)
		talk := s.converse(cfg)
		if code, text := talk.wait(); code != -1 || text != "the session could not be started" || !strings.Contains(talk.said(), c.want) {
			t.Errorf("%s: got %d, %q and %q", name, code, text, talk.said())
		}
		if rec := s.record(id); rec.End.Reason != "failed" {
			t.Errorf("%s: got %+v", name, rec)
		}
		if a.session(id) != nil {
			t.Errorf("%s: the agent was asked for it", name)
		}
	}
	a.version = "3.0.100.0"
	_, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Port: 80, Idle: time.Minute})
	if code, text := s.converse(cfg).wait(); code != -1 || text != "the session could not be started" {
		t.Errorf("got %d and %q of an agent that does not multiplex", code, text)
	}
}
