// Package presence finds out which of its addresses a guest has.
//
// An interface may have several, and EC2 leaves it to the guest to know: one that is configured by DHCP alone has the
// first, and drops what comes for the others. The host must know to help it (agent/eni leads such packets to the
// first address), and must know when help is not wanted any more. So it asks the guest by ARP, as any neighbour does
// who wants to send: whoever has an address answers for it. It asks for all addresses of an interface in one round, and
// believes that one is missing only while the guest answers for the first. What guests say unasked, in questions and
// announcements of their own, counts as an answer, so an address that the guest gets and uses is known at once.
//
// Nothing is asked of interfaces with one address. A guest that lies harms itself: only its own addresses, from its own tap
// and MAC, are listened to. card.go decides, presence.go asks and listens, by agent/wire.
package presence

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/agent/wire"
)

// Network is one namespace with the guests that are asked in it.
type Network struct {
	Name  string
	Enter func(func() error) error // runs a function on a thread in the namespace
	Hosts []Host
}

// Host is one interface of a guest.
type Host struct {
	Index     int     // of the tap
	MAC       [6]byte // of the guest
	Source    [6]byte // of the tap: the router's
	Router    netip.Addr
	Addresses []netip.Addr // the first is the one that DHCP tells
}

func (h Host) equal(o Host) bool {
	return h.Index == o.Index && h.MAC == o.MAC && h.Source == o.Source && h.Router == o.Router && slices.Equal(h.Addresses, o.Addresses)
}

// Address is one of a network's, and what is known of it.
type Address struct {
	Index   int
	Addr    netip.Addr
	Missing bool // the guest does not have it
}

// Server asks in any number of namespaces.
type Server struct {
	wire    *wire.Server
	changed chan struct{}
	wake    chan struct{}

	mu    sync.Mutex
	cards map[string]map[int]*card // by network and tap
}

const (
	arpSize = wire.EthernetSize + 28
	typeARP = 0x0806
)

// everything of ARP is let through, as far as we look at it.
var everything = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: arpSize}}

// New returns a server without networks.
func New() *Server {
	return &Server{
		wire: wire.New(wire.Frames(typeARP, everything)), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		cards: map[string]map[int]*card{},
	}
}

// Apply makes the networks and their hosts the wanted ones. Of a host that is new the missing addresses are those that
// somebody has found missing before.
func (s *Server) Apply(want []Network, missing map[string][]netip.Addr) error {
	now := time.Now()
	s.mu.Lock()
	before := s.cards
	s.cards = map[string]map[int]*card{}
	networks := make([]wire.Network, len(want))
	for k, n := range want {
		cards := make(map[int]*card, len(n.Hosts))
		for _, h := range n.Hosts {
			c := before[n.Name][h.Index]
			switch {
			case c == nil:
				c = newCard(now, h, missing[n.Name])
			case !c.host.equal(h):
				c = newCard(now, h, append(c.missing(), missing[n.Name]...))
			}
			cards[h.Index] = c
		}
		s.cards[n.Name] = cards
		networks[k] = wire.Network{Name: n.Name, Enter: n.Enter, Handle: func(in wire.Packet, _ *wire.Answer) bool {
			s.hear(n.Name, in)
			return false
		}}
	}
	s.mu.Unlock()
	err := s.wire.Apply(networks)
	notify(s.wake)
	return err
}

func (c *card) missing() (out []netip.Addr) {
	for n, k := range c.claims {
		if k.missing {
			out = append(out, c.host.Addresses[n])
		}
	}
	return out
}

// Addresses returns what is known of a network's, but of the hosts' first ones, in order.
func (s *Server) Addresses(network string) (out []Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for index, c := range s.cards[network] {
		for n, k := range c.claims {
			if n > 0 {
				out = append(out, Address{index, c.host.Addresses[n], k.missing})
			}
		}
	}
	slices.SortFunc(out, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Changed gets a value when what Addresses returns has changed by itself.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// Run asks and listens until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = s.wire.Run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		timer.Reset(s.ask(time.Now()))
	}
}

// ask does what is due, and returns the time until something else is.
func (s *Server) ask(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := now.Add(seldom)
	for network, cards := range s.cards {
		for index, c := range cards {
			addrs, changed := c.step(now)
			for _, a := range addrs {
				s.wire.Send(network, index, question(c.host, a))
			}
			if changed {
				notify(s.changed)
			}
			next = min2(next, c.due)
		}
	}
	return max(next.Sub(now), time.Millisecond)
}

// hear takes in one frame of a guest.
func (s *Server) hear(network string, in wire.Packet) {
	mac, a, ok := read(in.Data)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cards[network][in.Index]
	if c == nil || c.host.MAC != mac {
		return
	}
	due := c.due
	if c.hear(time.Now(), a) {
		notify(s.changed)
	}
	if c.due.Before(due) {
		notify(s.wake)
	}
}

// Close ends the service in all networks.
func (s *Server) Close() { s.wire.Close() }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// question asks the guest for an address, as the router does before it sends.
func question(h Host, a netip.Addr) []byte {
	b := wire.AppendEthernet(make([]byte, 0, arpSize), wire.Broadcast, h.Source, typeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, h.Source[:]...), h.Router.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), a.AsSlice()...)
}

// read returns who says of himself to have which address, in a question or an answer.
func read(f []byte) (mac [6]byte, a netip.Addr, ok bool) {
	if len(f) < arpSize || binary.BigEndian.Uint64(f[wire.EthernetSize:])&^3 != 0x0001_0800_0604_0000 {
		return mac, a, false
	}
	arp := f[wire.EthernetSize:]
	mac = [6]byte(f[6:])
	return mac, netip.AddrFrom4([4]byte(arp[14:])), mac == [6]byte(arp[8:])
}
