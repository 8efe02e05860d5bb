package delivery

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// Conn is a connection of an agent: a *wire.Conn, or what speaks for another kind of agent. One that has room for so many
// commands only has a method Room, too.
type Conn interface {
	Send(wire.Frame) error
	Receive() (wire.Frame, error)
	Probe() error
	OnPong(func())
	Close() error
}

// link is one connection of the agent.
type link struct {
	conn   Conn
	stock  bool // it is the stock agent's
	guest  guestAgent
	addr   netip.Addr
	turn   chan struct{} // full while a frame of it is dealt with
	ponged atomic.Bool   // and nobody has taken note of it yet
	fenced chan struct{} // closed when the connection is not the current one any more
	rests  idler         // the connection, if it can be laid down
	resume func()        // goes on receiving
}

// guestAgent is what has to be known of an agent as long as it is connected.
type guestAgent struct {
	boot              string // of the guest
	level             int    // of the steps that it understands
	listens, sessions bool
}

// idler is a connection that can be laid down while nothing comes: a *wire.Conn.
type idler interface{ Idle(resume func()) bool }

// serve receives from a connection until it breaks; from one that can be laid down, until nothing comes for now.
func (i *instance) serve(conn Conn, addr netip.Addr, stock bool) {
	l := &link{conn: conn, stock: stock, addr: addr, turn: make(chan struct{}, 1), fenced: make(chan struct{})}
	conn.OnPong(func() {
		if !l.ponged.Swap(true) { // a guest may send as many as it likes
			i.turns.do(func() { i.pong(l) })
		}
	})
	if !i.greet(l) {
		conn.Close()
		return
	}
	l.rests, _ = conn.(idler)
	l.resume = func() { i.receive(l) }
	i.receive(l)
}

// greet receives who the agent is, and makes its connection the current one.
func (i *instance) greet(l *link) bool {
	hurry := time.AfterFunc(helloWait, func() { l.conn.Close() })
	f, err := l.conn.Receive()
	hurry.Stop()
	if err != nil {
		return false
	}
	hello, ok := f.(*wire.Hello)
	if !ok || hello.Version != wire.Version {
		i.log().Debug("agent speaks another version")
		return false
	}
	return i.turns.do(func() { i.join(l, hello) })
}

// receive hands over what comes, until the connection breaks or is laid down.
func (i *instance) receive(l *link) {
	for {
		if l.rests != nil && l.rests.Idle(l.resume) {
			return // another goroutine goes on
		}
		f, err := l.conn.Receive()
		if err != nil || !i.handOver(l, f) {
			break
		}
	}
	l.conn.Close()
	i.turns.do(func() {
		if i.now == l {
			i.hangUp(nil)
		}
	})
}

// handOver has a frame dealt with when the one before has been, which is what Receive allows; false if that is never.
func (i *instance) handOver(l *link, f wire.Frame) bool {
	select {
	case l.turn <- struct{}{}:
		i.turns.do(func() {
			if i.now == l {
				i.heed(f)
			}
			<-l.turn
		})
		return true
	case <-l.fenced:
		return false
	}
}

// pong takes note of an answer to a probe.
func (i *instance) pong(l *link) {
	l.ponged.Store(false)
	if i.now == l {
		i.alive()
	}
}
