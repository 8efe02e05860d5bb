package wire

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A session has a websocket of its own, so that neither its bytes nor those of commands wait for each other. The
// gateway orders it on the agent's connection; the agent then dials SessionPath, and again when that breaks:
//
//	agent                         gateway
//	       <---------------------- Order      on the agent's connection: start, or dial again
//	dials SessionPath + ID?nonce=N
//	Attach <-------------------> Attach       each: the offset to go on from
//	Stdout, Stderr, Ended ------->            the offset makes a repetition harmless
//	       <---------------------- Input, Resize, Done
//	Ack    <-------------------> Ack          each: what it has dealt with, so that the other may send on
//	       <---------------------- Terminate  on the agent's connection: it is never behind input

// SessionPath is where a gateway takes the websockets of sessions; the ID follows.
const SessionPath = "/v1/session/"

// Order asks for a session, or for its websocket.
type Order struct {
	ID    cloud.SessionID
	Nonce string // proves that the websocket is of this order
	Plan  cloud.SessionPlan
	// Resume means that the session has begun before: an agent that does not know it says that it is lost.
	Resume bool `json:",omitempty"`
}

// Terminate asks to end a session.
type Terminate struct{ ID cloud.SessionID }

const (
	kindOrder     = 's'
	kindTerminate = 't'
)

func (*Order) kind() byte     { return kindOrder }
func (*Terminate) kind() byte { return kindTerminate }

func checkSession(id cloud.SessionID) error {
	if !id.WellFormed() {
		return errors.New("session ID is not one")
	}
	return nil
}

// SessionFrame says what a message on a session's websocket is.
type SessionFrame byte

// The messages of a session's websocket. After the first byte stands an offset of eight bytes.
const (
	SessionAttach SessionFrame = 'a' // both, first: the offset to go on from, or -1 for what is still there
	SessionAck    SessionFrame = 'k' // both: everything before the offset has been dealt with
	SessionStdout SessionFrame = 'o' // agent
	SessionStderr SessionFrame = 'p' // agent: it shares the offsets of Stdout; of a port, why it cannot be reached
	SessionEnded  SessionFrame = 'e' // agent: JSON of cloud.SessionEnd
	SessionInput  SessionFrame = 'i' // gateway
	SessionClose  SessionFrame = 'c' // gateway: there is no more input. Its one byte has an offset as Input has, and means nothing
	SessionResize SessionFrame = 'z' // gateway: the offset is columns << 32 | rows
	SessionDone   SessionFrame = 'd' // gateway: the end is on record, forget the session
)

// SessionWindow is how far either side may be ahead of the other's Ack.
const SessionWindow = 1 << 20

// SessionMessage is one message. Data is only valid until the next Receive.
type SessionMessage struct {
	Frame  SessionFrame
	Offset int64
	Data   []byte
}

// SessionConn carries a session. One goroutine may send while another receives.
type SessionConn struct{ *Conn }

// DialSession connects an agent to the gateway for a session, over the network.
func DialSession(ctx context.Context, url string) (*SessionConn, error) {
	return Network.DialSession(ctx, url)
}

// DialSession connects an agent to the gateway for a session.
func (by Dialer) DialSession(ctx context.Context, url string) (*SessionConn, error) {
	c, err := by.Dial(ctx, url)
	if err != nil {
		return nil, err
	}
	c.max = MaxToGateway
	c.ws.SetReadLimit(MaxToGateway)
	return &SessionConn{c}, nil
}

// UpgradeSession turns an agent's HTTP request into a session's connection. On an error it has answered already.
func UpgradeSession(w http.ResponseWriter, r *http.Request) (*SessionConn, error) {
	c, err := Upgrade(w, r)
	if err != nil {
		return nil, err
	}
	return &SessionConn{c}, nil
}

// Send writes one message.
func (c *SessionConn) Send(m SessionMessage) error {
	out := append(take(len(m.Data)+headMost), byte(m.Frame))
	out = binary.BigEndian.AppendUint64(out, uint64(m.Offset))
	out = append(out, m.Data...)
	defer give(out)
	return c.write(out)
}

// Receive returns the next message.
func (c *SessionConn) Receive() (SessionMessage, error) {
	b, err := c.read()
	if err != nil {
		return SessionMessage{}, err
	}
	return DecodeSession(b)
}

// DecodeSession returns the message in b, whose data aliases it.
func DecodeSession(b []byte) (SessionMessage, error) {
	if len(b) < 9 {
		return SessionMessage{}, errShort
	}
	m := SessionMessage{Frame: SessionFrame(b[0]), Offset: int64(binary.BigEndian.Uint64(b[1:])), Data: b[9:]}
	switch m.Frame {
	case SessionAttach, SessionAck, SessionStdout, SessionStderr, SessionEnded, SessionInput, SessionClose, SessionResize, SessionDone:
	default:
		return m, fmt.Errorf("session message of unknown kind %d", b[0])
	}
	if m.Offset < 0 && (m.Offset < -1 || m.Frame != SessionAttach) || m.Offset > maxOffset {
		return m, errors.New("offset is out of range")
	}
	if len(m.Data) > MaxData {
		return m, fmt.Errorf("session message of %d bytes is too large", len(m.Data))
	}
	return m, nil
}

// DecodeEnd reads what a SessionEnded says.
func DecodeEnd(b []byte) (cloud.SessionEnd, error) {
	var e cloud.SessionEnd
	err := json.Unmarshal(b, &e)
	return e, err
}
