// Package frame is the binary message of Systems Manager's message gateway.
//
// The stock agent and the stock session-manager-plugin put every message after the first of a websocket
// into this form, on the control channel and on data channels alike. All numbers are big endian:
//
//	  0  length of the header: 116, the bytes up to the payload's length
//	  4  message type, 32 characters padded with spaces (we read NULs too)
//	 36  schema version: 1
//	 40  created, in milliseconds since 1970
//	 48  sequence number
//	 56  flags
//	 64  message ID: a UUID with its halves swapped
//	 80  SHA-256 of the payload
//	112  payload type
//	116  payload length
//	120  payload
//
// Decode believes nothing: what is cut short, has a tail, is of another shape or does not match its digest is
// refused. The stock programs do not verify the digest; ours do. Nothing here does I/O.
package frame

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// HeaderSize is what a message without payload takes.
	HeaderSize = 120
	// MaxPayload bounds a payload. The stock agent writes frames of at most 142,000 bytes; an order to it holds a
	// document of 64 KiB and its parameters, escaped as JSON twice.
	MaxPayload = 1 << 20
	// Schema is the version of the form.
	Schema = 1

	headerLength = 116
	typeSize     = 32
)

// Where the fields begin.
const (
	atType        = 4
	atSchema      = 36
	atCreated     = 40
	atSequence    = 48
	atFlags       = 56
	atID          = 64
	atDigest      = 80
	atPayloadType = 112
	atPayloadSize = 116
)

// The message types of a data channel.
const (
	Input        = "input_stream_data"  // client to agent
	Output       = "output_stream_data" // agent to client
	Acknowledge  = "acknowledge"
	SessionState = "agent_session_state"
	Closed       = "channel_closed"
	Pause        = "pause_publication"
	Start        = "start_publication"
)

// The message types of a control channel.
const (
	Job           = "agent_job"           // to the agent
	JobAck        = "agent_job_ack"       // from it
	JobReply      = "agent_job_reply"     // from it
	JobReplyAck   = "agent_job_reply_ack" // to it
	Shell         = "interactive_shell"   // to it: a session starts
	TaskComplete  = "agent_task_complete" // from it: a session has ended
	TaskCompleted = "agent_task_acknowledge"
)

// Flags of a message.
const (
	SYN uint64 = 1 << iota // the first of its stream
	FIN                    // the last
)

// PayloadType says what a payload is.
type PayloadType uint32

// The payload types of a data channel.
const (
	None              PayloadType = 0
	Data              PayloadType = 1
	Fault             PayloadType = 2
	Size              PayloadType = 3 // {"cols":80,"rows":24}
	Parameter         PayloadType = 4
	HandshakeRequest  PayloadType = 5
	HandshakeResponse PayloadType = 6
	HandshakeComplete PayloadType = 7
	ChallengeRequest  PayloadType = 8
	ChallengeResponse PayloadType = 9
	Flag              PayloadType = 10 // four bytes, one of the signals below
	Stderr            PayloadType = 11
	ExitCode          PayloadType = 12
)

// The payloads of a Flag, as numbers of four bytes.
const (
	Disconnect    uint32 = 1 // the client has closed the port; from ours, of a command without a terminal: its input
	Terminate     uint32 = 2 // the client wants to end the session
	ConnectFailed uint32 = 3 // the agent could not reach the port
)

// ID is a message's UUID, in the usual order of its bytes.
type ID [16]byte

// String returns the UUID as it is written.
func (id ID) String() string {
	s := hex.EncodeToString(id[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// ParseID reads a UUID as String writes it, in either case.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, errors.New("not a UUID")
	}
	if n, err := hex.Decode(id[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil || n != len(id) {
		return ID{}, errors.New("not a UUID")
	}
	return id, nil
}

// Message is one frame.
type Message struct {
	Type        string
	Created     time.Time
	Sequence    int64
	Flags       uint64
	ID          ID
	PayloadType PayloadType
	Payload     []byte
}

// Append appends m in its binary form to dst. It refuses what Decode would.
func Append(dst []byte, m *Message) ([]byte, error) {
	switch {
	case !printable(m.Type):
		return dst, fmt.Errorf("encode a message: %q is no type", m.Type)
	case len(m.Payload) > MaxPayload:
		return dst, fmt.Errorf("encode %s: a payload of %d bytes is too large", m.Type, len(m.Payload))
	case m.Sequence < 0:
		return dst, fmt.Errorf("encode %s: sequence number %d is negative", m.Type, m.Sequence)
	}
	dst = binary.BigEndian.AppendUint32(dst, headerLength)
	dst = append(dst, m.Type...)
	dst = append(dst, "                                "[:typeSize-len(m.Type)]...)
	dst = binary.BigEndian.AppendUint32(dst, Schema)
	dst = binary.BigEndian.AppendUint64(dst, uint64(max(0, m.Created.UnixMilli())))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Sequence))
	dst = binary.BigEndian.AppendUint64(dst, m.Flags)
	dst = append(append(dst, m.ID[8:]...), m.ID[:8]...)
	digest := sha256.Sum256(m.Payload)
	dst = append(dst, digest[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.PayloadType))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Payload)))
	return append(dst, m.Payload...), nil
}

// The reasons to refuse a message.
var (
	ErrShort  = errors.New("the message is cut short")
	ErrShape  = errors.New("the message has another shape")
	ErrDigest = errors.New("the payload does not match its digest")
)

// Decode returns the message in b. Its payload aliases b.
func Decode(b []byte) (Message, error) {
	if len(b) < HeaderSize {
		return Message{}, ErrShort
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	m := Message{
		Type:        strings.Trim(string(b[atType:atType+typeSize]), " \x00"),
		Sequence:    int64(u64(atSequence)),
		Flags:       u64(atFlags),
		PayloadType: PayloadType(u32(atPayloadType)),
		Payload:     b[HeaderSize:],
	}
	size := u32(atPayloadSize)
	switch {
	case u32(0) != headerLength:
		return Message{}, fmt.Errorf("%w: a header of %d bytes", ErrShape, u32(0))
	case !printable(m.Type):
		return Message{}, fmt.Errorf("%w: its type is not made of letters", ErrShape)
	case u32(atSchema) != Schema:
		return Message{}, fmt.Errorf("%w: schema version %d", ErrShape, u32(atSchema))
	case m.Sequence < 0:
		return Message{}, fmt.Errorf("%w: a negative sequence number", ErrShape)
	case u64(atCreated) > 1<<53:
		return Message{}, fmt.Errorf("%w: no such time", ErrShape)
	case size > MaxPayload || uint64(size) < uint64(len(m.Payload)):
		return Message{}, fmt.Errorf("%w: a payload of %d bytes is said to have %d", ErrShape, len(m.Payload), size)
	case uint64(size) > uint64(len(m.Payload)):
		return Message{}, ErrShort
	}
	m.Created = time.UnixMilli(int64(u64(atCreated)))
	copy(m.ID[8:], b[atID:atID+8])
	copy(m.ID[:8], b[atID+8:atID+16])
	if digest := sha256.Sum256(m.Payload); !bytes.Equal(digest[:], b[atDigest:atDigest+sha256.Size]) {
		return Message{}, ErrDigest
	}
	return m, nil
}

// printable reports whether s can be a message type: it may reach a log.
func printable(s string) bool {
	if len(s) == 0 || len(s) > typeSize {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}
