package delivery

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// perAddress bounds the connections of one address: an agent has one, and while it reconnects two; and each of its
	// sessions, of which there are 64 at most, one.
	perAddress = 4 + 64
	// burst and refill bound how often an address may connect: a busy loop of reconnects would cost the
	// host a handshake and two files each. An agent in trouble comes at most every 10 ms for a while.
	burst  = 50
	refill = 200 * time.Millisecond
)

// door is a listener that closes connections of an address that has too many or comes too often.
type door struct {
	net.Listener
	most int // connections of an address

	mu     sync.Mutex
	guests map[netip.Addr]*guest
}

type guest struct {
	open   int
	tokens float64
	at     time.Time
}

// Bound returns a listener that closes connections of an address which has as many as most, or comes too often.
func Bound(l net.Listener, most int) net.Listener {
	d := newDoor(l)
	d.most = most
	return d
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, most: perAddress, guests: map[netip.Addr]*guest{}}
}

// Accept returns the next connection that may come in.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || !d.admit(from.Addr(), time.Now()) {
			c.Close()
			continue
		}
		return &admitted{Conn: c, leave: sync.OnceFunc(func() { d.left(from.Addr()) })}, nil
	}
}

func (d *door) admit(a netip.Addr, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.guests[a]
	if g == nil {
		g = &guest{tokens: burst, at: now}
		d.guests[a] = g
	}
	g.tokens = min(burst, g.tokens+float64(now.Sub(g.at))/float64(refill))
	g.at = now
	if g.open >= d.most || g.tokens < 1 {
		return false
	}
	g.tokens--
	g.open++
	return true
}

// left forgets a connection. The addresses of a VPC on one host are few: what is kept of each stays.
func (d *door) left(a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests[a].open--
}

type admitted struct {
	net.Conn
	leave func()
}

// NetConn returns the connection within.
func (a *admitted) NetConn() net.Conn { return a.Conn }

func (a *admitted) Close() error {
	a.leave()
	return a.Conn.Close()
}
