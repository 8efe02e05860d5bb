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
}

// guestAgent is what has to be known of an agent as long as it is connected.
type guestAgent struct {
	boot              string // of the guest
	level             int    // of the steps that it understands
	listens, sessions bool
}

// serve receives from a connection until it breaks.
func (i *instance) serve(conn Conn, addr netip.Addr, stock bool) {
	defer conn.Close()
	l := &link{conn: conn, stock: stock, addr: addr, turn: make(chan struct{}, 1), fenced: make(chan struct{})}
	conn.OnPong(func() {
		if !l.ponged.Swap(true) { // a guest may send as many as it likes
			i.turns.do(func() { i.pong(l) })
		}
	})
	hurry := time.AfterFunc(helloWait, func() { conn.Close() })
	f, err := conn.Receive()
	hurry.Stop()
	if err != nil {
		return
	}
	hello, ok := f.(*wire.Hello)
	if !ok || hello.Version != wire.Version {
		i.log().Debug("agent speaks another version")
		return
	}
	if !i.turns.do(func() { i.join(l, hello) }) {
		return
	}
	defer i.turns.do(func() {
		if i.now == l {
			i.hangUp(nil)
		}
	})
	for {
		f, err := conn.Receive()
		if err != nil {
			return
		}
		// When the next frame is handed over, this one has been dealt with, which is what Receive allows.
		select {
		case l.turn <- struct{}{}:
			i.turns.do(func() {
				if i.now == l {
					i.heed(f)
				}
				<-l.turn
			})
		case <-l.fenced:
			return
		}
	}
}

// pong takes note of an answer to a probe.
func (i *instance) pong(l *link) {
	l.ponged.Store(false)
	if i.now == l {
		i.alive()
	}
}
