package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/channel"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// Socket carries a data channel: a *wire.Raw.
type Socket interface {
	ReadRaw() (b []byte, text bool, err error)
	WriteRaw(b []byte) error
	Ping(ctx context.Context)
	Close() error
}

// attach serves a connection of the agent until it breaks. The one before, if there is one, is closed.
func (s *session) attach(ctx context.Context, conn Socket) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return ErrUnknown
	}
	if s.conn != nil {
		s.conn.Close()
	}
	wake := make(chan struct{}, 1)
	s.conn, s.wake = conn, wake
	s.end.Resume(time.Now())
	s.wakeWriter()
	s.change.Broadcast()
	s.mu.Unlock()
	go conn.Ping(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { defer cancel(); s.write(ctx, conn, wake) })
	err := s.read(conn)
	cancel()
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn, s.away = nil, time.Now()
		s.look()
	}
	s.change.Broadcast()
	return err
}

// read takes the agent's messages, and waits while what it has taken is not passed on: the agent knows no window.
func (s *session) read(conn Socket) error {
	for {
		b, text, err := conn.ReadRaw()
		if err != nil {
			return err
		}
		if text {
			return errors.New("agent sends a text where messages are binary")
		}
		s.mu.Lock()
		for s.conn == conn && !s.over && s.end.Busy() {
			s.change.Wait()
		}
		if s.conn != conn {
			s.mu.Unlock()
			return errors.New("the agent has another connection")
		}
		if s.over { // until it hangs up
			s.mu.Unlock()
			continue
		}
		err = s.receive(b)
		s.wakeWriter()
		s.change.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// receive takes one message. mu is held.
func (s *session) receive(b []byte) error {
	now := time.Now()
	p, err := s.end.Receive(now, b)
	for ; p != nil && err == nil; p = s.end.Next() {
		s.heard = now
		err = s.take(now, p)
	}
	return err
}

// take deals with what the agent has said. mu is held.
func (s *session) take(now time.Time, p *channel.Piece) error {
	switch p.Type {
	case frame.HandshakeRequest:
		s.end.Done(now, p)
		answer, err := response(p.Data, s.plan)
		if err != nil {
			s.fail(err)
			return err
		}
		if s.end.Room() < len(answer) {
			return errors.New("the agent shakes hands again and again")
		}
		return s.end.Send(now, frame.HandshakeResponse, answer)
	case frame.HandshakeComplete:
		s.end.Done(now, p)
		s.ready = true
		s.moved = now // a user has waited for this
	case frame.ExitCode:
		s.end.Done(now, p)
		s.code = exitCode(p.Data)
	case frame.Data, frame.Stderr, frame.Fault:
		s.inbox = append(s.inbox, p)
	default: // a flag: a port that could not be reached, whose connection the agent closes, too
		s.end.Done(now, p)
	}
	return nil
}

// pump passes on what the agent has said.
func (s *session) pump() {
	for {
		s.mu.Lock()
		for len(s.inbox) == 0 && !s.over {
			s.change.Wait()
		}
		if len(s.inbox) == 0 || s.over {
			s.mu.Unlock()
			return
		}
		p := s.inbox[0]
		s.inbox[0] = nil
		s.inbox = s.inbox[1:]
		s.moved = time.Now()
		s.mu.Unlock()
		kind := wire.SessionStdout
		if p.Type != frame.Data {
			kind = wire.SessionStderr
		}
		if p.Type == frame.Data || s.plan.Kind != cloud.SessionPort {
			if s.stream.Write(kind, p.Data) != nil {
				return
			}
		}
		s.mu.Lock()
		s.end.Done(time.Now(), p)
		s.wakeWriter()
		s.change.Broadcast()
		s.mu.Unlock()
	}
}

// feed sends the agent what the client says, when the handshake is over.
func (s *session) feed() {
	for {
		r, err := s.stream.Read()
		if err != nil {
			return
		}
		if r.Kind == wire.SessionClose { // its protocol has no word for it
			s.stream.Done(len(r.Data))
			continue
		}
		s.mu.Lock()
		s.moved = time.Now()
		for p := r.Data; len(p) > 0; {
			for !s.over && (!s.ready || s.end.Room() < inputSize) {
				s.change.Wait()
			}
			if s.over {
				s.mu.Unlock()
				return
			}
			n := min(len(p), inputSize)
			s.end.Send(time.Now(), frame.Data, p[:n])
			s.wakeWriter()
			s.change.Broadcast() // where no more can be sent the agent is read from in any case
			p = p[n:]
		}
		s.mu.Unlock()
		s.stream.Done(len(r.Data))
	}
}

// resize tells the agent another size of the terminal. The first may come before the handshake is over.
func (s *session) resize(columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = fmt.Appendf(nil, `{"cols":%d,"rows":%d}`, columns, rows)
	s.tellSize()
}

// tellSize is called with mu held.
func (s *session) tellSize() {
	if !s.ready || s.over || s.size == nil || s.end.Room() < len(s.size) {
		return
	}
	s.end.Send(time.Now(), frame.Size, s.size)
	s.size = nil
	s.wakeWriter()
}

// write writes what is to be written to the agent.
func (s *session) write(ctx context.Context, conn Socket, wake <-chan struct{}) {
	channel.Pump(ctx, wake, func() (out [][]byte, due time.Time, ours bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != conn {
			return nil, due, false
		}
		s.tellSize()
		due = s.end.Due(time.Now())
		if s.end.Busy() {
			defer s.change.Broadcast()
		}
		return s.end.Take(), due, true
	}, conn.WriteRaw)
}

// wakeWriter is called with mu held.
func (s *session) wakeWriter() {
	if s.conn == nil {
		return
	}
	channel.Wake(s.wake)
}
