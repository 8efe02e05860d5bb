// Package dhcp answers the DHCP requests of this host's guests.
//
// There is no lease database. An address belongs to a network interface because someone wished it so; the
// server only repeats the wish, for an hour at a time, and any number of restarts changes nothing. A host is
// known by the tap a request came from and the MAC in it, never by the client identifier, which guests make
// up as they like. On a tap there is exactly one guest: another MAC gets silence, a request for
// another address gets an immediate NAK.
//
// A request is read without a copy (request.go), and its answer is the interface's frame, written in advance
// (template.go), with what the request brought patched in (answer.go): all that is pure and allocates nothing. agent/wire
// moves the bytes. Relays are heard only on links that are configured to have one: a guest that
// plays relay would otherwise choose where answers go.
package dhcp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// Lease is the time after which a guest's address is no longer its own, in seconds: EC2's hour.
const Lease = 3600

// When a guest asks again, in seconds: RFC 2131's half and seven eighths of Lease.
const (
	renewAfter  = Lease / 2
	rebindAfter = Lease * 7 / 8
)

// Network is one namespace with the guests that are to be answered in it.
type Network struct {
	Name   string
	Enter  func(func() error) error // runs a function on a thread in the namespace
	Hosts  []*Host                  // not to be changed any more; no two have tap and MAC in common
	Relays []Relay
}

// Relay is a relay agent that is trusted to speak for the hosts of its link.
type Relay struct {
	Index   int        // of the link that it is heard on
	Address netip.Addr // that it is answered at
}

// Host is one interface of a guest and all that it is told. Whatever is zero or empty is not told.
type Host struct {
	Index   int     // of the tap
	MAC     [6]byte // of the guest
	Source  [6]byte // of the tap: the router's
	Address netip.Addr
	Subnet  netip.Prefix
	Router  netip.Addr // the server's identifier
	Gateway netip.Addr // of the default route
	Routes  []Route    // more: if there are any, they must have the default route too, for clients then forget Gateway

	MTU         int
	Hostname    string
	Domain      string
	Search      []string // domains
	Resolvers   []netip.Addr
	TimeServers []netip.Addr
	NetBIOS     []netip.Addr // name servers
	NetBIOSNode int          // 1, 2, 4 or 8
}

// Route is a way for option 121. A zero Via is on the link.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Counters count since the start. They are read while the server runs.
type Counters struct {
	Discovers, Offers, Requests, Acks, Naks, Informs atomic.Uint64
	Releases, Declines                               atomic.Uint64
	Unknown                                          atomic.Uint64 // a MAC that does not belong to the tap
	Malformed                                        atomic.Uint64
	Ignored                                          atomic.Uint64 // another server's, a stranger's relay, not a request
}

// Server answers in any number of namespaces.
type Server struct {
	Counters Counters

	log    *slog.Logger
	wire   *wire.Server
	alarms atomic.Int64 // when the last decline was logged, in seconds

	mu   sync.Mutex
	last map[string]*responder // guarded by mu; by network
}

// New returns a server without networks.
func New(log *slog.Logger) *Server { return &Server{log: log, wire: wire.New(wire.UDP(67))} }

// Apply makes the networks and their hosts the wanted ones: all others are answered no more.
func (s *Server) Apply(want []Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var networks []wire.Network
	now := map[string]*responder{}
	for _, n := range want {
		r := compile(n, s.last[n.Name])
		now[n.Name] = r
		networks = append(networks, wire.Network{Name: n.Name, Enter: n.Enter, Handle: func(in wire.Packet, out *wire.Answer) bool {
			verdict := r.answer(in, out, &s.Counters)
			if verdict == declined {
				s.alarm(r.request.mac, in.Index)
			}
			return verdict == answered
		}})
	}
	s.last = now
	return s.wire.Apply(networks)
}

// alarm says that a guest has found its address in use: by the rules nobody else can have it, so either they
// are broken or the guest is. Once a minute is enough to be read.
func (s *Server) alarm(mac [6]byte, index int) {
	now := time.Now().Unix()
	if last := s.alarms.Load(); now-last < 60 || !s.alarms.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("a guest declines its address: it says that somebody else has it", "mac", net.HardwareAddr(mac[:]), "ifindex", index, "declines", s.Counters.Declines.Load())
}

// Run serves what Apply has set, until ctx ends. Requests that came before are answered then.
func (s *Server) Run(ctx context.Context) error { return s.wire.Run(ctx) }

// Close ends the service in all networks.
func (s *Server) Close() { s.wire.Close() }

// Counts returns the counters by name.
func (s *Server) Counts() map[string]uint64 {
	m := s.Counters.Map()
	m["read_errors"], m["send_errors"] = s.wire.Counters.ReadErrors.Load(), s.wire.Counters.SendErrors.Load()
	return m
}

// Map returns the counters by name.
func (c *Counters) Map() map[string]uint64 {
	return map[string]uint64{
		"discovers": c.Discovers.Load(), "offers": c.Offers.Load(), "requests": c.Requests.Load(), "acks": c.Acks.Load(),
		"naks": c.Naks.Load(), "informs": c.Informs.Load(), "releases": c.Releases.Load(), "declines": c.Declines.Load(),
		"unknown": c.Unknown.Load(), "malformed": c.Malformed.Load(), "ignored": c.Ignored.Load(),
	}
}
