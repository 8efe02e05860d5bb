package mgs_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/mux"
)

// What is here plays the stock agent's part of sessions as far as it was measured: it shares nothing with the gateway's side
// but the form of a message. It keeps what is not acknowledged and repeats the oldest of it, sends 1 KB at a time without
// regard to any window, asks for a new token when its connection broke, tells the end until that is acknowledged, and runs
// real shells on real terminals, real commands and real connections.

// stock is such an agent.
type stock struct {
	*agent
	site *site
	one  sync.Mutex // writes to the control channel

	mu       sync.Mutex
	sessions map[string]*stockSession
	acked    map[string]int // agent_task_acknowledge by session
	dismiss  map[string]int // channel_closed on the control channel
	change   chan struct{}
	mute     bool   // it starts nothing
	version  string // that it tells
}

// interactive is the payload of an interactive_shell.
type interactive struct{ Content, TaskId, Topic string }

// asked is what it contains.
type asked struct {
	SessionId       string
	RunAsUser       string
	DocumentContent struct {
		SessionType string `json:"sessionType"`
		Inputs      struct {
			RunAs   bool   `json:"runAsEnabled"`
			RunUser string `json:"runAsDefaultUser"`
			Profile struct {
				Linux string `json:"linux"`
			} `json:"shellProfile"`
		} `json:"inputs"`
		Properties struct {
			Linux struct {
				Commands string `json:"commands"`
			} `json:"linux"`
			PortNumber string `json:"portNumber"`
			Host       string `json:"host"`
			Type       string `json:"type"`
		} `json:"properties"`
	}
}

// stockAgent connects one.
func (s *site) stockAgent() *stock {
	s.t.Helper()
	a := &stock{
		agent: s.agent(), site: s, sessions: map[string]*stockSession{}, acked: map[string]int{}, dismiss: map[string]int{},
		change: make(chan struct{}), version: "3.3.1.0",
	}
	done := make(chan struct{})
	go func() { defer close(done); a.listen() }()
	s.t.Cleanup(func() {
		a.ws.Close()
		<-done
		a.mu.Lock()
		all := make([]*stockSession, 0, len(a.sessions))
		for _, x := range a.sessions {
			all = append(all, x)
		}
		a.mu.Unlock()
		for _, x := range all {
			x.stop()
			<-x.ended
		}
	})
	s.await("the control channel is the instance's", func() bool {
		p, err := s.root.Instance(mine).Agent()
		return err == nil && p.Connected
	})
	return a
}

// await waits for what changes on disk or elsewhere.
func (s *site) await(what string, f func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !f(); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("in vain: %s", what)
		}
	}
}

func (a *stock) listen() {
	a.ws.SetReadDeadline(time.Time{})
	for {
		_, b, err := a.ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := frame.Decode(b)
		if err != nil {
			a.t.Errorf("the control channel sent %q: %v", b, err)
			return
		}
		var in struct {
			interactive
			SessionId string
		}
		json.Unmarshal(m.Payload, &in)
		a.mu.Lock()
		switch m.Type {
		case frame.Shell:
			if !a.mute && a.sessions[in.TaskId] == nil {
				a.start(in.interactive)
			}
		case frame.TaskCompleted:
			a.acked[in.TaskId]++
		case frame.Closed:
			a.dismiss[in.SessionId]++
			if x := a.sessions[in.SessionId]; x != nil {
				x.stop()
			}
		}
		close(a.change)
		a.change = make(chan struct{})
		a.mu.Unlock()
	}
}

// count returns one of the counters of a session.
func (a *stock) count(of map[string]int, id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return of[id]
}

func (a *stock) session(id string) *stockSession {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[id]
}

// start starts a session. mu is held.
func (a *stock) start(t interactive) {
	x := &stockSession{a: a, id: t.TaskId, quit: make(chan struct{}), ended: make(chan struct{}), shaken: make(chan struct{}), held: map[int64]frame.Message{}}
	x.input, x.typed = io.Pipe()
	if err := json.Unmarshal([]byte(t.Content), &x.asked); err != nil || t.Topic != "aws.ssm.startSession" {
		a.t.Errorf("the agent cannot read %+v: %v", t, err)
		close(x.ended)
		return
	}
	a.sessions[t.TaskId] = x
	go x.run()
}

// complete tells the end of a session until that is acknowledged.
func (a *stock) complete(id, status, output string) {
	for range 3 {
		body, _ := json.Marshal(map[string]any{
			"SchemaVersion": 1, "TaskId": id, "Topic": "agent_task_complete", "FinalTaskStatus": status, "IsRoutingFailure": false, "Output": output,
		})
		m := frame.Message{Type: frame.TaskComplete, Created: time.Now(), Payload: body}
		rand.Read(m.ID[:])
		b, _ := frame.Append(nil, &m)
		a.one.Lock()
		err := a.ws.WriteMessage(websocket.BinaryMessage, b)
		a.one.Unlock()
		if err != nil {
			return
		}
		again := time.After(time.Second)
		for waiting := true; waiting; {
			a.mu.Lock()
			change, acked := a.change, a.acked[id] > 0
			a.mu.Unlock()
			if acked {
				return
			}
			select {
			case <-change:
			case <-again:
				waiting = false
			}
		}
	}
}

// stockSession is one session of it.
type stockSession struct {
	a     *stock
	id    string
	asked asked
	once  sync.Once
	quit  chan struct{} // the service wants the end
	ended chan struct{}

	mu       sync.Mutex
	ws       *websocket.Conn
	next     int64
	unacked  []unacked
	expect   int64
	held     map[int64]frame.Message // out of order
	shaken   chan struct{}
	answered bool
	input    *io.PipeReader
	typed    *io.PipeWriter
	master   *os.File // of the terminal
	size     *unix.Winsize
	told     bool // channel_closed came on the data channel
	dials    int
}

type unacked struct {
	seq   int64
	bytes []byte
	at    time.Time
}

func (x *stockSession) stop() {
	x.once.Do(func() { close(x.quit) })
}

// token asks for a data channel.
func (s *site) dataToken(id string) (int, string, error) {
	resp, err := s.client.Post("https://"+s.stock+"/v1/data-channel/"+id, "application/json", strings.NewReader(`{"MessageSchemaVersion":"1.0","RequestId":"x","ClientId":""}`))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var out struct{ TokenValue string }
	xml.NewDecoder(resp.Body).Decode(&out)
	return resp.StatusCode, out.TokenValue, nil
}

// dataChannel opens one with a token.
func (s *site) dataChannel(id, token, instance string) (*websocket.Conn, error) {
	d := websocket.Dialer{TLSClientConfig: s.trust}
	ws, resp, err := d.Dial("wss://"+s.stock+"/v1/data-channel/"+id+"?role=publish_subscribe", nil)
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%s", resp.Status)
		}
		return nil, err
	}
	first, _ := json.Marshal(map[string]any{"MessageSchemaVersion": "1.0", "RequestId": "y", "TokenValue": token, "ClientInstanceId": instance, "ClientId": ""})
	return ws, ws.WriteMessage(websocket.TextMessage, first)
}

func (x *stockSession) connect() error {
	status, token, err := x.a.site.dataToken(x.id)
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("status %d, %v", status, err)
	}
	ws, err := x.a.site.dataChannel(x.id, token, string(mine))
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.ws = ws
	x.dials++
	x.mu.Unlock()
	return nil
}

// converse keeps the data channel.
func (x *stockSession) converse(first chan<- error) {
	for try := 0; try < 5; try++ {
		if err := x.connect(); err != nil {
			if first != nil {
				first <- err
				return
			}
			select {
			case <-time.After(100 * time.Millisecond << try):
			case <-x.quit:
				return
			}
			continue
		}
		try = 0
		if first != nil {
			first <- nil
			first = nil
		}
		for !x.quits() && x.read() { // stop comes before cut: one of them is seen
		}
		if x.quits() {
			x.cut()
			return
		}
	}
	x.stop()
}

// quits reports whether the session is to end.
func (x *stockSession) quits() bool {
	select {
	case <-x.quit:
		return true
	default:
		return false
	}
}

// read takes one message.
func (x *stockSession) read() bool {
	_, b, err := x.ws.ReadMessage()
	if err != nil {
		return false
	}
	m, err := frame.Decode(b)
	if err != nil {
		x.a.t.Errorf("the data channel sent %q: %v", b, err)
		return false
	}
	switch m.Type {
	case frame.Acknowledge:
		var in struct{ AcknowledgedMessageSequenceNumber int64 }
		json.Unmarshal(m.Payload, &in)
		x.mu.Lock()
		for n, u := range x.unacked {
			if u.seq == in.AcknowledgedMessageSequenceNumber {
				x.unacked = append(x.unacked[:n:n], x.unacked[n+1:]...)
				break
			}
		}
		x.mu.Unlock()
	case frame.Input:
		x.take(m)
	case frame.Closed:
		x.mu.Lock()
		x.told = true
		x.mu.Unlock()
		x.stop()
	}
	return true
}

// take acknowledges an input and deals with those that are next.
func (x *stockSession) take(m frame.Message) {
	ack, _ := json.Marshal(map[string]any{
		"AcknowledgedMessageType": m.Type, "AcknowledgedMessageId": m.ID.String(), "AcknowledgedMessageSequenceNumber": m.Sequence, "IsSequentialMessage": true,
	})
	x.write(frame.Message{Type: frame.Acknowledge, Created: time.Now(), Flags: 3, Payload: ack})
	if m.Sequence >= x.expect {
		x.held[m.Sequence] = m
	}
	for {
		m, ok := x.held[x.expect]
		if !ok {
			return
		}
		delete(x.held, x.expect)
		x.expect++
		switch m.PayloadType {
		case frame.HandshakeResponse:
			var in struct {
				ClientVersion          string
				ProcessedClientActions []struct {
					ActionType   string
					ActionStatus int
				}
			}
			if err := json.Unmarshal(m.Payload, &in); err != nil || in.ClientVersion == "" || len(in.ProcessedClientActions) != 1 || in.ProcessedClientActions[0].ActionStatus != 1 {
				x.a.t.Errorf("the handshake was answered with %s", m.Payload)
			}
			if !x.answered {
				x.answered = true
				close(x.shaken)
			}
		case frame.Data:
			x.typed.Write(m.Payload)
		case frame.Size:
			var size struct{ Cols, Rows uint16 }
			json.Unmarshal(m.Payload, &size)
			x.mu.Lock()
			x.size = &unix.Winsize{Col: size.Cols, Row: size.Rows}
			if x.master != nil {
				unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, x.size)
			}
			x.mu.Unlock()
		case frame.Flag:
			if bytes.Equal(m.Payload, []byte{0, 0, 0, 2}) {
				x.stop()
			}
		}
	}
}

func (x *stockSession) write(m frame.Message) {
	rand.Read(m.ID[:])
	b, err := frame.Append(nil, &m)
	if err != nil {
		x.a.t.Error(err)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if m.Type == frame.Output {
		x.unacked = append(x.unacked, unacked{m.Sequence, b, time.Now()})
	}
	x.ws.WriteMessage(websocket.BinaryMessage, b) // it is repeated
}

// say sends an output.
func (x *stockSession) say(t frame.PayloadType, p []byte) {
	for len(p) > 0 {
		n := min(len(p), 1024)
		x.mu.Lock()
		m := frame.Message{Type: frame.Output, Created: time.Now(), Sequence: x.next, PayloadType: t, Payload: p[:n]}
		if x.next == 0 {
			m.Flags = frame.SYN
		}
		x.next++
		x.mu.Unlock()
		x.write(m)
		p = p[n:]
	}
}

// repeat sends the oldest output again that is not acknowledged.
func (x *stockSession) repeat() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-x.ended:
			return
		case now := <-tick.C:
			x.mu.Lock()
			if len(x.unacked) > 0 && now.Sub(x.unacked[0].at) > 200*time.Millisecond {
				x.ws.WriteMessage(websocket.BinaryMessage, x.unacked[0].bytes)
			}
			x.mu.Unlock()
		}
	}
}

// Write is for what the session shows.
func (x *stockSession) Write(p []byte) (int, error) {
	x.say(frame.Data, p)
	return len(p), nil
}

// dialled is how often it had a data channel.
func (x *stockSession) dialled() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.dials
}

// cut breaks the data channel.
func (x *stockSession) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ws.Close()
}

func (x *stockSession) run() {
	defer close(x.ended)
	first := make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() { x.converse(first) })
	defer reading.Wait()
	if err := <-first; err != nil {
		return
	}
	go x.repeat()
	defer func() { x.stop(); x.cut(); x.input.Close() }()
	request, _ := json.Marshal(map[string]any{"AgentVersion": x.a.version, "RequestedClientActions": []any{map[string]any{
		"ActionType": "SessionType", "ActionParameters": map[string]any{"SessionType": x.asked.DocumentContent.SessionType, "Properties": nil},
	}}})
	x.say(frame.HandshakeRequest, request)
	select {
	case <-x.shaken:
	case <-x.quit:
		return
	}
	x.say(frame.HandshakeComplete, []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":""}`))
	switch d := x.asked.DocumentContent; d.SessionType {
	case "Standard_Stream":
		x.terminal(d.Inputs.Profile.Linux, exec.Command("/bin/sh"))
	case "InteractiveCommands":
		x.terminal("", exec.Command("/bin/sh", "-c", d.Properties.Linux.Commands))
	case "NonInteractiveCommands":
		code := x.batch(d.Properties.Linux.Commands)
		x.say(frame.ExitCode, []byte(strconv.Itoa(code)))
	case "Port":
		x.port("127.0.0.1:" + d.Properties.PortNumber) // all hosts are here
	}
	x.a.complete(x.id, "Success", "")
}

// terminal runs a command on one.
func (x *stockSession) terminal(profile string, cmd *exec.Cmd) int {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		x.a.t.Error(err)
		return -1
	}
	defer master.Close()
	unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		x.a.t.Error(err)
		return -1
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		x.a.t.Error(err)
		return -1
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm", "PS1=$ ", "ENV="}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	x.mu.Lock()
	x.master = master
	if x.size != nil { // it came before the terminal
		unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, x.size)
	}
	x.mu.Unlock()
	err = cmd.Start()
	slave.Close()
	if err != nil {
		x.a.t.Error(err)
		return -1
	}
	go func() {
		<-x.quit
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}()
	if profile != "" {
		io.WriteString(master, profile+"\n")
	}
	go io.Copy(master, x.input)
	shown := make(chan struct{})
	go func() { defer close(shown); io.Copy(x, master) }()
	cmd.Wait()
	<-shown
	x.mu.Lock()
	x.master = nil
	x.mu.Unlock()
	return cmd.ProcessState.ExitCode()
}

// batch runs a command with outputs apart.
func (x *stockSession) batch(script string) int {
	cmd := exec.Command("/bin/sh", "-c", script)
	stdout, _ := cmd.StdoutPipe()
	stderr, _ := cmd.StderrPipe()
	if err := cmd.Start(); err != nil {
		x.a.t.Error(err)
		return -1
	}
	errs := make(chan []byte)
	go func() { b, _ := io.ReadAll(stderr); errs <- b }()
	io.Copy(x, stdout)
	x.say(frame.Stderr, <-errs)
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// port forwards connections.
func (x *stockSession) port(address string) {
	all, err := mux.Server(struct {
		io.Reader
		io.Writer
		io.Closer
	}{x.input, x, io.NopCloser(nil)})
	if err != nil {
		x.a.t.Error(err)
		return
	}
	defer all.Close()
	go func() { <-x.quit; x.typed.Close(); all.Close() }()
	for {
		in, err := all.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", address)
			if err != nil {
				return
			}
			defer out.Close()
			go func() { io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }()
			io.Copy(in, out)
		}()
	}
}
