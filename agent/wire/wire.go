// Package wire moves the packets by which guests ask for their configuration: DHCP, DHCPv6, neighbour discovery.
//
// A Server has one receiving socket per namespace and hands each packet, with the tap that it came from, to the
// network's Handler, which writes at most one answer. Answers leave as whole frames through a packet socket:
// what a UDP socket sends on a tap has a partial checksum, and clients on raw sockets refuse it. Packets
// are received and sent in batches, by one goroutine per network that allocates nothing; no error ends it, since taps come
// and go.
//
// What is in the packets is the business of agent/dhcp, agent/dhcp6 and agent/neighbour. Here are besides the frames
// that they all need: Ethernet, IP, UDP and their checksums (frame.go). A socket is either a UDP port, which the
// kernel's rules protect, or a packet socket with a filter, which sees what the rules would drop: its handler trusts nothing
// and asks a Bucket first.
package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Packet is what a guest sent: for a UDP port the payload, for a packet socket the frame.
type Packet struct {
	Index int // of the link that it came in by
	Data  []byte
}

// Answer is what goes back. Data has a capacity that no answer exceeds; a Handler appends to it.
type Answer struct {
	Index int // of the link it leaves by: set to the packet's
	Data  []byte
	Relay [4]byte // if not zero: Data is a UDP payload for port 67 of this address, to be sent through the receiving port
}

// Handler writes the answer to a packet and reports whether there is one. It is called by one goroutine at a time.
type Handler func(in Packet, out *Answer) bool

// Network is one namespace with the handler of its packets.
type Network struct {
	Name   string
	Enter  func(func() error) error // runs a function on a thread in the namespace
	Handle Handler
}

// Counters count what went wrong since the start. They are read while a server runs.
type Counters struct {
	ReadErrors, SendErrors atomic.Uint64
}

// Server serves any number of namespaces.
type Server struct {
	Counters Counters

	open func() (int, error)
	wake chan struct{}

	mu      sync.Mutex
	sockets map[string]*socket
}

// New returns a server without networks. open makes the socket that receives: UDP or Frames.
func New(open func() (fd int, err error)) *Server {
	return &Server{open: open, wake: make(chan struct{}, 1), sockets: map[string]*socket{}}
}

// Apply makes the networks and their handlers the wanted ones: packets of all others are answered no more.
func (s *Server) Apply(want []Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	var errs []error
	for _, n := range want {
		keep[n.Name] = true
		k := s.sockets[n.Name]
		if k == nil {
			var err error
			if k, err = open(n, s.open); err != nil {
				errs = append(errs, fmt.Errorf("serve guests of %s: %w", n.Name, err))
				continue
			}
			s.sockets[n.Name] = k
		}
		k.handle.Store(&n.Handle)
	}
	for name, k := range s.sockets {
		if !keep[name] {
			k.close()
			delete(s.sockets, name)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return errors.Join(errs...)
}

// Close ends the service in all networks.
func (s *Server) Close() { _ = s.Apply(nil) }

// Send sends a frame that nobody asked for. It reports whether the network is served.
func (s *Server) Send(network string, index int, frame []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sockets[network]
	if k == nil {
		return false
	}
	if err := k.sendOne(index, frame); err != nil {
		s.Counters.SendErrors.Add(1)
	}
	return true
}

// Run serves what Apply has set, until ctx ends. Packets that came before are answered then.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s.mu.Lock()
		for _, k := range s.sockets {
			if !k.serving && ctx.Err() == nil {
				k.serving = true
				_ = k.in.SetReadDeadline(time.Time{})
				wg.Go(func() { s.serve(ctx, k) })
			}
		}
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, k := range s.sockets {
				_ = k.in.SetReadDeadline(time.Unix(1, 0)) // wakes the readers; the socket stays for the next Run
			}
			return nil
		}
	}
}

// serve answers one network until its socket is closed.
func (s *Server) serve(ctx context.Context, k *socket) {
	defer func() {
		s.mu.Lock()
		k.serving = false
		s.mu.Unlock()
	}()
	for {
		n, err := k.receive()
		if ctx.Err() != nil || k.closed.Load() {
			return
		}
		if err != nil {
			s.Counters.ReadErrors.Add(1)
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond): // an error that stays must not cost a processor
			}
			continue
		}
		if lost := k.answer(n, *k.handle.Load()); lost > 0 {
			s.Counters.SendErrors.Add(uint64(lost))
		}
	}
}
