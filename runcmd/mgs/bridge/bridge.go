// Package bridge makes the sessions of a guest's stock agent look like those of our own.
//
// Towards the gateway's sessions it is what package session is in a guest: it takes orders, keeps a stream, watches idle and
// longest times, and tells the end. Towards the agent it is what the service and the stock plugin are: it asks for a session
// on the control channel and ends the protocol of the data channel that the agent opens for it.
//
//	sessions <--stream--> [ Manager: session | End ] <--data channel, TLS-- stock agent in the guest
//
//	Order -> interactive_shell -> the agent asks for a token, dials, shakes hands -> bytes -> agent_task_complete -> end is told
//	                               terminated, idle, too long, lost: channel_closed ------------------------------^
//
// So recordings, resuming, bounds and clients of all kinds are there once, whichever agent the guest runs, and no byte that a
// guest has made up reaches a client as a message. A guest is given tokens for sessions that were ordered of it, and each
// opens one connection. What it sends is taken a window ahead at most: then its connection is not read any more.
//
// What the agent knows of a session dies with its numbers: a gateway that is started anew ends the sessions of before.
package bridge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// most bounds the sessions of an instance at a time, as in a guest with our agent.
	most = 64
	// maxTokens bounds those of a session that are not used yet.
	maxTokens = 4
)

// ErrUnknown is the error of a guest that wants a session which was not ordered of it, or has ended.
var ErrUnknown = errors.New("no such session was ordered of this instance")

// Tell sends a message on the control channel.
type Tell func(kind string, payload any) error

// Config is what a manager works with.
type Config struct {
	Instance cloud.InstanceID
	// Join serves the host's side of a session over a connection until that breaks; false for none that was ordered so.
	Join func(id cloud.SessionID, nonce string, conn stream.Conn) bool
	Log  *slog.Logger
}

// Manager keeps the sessions of one instance, over all its control channels.
type Manager struct {
	cfg      Config
	mu       sync.Mutex
	tell     Tell // of the present control channel; nil before the first
	sessions map[cloud.SessionID]*session
	wg       sync.WaitGroup
}

// New returns a manager without sessions.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, sessions: map[cloud.SessionID]*session{}}
}

// Reach has what is to be said to the agent said by tell from now on.
func (m *Manager) Reach(tell Tell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell = tell
}

// say sends a message on the control channel.
func (m *Manager) say(kind string, payload any) error {
	m.mu.Lock()
	tell := m.tell
	m.mu.Unlock()
	if tell == nil {
		return errors.New("there is no control channel")
	}
	return tell(kind, payload)
}

// Order starts a session, or has the one that there is meet the host again. It does not wait.
func (m *Manager) Order(o wire.Order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[o.ID]
	if s == nil {
		if len(m.sessions) >= most {
			m.cfg.Log.Warn("there are too many sessions", "session", o.ID)
			return
		}
		s = newSession(m, o)
		m.sessions[o.ID] = s
		m.wg.Go(s.run)
	}
	s.order(o.Nonce)
}

// Terminate ends a session.
func (m *Manager) Terminate(id cloud.SessionID) {
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s != nil {
		s.stop(errTerminated)
		return
	}
	m.dismiss(id) // the agent may have it from another gateway
}

// Close ends all sessions and waits until they have.
func (m *Manager) Close() {
	m.mu.Lock()
	for _, s := range m.sessions {
		s.stop(errGone)
		s.quit()
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// Token returns a token for one connection of the guest for a session. An agent that asks for a session which this gateway
// does not know is told that it is over: its shell would wait for ever.
func (m *Manager) Token(id cloud.SessionID) (string, error) {
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s == nil {
		if id.WellFormed() {
			m.dismiss(id)
		}
		return "", ErrUnknown
	}
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, token)
	s.tokens = s.tokens[max(0, len(s.tokens)-maxTokens):]
	return token, nil
}

// Has reports whether a session was ordered of the guest and has not ended.
func (m *Manager) Has(id cloud.SessionID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[id] != nil
}

// dismiss tells the agent that a session is over.
func (m *Manager) dismiss(id cloud.SessionID) {
	if err := m.say(frame.Closed, closing(id, "")); err != nil {
		m.cfg.Log.Debug("the agent is not told that a session is over", "session", id, "err", err)
	}
}

// Serve serves a data channel of the guest for a session until it breaks. opening is its first message.
func (m *Manager) Serve(ctx context.Context, id cloud.SessionID, opening []byte, conn Socket) error {
	var in struct{ TokenValue, ClientInstanceId string } //nolint:staticcheck // the names are the protocol's
	if err := json.Unmarshal(opening, &in); err != nil {
		return errors.New("the first message is not of JSON")
	}
	if in.ClientInstanceId != "" && in.ClientInstanceId != string(m.cfg.Instance) {
		return errors.New("the first message is of another instance")
	}
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s == nil {
		return ErrUnknown
	}
	s.mu.Lock()
	n := slices.Index(s.tokens, in.TokenValue)
	if n >= 0 {
		s.tokens = slices.Delete(s.tokens, n, n+1)
	}
	s.mu.Unlock()
	if n < 0 {
		return errors.New("the token is not valid")
	}
	return s.attach(ctx, conn)
}

// Completed takes note of an agent_task_complete: a session has ended in the guest. It is acknowledged however often it comes,
// but not before the session's last bytes have come: the agent may hang up then, and what it has not been asked for again is lost.
func (m *Manager) Completed(payload []byte, message frame.ID) error {
	c, err := parseCompletion(payload)
	if err != nil {
		return err
	}
	m.mu.Lock()
	s := m.sessions[c.TaskID]
	m.mu.Unlock()
	if s != nil && s.complete(c, message) {
		return nil
	}
	return m.say(frame.TaskCompleted, acknowledged(c, message))
}

func (m *Manager) forget(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, s.id)
}

func newID() (id frame.ID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
