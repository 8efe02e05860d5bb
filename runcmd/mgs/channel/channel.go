// Package channel is the data channel of a session as the stock session-manager-plugin speaks it.
//
// An End is one of its two ends: the host's (which plays the agent) or a client's. It is a machine without I/O and
// without a clock: Receive takes a message, Send what is to be said, and what is to be written then stands in Take.
// Each message of a stream is kept until it is acknowledged; after a connection has broken, Resume writes the rest
// again, and what comes twice is known by its number. An end acknowledges what Done says has been dealt with, and is
// never further ahead than Window: so memory is bounded whoever stops to read.
//
//	host                                client
//	output 0: HandshakeRequest ------->
//	        <------------------------- acknowledge 0, input 0: HandshakeResponse
//	output 1: HandshakeComplete ------>
//	output 2 ... -------------------->  acknowledged one by one
//	        <------------------------- input 1 ...
//	channel_closed ------------------>
//
// The plugin acknowledges a message that it has seen before only the first time; if that acknowledgement was lost, it
// never comes. So after a Resume what stands before an acknowledged message is taken for received, once it has been
// repeated often enough that the plugin cannot have missed it.
package channel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

const (
	// Window is how many bytes an end may be ahead of the other's acknowledgements: 32 messages of the largest size.
	Window = 2 << 20
	// MaxData is the largest payload that we write. The stock agent drops more than 120,000 bytes.
	MaxData = 64 << 10
	// most bounds the messages that are kept, however small.
	most = 4096
	// repeatAfter is when the oldest message is written again; repeats bounds that before a later acknowledgement
	// stands for its own.
	repeatAfter = 300 * time.Millisecond
	repeats     = 8
	// maxHeld bounds the bytes that were received and not dealt with. The plugin knows no window: what is beyond this it must say
	// again.
	maxHeld = 4 << 20
	// overhead is what a message that is held costs beside its payload: who sends empty ones is not to hold more.
	overhead = 256
	// maxOut bounds the messages that wait to be written before nothing more is to be read: who repeats himself is answered each
	// time. All that are kept have room, and as many acknowledgements.
	maxOut = 2 * most
)

// Role is which end of a channel an End is.
type Role int

// The two roles.
const (
	Host Role = iota
	Client
)

// Piece is what the other end has said.
type Piece struct {
	Type frame.PayloadType
	Data []byte
	seq  int64
	id   frame.ID
}

// End is one end. It is not safe for concurrent use.
type End struct {
	role   Role
	newID  func() frame.ID
	next   int64            // number of the next message to send
	kept   []*kept          // those that are not acknowledged
	ahead  int              // bytes in them
	expect int64            // number of the next message to receive
	first  frame.ID         // of the message with the number 0 that was received
	anew   bool             // another with that number has come
	early  map[int64]*Piece // received, though not all before them
	held   int              // bytes received and not dealt with
	out    [][]byte
	closed *string // text of channel_closed
	paused bool
}

type kept struct {
	seq   int64
	bytes []byte
	acked bool
	times int
	at    time.Time
}

// New returns an end. newID makes random IDs.
func New(role Role, newID func() frame.ID) *End { return &End{role: role, newID: newID} }

func (e *End) stream() (out, in string) {
	if e.role == Host {
		return frame.Output, frame.Input
	}
	return frame.Input, frame.Output
}

// Take returns the messages to write now, in order.
func (e *End) Take() [][]byte {
	out := e.out
	e.out = nil
	return out
}

// Anew reports whether the other end has forgotten all and begun anew: so must this one. Who repeats himself has not.
func (e *End) Anew() bool { return e.anew }

// Room is how many bytes may be sent now.
func (e *End) Room() int {
	if len(e.kept) >= most || e.paused {
		return 0
	}
	return max(0, Window-e.ahead)
}

// Settled reports whether everything that was sent has been acknowledged.
func (e *End) Settled() bool { return len(e.kept) == 0 }

// Closed returns the text with which the other end has closed the channel.
func (e *End) Closed() (string, bool) {
	if e.closed == nil {
		return "", false
	}
	return *e.closed, true
}

// Send says something. The caller looks at Room before.
func (e *End) Send(now time.Time, t frame.PayloadType, data []byte) error {
	kind, _ := e.stream()
	m := frame.Message{Type: kind, Created: now, Sequence: e.next, ID: e.newID(), PayloadType: t, Payload: data}
	if e.next == 0 {
		m.Flags = frame.SYN
	}
	b, err := frame.Append(make([]byte, 0, frame.HeaderSize+len(data)), &m)
	if err != nil {
		return err
	}
	e.next++
	e.kept = append(e.kept, &kept{seq: m.Sequence, bytes: b, at: now})
	e.ahead += len(b)
	e.out = append(e.out, b)
	return nil
}

// Due writes the oldest message again when its acknowledgement is late, and returns when to ask next.
func (e *End) Due(now time.Time) time.Time {
	if len(e.kept) == 0 {
		return now.Add(time.Minute)
	}
	k := e.kept[0]
	wait := repeatAfter << min(k.times, 2) // 1.2 s at most
	if due := k.at.Add(wait); now.Before(due) {
		return due
	}
	k.times++
	k.at = now
	e.out = append(e.out, k.bytes)
	return now.Add(wait)
}

// Resume writes everything again that is not acknowledged: the connection is a new one.
func (e *End) Resume(now time.Time) {
	e.out, e.paused = nil, false
	for _, k := range e.kept {
		if !k.acked {
			k.at = now
			e.out = append(e.out, k.bytes)
		}
	}
}

// acknowledgement is the payload of an acknowledge message.
type acknowledgement struct {
	AcknowledgedMessageType           string
	AcknowledgedMessageId             string //nolint:staticcheck // the name is the protocol's
	AcknowledgedMessageSequenceNumber int64
	IsSequentialMessage               bool
}

// Receive takes a message. It returns what the other end has said, if that is new; its data aliases b. Next tells more.
func (e *End) Receive(now time.Time, b []byte) (*Piece, error) {
	m, err := frame.Decode(b)
	if err != nil {
		return nil, err
	}
	_, in := e.stream()
	switch m.Type {
	case in:
		return e.data(now, m)
	case frame.Acknowledge:
		var a acknowledgement
		if err := json.Unmarshal(m.Payload, &a); err != nil {
			return nil, fmt.Errorf("read an acknowledgement: %v", err)
		}
		return nil, e.acknowledged(a.AcknowledgedMessageSequenceNumber)
	case frame.Pause:
		e.paused = true
	case frame.Start:
		e.paused = false
	case frame.Closed:
		var c struct{ Output string }
		if err := json.Unmarshal(m.Payload, &c); err != nil {
			return nil, fmt.Errorf("read the end of a channel: %v", err)
		}
		e.closed = &c.Output
	case frame.SessionState:
	default:
		return nil, fmt.Errorf("a message of type %s does not belong on a data channel", m.Type)
	}
	return nil, nil
}

func (e *End) data(now time.Time, m frame.Message) (*Piece, error) {
	switch {
	case m.Sequence < e.expect:
		e.anew = e.anew || m.Sequence == 0 && m.ID != e.first
		e.acknowledge(now, m.ID, m.Sequence) // its acknowledgement was lost
		return nil, nil
	case m.Sequence > e.expect:
		e.keepEarly(m)
		return nil, nil
	case e.held+len(m.Payload)+overhead > maxHeld:
		return nil, nil // it comes again, as it is not acknowledged
	}
	if m.Sequence == 0 {
		e.first = m.ID
		if e.role == Host {
			e.dropEarly()
		}
	}
	e.expect++
	e.held += len(m.Payload) + overhead
	return &Piece{Type: m.PayloadType, Data: m.Payload, seq: m.Sequence, id: m.ID}, nil
}

// keepEarly keeps a message for when what stands before it has come again. The stock agent repeats its oldest one only, ten times
// a second: what it lost with a connection would take minutes to come one by one. What there is no room for it repeats later.
func (e *End) keepEarly(m frame.Message) {
	if e.early[m.Sequence] != nil || m.Sequence-e.expect > most || e.held+len(m.Payload)+overhead > maxHeld/2 { // the other half is for what is due
		return
	}
	if e.early == nil {
		e.early = map[int64]*Piece{}
	}
	e.early[m.Sequence] = &Piece{Type: m.PayloadType, Data: bytes.Clone(m.Payload), seq: m.Sequence, id: m.ID}
	e.held += len(m.Payload) + overhead
}

// dropEarly forgets what came before the first message: it has numbers that the client was at with another host.
func (e *End) dropEarly() {
	for _, p := range e.early {
		e.held -= len(p.Data) + overhead
	}
	e.early = nil
}

// Next returns what had been received too early, and follows what Receive or Next has returned; nil if nothing does. It is asked
// after each of them.
func (e *End) Next() *Piece {
	p := e.early[e.expect]
	if p != nil {
		delete(e.early, e.expect)
		e.expect++
	}
	return p
}

// Held is how many bytes have been received and not dealt with.
func (e *End) Held() int { return e.held }

// Busy reports whether nothing more should be read from the other end for now: what it was answered is not taken, or what it has
// said not dealt with. The latter is no reason where no more can be sent, as what would let it, an acknowledgement, is among what
// is to be read: of a program that writes as much as it reads, both would wait for ever.
func (e *End) Busy() bool {
	return len(e.out) > maxOut || e.held > Window && e.Room() >= MaxData
}

// Done acknowledges what has been dealt with.
func (e *End) Done(now time.Time, p *Piece) {
	e.held -= len(p.Data) + overhead
	e.acknowledge(now, p.id, p.seq)
}

func (e *End) acknowledge(now time.Time, id frame.ID, seq int64) {
	_, in := e.stream()
	payload, err := json.Marshal(acknowledgement{in, id.String(), seq, true})
	if err != nil {
		panic(err) // words and a number
	}
	m := frame.Message{Type: frame.Acknowledge, Created: now, Flags: frame.SYN | frame.FIN, ID: e.newID(), Payload: payload}
	if b, err := frame.Append(nil, &m); err == nil {
		e.out = append(e.out, b)
	}
}

func (e *End) acknowledged(seq int64) error {
	if seq < 0 || seq >= e.next {
		return fmt.Errorf("message %d is acknowledged, %d were sent", seq, e.next)
	}
	for _, k := range e.kept { // nearly always the first
		if k.seq == seq && !k.acked {
			k.acked = true
			e.ahead -= len(k.bytes)
			k.bytes = nil
			break
		}
	}
	for len(e.kept) > 0 {
		k := e.kept[0]
		if !k.acked && (k.times < repeats || !e.later()) {
			break
		}
		if !k.acked {
			e.ahead -= len(k.bytes)
		}
		e.kept[0] = nil
		e.kept = e.kept[1:]
	}
	return nil
}

// later reports whether a message behind the oldest has been acknowledged.
func (e *End) later() bool {
	for _, k := range e.kept[1:] {
		if k.acked {
			return true
		}
	}
	return false
}

// Close tells a client that the session has ended, with a text for its user.
func (e *End) Close(now time.Time, session, client, text string) error {
	id := e.newID()
	payload, err := json.Marshal(map[string]any{
		"MessageType": frame.Closed, "MessageId": id.String(), "DestinationId": client, "SessionId": session,
		"SchemaVersion": 1, "CreatedDate": now.UTC().Format(time.RFC3339), "Output": text,
	})
	if err != nil {
		return err
	}
	m := frame.Message{Type: frame.Closed, Created: now, Flags: frame.SYN | frame.FIN, ID: id, Payload: payload}
	b, err := frame.Append(nil, &m)
	if err == nil {
		e.out = append(e.out, b)
	}
	return err
}

// Signal reads the payload of a Flag.
func Signal(data []byte) (uint32, bool) {
	if len(data) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(data), true
}

// AppendSignal is its opposite.
func AppendSignal(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
