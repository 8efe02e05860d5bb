// Package delivery takes commands from files to the agents in guests, and what they answer into files.
//
// What is known of an instance's commands one goroutine at a time deals with, which is there while there is something to do;
// and it has at most one connection: the newest, which fences the others. What it knows it could read again at any time: its
// state is the directory. A command is open until its state file says that it has ended:
//
//	request.json --------> send (first writes `sent`) --> accepted, output ... result --> ID.json
//	ID.cancel -----------> never sent: Cancelled        sent: tell the agent, wait for the result
//	nobody to send to ---> DeliverBy passes: TimedOut/DeliveryTimedOut
//
// The guest is hostile. It is who its address says, whatever it says itself. It can only add to the
// outputs of open commands that were sent to it, within their limit and its quota, and end them once;
// no byte of it becomes a file name, and none reaches a log.
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/idle"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// Limits bound what guests can take from the host.
type Limits struct {
	Output int64 // bytes kept of each output of a command
	Quota  int64 // bytes kept of all outputs of an instance
	// Quiet is how long ago the agent may have said something to be sent a command without asking first whether it
	// is there: the connection of a guest that was reset looks as if it were. Patience is how long it may take to
	// answer that before it is hung up on.
	Quiet, Patience time.Duration
}

// finder tells whose an address is.
type finder interface {
	Find(vpc cloud.VPCID, addr netip.Addr) (bundle.Found, error)
}

// Gateway is the host's side of Run Command.
type Gateway struct {
	root   bundle.Root
	find   finder
	limits Limits
	clock  clock
	log    *slog.Logger
	ready  chan struct{}

	guest     func(cloud.InstanceID, http.ResponseWriter, *http.Request)
	authority http.Handler // nil if there is none

	mu        sync.Mutex
	ctx       context.Context // of Run; nil before it
	instances map[cloud.InstanceID]*instance
	ports     map[cloud.InstanceID]context.CancelFunc // of those whose serial port is served
	crew      crew
	idle      *idle.Set // connections of which nothing is heard
}

// New returns a gateway for the instances below a run directory.
func New(root bundle.Root, find finder, limits Limits, log *slog.Logger) *Gateway {
	g := &Gateway{
		root: root, find: find, limits: limits, clock: newClock(), log: log, ready: make(chan struct{}),
		instances: map[cloud.InstanceID]*instance{}, ports: map[cloud.InstanceID]context.CancelFunc{},
	}
	var err error
	if g.idle, err = idle.New(g.crew.Go); err != nil {
		log.Warn("each connection has a goroutine that waits for it", "err", err)
	}
	return g
}

// Ready is closed when requests are seen.
func (g *Gateway) Ready() <-chan struct{} { return g.ready }

func (g *Gateway) String() string { return "delivery" }

// Run follows the files until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer g.end()
	defer cancel()
	g.mu.Lock()
	g.ctx = ctx
	g.mu.Unlock()
	// The run directory itself, because instances/ may not be there yet.
	w, err := bundle.NewWatcher(string(g.root), 4)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	g.crew.Go(func() { failed <- w.Run(ctx) })
	g.crew.Go(func() { failed <- g.idle.Run(ctx) })
	close(g.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case path := <-w.C():
			g.changed(path)
		}
	}
}

// changed looks at a path that was made, written or removed. The empty path stands for all.
func (g *Gateway) changed(path string) {
	if path == "" {
		ids, err := g.root.List()
		nodes, failed := g.root.ListNodes()
		if err = errors.Join(err, failed); err != nil {
			g.log.Error("list instances", "err", err)
		}
		for _, id := range append(ids, nodes...) {
			if i := g.instance(id); i != nil {
				i.look("")
				g.plug(i)
			}
		}
		return
	}
	rel, ok := strings.CutPrefix(path, g.root.Instances()+string(filepath.Separator))
	if !ok {
		return
	}
	elem := strings.Split(rel, string(filepath.Separator))
	id := cloud.InstanceID(elem[0])
	if !cloud.WellFormed(id, "i", cloud.ManagedPrefix) {
		return
	}
	switch {
	case len(elem) == 1:
		if _, err := os.Lstat(path); err != nil {
			g.retire(id)
		}
	case len(elem) == 2 && elem[1] == "metadata.json":
		if i := g.instance(id); i != nil {
			i.look(metadata)
		}
	case len(elem) == 2 && elem[1] == bundle.PortSocket:
		if i := g.instance(id); i != nil {
			g.plug(i)
		}
	case len(elem) == 3 && elem[1] == "commands":
		cmd, kind := bundle.ParseCommandFile(elem[2])
		if kind != bundle.CommandAsked && kind != bundle.CommandCancel {
			return
		}
		if i := g.instance(id); i != nil {
			i.look(cmd)
		}
	}
}

// end waits until nothing is done any more for any instance.
func (g *Gateway) end() {
	g.mu.Lock()
	for _, i := range g.instances {
		i.retire()
	}
	g.mu.Unlock()
	g.crew.Wait()
	g.idle.Close()
}

// instance returns an instance's side here, made if need be; nil when the gateway has ended.
func (g *Gateway) instance(id cloud.InstanceID) *instance {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil || g.ctx.Err() != nil {
		return nil
	}
	i := g.instances[id]
	if i == nil {
		i = newInstance(g.root.Instance(id), g.limits, g.clock, g.log, g.crew.Go)
		g.instances[id] = i
	}
	return i
}

// retire ends what is done for an instance whose directory is gone.
func (g *Gateway) retire(id cloud.InstanceID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.instances[id]; i != nil {
		i.retire()
		delete(g.instances, id)
	}
	if unplug := g.ports[id]; unplug != nil {
		unplug()
		delete(g.ports, id)
	}
}

// AuthorityPath is where guests find the certificate of whom their stock agents are to trust.
const AuthorityPath = "/v1/authority.pem"

// Authority has the certificate for stock agents served. Before Serve.
func (g *Gateway) Authority(h http.Handler) { g.authority = h }

// Serve accepts the agents of a VPC until l is closed. Who they are only their addresses tell.
func (g *Gateway) Serve(vpc cloud.VPCID, l net.Listener) error {
	return g.server(func(w http.ResponseWriter, r *http.Request) (cloud.InstanceID, netip.Addr, bool) {
		return g.who(vpc, w, r)
	}).Serve(newDoor(g.idle.Listener(l)))
}

// teller tells whose a request is; it has answered already if nobody's.
type teller func(http.ResponseWriter, *http.Request) (cloud.InstanceID, netip.Addr, bool)

// server returns what answers agents.
func (g *Gateway) server(who teller) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.Path, func(w http.ResponseWriter, r *http.Request) {
		if id, addr, ok := who(w, r); ok {
			g.accept(id, addr, w, r)
		}
	})
	if g.guest != nil {
		mux.HandleFunc("GET "+wire.SessionPath+"{session}", func(w http.ResponseWriter, r *http.Request) {
			if id, _, ok := who(w, r); ok {
				g.guest(id, w, r)
			}
		})
	}
	if g.authority != nil {
		mux.Handle("GET "+AuthorityPath, g.authority)
	}
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    4096,
		ErrorLog:          slog.NewLogLogger(discard{}, slog.LevelDebug), // it would quote what guests send
	}
}

// discard is a log handler for what must not be logged.
type discard struct{ slog.Handler }

func (discard) Enabled(context.Context, slog.Level) bool { return false }

// accept makes a connection of an agent's request.
func (g *Gateway) accept(id cloud.InstanceID, addr netip.Addr, w http.ResponseWriter, r *http.Request) {
	i := g.instance(id)
	if i == nil {
		http.Error(w, "the gateway is ending", http.StatusServiceUnavailable)
		return
	}
	conn, err := wire.Upgrade(w, r)
	if err != nil {
		return // answered
	}
	// Not in this goroutine: its stack has grown with net/http's frames and would stay so.
	go i.serve(conn, addr, false)
}

// Sessions has the websockets of guests' sessions served. Before Serve.
func (g *Gateway) Sessions(serve func(cloud.InstanceID, http.ResponseWriter, *http.Request)) {
	g.guest = serve
}

// Order sends a frame about a session to an instance's agent, if it is connected and knows sessions.
func (g *Gateway) Order(id cloud.InstanceID, f wire.Frame) error {
	g.mu.Lock()
	i := g.instances[id]
	g.mu.Unlock()
	if i == nil {
		return errAway
	}
	answer := make(chan error, 1)
	if !i.turns.do(func() { answer <- i.order(f) }) {
		return errAway
	}
	return <-answer
}

// who tells whose a request is, by its address; it has answered already if nobody's.
func (g *Gateway) who(vpc cloud.VPCID, w http.ResponseWriter, r *http.Request) (cloud.InstanceID, netip.Addr, bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "who are you?", http.StatusForbidden)
		return "", netip.Addr{}, false
	}
	found, err := g.find.Find(vpc, from.Addr().Unmap())
	if err != nil {
		g.log.Debug("agent is of no instance", "vpc", vpc, "addr", from.Addr(), "err", err)
		http.Error(w, "no instance has this address", http.StatusForbidden)
		return "", netip.Addr{}, false
	}
	return found.ID, from.Addr().Unmap(), true
}

// Join serves a connection of the stock agent in an instance until it breaks. Where our own agent is connected, there is
// no place for it.
func (g *Gateway) Join(id cloud.InstanceID, conn Conn, addr netip.Addr) {
	i := g.instance(id)
	if i == nil {
		conn.Close()
		return
	}
	i.serve(conn, addr, true)
}
