package mgs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/delivery"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/sessions"
	"github.com/ichiro-metal/ichiro/runcmd/mgs"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	vpc      = cloud.VPCID("vpc-0123456789abcdef0")
	mine     = cloud.InstanceID("i-00000000000000001")
	neighbor = cloud.InstanceID("i-00000000000000002")
	name     = "ssmmessages.local.ichiro.internal"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a gateway with two instances; the test is the guest at 127.0.0.1, and may speak as either kind of agent.
type site struct {
	t      *testing.T
	root   bundle.Root
	stock  string // address
	ours   string // URL
	client *http.Client
	trust  *tls.Config
	n      int

	records string // directory
	hub     *sessions.Hub
	api     string // URL of what the API and the host's door are for clients
	specs   sync.Map
}

func newSite(t *testing.T) *site {
	s := &site{t: t, root: bundle.Root(t.TempDir()), records: t.TempDir()}
	for id, addr := range map[cloud.InstanceID]string{mine: "127.0.0.1", neighbor: "127.0.0.2"} {
		dir := s.root.Instance(id)
		check(t, os.MkdirAll(string(dir), 0o755))
		check(t, dir.MakeCommands(os.Getgid()))
		check(t, bundle.Write(dir.Path("metadata.json"), bundle.Metadata{
			Instance:   id,
			Interfaces: []bundle.MetadataInterface{{VPC: vpc, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}},
		}, 0o644))
	}
	index := bundle.NewIndex(s.root)
	log := slog.New(slog.DiscardHandler)
	g := delivery.New(s.root, index, delivery.Limits{Output: 1 << 20, Quota: 1 << 22, Quiet: time.Hour, Patience: time.Hour}, log)
	a, err := mgs.LoadAuthority(t.TempDir())
	check(t, err)
	g.Authority(a)
	s.hub = sessions.New(sessions.Config{Dir: s.records, Limit: 1 << 20, Quota: 1 << 24, Guests: g, Log: log})
	stock := mgs.New(mgs.Config{
		Find: index, TLS: a.TLS(), Log: log, Session: s.hub.Join,
		Join: func(id cloud.InstanceID, c *mgs.Channel, addr netip.Addr) { g.Join(id, c, addr) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ours, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	theirs, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s.ours, s.stock = ours.Addr().String(), theirs.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(ctx) })
	wg.Go(func() { s.hub.Run(ctx) })
	s.serveClients()
	<-g.Ready()
	wg.Go(func() { g.Serve(vpc, ours) })
	wg.Go(func() { stock.Serve(vpc, delivery.Bound(theirs, 24)) })
	t.Cleanup(func() {
		cancel()
		stock.Close()
		ours.Close()
		theirs.Close()
		wg.Wait()
		index.Close()
	})
	s.learnToTrust()
	return s
}

// learnToTrust fetches the certificate as a guest does.
func (s *site) learnToTrust() {
	s.t.Helper()
	resp, err := http.Get("http://" + s.ours + delivery.AuthorityPath)
	check(s.t, err)
	defer resp.Body.Close()
	pem, err := io.ReadAll(resp.Body)
	check(s.t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		s.t.Fatalf("got %q, want a certificate", pem)
	}
	s.trust = &tls.Config{RootCAs: pool, ServerName: name}
	transport := &http.Transport{TLSClientConfig: s.trust}
	s.t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport}
}

// put asks for a command with so many steps.
func (s *site) put(steps ...cloud.Step) cloud.CommandID {
	s.t.Helper()
	s.n++
	id := cloud.CommandID(fmt.Sprintf("00000000-0000-0000-0000-%012d", s.n))
	if len(steps) == 0 {
		steps = []cloud.Step{{Name: "a", Action: "aws:runShellScript", Script: "true", TimeoutSeconds: 60}}
	}
	s.wish(cloud.CommandWish{Command: id, Instance: mine, Steps: steps, DeliverBy: time.Now().Add(time.Hour)})
	return id
}

func (s *site) wish(w cloud.CommandWish) {
	s.t.Helper()
	check(s.t, s.root.Instance(mine).PutCommand(bundle.CommandRequest{CommandWish: w}))
}

// seen waits until a command is in a state.
func (s *site) seen(id cloud.CommandID, want cloud.InvocationStatus) cloud.Invocation {
	s.t.Helper()
	w, err := bundle.NewWatcher(string(s.root), 4)
	check(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	go w.Run(ctx)
	for {
		inv, err := s.root.Instance(mine).Invocation(id)
		if err == nil && inv.Status == want {
			return inv
		}
		if err == nil && inv.Status.Terminal() {
			s.t.Fatalf("got %+v, want %s", inv, want)
		}
		select {
		case <-w.C():
		case <-ctx.Done():
			s.t.Fatalf("got %+v, %v, want %s", inv, err, want)
		}
	}
}

func (s *site) output(id cloud.CommandID, stream string) string {
	b, _ := os.ReadFile(s.root.Instance(mine).CommandOutput(id, stream))
	return string(b)
}

// call calls an action.
func (s *site) call(target, body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), "POST", "https://"+s.stock+"/", strings.NewReader(body))
	check(s.t, err)
	r.Header.Set("X-Amz-Target", target)
	resp, err := s.client.Do(r)
	check(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(s.t, err)
	return resp.StatusCode, string(b)
}

// token asks for a control channel.
func (s *site) token(id cloud.InstanceID) (int, string) {
	s.t.Helper()
	resp, err := s.client.Post("https://"+s.stock+"/v1/control-channel/"+string(id), "application/json", strings.NewReader(`{"MessageSchemaVersion":"1.0","RequestId":"x"}`))
	check(s.t, err)
	defer resp.Body.Close()
	var out struct{ TokenValue string }
	xml.NewDecoder(resp.Body).Decode(&out)
	return resp.StatusCode, out.TokenValue
}

// agent is a stock agent's side of a control channel.
type agent struct {
	t  *testing.T
	ws *websocket.Conn
}

// dial opens a control channel with a token.
func (s *site) dial(token string) *agent {
	s.t.Helper()
	d := websocket.Dialer{TLSClientConfig: s.trust}
	ws, _, err := d.Dial("wss://"+s.stock+"/v1/control-channel/"+string(mine)+"?role=subscribe&stream=input", nil)
	check(s.t, err)
	s.t.Cleanup(func() { ws.Close() })
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	first, _ := json.Marshal(map[string]any{"Cookie": nil, "MessageSchemaVersion": "1.0", "RequestId": "y", "TokenValue": token, "AgentVersion": "3.3.0.0", "PlatformType": "linux"})
	check(s.t, ws.WriteMessage(websocket.TextMessage, first))
	return &agent{s.t, ws}
}

func (s *site) agent() *agent {
	s.t.Helper()
	status, token := s.token(mine)
	if status != http.StatusCreated || token == "" {
		s.t.Fatalf("got %d and token %q", status, token)
	}
	return s.dial(token)
}

// job is one that the agent was given.
type job struct {
	Content, JobID, Topic string
}

// receive returns the next message.
func (a *agent) receive() frame.Message {
	a.t.Helper()
	_, b, err := a.ws.ReadMessage()
	check(a.t, err)
	m, err := frame.Decode(bytes.Clone(b))
	check(a.t, err)
	return m
}

// job returns the next message, which is to be a job.
func (a *agent) job() job {
	a.t.Helper()
	m := a.receive()
	if m.Type != frame.Job {
		a.t.Fatalf("got %s %s, want a job", m.Type, m.Payload)
	}
	var j job
	check(a.t, json.Unmarshal(m.Payload, &j))
	return j
}

// closed waits for the end of the channel.
func (a *agent) closed() {
	a.t.Helper()
	for {
		if _, _, err := a.ws.ReadMessage(); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				a.t.Fatal("the channel stays open")
			}
			return
		}
	}
}

// send sends a payload and returns the ID of its message.
func (a *agent) send(kind string, payload any) string {
	a.t.Helper()
	body, err := json.Marshal(payload)
	check(a.t, err)
	m := frame.Message{Type: kind, Created: time.Now(), Payload: body}
	rand.Read(m.ID[:])
	b, err := frame.Append(nil, &m)
	check(a.t, err)
	check(a.t, a.ws.WriteMessage(websocket.BinaryMessage, b))
	return m.ID.String()
}

func (a *agent) ack(jobID string, code int, message string) {
	a.send(frame.JobAck, map[string]any{"jobId": jobID, "acknowledgedMessageId": "z", "statusCode": code, "errorMessage": message})
}

// step is what a reply says of one.
func step(status string, code int, stdout, stderr string) map[string]any {
	return map[string]any{
		"status": status, "code": code, "name": "aws:runShellScript", "standardOutput": stdout, "standardError": stderr,
		"startDateTime": "2026-11-29T08:00:00.000Z", "endDateTime": "2026-11-29T08:00:01.500Z",
	}
}

func (a *agent) reply(jobID, status string, counts map[string]int, steps map[string]any) string {
	content, err := json.Marshal(map[string]any{
		"additionalInfo": map[string]any{"dateTime": "2026-11-29T08:00:02.000Z", "runtimeStatusCounts": counts},
		"documentStatus": status, "documentTraceOutput": "", "runtimeStatus": steps,
	})
	check(a.t, err)
	return a.send(frame.JobReply, map[string]any{"schemaVersion": 1, "jobId": jobID, "content": string(content), "topic": "aws.ssm.sendCommand"})
}

// acknowledged waits until a reply is acknowledged.
func (a *agent) acknowledged(message string) {
	a.t.Helper()
	for {
		m := a.receive()
		var in struct {
			ID string `json:"acknowledgedMessageId"`
		}
		check(a.t, json.Unmarshal(m.Payload, &in))
		if m.Type == frame.JobReplyAck && in.ID == message {
			return
		}
	}
}

// ourAgent connects as our own agent does.
func (s *site) ourAgent() *wire.Conn {
	s.t.Helper()
	c, err := wire.Dial(s.t.Context(), "ws://"+s.ours+wire.Path)
	check(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	check(s.t, c.Send(&wire.Hello{Version: wire.Version, Boot: "boot", Agent: "ours"}))
	_, err = c.Receive() // Welcome
	check(s.t, err)
	return c
}

// as connects as an instance whose address another dialer has.
func (s *site) as(web *http.Client, from *net.Dialer, id cloud.InstanceID) *agent {
	s.t.Helper()
	resp, err := web.Post("https://"+s.stock+"/v1/control-channel/"+string(id), "application/json", strings.NewReader("{}"))
	check(s.t, err)
	defer resp.Body.Close()
	var out struct{ TokenValue string }
	check(s.t, xml.NewDecoder(resp.Body).Decode(&out))
	d := websocket.Dialer{TLSClientConfig: s.trust, NetDialContext: from.DialContext}
	ws, _, err := d.Dial("wss://"+s.stock+"/v1/control-channel/"+string(id)+"?role=subscribe&stream=input", nil)
	check(s.t, err)
	s.t.Cleanup(func() { ws.Close() })
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	first, _ := json.Marshal(map[string]any{"MessageSchemaVersion": "1.0", "TokenValue": out.TokenValue, "AgentVersion": "3.3.0.0", "PlatformType": "linux"})
	check(s.t, ws.WriteMessage(websocket.TextMessage, first))
	return &agent{s.t, ws}
}
