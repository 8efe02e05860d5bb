package mgs_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

// hush has the agent start no sessions, or start them again.
func (a *stock) hush(mute bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mute = mute
}

// opened is a session whose agent the test plays byte by byte.
func (s *site) opened(a *stock, plan cloud.SessionPlan) (id string, c *talk, ws *websocket.Conn) {
	s.t.Helper()
	a.hush(true)
	id, cfg := s.begin(plan)
	c = s.converse(cfg)
	s.await("the session is the guest's", func() bool {
		status, _, err := s.dataToken(id)
		return err == nil && status == http.StatusCreated
	})
	return id, c, s.data(id)
}

// data opens a data channel for a session.
func (s *site) data(id string) *websocket.Conn {
	s.t.Helper()
	_, token, err := s.dataToken(id)
	check(s.t, err)
	ws, err := s.dataChannel(id, token, string(mine))
	check(s.t, err)
	s.t.Cleanup(func() { ws.Close() })
	return ws
}

// message is an output, or whatever kind says.
func message(kind string, seq int64, t frame.PayloadType, payload []byte) []byte {
	m := frame.Message{Type: kind, Created: time.Now(), Sequence: seq, PayloadType: t, Payload: payload}
	rand.Read(m.ID[:])
	b, err := frame.Append(nil, &m)
	if err != nil {
		panic(err)
	}
	return b
}

// refused reports whether the gateway hangs up, rather than that nothing more comes.
func refused(ws *websocket.Conn) bool {
	ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			var late net.Error
			return !(errors.As(err, &late) && late.Timeout())
		}
	}
}

// greet shakes hands: the two outputs of it are 0 and 1.
func greet(t testing.TB, ws *websocket.Conn) {
	t.Helper()
	request, _ := json.Marshal(map[string]any{"AgentVersion": "3.3.1.0", "RequestedClientActions": []any{map[string]any{
		"ActionType": "SessionType", "ActionParameters": map[string]any{"SessionType": "Standard_Stream"},
	}}})
	check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, 0, frame.HandshakeRequest, request)))
	check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, 1, frame.HandshakeComplete, []byte("{}"))))
}

func TestAHostileGuestLosesItsDataChannel(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, c, ws := s.opened(a, cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	greet(t, ws)
	bent := message(frame.Output, 2, frame.Data, []byte("bent"))
	bent[len(bent)-1]++
	long := message(frame.Output, 2, frame.Data, make([]byte, 300<<10))
	for name, b := range map[string][]byte{
		"a digest of something else":              bent,
		"a message of 300 KB":                     long,
		"a message that is cut short":             bent[:100],
		"nothing":                                 {},
		"an input":                                message(frame.Input, 2, frame.Data, []byte("x")),
		"a message of the control channel":        message(frame.Job, 2, frame.Data, []byte("{}")),
		"an acknowledgement of what was not sent": message(frame.Acknowledge, 0, 0, []byte(`{"AcknowledgedMessageSequenceNumber":99}`)),
		"an acknowledgement that is not JSON":     message(frame.Acknowledge, 0, 0, []byte(`{`)),
	} {
		ws := s.data(id)
		ws.WriteMessage(websocket.BinaryMessage, b)
		if !refused(ws) {
			t.Errorf("%s: the channel stays open", name)
		}
	}
	text := s.data(id)
	text.WriteMessage(websocket.TextMessage, []byte("{}"))
	if !refused(text) {
		t.Error("a text: the channel stays open")
	}
	// The session is not harmed: what comes too early waits for its turn, what comes again or from nowhere does nothing.
	ws = s.data(id)
	for _, seq := range []int64{0, 1, 3, 1 << 62, 2, 2, 4} {
		check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, seq, frame.Data, []byte{'0' + byte(seq&7)})))
	}
	check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, 3, frame.Data, []byte("three"))))
	check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, 5, frame.Data, []byte("."))))
	c.await("234.")
	if got := c.said(); got != "234." {
		t.Errorf("the client saw %q", got)
	}
}

func TestAGuestOpensOnlyTheSessionsThatWereOrderedOfIt(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, _, first := s.opened(a, cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	other, _, _ := s.opened(a, cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	_, good, err := s.dataToken(id)
	check(t, err)
	_, others, err := s.dataToken(other)
	check(t, err)
	for name, c := range map[string]struct{ token, instance string }{
		"no token":                       {"", string(mine)},
		"a guess":                        {"AAAAAAAAAAAAAAAAAAAAAAAAAA", string(mine)},
		"the token of another session":   {others, string(mine)},
		"the claim of another instance":  {good, string(neighbor)},
		"the token of a control channel": {func() string { _, token := s.token(mine); return token }(), string(mine)},
	} {
		ws, err := s.dataChannel(id, c.token, c.instance)
		check(t, err)
		if !refused(ws) {
			t.Errorf("%s opened a data channel", name)
		}
		ws.Close()
	}
	again, err := s.dataChannel(id, good, string(mine))
	check(t, err)
	defer again.Close()
	if !refused(first) {
		t.Error("the channel before was not closed")
	}
	twice, err := s.dataChannel(id, good, string(mine))
	check(t, err)
	if !refused(twice) {
		t.Error("a token opened two channels")
	}
	var tokens []string
	for range 10 {
		_, token, err := s.dataToken(id)
		check(t, err)
		tokens = append(tokens, token)
	}
	old, err := s.dataChannel(id, tokens[0], string(mine))
	check(t, err)
	if !refused(old) {
		t.Error("tokens are kept without bound")
	}

	// The neighbor knows the session's ID and a token of it.
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: s.trust, DialContext: from.DialContext, DisableKeepAlives: true}}
	resp, err := web.Post("https://"+s.stock+"/v1/data-channel/"+id, "application/json", strings.NewReader("{}"))
	check(t, err)
	if resp.Body.Close(); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the neighbor was answered %s", resp.Status)
	}
	d := websocket.Dialer{TLSClientConfig: s.trust, NetDialContext: from.DialContext}
	if ws, _, err := d.Dial("wss://"+s.stock+"/v1/data-channel/"+id, nil); err == nil {
		ws.Close()
		t.Error("the neighbor has a data channel")
	}

	// Nor is there anything to be had by names that are none.
	for _, name := range []string{"tester-99", "..", "a%2fb", "%00", strings.Repeat("x", 200)} {
		if status, _, err := s.dataToken(name); err == nil && status == http.StatusCreated {
			t.Errorf("there is a token for %q", name)
		}
	}
	s.await("the agent is told that there is no such session", func() bool { return a.count(a.dismiss, "tester-99") == 1 })
}

func TestAnEndThatANeighborTellsIsNotHeard(t *testing.T) {
	s := newSite(t)
	a := s.stockAgent()
	id, c, ws := s.opened(a, cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	greet(t, ws)
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: s.trust, DialContext: from.DialContext, DisableKeepAlives: true}}
	n := s.as(web, from, neighbor)
	n.send(frame.TaskComplete, map[string]any{"SchemaVersion": 1, "TaskId": id, "Topic": "agent_task_complete", "FinalTaskStatus": "Success"})
	if m := n.receive(); m.Type != frame.TaskCompleted { // so it was dealt with
		t.Fatalf("got %s", m.Type)
	}
	check(t, ws.WriteMessage(websocket.BinaryMessage, message(frame.Output, 2, frame.Data, []byte("still here"))))
	c.await("still here")
	n.send(frame.TaskComplete, map[string]any{"TaskId": "../../x"})
	n.closed()
}

// A guest that sends on and on while nobody reads is stopped: what is held of it is a few windows, and others are served.
func TestAFloodIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.stockAgent()
	const most = 24 << 20 // windows of both streams and the channel, and what the kernel keeps of a socket
	for name, f := range map[string]func(seq int64) []byte{
		"of outputs":       func(seq int64) []byte { return message(frame.Output, seq, frame.Data, make([]byte, 100<<10)) },
		"of empty outputs": func(seq int64) []byte { return message(frame.Output, seq, frame.Data, nil) },
		"of repetitions":   func(int64) []byte { return message(frame.Output, 1, frame.Data, nil) },
	} {
		_, c, ws := s.opened(a, cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
		c.stop() // its client is away
		greet(t, ws)
		sent := 0
		for seq := int64(2); sent <= most; seq++ {
			ws.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			b := f(seq)
			if ws.WriteMessage(websocket.BinaryMessage, b) != nil {
				break
			}
			sent += len(b)
		}
		if sent > most {
			t.Errorf("a flood %s: %d MB were taken", name, sent>>20)
		}
	}
	a.hush(false)
	_, cfg := s.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "echo served", Idle: time.Minute})
	c := s.converse(cfg)
	c.wait()
	if c.said() != "served\n" {
		t.Errorf("another session got %q", c.said())
	}
}
