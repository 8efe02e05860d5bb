package dhcp6

import (
	"encoding/binary"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"golang.org/x/sys/unix"
)

// Message types.
const (
	typeSolicit     = 1
	typeAdvertise   = 2
	typeRequest     = 3
	typeConfirm     = 4
	typeRenew       = 5
	typeRebind      = 6
	typeReply       = 7
	typeRelease     = 8
	typeDecline     = 9
	typeInformation = 11
)

// Options, RFC 8415 unless noted.
const (
	optClientID    = 1
	optServerID    = 2
	optIANA        = 3
	optIAAddress   = 5
	optAsked       = 6
	optPreference  = 7
	optStatus      = 13
	optRapidCommit = 14
	optResolvers   = 23 // RFC 3646
	optSearch      = 24 // RFC 3646
	optIAPD        = 25
	optIAPrefix    = 26
	optSNTP        = 31 // RFC 4075
	optRefresh     = 32
	optNTP         = 56 // RFC 5908
)

// Status codes.
const (
	statusSuccess     = 0
	statusNoAddresses = 2
	statusNotOnLink   = 4
	statusNoPrefixes  = 6
)

const (
	serverPort = 547
	clientPort = 546
	maxDUID    = 130 // RFC 8415 section 11.1: 128 octets and the type
	maxIAs     = 8   // of a message: clients have one of each kind
)

// filter lets DHCPv6 to servers through: IPv6 with UDP as its first header, to port 547.
var filter = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: wire.EthernetSize + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: wire.ProtocolUDP},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: wire.EthernetSize + wire.IPv6Size + 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: serverPort},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K},
}

// message is what we read of a request. Its slices lie in the packet.
type message struct {
	kind        byte
	transaction [3]byte
	client      []byte // its DUID
	server      []byte // the DUID of the server that it means
	asked       []byte // numbers of options, two bytes each
	rapid       bool
	ias         [maxIAs]ia // identity associations, in their order
	n           int
}

// ia is an IA_NA or IA_PD.
type ia struct {
	code    uint16
	id      [4]byte
	options []byte
}

// option splits the first option off; ok is false at the end and where the rest is none.
func option(b []byte) (code uint16, value, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, b, false
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if len(b)-4 < size {
		return 0, nil, b, false
	}
	return binary.BigEndian.Uint16(b), b[4 : 4+size], b[4+size:], true
}

// parse reads a message that a client sent straight to us; relays' have another form.
func (m *message) parse(b []byte) bool {
	*m = message{}
	if len(b) < 4 {
		return false
	}
	m.kind, m.transaction, b = b[0], [3]byte(b[1:]), b[4:]
	for {
		code, v, rest, ok := option(b)
		if !ok {
			return len(b) == 0
		}
		b = rest
		switch code {
		case optClientID:
			if m.client != nil || len(v) < 3 || len(v) > maxDUID {
				return false
			}
			m.client = v
		case optServerID:
			if m.server != nil || len(v) < 3 || len(v) > maxDUID {
				return false
			}
			m.server = v
		case optAsked:
			if len(v)%2 != 0 {
				return false
			}
			m.asked = v
		case optRapidCommit:
			m.rapid = true
		case optIANA, optIAPD:
			if len(v) < 12 || !whole(v[12:]) {
				return false
			}
			if m.n < maxIAs {
				m.ias[m.n] = ia{code, [4]byte(v), v[12:]}
				m.n++
			}
		}
	}
}

// whole reports whether a list of options ends where its room ends.
func whole(b []byte) bool {
	for ok := true; ok; {
		_, _, b, ok = option(b)
	}
	return len(b) == 0
}

// asks reports whether the client lists an option.
func (m *message) asks(code uint16) bool {
	for b := m.asked; len(b) > 1; b = b[2:] {
		if binary.BigEndian.Uint16(b) == code {
			return true
		}
	}
	return false
}
