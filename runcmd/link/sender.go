package link

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/fault"
	"github.com/ichiro-metal/ichiro/runcmd/runner"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

var errNoWelcome = errors.New("the gateway did not welcome this agent")

// sender tells one connection about the jobs that it asked for.
type sender struct {
	link *Link
	conn *wire.Conn
	buf  [wire.MaxData]byte

	resting *time.Timer // the receiver's

	mu   sync.Mutex
	told map[cloud.CommandID]*told
}

// told is what the gateway has been told of a command on this connection.
type told struct {
	job      *runner.Job
	sent     [wire.Streams]int64
	accepted bool      // said, or implied by something else that was
	since    time.Time // of the request
	result   bool
}

// run sends until ctx ends.
func (s *sender) run(ctx context.Context) error {
	dirty := map[cloud.CommandID]bool{}
	for {
		if len(dirty) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-s.link.wake:
			}
		}
		for id := range s.link.takeDirty() {
			dirty[id] = true
		}
		for id := range dirty {
			more, err := s.tell(id)
			if err != nil {
				return err
			}
			if !more {
				delete(dirty, id)
			}
		}
	}
}

// handle acts on a frame of the gateway. It never waits for the sender: were the receiver held up, both
// sides could wait for each other to read.
func (s *sender) handle(ctx context.Context, f wire.Frame) {
	r := s.link.runner
	switch f := f.(type) {
	case *wire.Request:
		fault.At("agent asked")
		t := &told{job: r.Request(ctx, *f), sent: f.Offsets, since: time.Now()}
		for n := range wire.Streams { // an Ack may have been lost with the connection before, or with the agent
			if out := t.job.Stream(n); out != nil {
				out.Ack(f.Offsets[n])
			}
		}
		s.mu.Lock()
		s.told[f.ID] = t
		s.mu.Unlock()
		s.link.Changed(f.ID)
		id := f.ID
		time.AfterFunc(quiet, func() { s.link.Changed(id) })
	case *wire.Ack:
		if j := r.Job(f.ID); j != nil {
			if out := j.Stream(f.Stream); out != nil {
				out.Ack(f.Offset)
			}
		}
	case *wire.Cancel:
		r.Cancel(f.ID)
	case *wire.Metadata:
		s.link.heard()
	case *wire.Order:
		if s.link.guests != nil {
			s.link.guests.Order(ctx, *f)
		}
	case *wire.Terminate:
		if s.link.guests != nil {
			s.link.guests.Terminate(f.ID)
		}
	case *wire.Done:
		fault.At("agent acknowledged")
		s.mu.Lock()
		delete(s.told, f.ID)
		last := len(s.told) == 0
		s.mu.Unlock()
		r.Forget(f.ID)
		if last {
			s.rest()
		}
	}
}

// rest gives back what commands have used, when none has come for a while: the runtime would keep it for minutes, and a guest of
// 128 MiB has better use for it.
func (s *sender) rest() {
	const idle = time.Second
	if s.resting != nil {
		s.resting.Stop()
	}
	s.resting = time.AfterFunc(idle, func() {
		s.mu.Lock()
		busy := len(s.told) > 0
		s.mu.Unlock()
		if !busy {
			debug.FreeOSMemory()
		}
	})
}

// tell sends at most one frame of each output, and when all is sent the result. It reports whether
// there may be more.
func (s *sender) tell(id cloud.CommandID) (more bool, err error) {
	s.mu.Lock()
	t := s.told[id]
	s.mu.Unlock()
	if t == nil || t.result {
		return false, nil
	}
	result := t.job.Result() // before the outputs: they are complete if it is there
	for n := range wire.Streams {
		out := t.job.Stream(n)
		if out == nil {
			continue
		}
		if base := out.Base(); t.sent[n] < base {
			t.sent[n] = base // the gateway has lost what it acknowledged: it sees the gap
		}
		read, err := out.ReadAt(s.buf[:], t.sent[n])
		if err != nil {
			return false, fmt.Errorf("read %s of %s: %w", n, id, err)
		}
		if read == 0 {
			continue
		}
		f := &wire.Output{ID: id, Stream: n, Offset: t.sent[n], Data: s.buf[:read]}
		if err := s.conn.Send(f); err != nil {
			return false, err
		}
		fault.At("agent output sent")
		t.sent[n] += int64(read)
		t.accepted, more = true, true
	}
	switch {
	case more:
	case result != nil:
		r := *result
		r.Now = runner.Uptime()
		t.result = true
		fault.At("agent result sending")
		err := s.conn.Send(&r)
		fault.At("agent result sent")
		return false, err
	case !t.accepted && time.Since(t.since) >= quiet:
		t.accepted = true
		return false, s.conn.Send(&wire.Accepted{ID: id})
	}
	return more, nil
}
