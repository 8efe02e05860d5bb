// Package dhcp6 answers the DHCPv6 requests of this host's guests (RFC 8415).
//
// As in agent/dhcp there is no lease database: an interface's addresses and delegated prefixes are what was wished, and
// the server repeats the wish. The first IA_NA of a message gets all the addresses, the first IA_PD all the prefixes; what
// a client names besides is told to be over. The short lifetime, EC2's 140 seconds, makes a guest notice soon what it
// has gained or lost. A guest is known by its tap and its MAC; its DUID is echoed and means nothing. The server's own
// DUID is made from the router's MAC, which is the same everywhere, so an interface can move to another host unnoticed.
//
//	SOLICIT      -> ADVERTISE of the highest preference; REPLY if it asks for rapid commit (EC2 ignores that)
//	REQUEST, RENEW, REBIND -> REPLY with all there is
//	CONFIRM      -> REPLY: whether all that it names is its own; silence if it names nothing
//	RELEASE      -> REPLY, and nothing changes
//	DECLINE      -> REPLY, and an alarm: by the rules nobody else can have the address
//	INFORMATION-REQUEST -> REPLY without addresses
//
// message.go reads, answer.go decides and writes, both pure; agent/wire moves frames past the kernel and its rules, so a guest
// is held to a rate here. agent/eni calls this package.
package dhcp6

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// Network is one namespace with the guests that are to be answered in it.
type Network struct {
	Name  string
	Enter func(func() error) error // runs a function on a thread in the namespace
	Hosts []Host
}

// Host is one interface of a guest and all that it is told. Whatever is empty is not told.
type Host struct {
	Index       int     // of the tap
	MAC         [6]byte // of the guest
	Source      [6]byte // of the tap: the router's
	Addresses   []netip.Addr
	Prefixes    []netip.Prefix // delegated
	Preferred   int            // seconds that an address is preferred; 0: DefaultPreferred
	Resolvers   []netip.Addr
	Search      []string // domains
	TimeServers []netip.Addr
}

// DefaultPreferred is EC2's.
const DefaultPreferred = 140

// Counters count since the start. They are read while the server runs.
type Counters struct {
	Solicits, Advertises, Requests, Confirms, Renews, Rebinds atomic.Uint64
	Releases, Declines, Informs, Replies                      atomic.Uint64
	Unknown                                                   atomic.Uint64 // a MAC that does not belong to the tap
	Malformed                                                 atomic.Uint64
	Ignored                                                   atomic.Uint64 // another server's, a relay's, not a request
	Limited                                                   atomic.Uint64
}

// Map returns the counters by name.
func (c *Counters) Map() map[string]uint64 {
	return map[string]uint64{
		"solicits": c.Solicits.Load(), "advertises": c.Advertises.Load(), "requests": c.Requests.Load(), "confirms": c.Confirms.Load(),
		"renews": c.Renews.Load(), "rebinds": c.Rebinds.Load(), "releases": c.Releases.Load(), "declines": c.Declines.Load(),
		"informs": c.Informs.Load(), "replies": c.Replies.Load(), "unknown": c.Unknown.Load(), "malformed": c.Malformed.Load(),
		"ignored": c.Ignored.Load(), "limited": c.Limited.Load(),
	}
}

// Server answers in any number of namespaces.
type Server struct {
	Counters Counters

	log    *slog.Logger
	wire   *wire.Server
	alarms atomic.Int64 // when the last decline was logged, in seconds
}

// New returns a server without networks.
func New(log *slog.Logger) *Server {
	return &Server{log: log, wire: wire.New(wire.Frames(wire.TypeIPv6, filter))}
}

// Apply makes the networks and their hosts the wanted ones: all others are answered no more.
func (s *Server) Apply(want []Network) error {
	var networks []wire.Network
	for _, n := range want {
		r := compile(n)
		networks = append(networks, wire.Network{Name: n.Name, Enter: n.Enter, Handle: func(in wire.Packet, out *wire.Answer) bool {
			ok := r.answer(time.Now(), in, out, &s.Counters)
			if ok && r.message.kind == typeDecline {
				s.alarm(in)
			}
			return ok
		}})
	}
	return s.wire.Apply(networks)
}

// alarm says that a guest has found an address of its in use. Once a minute is enough to be read.
func (s *Server) alarm(in wire.Packet) {
	now := time.Now().Unix()
	if last := s.alarms.Load(); now-last < 60 || !s.alarms.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("a guest declines its IPv6 address: it says that somebody else has it", "mac", net.HardwareAddr(in.Data[6:12]), "ifindex", in.Index, "declines", s.Counters.Declines.Load())
}

// Run serves what Apply has set, until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.wire.Run(ctx) }

// Close ends the service in all networks.
func (s *Server) Close() { s.wire.Close() }

// Counts returns the counters by name.
func (s *Server) Counts() map[string]uint64 {
	m := s.Counters.Map()
	m["read_errors"], m["send_errors"] = s.wire.Counters.ReadErrors.Load(), s.wire.Counters.SendErrors.Load()
	return m
}
