package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/channel"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// inputSize is the largest payload of an input: what the stock plugin sends.
	inputSize = 1024
	// beginning is how long the agent may take from the order to the end of the handshake: it starts a process.
	beginning = 45 * time.Second
	// absence is how long a data channel may be away. The agent tries five times within 15 s.
	absence = time.Minute
	// settling is how long nothing must have come before a session that is complete has said all: the word of its end comes on
	// another connection than its bytes. settled bounds that where that one was broken, or the guest says ever more.
	settling = 300 * time.Millisecond
	settled  = 5 * time.Second
	// defaultIdle is Session Manager's.
	defaultIdle = 20 * time.Minute
	// patience is how long the host may take to take note of the end.
	patience = 5 * time.Minute
	// parting is how long an agent has to read that its session is over before its connection is closed.
	parting = 2 * time.Second
)

// reason is why a session ends, in the word that is told.
type reason string

func (r reason) Error() string { return string(r) }

const (
	errExit       reason = "exit"
	errTerminated reason = "terminated"
	errIdle       reason = "idle"
	errLongest    reason = "longest"
	errLost       reason = "lost"
	errFailed     reason = "failed"
	errGone       reason = "lost " // the manager closes: nobody is to be told
)

// session is one session of the agent.
type session struct {
	m       *Manager
	id      cloud.SessionID
	plan    cloud.SessionPlan
	resume  bool // it began with another gateway
	stream  *stream.Stream
	dial    chan string     // nonces to meet the host with
	poke    chan struct{}   // of watch
	ctx     context.Context // ends with the session; its cause is why
	stop    context.CancelCauseFunc
	life    context.Context // ends when the host need not be told any more
	release context.CancelFunc

	mu        sync.Mutex
	change    sync.Cond
	tokens    []string
	end       *channel.End
	conn      Socket        // nil while the data channel is away
	wake      chan struct{} // of conn's writer
	inbox     []*channel.Piece
	ready     bool   // the handshake is over
	size      []byte // of the terminal, as the agent shall be told
	over      bool   // nobody need wait for anything any more
	code      int
	away      time.Time   // since when conn is nil
	heard     time.Time   // when the agent last said something new
	moved     time.Time   // when a byte went either way
	done      *completion // the agent's word of the end
	completed time.Time
	word      frame.ID // of the message that told it last
}

func newSession(m *Manager, o wire.Order) *session {
	now := time.Now()
	s := &session{
		m: m, id: o.ID, plan: o.Plan, resume: o.Resume, dial: make(chan string, 1), poke: make(chan struct{}, 1), end: channel.New(channel.Client, newID), code: -1,
		away: now, heard: now, moved: now,
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.life, s.release = context.WithCancel(context.Background())
	s.change.L = &s.mu
	s.stream = stream.New(s.resize)
	return s
}

// order has the session meet the host with a nonce. The manager's lock is held, so there is one at a time.
func (s *session) order(nonce string) {
	select {
	case <-s.dial:
	default:
	}
	s.dial <- nonce
}

// run is the session's life.
func (s *session) run() {
	told := make(chan struct{})
	defer s.release()
	var wg sync.WaitGroup
	wg.Go(func() { s.meet(told) })
	wg.Go(s.feed)
	wg.Go(s.pump)
	s.begin()
	s.watch()
	late := time.AfterFunc(patience, s.quit)
	defer late.Stop()
	end, text := s.outcome()
	if text != "" && s.plan.Kind != cloud.SessionPort { // a port's bytes are those of its connections
		s.stream.Write(wire.SessionStderr, []byte("ichiro: "+text+"\r\n"))
	}
	s.m.cfg.Log.Info("session of the stock agent ended", "session", s.id, "instance", s.m.cfg.Instance, "reason", end.Reason, "code", end.Code, "text", text)
	how, err := json.Marshal(end)
	if err != nil {
		panic(err) // numbers and a word
	}
	s.stream.End(how)
	s.leave()
	select {
	case <-told:
	case <-s.life.Done():
	}
	s.quit()
	s.m.forget(s)
	wg.Wait()
}

// quit has nobody wait for the host any more.
func (s *session) quit() {
	s.release()
	s.stream.Close()
}

// begin asks the agent for the session.
func (s *session) begin() {
	if s.resume {
		s.m.dismiss(s.id)
		s.stop(errLost)
		return
	}
	t, err := newTask(s.id, s.plan)
	if err == nil {
		err = s.m.say(frame.Shell, t)
	}
	if err != nil {
		s.fail(err)
	}
}

// failure is why a session has failed, for its user.
type failure struct{ error }

func (s *session) fail(err error) { s.stop(failure{err}) }

// watch waits for the end, which it brings itself when a bound of time is reached.
func (s *session) watch() {
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.poke:
		case <-timer.C:
		}
		next, why := s.check(time.Now(), begun)
		if why != nil {
			s.stop(why)
			return
		}
		timer.Reset(next)
	}
}

// look has watch look again: something has changed that it goes by.
func (s *session) look() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// check returns why a session is over, or when to look again.
func (s *session) check(now, begun time.Time) (next time.Duration, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type bound struct {
		applies bool
		at      time.Time
		why     error
	}
	next = time.Hour
	for _, b := range []bound{
		{s.done != nil && s.end.Held() == 0 && (s.conn != nil || s.away.After(s.completed)), s.heard.Add(settling), errExit},
		{s.done != nil && s.end.Held() == 0, s.completed.Add(settled), errExit},
		{true, s.moved.Add(cmp.Or(max(0, s.plan.Idle), defaultIdle)), errIdle},
		{s.plan.Longest > 0, begun.Add(s.plan.Longest), errLongest},
		{!s.ready, begun.Add(beginning), failure{errors.New("the stock agent did not open the session's channel in time")}},
		{s.ready && s.conn == nil && s.done == nil, s.away.Add(absence), errLost},
	} {
		left := b.at.Sub(now)
		switch {
		case !b.applies:
		case left <= 0:
			return 0, b.why
		default:
			next = min(next, left)
		}
	}
	if s.done != nil { // what is held is passed on meanwhile
		next = min(next, settling)
	}
	return next, nil
}

// complete takes note of the agent's word that the session has ended. It ends when its bytes have come, too, and acknowledges
// the word then; false when that is over.
func (s *session) complete(c completion, message frame.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.word = message
	if s.done == nil {
		s.done, s.completed = &c, time.Now()
		s.heard = s.completed // its last bytes may be on their way
		s.look()
	}
	return true
}

// outcome is how the session has ended, and what to say of it.
func (s *session) outcome() (cloud.SessionEnd, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := context.Cause(s.ctx)
	var f failure
	switch {
	case errors.As(why, &f):
		return cloud.SessionEnd{Code: -1, Reason: string(errFailed)}, f.Error()
	case why == errGone:
		return cloud.SessionEnd{Code: -1, Reason: string(errLost)}, ""
	case why != errExit:
		return cloud.SessionEnd{Code: -1, Reason: why.Error()}, ""
	case s.code >= 0:
		return cloud.SessionEnd{Code: s.code, Reason: string(errExit)}, ""
	case s.done.Status == "Success": // the agent tells no code of a shell
		return cloud.SessionEnd{Code: 0, Reason: string(errExit)}, ""
	}
	text := "the stock agent ended the session: " + printable.Word(s.done.Status, wordMost)
	if s.done.Output != "" {
		text += ": " + printable.Word(s.done.Output, wordMost)
	}
	return cloud.SessionEnd{Code: -1, Reason: string(errFailed)}, text
}

// leave has the agent told that the session is over, and nobody wait for it any more.
func (s *session) leave() {
	s.mu.Lock()
	now := time.Now()
	finished := s.done != nil
	if !finished && s.ready {
		s.end.Send(now, frame.Flag, channel.AppendSignal(frame.Terminate))
	}
	s.end.Close(now, string(s.id), string(s.id), "")
	s.over = true
	s.wakeWriter()
	s.change.Broadcast()
	if conn := s.conn; conn != nil {
		time.AfterFunc(parting, func() { conn.Close() })
	}
	done, word := s.done, s.word
	s.mu.Unlock()
	if !finished {
		s.m.dismiss(s.id)
	} else if err := s.m.say(frame.TaskCompleted, acknowledged(*done, word)); err != nil {
		s.m.cfg.Log.Debug("the end of a session is not acknowledged", "session", s.id, "err", err)
	}
}

// meet keeps the session's connection to the host until its end is told.
func (s *session) meet(told chan<- struct{}) {
	for {
		var nonce string
		select {
		case nonce = <-s.dial:
		case <-s.life.Done():
			return
		}
		here, there := stream.Pipe()
		joined := make(chan struct{})
		go func() {
			defer close(joined)
			defer there.Close()
			s.m.cfg.Join(s.id, nonce, there)
		}()
		err := s.stream.Serve(s.life, here)
		here.Close()
		<-joined
		if err == nil {
			close(told)
			return
		}
		s.m.cfg.Log.Debug("session is not connected to its host", "session", s.id, "err", err)
	}
}
