// Package presence finds out which of its addresses a guest has.
//
// An interface may have several, and EC2 leaves it to the guest to know: one that is configured by DHCP alone has the
// first, and drops what comes for the others. The host must know to help it (agent/eni leads such packets to the
// first address), and must know when help is not wanted any more. So it asks the guest by ARP, as any neighbour does
// who wants to send: whoever has an address answers for it. It asks for all addresses of an interface in one round, and
// believes that one is missing only while the guest answers for the first. What guests say unasked, in questions and
// announcements of their own, counts as an answer, so an address that the guest gets and uses is known at once.
//
// A guest with several interfaces may take what comes for an address by one of them only, and by different ones from different
// networks: with the reverse path filter switched on a kernel drops what it would not answer by the same interface, and
// answers no ARP for it either. So such a guest is asked in the name of its router and of others, and where it is silent, by
// its other interfaces.
//
// Nothing is asked of interfaces with one address. A guest that lies harms itself: only its own addresses, from its own tap
// and MAC, are listened to. card.go decides, presence.go asks and listens, by agent/wire.
package presence

import (
	"cmp"
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

	// Of a guest with several interfaces: in whose name it is asked beside the router's, one for each network that it may have
	// a route of its own to; and where it is asked instead when it does not answer here.
	Others   []netip.Addr
	Siblings []Sibling
}

// Sibling is another interface of the same guest.
type Sibling struct {
	Index int
	First netip.Addr // of its addresses
}

func (h Host) equal(o Host) bool {
	return h.Index == o.Index && h.MAC == o.MAC && h.Source == o.Source && h.Router == o.Router && slices.Equal(h.Addresses, o.Addresses) &&
		slices.Equal(h.Others, o.Others) && slices.Equal(h.Siblings, o.Siblings)
}

// Address is one of a network's, and what is known of it.
type Address struct {
	Index   int
	Addr    netip.Addr
	Missing bool // the guest does not have it
}

// Way is where a guest takes what comes from somebody's network for one of its addresses.
type Way struct {
	To, From netip.Addr
	Through  netip.Addr // the first address of a sibling; the zero Addr: the address's own interface
}

// Server asks in any number of namespaces.
type Server struct {
	wire    *wire.Server
	changed chan struct{}
	wake    chan struct{}

	mu    sync.Mutex
	cards map[string]map[int]*card        // by network and tap
	owner map[string]map[netip.Addr]*card // by network and address
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
		cards: map[string]map[int]*card{}, owner: map[string]map[netip.Addr]*card{},
	}
}

// Apply makes the networks and their hosts the wanted ones. Of a host that is new the missing addresses are those that
// somebody has found missing before.
func (s *Server) Apply(want []Network, missing map[string][]netip.Addr) error {
	now := time.Now()
	s.mu.Lock()
	before := s.cards
	s.cards, s.owner = map[string]map[int]*card{}, map[string]map[netip.Addr]*card{}
	networks := make([]wire.Network, len(want))
	for k, n := range want {
		cards, owner := make(map[int]*card, len(n.Hosts)), map[netip.Addr]*card{}
		for _, h := range n.Hosts {
			c := before[n.Name][h.Index]
			switch {
			case c == nil:
				c = newCard(now, h, missing[n.Name])
			case !c.host.equal(h):
				old := c
				c = newCard(now, h, append(old.missing(), missing[n.Name]...))
				c.inherit(old)
			}
			cards[h.Index] = c
			for _, a := range h.Addresses {
				owner[a] = c
			}
		}
		s.cards[n.Name], s.owner[n.Name] = cards, owner
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

// Ways returns those of the addresses that a guest takes by another interface, at least from somebody.
func (s *Server) Ways(network string) (out []Way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cards[network] {
		for _, w := range c.ways {
			if c.strays(w.to) {
				out = append(out, Way{w.to, w.from, c.through(w)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Way) int { return cmp.Or(a.To.Compare(b.To), a.From.Compare(b.From)) })
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
			asks, changed := c.step(now)
			for _, q := range asks {
				at := index
				if q.place > 0 {
					at = c.host.Siblings[q.place-1].Index
				}
				s.wire.Send(network, at, question(c.host.Source, q.from, q.to))
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
	mac, a, from, ok := read(in.Data)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, c := s.cards[network][in.Index], s.owner[network][a]
	if at == nil || at.host.MAC != mac || c == nil {
		return
	}
	place := slices.IndexFunc(c.host.Siblings, func(s Sibling) bool { return s.Index == in.Index }) + 1
	if place == 0 && at != c {
		return // another guest's address
	}
	due := c.due
	if c.hear(time.Now(), a, from, place) {
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

// question asks the guest for an address in somebody's name, as a router does for whom it sends.
func question(source [6]byte, from, to netip.Addr) []byte {
	b := wire.AppendEthernet(make([]byte, 0, arpSize), wire.Broadcast, source, typeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, source[:]...), from.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
}

// read returns who says of himself to have which address; whom he answers, if it is an answer.
func read(f []byte) (mac [6]byte, a, from netip.Addr, ok bool) {
	if len(f) < arpSize || binary.BigEndian.Uint64(f[wire.EthernetSize:])&^3 != 0x0001_0800_0604_0000 {
		return mac, a, from, false
	}
	arp := f[wire.EthernetSize:]
	mac = [6]byte(f[6:])
	if arp[7] == 2 {
		from = netip.AddrFrom4([4]byte(arp[24:]))
	}
	return mac, netip.AddrFrom4([4]byte(arp[14:])), from, mac == [6]byte(arp[8:])
}
