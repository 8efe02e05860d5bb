package stream

import (
	"sync"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// Pipe returns the two ends of a connection within this process. Closing either breaks it.
func Pipe() (a, b Conn) {
	// Both begin by sending, so one message has room.
	there, back, gone := make(chan wire.SessionMessage, 1), make(chan wire.SessionMessage, 1), make(chan struct{})
	breaks := sync.OnceFunc(func() { close(gone) })
	return &pipe{there, back, gone, breaks}, &pipe{back, there, gone, breaks}
}

// pipe is one end. It copies nothing: what a Stream sends it never changes, and what it receives it copies.
type pipe struct {
	out    chan<- wire.SessionMessage
	in     <-chan wire.SessionMessage
	gone   chan struct{}
	breaks func()
}

func (p *pipe) Send(m wire.SessionMessage) error {
	select {
	case p.out <- m:
		return nil
	case <-p.gone:
		return ErrClosed
	}
}

func (p *pipe) Receive() (wire.SessionMessage, error) {
	select {
	case m := <-p.in:
		return m, nil
	case <-p.gone:
	}
	select {
	case m := <-p.in: // the last word
		return m, nil
	default:
		return wire.SessionMessage{}, ErrClosed
	}
}

func (p *pipe) Close() error {
	p.breaks()
	return nil
}
