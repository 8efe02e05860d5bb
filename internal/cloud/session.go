package cloud

import (
	"net/netip"
	"strings"
	"time"
)

// SessionID names a session: who started it, and random characters.
type SessionID string

// WellFormed reports whether the ID can be one of ours: it is then a safe file name.
func (id SessionID) WellFormed() bool {
	if len(id) < 2 || len(id) > 96 || strings.Contains(string(id), "..") || id[0] == '.' || id[0] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-_.@=,", c) >= 0) {
			return false
		}
	}
	return true
}

// SessionKind is what a session does in its guest.
type SessionKind string

// The kinds of sessions. A document's session type says which.
const (
	SessionShell   SessionKind = "Standard_Stream"
	SessionCommand SessionKind = "InteractiveCommands"
	SessionBatch   SessionKind = "NonInteractiveCommands"
	SessionPort    SessionKind = "Port"
)

// SessionPlan is what a guest's agent must know of a session.
type SessionPlan struct {
	Kind    SessionKind
	Command string        `json:",omitempty"` // of a shell: what it runs first; of the commands: all
	User    string        `json:",omitempty"` // "" for root
	Host    string        `json:",omitempty"` // of a port: "" for the guest itself
	Port    int           `json:",omitempty"`
	Idle    time.Duration // without a byte in either direction
	Longest time.Duration `json:",omitempty"` // of the whole session; 0 for no bound
}

// ThenShell ends the Command of a shell's plan: what the account wants run first leads to the shell.
const ThenShell = "\nexec \"$SHELL\" -l"

// Session is one session: its owner's wish, and from when it has ended how it did.
type Session struct {
	ID        SessionID
	Account   AccountID
	Owner     string // ARN of who started it, to whom it belongs
	Target    InstanceID
	HostID    HostID
	Document  string
	Reason    string `json:",omitempty"`
	LocalPort string `json:",omitempty"` // what the client shall listen on
	Plan      SessionPlan
	Started   time.Time

	// Token is the SHA-256, in hexadecimal, of the one token that opens the data channel now; the token itself is
	// nowhere. Resumes counts those before it.
	Token        string    `json:",omitempty"`
	TokenExpires time.Time `json:",omitzero"`
	Resumes      int       `json:",omitempty"`

	Terminate bool        `json:",omitempty"` // its owner has asked for its end
	End       *SessionEnd `json:",omitempty"` // nil while it goes on
	Noted     bool        `json:",omitempty"` // the audit has the end
}

// SessionEnd is how a session ended.
type SessionEnd struct {
	At     time.Time
	Code   int    // exit code, 128 and the signal's number, or -1 where there is none
	Reason string // exit, terminated, idle, longest, lost, failed
	Input  int64  // bytes to the guest
	Output int64  // bytes from it
	Digest string `json:",omitempty"` // SHA-256 of the recording, in hexadecimal
}

// metadata6 is where EC2's metadata, names and time are in IPv6.
var metadata6 = netip.MustParsePrefix("fd00:ec2::/32")

// ForwardDenied reports whether an address is that of a service which takes a guest's address for its identity, or of the
// guest itself: a session to a remote host must not become one to the guest's credentials.
func ForwardDenied(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || metadata6.Contains(a)
}

// ForwardHostDenied reports whether a remote host's name is an address that ForwardDenied denies, or one in a spelling that
// resolvers read as an address (2852039166, 0xa9.254.43518) although it is not written as one. Any other name says nothing:
// who resolves it has to look again.
func ForwardHostDenied(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return ForwardDenied(a)
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if digits, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
