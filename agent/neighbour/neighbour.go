// Package neighbour is the IPv6 router and the neighbours that this host's guests see on their links.
//
// Each guest is alone on its link. It learns from router advertisements (RFC 4861) that there is a router, that its
// addresses come by DHCPv6 (M and O), and of its subnet only the length (a prefix with neither L nor A): nothing is to be
// reached without the router, and no address to be made up. Clients that take the subnet for the link all the
// same ask for its addresses: whatever belongs to the VPC is answered for with the router's MAC, except what is the
// guest's own, which is its to defend. The kernel's proxy_ndp would need an entry per guest and neighbour.
//
//	solicitation of a router   -> advertisement, at once
//	solicitation of a neighbour -> advertisement with the router's MAC, or silence
//	every period, and on Apply for what has changed -> advertisement to all nodes of the link
//	Apply without a host that was there -> advertisement with lifetime 0
//
// answer.go decides and is pure; agent/wire moves the frames, past the kernel and its rules: a guest is known by its tap and
// its MAC, is held to a rate, and nothing that it says is remembered. agent/eni calls this package.
package neighbour

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// Network is one namespace with the guests that have IPv6 in it.
type Network struct {
	Name     string
	Enter    func(func() error) error // runs a function on a thread in the namespace
	Prefixes []netip.Prefix           // of the VPC
	Hosts    []Host
}

// Host is one interface of a guest.
type Host struct {
	Index  int            // of the tap
	MAC    [6]byte        // of the guest
	Source [6]byte        // of the tap: the router's
	Own    []netip.Prefix // the guest's addresses and delegated prefixes
	Subnet netip.Prefix
	MTU    int
}

func (h Host) equal(o Host) bool {
	return h.Index == o.Index && h.MAC == o.MAC && h.Source == o.Source && h.Subnet == o.Subnet && h.MTU == o.MTU && slices.Equal(h.Own, o.Own)
}

// Counters count since the start. They are read while the server runs.
type Counters struct {
	RouterSolicitations, NeighbourSolicitations atomic.Uint64
	Advertisements                              atomic.Uint64 // of the router, asked for or not
	Answers                                     atomic.Uint64 // for neighbours
	Own                                         atomic.Uint64 // solicitations of what is the guest's, or of nobody in the VPC
	Unknown                                     atomic.Uint64 // a MAC that does not belong to the tap
	Malformed, Limited                          atomic.Uint64
}

// Map returns the counters by name.
func (c *Counters) Map() map[string]uint64 {
	return map[string]uint64{
		"router_solicitations": c.RouterSolicitations.Load(), "neighbour_solicitations": c.NeighbourSolicitations.Load(),
		"advertisements": c.Advertisements.Load(), "answers": c.Answers.Load(), "own": c.Own.Load(),
		"unknown": c.Unknown.Load(), "malformed": c.Malformed.Load(), "limited": c.Limited.Load(),
	}
}

// period is the time between advertisements that nobody asked for: nine of them may be lost before the router is
// forgotten (lifetime, answer.go).
const period = 200 * time.Second

// Server serves any number of namespaces.
type Server struct {
	Counters Counters

	wire *wire.Server

	mu    sync.Mutex
	hosts map[place]Host // guarded by mu
}

// place is where a host is advertised to.
type place struct {
	network string
	index   int
}

// New returns a server without networks.
func New() *Server {
	return &Server{wire: wire.New(wire.Frames(wire.TypeIPv6, filter)), hosts: map[place]Host{}}
}

// Apply makes the networks and their hosts the wanted ones, and tells those that are new, changed or gone.
func (s *Server) Apply(want []Network) error {
	now := map[place]Host{}
	var networks []wire.Network
	for _, n := range want {
		r := compile(n)
		networks = append(networks, wire.Network{Name: n.Name, Enter: n.Enter, Handle: func(in wire.Packet, out *wire.Answer) bool {
			return r.answer(time.Now(), in, out, &s.Counters)
		}})
		for _, h := range n.Hosts {
			now[place{n.Name, h.Index}] = h
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.hosts
	s.hosts = now
	for p, h := range before {
		if _, ok := now[p]; !ok {
			s.advertise(p, h, 0) // while its network is still served
		}
	}
	err := s.wire.Apply(networks)
	for p, h := range now {
		if old, ok := before[p]; !ok || !h.equal(old) {
			s.advertise(p, h, lifetime)
		}
	}
	return err
}

func (s *Server) advertise(p place, h Host, seconds int) {
	frame := advertisement(make([]byte, 0, 256), h, allNodes, seconds)
	if s.wire.Send(p.network, p.index, frame) {
		s.Counters.Advertisements.Add(1)
	}
}

// Run serves what Apply has set, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = s.wire.Run(ctx) })
	again := time.NewTicker(period)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		s.mu.Lock()
		for p, h := range s.hosts {
			s.advertise(p, h, lifetime)
		}
		s.mu.Unlock()
	}
}

// Close ends the service in all networks. Guests keep the router: the packets still go its way.
func (s *Server) Close() { s.wire.Close() }

// Counts returns the counters by name.
func (s *Server) Counts() map[string]uint64 {
	m := s.Counters.Map()
	m["read_errors"], m["send_errors"] = s.wire.Counters.ReadErrors.Load(), s.wire.Counters.SendErrors.Load()
	return m
}
