package sessions

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/channel"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// agentVersion is what clients are told: the plugin multiplexes ports for agents from 3.0.196 on, and leaves smux's
	// keepalive off from 3.1.1511 on.
	agentVersion = "3.3.0.0"
	// summonEvery and summonFor are for the guest's agent to dial.
	summonEvery = time.Second
	summonFor   = 60 * time.Second
	// linger is how long a session that has ended waits for its client to take what it said last.
	linger = 2 * time.Minute
	// obey is how long a guest may take to end a session.
	obey = 10 * time.Second
	// screen is what is kept for a client that begins anew in a session that goes on.
	screen = 64 << 10
	// shakeWait is how long a client may take to answer the handshake. One that goes on where it was with the gateway before this
	// one never does.
	shakeWait = 10 * time.Second
)

// session is one session of this host.
type session struct {
	hub    *Hub
	spec   cloud.Session
	known  time.Time // since when it is, here
	nonce  string
	stream *stream.Stream
	rec    *recorder // nil for ports

	mu       sync.Mutex
	change   sync.Cond
	end      *channel.End // nil before the first client
	client   string       // its ID
	ours     bool         // it is ichiro's own, which takes an exit code
	answered bool         // it has answered the handshake
	ready    bool         // the handshake is over
	conn     *wire.ClientConn
	wake     chan struct{} // of conn's writer
	inbox    []*channel.Piece
	token    string // hash of the one that opened the channel last, for client
	away     time.Time
	guests   int       // websockets of the guest
	met      bool      // the guest has come once
	orphan   bool      // it came first to a gateway before this one
	seen     time.Time // when it was last here
	ending   string    // why it is to end; "" while it may go on
	asked    time.Time // when it was
	history  []byte
	in, out  int64
	excuse   string // of a port, in the guest's words: why there is none
	finished bool
}

func newSession(h *Hub, spec cloud.Session) (*session, error) {
	now := time.Now()
	s := &session{hub: h, spec: spec, known: now, nonce: random(), stream: stream.New(nil), away: now, seen: now}
	s.change.L = &s.mu
	if _, err := os.Stat(s.mark()); err == nil {
		s.met, s.orphan = true, true
	}
	if spec.Plan.Kind != cloud.SessionPort {
		var err error
		if s.rec, err = newRecorder(filepath.Join(h.cfg.Dir, string(spec.ID)+".cast"), spec, h.cfg.Limit); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// tokenMatches reports whether a token is the session's.
func tokenMatches(spec cloud.Session, token string, now time.Time) bool {
	sum := sha256.Sum256([]byte(token))
	return spec.Token != "" && now.Before(spec.TokenExpires) && same(hex.EncodeToString(sum[:]), spec.Token)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func newEnd() *channel.End { return channel.New(channel.Host, newID) }

// run does what is between the two, until the session has ended and its client knows.
func (s *session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.tick(ctx) })
	wg.Go(s.feed)
	if kind := s.spec.Plan.Kind; s.orphan && (kind == cloud.SessionPort || kind == cloud.SessionBatch) {
		s.terminate("lost") // the gateway before has taken bytes with it, of what must be whole
	}
	s.pump(ctx)
	if ctx.Err() == nil { // it has ended, not the gateway
		s.finish()
		s.say(ctx)
	}
	s.stream.Acknowledge()
	cancel()
	s.mu.Lock()
	s.finished = true
	if s.conn != nil {
		s.conn.Close()
	}
	s.change.Broadcast()
	s.mu.Unlock()
	s.stream.Close()
	wg.Wait()
	s.hub.forget(s)
}

// tick wakes whoever waits, summons the guest and sees to the bounds of time.
func (s *session) tick(ctx context.Context) {
	s.summon()
	t := time.NewTicker(summonEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.change.Broadcast()
			s.mu.Unlock()
			return
		case now := <-t.C:
			s.mu.Lock()
			missing := s.guests == 0
			lost := missing && now.Sub(s.seen) > summonFor
			old := s.spec.Plan.Longest > 0 && now.Sub(s.known) > s.spec.Plan.Longest+obey // of a guest that does not see to it
			s.change.Broadcast()
			s.mu.Unlock()
			switch {
			case lost:
				s.terminate("lost")
			case old:
				s.terminate("longest")
			case missing:
				s.summon()
			}
		}
	}
}

// mark is a file that is there from when the guest has begun the session until it has ended: the next gateway must not
// have it begun again.
func (s *session) mark() string { return filepath.Join(s.hub.cfg.Dir, string(s.spec.ID)+".open") }

// summon asks the guest's agent to dial.
func (s *session) summon() {
	s.mu.Lock()
	o := &wire.Order{ID: s.spec.ID, Nonce: s.nonce, Plan: s.spec.Plan, Resume: s.met}
	s.mu.Unlock()
	if err := s.hub.cfg.Guests.Order(s.spec.Target, o); err != nil {
		s.hub.cfg.Log.Debug("the guest is not told of its session", "session", s.spec.ID, "err", err)
	}
}

// guest serves the guest's websocket.
func (s *session) guest(ctx context.Context, conn stream.Conn) {
	defer conn.Close()
	s.mu.Lock()
	s.guests++
	first := !s.met
	s.met = true
	s.mu.Unlock()
	if first {
		if err := os.WriteFile(s.mark(), nil, 0o600); err != nil {
			s.hub.cfg.Log.Error("mark a session as begun", "session", s.spec.ID, "err", err)
		}
	}
	if err := s.stream.Serve(ctx, conn); err != nil {
		s.hub.cfg.Log.Debug("the guest's side of a session broke", "session", s.spec.ID, "err", err)
	}
	s.mu.Lock()
	s.guests--
	s.seen = time.Now()
	s.mu.Unlock()
}

// terminate asks the guest to end the session. One that does not obey is not waited for.
func (s *session) terminate(why string) {
	s.mu.Lock()
	if s.ending == "" {
		s.ending, s.asked = why, time.Now()
	}
	s.change.Broadcast()
	s.mu.Unlock()
	s.hub.cfg.Guests.Order(s.spec.Target, &wire.Terminate{ID: s.spec.ID})
	time.AfterFunc(obey, s.stream.Close)
}

// pump takes what the guest says to the record and to the client, until the guest has told its end.
func (s *session) pump(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.stream.Close)
	defer stop()
	for {
		r, err := s.stream.Read()
		if err != nil {
			return
		}
		if s.spec.Plan.Kind == cloud.SessionPort && r.Kind == wire.SessionStderr {
			s.excused(r.Data)
			continue
		}
		s.rec.output(r.Data)
		kind := frame.Data
		if r.Kind == wire.SessionStderr && s.spec.Plan.Kind == cloud.SessionBatch {
			kind = frame.Stderr
		}
		s.mu.Lock()
		for !s.clientReady() && !s.hopeless(ctx) {
			s.change.Wait()
		}
		if s.clientReady() {
			s.end.Send(time.Now(), kind, r.Data)
			s.wakeWriter()
			if !s.clientReady() { // so the client is read from in any case
				s.change.Broadcast()
			}
		}
		s.out += int64(len(r.Data))
		if s.spec.Plan.Kind != cloud.SessionPort {
			s.history = append(s.history, r.Data...)
			if over := len(s.history) - screen; over > screen {
				s.history = append(s.history[:0], s.history[over:]...)
			}
		}
		s.mu.Unlock()
		s.stream.Done(len(r.Data))
	}
}

// excused takes note of what a guest says of a port that it cannot reach: its client's user is told, not whoever uses the port.
func (s *session) excused(text []byte) {
	const most = 256
	word := printable.Word(strings.TrimSpace(strings.TrimPrefix(string(text), "ichiro: ")), most)
	s.mu.Lock()
	s.excuse = word
	s.mu.Unlock()
	s.stream.Done(len(text))
}

// clientReady reports whether something can be sent to the client.
func (s *session) clientReady() bool { return s.ready && s.end.Room() >= channel.MaxData }

// hopeless reports whether nobody need be waited for.
func (s *session) hopeless(ctx context.Context) bool {
	return ctx.Err() != nil || s.ending != "" || s.conn == nil && s.stream.Ended() != nil && time.Since(s.away) > linger
}

// feed takes what the client says to the guest.
func (s *session) feed() {
	for {
		s.mu.Lock()
		for len(s.inbox) == 0 && !s.finished {
			s.change.Wait()
		}
		if s.finished {
			s.mu.Unlock()
			return
		}
		p, end := s.inbox[0], s.end
		s.inbox[0] = nil
		s.inbox = s.inbox[1:]
		s.mu.Unlock()
		if s.take(p) != nil || p.Type == frame.HandshakeResponse && s.reunite() != nil {
			return
		}
		s.mu.Lock()
		var err error
		if end == s.end {
			end.Done(time.Now(), p)
			if p.Type == frame.HandshakeResponse && !s.ready {
				err = s.shaken() // behind the acknowledgement: the plugin of a port must hear nothing after it
			}
			s.wakeWriter()
		}
		s.change.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// reunite waits, in a session that began with a gateway before this one, for the guest: how much of the input it has, only it knows.
func (s *session) reunite() error {
	s.mu.Lock()
	s.answered = true
	wait := s.ours && s.orphan
	s.mu.Unlock()
	if !wait {
		return nil
	}
	return s.stream.Met()
}

// take does what a piece of the client's asks for.
func (s *session) take(p *channel.Piece) error {
	switch p.Type {
	case frame.Data:
		s.mu.Lock()
		s.in += int64(len(p.Data))
		s.mu.Unlock()
		return s.stream.Write(wire.SessionInput, p.Data)
	case frame.Size:
		var size struct{ Cols, Rows uint32 }
		if json.Unmarshal(p.Data, &size) == nil && size.Cols > 0 && size.Rows > 0 && size.Cols < 1<<15 && size.Rows < 1<<15 {
			s.stream.Resize(size.Cols, size.Rows)
			s.mu.Lock()
			s.rec.resize(fmt.Sprintf("%dx%d", size.Cols, size.Rows))
			s.mu.Unlock()
		}
	case frame.Flag:
		switch n, ok := channel.Signal(p.Data); {
		case ok && n == frame.Terminate:
			s.terminate("terminated")
		case ok && n == frame.Disconnect && s.spec.Plan.Kind == cloud.SessionBatch:
			return s.stream.Write(wire.SessionClose, []byte{0})
		}
	}
	return nil
}

// attach serves a client until its connection breaks.
func (s *session) attach(ctx context.Context, conn *wire.ClientConn, who hello, spec cloud.Session) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go conn.Ping(ctx)
	wake, ok := s.join(conn, who, spec)
	if !ok {
		conn.Refuse("the token was used by another client")
		return
	}
	defer time.AfterFunc(shakeWait, func() { s.part(conn) }).Stop()
	var wg sync.WaitGroup
	wg.Go(func() { defer cancel(); s.write(ctx, conn, wake) })
	s.read(conn)
	cancel()
	wg.Wait()
	s.mu.Lock()
	if s.conn == conn {
		s.conn, s.away = nil, time.Now()
	}
	s.change.Broadcast()
	s.mu.Unlock()
}

// part takes leave of a client that does not answer the handshake: it would wait for ever, and the session need not.
func (s *session) part(conn *wire.ClientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn || s.answered {
		return
	}
	s.end.Close(time.Now(), string(s.spec.ID), s.client, "the host's gateway was started again; the session goes on: ichiro shell --resume "+string(s.spec.ID))
	s.wakeWriter()
	time.AfterFunc(obey, func() { conn.Close() })
}

// join makes a connection the session's. The one before, if there is one, is closed.
func (s *session) join(conn *wire.ClientConn, who hello, spec cloud.Session) (chan struct{}, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished || s.token == spec.Token && s.client != who.ClientId {
		return nil, false
	}
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn, s.wake, s.token = conn, make(chan struct{}, 1), spec.Token
	now := time.Now()
	if s.end != nil && s.client == who.ClientId {
		s.end.Resume(now)
	} else {
		s.end, s.client, s.ready, s.inbox = newEnd(), who.ClientId, false, nil
		s.answered = false
		s.ours = strings.HasPrefix(who.ClientVersion, "ichiro/")
		s.shake(now)
	}
	s.wakeWriter()
	s.change.Broadcast()
	return s.wake, true
}

// shake says to the client what the session is.
func (s *session) shake(now time.Time) {
	properties := map[string]string{}
	if p := s.spec.Plan; p.Kind == cloud.SessionPort {
		properties = map[string]string{"portNumber": strconv.Itoa(p.Port), "localPortNumber": s.spec.LocalPort, "type": "LocalPortForwarding"}
		if p.Host != "" {
			properties["host"] = p.Host
		}
	}
	payload, err := json.Marshal(map[string]any{
		"AgentVersion": agentVersion,
		"RequestedClientActions": []any{map[string]any{
			"ActionType":       "SessionType",
			"ActionParameters": map[string]any{"SessionType": s.spec.Plan.Kind, "Properties": properties},
		}},
	})
	if err == nil {
		s.end.Send(now, frame.HandshakeRequest, payload)
	}
}

// shaken ends the handshake. A client that is not the first sees what the screen last showed.
func (s *session) shaken() error {
	now := time.Now()
	complete := map[string]any{"HandshakeTimeToComplete": 0, "CustomerMessage": ""}
	if s.ours {
		complete["InputOffset"] = s.stream.Written()
	}
	payload, err := json.Marshal(complete)
	if err != nil {
		return err
	}
	if err := s.end.Send(now, frame.HandshakeComplete, payload); err != nil {
		return err
	}
	for chunk := range slices.Chunk(s.history[max(0, len(s.history)-screen):], channel.MaxData) {
		s.end.Send(now, frame.Data, chunk)
	}
	s.ready = true
	s.wakeWriter()
	s.change.Broadcast()
	return nil
}

// read takes the client's messages. It waits when what it has taken is not dealt with: for the plugin, which knows no
// window.
func (s *session) read(conn *wire.ClientConn) {
	for {
		b, err := conn.Read()
		if err != nil {
			return
		}
		s.mu.Lock()
		for s.conn == conn && !s.finished && s.end.Busy() {
			s.change.Wait()
		}
		if s.conn != conn || s.finished {
			s.mu.Unlock()
			return
		}
		p, err := s.end.Receive(time.Now(), b)
		for ; p != nil; p = s.end.Next() {
			s.inbox = append(s.inbox, p)
		}
		s.wakeWriter()
		s.change.Broadcast()
		s.mu.Unlock()
		if err != nil {
			s.hub.cfg.Log.Warn("a client was disconnected", "session", s.spec.ID, "err", err)
			return
		}
	}
}

// write writes what is to be written to the client.
func (s *session) write(ctx context.Context, conn *wire.ClientConn, wake <-chan struct{}) {
	channel.Pump(ctx, wake, func() (out [][]byte, due time.Time, ours bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != conn {
			return nil, due, false
		}
		due = s.end.Due(time.Now())
		if s.end.Busy() {
			defer s.change.Broadcast()
		}
		return s.end.Take(), due, true
	}, conn.Write)
}

// wakeWriter is called with mu held.
func (s *session) wakeWriter() {
	if s.conn == nil {
		return
	}
	channel.Wake(s.wake)
}

// finish puts the end on record.
func (s *session) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.told()
	end.At, end.Input, end.Output, end.Digest = time.Now().UTC(), s.in, s.out, s.rec.close()
	rec := Record{Session: s.spec.ID, Instance: s.spec.Target, Owner: s.spec.Owner, Kind: s.spec.Plan.Kind, Started: s.spec.Started, End: end}
	if p := s.spec.Plan; p.Kind == cloud.SessionPort {
		rec.Target = fmt.Sprintf("%s:%d", p.Host, p.Port)
	}
	if err := bundle.Write(filepath.Join(s.hub.cfg.Dir, string(s.spec.ID)+".json"), rec, 0o600); err != nil {
		s.hub.cfg.Log.Error("record the end of a session", "session", s.spec.ID, "err", err) // the mark says that it had begun
	} else {
		os.Remove(s.mark())
	}
	s.hub.cfg.Log.Info("session ended", "session", s.spec.ID, "instance", s.spec.Target, "reason", end.Reason, "code", end.Code, "in", end.Input, "out", end.Output)
}

// told is what the guest says of the end, as far as it can be true.
func (s *session) told() cloud.SessionEnd {
	end := cloud.SessionEnd{Code: -1, Reason: s.ending}
	if e, err := wire.DecodeEnd(s.stream.Ended()); err == nil {
		if e.Code >= 0 && e.Code <= 255 {
			end.Code = e.Code
		}
		if end.Reason == "" && slices.Contains([]string{"exit", "terminated", "idle", "longest", "lost", "failed"}, e.Reason) {
			end.Reason = e.Reason
		}
	}
	if end.Reason == "" {
		end.Reason = "lost"
	}
	return end
}

// sentence is the end in words, for the client's user; "" for the usual one.
func sentence(e cloud.SessionEnd) string {
	switch e.Reason {
	case "idle":
		return "the session was idle for too long"
	case "longest":
		return "the session has reached its longest time"
	case "lost":
		return "the guest's agent was lost"
	case "failed":
		return "the session could not be started"
	case "exit":
		if e.Code > 0 {
			return fmt.Sprintf("exit code %d", e.Code)
		}
	}
	return ""
}

// say tells the client of the end when it has all that was said before, and waits until it has been told.
func (s *session) say(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := time.Now().Add(linger)
	if s.ending != "" {
		deadline = time.Now().Add(obey)
	}
	wait := func(done func() bool) bool {
		for !done() {
			if ctx.Err() != nil || time.Now().After(deadline) {
				return false
			}
			s.change.Wait() // tick wakes it
		}
		return true
	}
	if !wait(func() bool { return s.conn != nil && s.ready && s.end.Settled() }) {
		return
	}
	now, end := time.Now(), s.told()
	if s.ours {
		s.end.Send(now, frame.ExitCode, []byte(strconv.Itoa(end.Code)))
	}
	text := sentence(end)
	if end.Reason == "failed" && s.excuse != "" {
		text += ": " + s.excuse
	}
	s.end.Close(now, string(s.spec.ID), s.client, text)
	s.wakeWriter()
	conn := s.conn
	deadline = time.Now().Add(obey)
	wait(func() bool { return s.conn != conn }) // the client hangs up when it has read that
}
