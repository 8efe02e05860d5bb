// Package session is the guest's side of Session Manager: shells, commands and forwarded ports for whom the host's
// gateway says.
//
// A session outlives the websocket that it came on: what it says is kept within a window (package stream) and the
// websocket is dialled again, for patience at most. It ends when its process does, when it is told to, when nothing
// was said for its idle time or when its longest time is over; whatever is left of it then, in its control group or
// its session, is killed. Its end is told until the gateway has taken note.
//
//	Order --> start --> dial, serve, dial again ... --> end --> told --> forgotten
//
// The gateway is believed as to who may do what: it is the host. What it may make this guest reach is not: see cloud.ForwardDenied.
package session

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// most bounds the sessions at a time: each may keep a window and a history.
	most = 64
	// patience is how long a session waits for a gateway that does not answer.
	patience = 5 * time.Minute
	// defaultIdle is Session Manager's.
	defaultIdle = 20 * time.Minute
	// retry is the first pause between two attempts to dial; it doubles up to maxRetry.
	retry    = 100 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Config is what a manager works with.
type Config struct {
	Gateway string // URL of the agent's websocket; those of sessions are beside it
	Dial    wire.Dialer
	Etc     string // where passwd and group are: /etc
	// Group makes a control group: its descriptor, and what kills and removes it. It may be nil, and so may kill.
	Group func() (fd int, kill func())
	Log   *slog.Logger
}

// Manager keeps the sessions of this guest.
type Manager struct {
	cfg      Config
	mu       sync.Mutex
	sessions map[cloud.SessionID]*session
}

// New returns a manager without sessions.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, sessions: map[cloud.SessionID]*session{}}
}

// session is one of them.
type session struct {
	m       *Manager
	id      cloud.SessionID
	plan    cloud.SessionPlan
	resume  bool // it began in an agent that is no more
	stream  *stream.Stream
	last    atomic.Int64 // when a byte went either way, in nanoseconds of this process
	dial    chan string  // nonces to dial with
	stop    context.CancelCauseFunc
	sizes   sync.Mutex
	columns int // as the client said last, perhaps before there was a terminal
	rows    int
	resized func(columns, rows int)
}

// body is what a session does. It reads and writes the stream until it ends or ctx does.
type body func(ctx context.Context, s *session) (code int, err error)

// begun is the clock of idle times: nobody can set it.
var begun = time.Now()

func (s *session) touch() { s.last.Store(int64(time.Since(begun))) }

// Order starts a session, or has the one that there is dial again. It does not wait.
func (m *Manager) Order(ctx context.Context, o wire.Order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[o.ID]
	if s == nil {
		if len(m.sessions) >= most {
			m.cfg.Log.Warn("there are too many sessions", "session", o.ID)
			return
		}
		s = m.start(ctx, o)
	}
	select {
	case s.dial <- o.Nonce:
	default: // it is about to dial, or will again
		select {
		case <-s.dial:
		default:
		}
		select {
		case s.dial <- o.Nonce:
		default:
		}
	}
}

// Terminate ends a session, if there is one of this ID.
func (m *Manager) Terminate(id cloud.SessionID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[id]; s != nil {
		s.stop(errTerminated)
	}
}

// Close ends all sessions: their processes are children of this one's.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		s.stop(errTerminated)
	}
}

type reason string

func (r reason) Error() string { return string(r) }

// Why a session is ended by somebody else than itself.
const (
	errTerminated reason = "terminated"
	errIdle       reason = "idle"
	errLongest    reason = "longest"
	errLost       reason = "lost"
)

func (m *Manager) start(ctx context.Context, o wire.Order) *session {
	// It outlives the agent's connection on which it was ordered.
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &session{m: m, id: o.ID, plan: o.Plan, resume: o.Resume, dial: make(chan string, 1), stop: stop}
	s.stream = stream.New(func(c, r int) {
		s.sizes.Lock()
		defer s.sizes.Unlock()
		s.columns, s.rows = c, r
		if s.resized != nil {
			s.resized(c, r)
		}
	})
	s.touch()
	m.sessions[o.ID] = s
	told := make(chan struct{})
	go s.connect(ctx, told)
	go s.watch(ctx)
	go s.run(ctx, told)
	return s
}

// run does what the session is for, and tells its end.
func (s *session) run(ctx context.Context, told <-chan struct{}) {
	do := map[cloud.SessionKind]body{
		cloud.SessionShell: shell, cloud.SessionCommand: shell, cloud.SessionBatch: batch, cloud.SessionPort: ports,
	}[s.plan.Kind]
	end := cloud.SessionEnd{Code: -1, Reason: "failed"}
	if s.resume {
		end.Reason = string(errLost)
	} else if do != nil {
		code, err := do(ctx, s)
		end.Code, end.Reason = code, "exit"
		if err != nil {
			s.stream.Write(wire.SessionStderr, []byte("ichiro: "+err.Error()+"\r\n"))
			end.Reason = "failed"
		}
	}
	if why, ok := context.Cause(ctx).(reason); ok {
		end.Reason = string(why)
	}
	s.m.cfg.Log.Info("session ended", "session", s.id, "reason", end.Reason, "code", end.Code)
	how, err := json.Marshal(end)
	if err != nil {
		panic(err) // numbers and a word
	}
	s.stream.End(how)
	select {
	case <-told:
	case <-time.After(patience):
	}
	s.stop(errLost)
	s.stream.Close()
	s.m.mu.Lock()
	delete(s.m.sessions, s.id)
	s.m.mu.Unlock()
}

// connect keeps the session's websocket until its end is told.
func (s *session) connect(ctx context.Context, told chan<- struct{}) {
	lost := time.NewTimer(patience)
	defer lost.Stop()
	nonce := <-s.dial // Order has put one there
	for pause := time.Duration(0); ; pause = min(max(retry, 2*pause), maxRetry) {
		select {
		case nonce = <-s.dial:
		case <-time.After(pause):
		case <-lost.C:
			s.stop(errLost)
			return
		}
		conn, err := s.m.cfg.Dial.DialSession(context.WithoutCancel(ctx), s.url(nonce))
		if err != nil {
			continue
		}
		lost.Reset(patience)
		pause = 0
		life, cancel := context.WithCancel(context.WithoutCancel(ctx))
		go conn.Ping(life)
		err = s.stream.Serve(life, conn)
		cancel()
		conn.Close()
		if err == nil {
			close(told)
			return
		}
		s.m.cfg.Log.Debug("session is not connected", "session", s.id, "err", err)
		lost.Reset(patience)
	}
}

func (s *session) url(nonce string) string {
	return strings.TrimSuffix(s.m.cfg.Gateway, wire.Path) + wire.SessionPath + url.PathEscape(string(s.id)) + "?nonce=" + url.QueryEscape(nonce)
}

// watch ends the session when it is idle or too old.
func (s *session) watch(ctx context.Context) {
	idle := s.plan.Idle
	if idle <= 0 {
		idle = defaultIdle
	}
	if s.plan.Longest > 0 {
		defer time.AfterFunc(s.plan.Longest, func() { s.stop(errLongest) }).Stop()
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			quiet := time.Since(begun) - time.Duration(s.last.Load())
			if quiet >= idle {
				s.stop(errIdle)
				return
			}
			timer.Reset(idle - quiet)
		}
	}
}
