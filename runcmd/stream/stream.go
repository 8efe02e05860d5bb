// Package stream carries the bytes of one session between a guest and its host, over as many websockets as it takes.
//
// Each side numbers what it sends, keeps it until the other has dealt with it, and is never further ahead than a
// window: so both always read, memory is bounded whoever stops to listen, and a connection that breaks loses nothing.
// Beyond that a side keeps the last History bytes for a peer that has forgotten all: a gateway that was killed asks
// for what is still there and has the screen again.
//
//	Write -> [kept ... acknowledged ... sent ... written]      the window is from acknowledged to written
//	Read  <- [received ... read], Done tells the other side how far
package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// ErrClosed is the error of a stream that was closed.
var ErrClosed = errors.New("the session's stream is closed")

// ErrWindow is the error of a peer that sends more than it may.
var ErrWindow = errors.New("the peer does not keep to the window")

const (
	// history is what is kept of what the peer has dealt with.
	history = 64 << 10
	// small is up to where pieces are put together: a record has its cost, and some send byte by byte.
	small = 4 << 10
	// mostRecords bounds those that cannot be put together, of both outputs in turns. Beyond it nothing is received until some are read.
	mostRecords = 8 << 10
)

// Conn carries a session's messages: a *wire.SessionConn, or an end of a Pipe. One goroutine may send while another receives;
// data is valid until the next Receive.
type Conn interface {
	Send(wire.SessionMessage) error
	Receive() (wire.SessionMessage, error)
	Close() error
}

// Record is a piece of what is carried.
type Record struct {
	Kind   wire.SessionFrame
	offset int64
	Data   []byte
}

// Stream is one side. One goroutine may write and one read while another serves connections.
type Stream struct {
	mu     sync.Mutex
	change sync.Cond
	closed bool

	out     []Record
	base    int64 // offset of out's first byte
	written int64
	acked   int64

	in       []Record
	received int64
	dealt    int64 // with, by the reader

	size   int64  // columns << 32 | rows; 0 for none
	sizes  int    // how often it was set
	end    []byte // sent when all is
	ended  []byte // received
	done   bool   // the peer has taken note of the end
	fresh  bool   // nothing was received: the first record says where to begin
	begun  bool   // a peer has said from where it wants to be sent to
	resize func(columns, rows int)
}

// New returns a stream that begins with nothing. resize is called when the peer's window changes; nil for never.
func New(resize func(columns, rows int)) *Stream {
	s := &Stream{resize: resize, fresh: true}
	s.change.L = &s.mu
	return s
}

// Write takes data to send and waits until there is room for it. It keeps no reference to p.
func (s *Stream) Write(kind wire.SessionFrame, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		for !s.closed && s.written-s.acked >= wire.SessionWindow {
			s.change.Wait()
		}
		if s.closed {
			return ErrClosed
		}
		n := min(len(p), wire.MaxData, int(wire.SessionWindow-(s.written-s.acked)))
		s.append(kind, p[:n])
		p = p[n:]
	}
	return nil
}

// put adds a piece to records, in memory of its own. What somebody has been given of the last one stays as it was.
func put(all []Record, r Record) []Record {
	if n := len(all) - 1; n >= 0 && all[n].Kind == r.Kind && len(all[n].Data)+len(r.Data) <= small {
		all[n].Data = append(all[n].Data, r.Data...)
		return all
	}
	r.Data = append([]byte(nil), r.Data...)
	return append(all, r)
}

// append adds what is written.
func (s *Stream) append(kind wire.SessionFrame, p []byte) {
	s.out = put(s.out, Record{kind, s.written, p})
	s.written += int64(len(p))
	s.change.Broadcast()
}

// Met waits until a peer has said from where it wants to be sent to. A side that had forgotten all knows then how far it was.
func (s *Stream) Met() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.begun && !s.closed {
		s.change.Wait()
	}
	if s.closed {
		return ErrClosed
	}
	return nil
}

// Written is how many bytes were written, those of before this side knew of it included.
func (s *Stream) Written() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

// Pending is how many bytes the peer has not dealt with.
func (s *Stream) Pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written - s.acked
}

// Read waits for the next record. io.EOF is never returned: Ended tells.
func (s *Stream) Read() (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 && !s.closed && s.ended == nil {
		s.change.Wait()
	}
	if len(s.in) == 0 {
		return Record{}, ErrClosed
	}
	r := s.in[0]
	s.in[0] = Record{}
	s.in = s.in[1:]
	return r, nil
}

// Done says that n more bytes of what was read have been dealt with.
func (s *Stream) Done(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dealt += int64(n)
	s.change.Broadcast()
}

// Resize tells the peer another size of the window.
func (s *Stream) Resize(columns, rows uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = int64(columns&0x7fff)<<32 | int64(rows&0x7fff)
	s.sizes++
	s.change.Broadcast()
}

// End has the peer told, behind all that was written, how the session has ended.
func (s *Stream) End(how []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = how
	s.change.Broadcast()
}

// Ended returns what the peer has told with End, nil if nothing.
func (s *Stream) Ended() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Close ends the stream. Records that were received can still be read.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.change.Broadcast()
}

// Acknowledge takes note of the peer's end: Serve tells the peer and returns.
func (s *Stream) Acknowledge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.change.Broadcast()
}

// Serve carries the stream over one connection until that breaks, the stream is closed, or one side has told its
// end and the other has taken note: then it returns nil.
func (s *Stream) Serve(ctx context.Context, conn Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		s.mu.Lock()
		s.change.Broadcast()
		s.mu.Unlock()
	})
	defer stop()
	s.mu.Lock()
	from := s.received
	if s.fresh {
		from = -1
	}
	s.mu.Unlock()
	if err := conn.Send(wire.SessionMessage{Frame: wire.SessionAttach, Offset: from}); err != nil {
		return err
	}
	m, err := conn.Receive()
	if err != nil {
		return err
	}
	if m.Frame != wire.SessionAttach {
		return errors.New("the peer does not say where to go on")
	}
	next, err := s.attached(m.Offset)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer cancel()
		s.send(ctx, conn, next)
	})
	for {
		m, err := conn.Receive()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.done {
				return nil
			}
			return err
		}
		if err := s.receive(ctx, m); err != nil {
			return err
		}
	}
}

// attached returns the offset from which the peer wants to be sent to.
func (s *Stream) attached(offset int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset > 0 && !s.begun {
		// This side has forgotten all, and goes on where the peer is.
		for n := range s.out {
			s.out[n].offset += offset
		}
		s.base, s.written, s.acked = s.base+offset, s.written+offset, s.acked+offset
	}
	s.begun = true
	s.change.Broadcast()
	if offset > s.written {
		return 0, errors.New("the peer claims to have what was never sent")
	}
	if offset >= 0 && offset < s.base {
		return 0, errors.New("the peer asks for what is not kept any more")
	}
	if offset < 0 {
		return s.base, nil
	}
	return offset, nil // the peer has it, and need not have dealt with it: its Ack will say
}

// acknowledged forgets what the peer has, but for the last of it.
func (s *Stream) acknowledged(offset int64) {
	s.acked = max(s.acked, offset)
	n := 0
	for n < len(s.out) && s.out[n].offset+int64(len(s.out[n].Data)) <= s.acked-history {
		s.base = s.out[n].offset + int64(len(s.out[n].Data))
		s.out[n] = Record{}
		n++
	}
	s.out = s.out[n:]
	s.change.Broadcast()
}

func (s *Stream) receive(ctx context.Context, m wire.SessionMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Frame {
	case wire.SessionAck:
		if m.Offset > s.written {
			return errors.New("the peer acknowledges what was never sent")
		}
		s.acknowledged(m.Offset)
	case wire.SessionStdout, wire.SessionStderr, wire.SessionInput, wire.SessionClose:
		for len(s.in) >= mostRecords && !s.closed && ctx.Err() == nil {
			s.change.Wait()
		}
		if s.fresh { // of what the peer kept: it begins there
			s.received, s.dealt, s.fresh = m.Offset, m.Offset, false
		}
		skip := s.received - m.Offset
		if skip < 0 {
			return fmt.Errorf("%d bytes are missing", -skip)
		}
		if skip >= int64(len(m.Data)) {
			return nil // seen before
		}
		if s.received-s.dealt+int64(len(m.Data)) > wire.SessionWindow+history {
			return ErrWindow
		}
		s.in = put(s.in, Record{m.Frame, s.received, m.Data[skip:]})
		s.received += int64(len(m.Data)) - skip
		s.change.Broadcast()
	case wire.SessionResize:
		if s.resize != nil {
			s.resize(int(m.Offset>>32&0x7fff), int(m.Offset&0x7fff))
		}
	case wire.SessionEnded:
		s.ended = append([]byte{}, m.Data...)
		s.change.Broadcast()
	case wire.SessionDone:
		s.done = true
		s.change.Broadcast()
	default:
		return fmt.Errorf("session message %c does not belong here", m.Frame)
	}
	return nil
}

// send sends whatever there is to send, from an offset on.
func (s *Stream) send(ctx context.Context, conn Conn, next int64) {
	acked, sizes, told, noted := int64(-1), 0, false, false
	for {
		m, ok := s.next(ctx, next, &acked, &sizes, &told, &noted)
		if !ok || conn.Send(m) != nil || noted {
			return
		}
		switch m.Frame {
		case wire.SessionStdout, wire.SessionStderr, wire.SessionInput, wire.SessionClose:
			next = m.Offset + int64(len(m.Data))
		}
	}
}

// next waits for a message to send.
func (s *Stream) next(ctx context.Context, next int64, acked *int64, sizes *int, told, noted *bool) (wire.SessionMessage, bool) {
	// A quarter of the window between two acknowledgements: the peer never waits, and they cost nothing.
	const enough = wire.SessionWindow / 4
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; ; s.change.Wait() {
		switch {
		case ctx.Err() != nil:
			return wire.SessionMessage{}, false
		case s.done && s.end == nil: // also when the stream is closed
			*noted = true
			return wire.SessionMessage{Frame: wire.SessionDone}, true
		case s.closed:
			return wire.SessionMessage{}, false
		case s.done:
			return wire.SessionMessage{}, false
		case !s.fresh && (s.dealt-*acked >= enough || s.dealt > *acked && s.dealt == s.received):
			*acked = s.dealt
			return wire.SessionMessage{Frame: wire.SessionAck, Offset: s.dealt}, true
		case *sizes != s.sizes:
			*sizes = s.sizes
			return wire.SessionMessage{Frame: wire.SessionResize, Offset: s.size}, true
		case next < s.written:
			r := s.at(next)
			return wire.SessionMessage{Frame: r.Kind, Offset: next, Data: r.Data}, true
		case s.end != nil && !*told:
			*told = true
			return wire.SessionMessage{Frame: wire.SessionEnded, Data: s.end}, true
		}
	}
}

// at returns the rest of the record at an offset.
func (s *Stream) at(offset int64) Record {
	lo, hi := 0, len(s.out)
	for lo < hi {
		if mid := (lo + hi) / 2; s.out[mid].offset+int64(len(s.out[mid].Data)) <= offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	r := s.out[lo]
	r.Data = r.Data[offset-r.offset:]
	return r
}
