// Package link keeps the agent connected to its gateway and tells it what the jobs have to tell.
//
// One goroutine receives and only hands over; one sends, a frame of each output in turn, so that a
// command with much output does not hold up another. All it knows of a command it has from the
// gateway's Request on this connection: a new connection begins with nothing. It reconnects at once,
// then after growing pauses with jitter, never more than maxPause: a gateway that comes back finds its
// agents within a second, however long it was away.
package link

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/runner"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// firstPause doubles up to maxPause. While a guest boots its network comes up within milliseconds.
	firstPause = 10 * time.Millisecond
	maxPause   = 500 * time.Millisecond
	// shortPause follows a connection that worked: two agents that fence each other must not spin.
	shortPause = 50 * time.Millisecond
	// quiet is how long a command runs before the gateway is told that it was accepted: a result that
	// comes sooner says so too, and the guest is spared a frame. Under TCG a shell starts in 20 to 80 ms.
	quiet = 100 * time.Millisecond
)

// Link is the agent's side of the connection.
type Link struct {
	url    string
	dial   wire.Dialer
	hello  wire.Hello
	runner *runner.Runner
	log    *slog.Logger
	listen func() // to the metadata's changes
	guests sessions

	mu    sync.Mutex
	dirty map[cloud.CommandID]bool
	wake  chan struct{}
}

// New returns a link. Attach a runner before Run.
func New(url string, hello wire.Hello, log *slog.Logger) *Link {
	return &Link{url: url, dial: wire.Network, hello: hello, log: log, dirty: map[cloud.CommandID]bool{}, wake: make(chan struct{}, 1)}
}

// Dial has the gateway dialled otherwise than over the network alone. Before Run.
func (l *Link) Dial(by wire.Dialer) { l.dial = by }

// Attach sets the runner whose jobs the link tells about.
func (l *Link) Attach(r *runner.Runner) { l.runner = r }

// Listen has changed called when the guest's metadata may have changed: it must not block. Before Run.
func (l *Link) Listen(changed func()) { l.listen, l.hello.Listens = changed, true }

// sessions are the shells and ports of package session.
type sessions interface {
	Order(context.Context, wire.Order)
	Terminate(cloud.SessionID)
}

// Host has sessions started and ended as the gateway says. Before Run.
func (l *Link) Host(s sessions) { l.guests, l.hello.Sessions = s, true }

// heard tells whoever listens to the metadata.
func (l *Link) heard() {
	if l.listen != nil {
		l.listen()
	}
}

// Changed marks a command as having more to tell. It never blocks.
func (l *Link) Changed(id cloud.CommandID) {
	l.mu.Lock()
	l.dirty[id] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Link) takeDirty() map[cloud.CommandID]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.dirty) == 0 {
		return nil // not the map that others go on writing to
	}
	d := l.dirty
	l.dirty = map[cloud.CommandID]bool{}
	return d
}

// Run stays connected until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		welcomed, err := l.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if welcomed {
			pause = min(pause, shortPause)
		}
		l.log.Debug("not connected", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
		pause = min(max(firstPause, 2*pause), maxPause)
	}
	return nil
}

// connect serves one connection until it breaks, and reports whether the gateway took it.
func (l *Link) connect(ctx context.Context) (welcomed bool, err error) {
	conn, err := l.dial.Dial(ctx, l.url)
	if err != nil {
		return false, err
	}
	life := ctx // a command outlives the connection that it came on
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	hello := l.hello
	hello.Commands = l.runner.Known(wire.MaxHello)
	if err := conn.Send(&hello); err != nil {
		return false, err
	}
	f, err := conn.Receive()
	if err != nil {
		return false, err
	}
	w, ok := f.(*wire.Welcome)
	if !ok || w.Version != wire.Version {
		return false, errNoWelcome
	}
	l.log.Info("connected", "instance", w.Instance, "epoch", w.Epoch)
	l.heard() // what changed meanwhile was told to nobody
	s := &sender{link: l, conn: conn, told: map[cloud.CommandID]*told{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { conn.Ping(ctx) })
	wg.Go(func() {
		defer cancel()
		if err := s.run(ctx); err != nil {
			l.log.Debug("send", "err", err)
		}
	})
	for {
		f, err := conn.Receive()
		if err != nil {
			return true, err
		}
		s.handle(life, f)
	}
}
