// Package relay carries guests' requests to the API, which has no address in their networks.
//
// A connection to 169.254.169.254:8773 becomes one to the API's socket on the host, byte for byte and in both
// directions; what is asked and whether it may be, the signature in it decides there. Before the first byte of the guest's stands whose
// connection it is (internal/origin), for the API's records. Nothing else of the host can be reached: where to is an affair
// of the program and not of the guest's.
//
// Bytes move inside the kernel (splice), so an object of any size costs no memory here. An instance has a number of
// connections, the host one too, and what moves nothing for some minutes is closed: that no guest can exhaust at
// the expense of another.
package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/origin"
)

// The limits. The AWS CLI moves objects on 10 connections, other clients on up to 50; the API takes what all have
// together. It closes a connection that is idle for two minutes itself, so quiet is for those who move nothing in a request.
const (
	perInstance = 64
	inAll       = 1024
	quiet       = 3 * time.Minute
	dialing     = 5 * time.Second
)

// Relay is the way to the API, for all guests of a host.
type Relay struct {
	dial    func(context.Context) (stream, error) // nil: guests have no API
	find    func(cloud.VPCID, netip.Addr) (bundle.Found, error)
	log     *slog.Logger
	quiet   time.Duration
	counted *prometheus.CounterVec
	serving sync.WaitGroup

	mu    sync.Mutex
	of    map[cloud.InstanceID]int
	pairs map[*pair]struct{}
}

// stream is a connection whose sides end one after the other.
type stream interface {
	net.Conn
	CloseWrite() error
}

// New returns a Relay to a socket of the host for the instances of index. With "" every connection is refused.
func New(index *bundle.Index, to string, log *slog.Logger) *Relay {
	r := &Relay{
		find: index.Behind, log: log.With("component", "relay"), quiet: quiet,
		of: map[cloud.InstanceID]int{}, pairs: map[*pair]struct{}{},
		counted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "ichiro", Subsystem: "relay", Name: "connections_total",
			Help: "Guests' connections to the API by result: carried, unknown (no instance has the address), crowded (too many), away (the API does not answer), quiet (closed as nothing moved).",
		}, []string{"result"}),
	}
	if to != "" {
		r.dial = func(ctx context.Context) (stream, error) {
			d := net.Dialer{Timeout: dialing}
			c, err := d.DialContext(ctx, "unix", to)
			if err != nil {
				return nil, err
			}
			return c.(*net.UnixConn), nil
		}
	}
	return r
}

// Ready is nil: sockets come and go with VPCs, and there may be none.
func (r *Relay) Ready() <-chan struct{} { return nil }
func (r *Relay) String() string         { return "relay" }

// Expose registers the metrics with the process's registry.
func (r *Relay) Expose() {
	prometheus.MustRegister(r.counted, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "ichiro", Subsystem: "relay", Name: "connections_open", Help: "Guests' connections to the API now.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.pairs))
	}))
}

// Run closes what moves nothing until ctx ends, and then everything.
func (r *Relay) Run(ctx context.Context) error {
	tick := time.NewTicker(r.quiet / 4)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, p := range r.open() {
				if p.still(now, r.quiet) {
					r.counted.WithLabelValues("quiet").Inc()
					p.close()
				}
			}
		case <-ctx.Done():
			for _, p := range r.open() {
				p.close()
			}
			r.serving.Wait()
			return nil
		}
	}
}

func (r *Relay) open() []*pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*pair, 0, len(r.pairs))
	for p := range r.pairs {
		all = append(all, p)
	}
	return all
}

// Add begins to carry the connections of a VPC's guests, until somebody closes the socket.
func (r *Relay) Add(ctx context.Context, from handover.Socket) {
	if from.Listener == nil {
		r.log.Error("the agent gave a socket that does not listen", "vpc", from.VPC)
		return
	}
	r.log.Info("serving", "vpc", from.VPC, "address", from.Listener.Addr().String())
	r.serving.Go(func() {
		for {
			c, err := from.Listener.Accept()
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			if err != nil { // of descriptors or memory: the socket stays good
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
				continue
			}
			guest, ok := c.(*net.TCPConn)
			if !ok {
				c.Close()
				continue
			}
			r.serving.Go(func() { r.counted.WithLabelValues(r.carry(ctx, from.VPC, guest)).Inc() })
		}
	})
}

// Remove is told that a socket is closed. Connections that were made at it end with their guests.
func (r *Relay) Remove(from handover.Socket) { r.log.Info("serving ended", "vpc", from.VPC) }

// carry carries one connection to its end and says how it went.
func (r *Relay) carry(ctx context.Context, vpc cloud.VPCID, guest *net.TCPConn) string {
	sender := guest.RemoteAddr().(*net.TCPAddr).AddrPort()
	from := netip.AddrPortFrom(sender.Addr().Unmap(), sender.Port())
	who, err := r.find(vpc, from.Addr())
	if err != nil {
		refuse(guest)
		return "unknown"
	}
	p := &pair{guest: guest}
	if !r.enter(who.ID, p) {
		refuse(guest)
		return "crowded"
	}
	defer r.leave(who.ID, p)
	if r.dial == nil {
		refuse(guest)
		return "away"
	}
	c, err := r.dial(ctx)
	if err == nil {
		if err = origin.Write(c, origin.Guest{Instance: who.ID, VPC: vpc, From: from}); err != nil {
			c.Close()
		}
	}
	if err != nil {
		r.log.Debug("the API does not answer", "err", err)
		refuse(guest)
		return "away"
	}
	p.join(c)
	return "carried"
}

// refuse ends a connection at once, with a reset: it holds nothing here.
func refuse(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func (r *Relay) enter(id cloud.InstanceID, p *pair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[id] >= perInstance || len(r.pairs) >= inAll {
		return false
	}
	r.of[id]++
	r.pairs[p] = struct{}{}
	return true
}

func (r *Relay) leave(id cloud.InstanceID, p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
	if r.of[id]--; r.of[id] == 0 {
		delete(r.of, id)
	}
}

// pair is a guest's connection and the one that it is carried on.
type pair struct {
	guest *net.TCPConn

	mu     sync.Mutex
	api    stream
	closed bool

	moved uint64 // belongs to Run: bytes, when last looked
	since time.Time
}

// join moves bytes both ways until both sides have said all, or one is gone.
func (p *pair) join(api stream) {
	p.mu.Lock()
	p.api = api
	closed := p.closed
	p.mu.Unlock()
	if closed {
		p.close()
	}
	var both sync.WaitGroup
	both.Go(func() { p.move(api, p.guest) })
	both.Go(func() { p.move(p.guest, api) })
	both.Wait()
	p.close()
}

// move carries one direction. Its end is told on: a client may have said all and still wait for the answer.
func (p *pair) move(to, from stream) {
	if _, err := io.Copy(to, from); err != nil {
		p.close()
		return
	}
	if err := to.CloseWrite(); err != nil {
		p.close()
	}
}

func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.guest.Close()
	if p.api != nil {
		p.api.Close()
	}
}

// still reports whether nothing has moved for so long. What has, the kernel counts: acknowledged by the guest, and come from it.
func (p *pair) still(now time.Time, quiet time.Duration) bool {
	moved, err := passed(p.guest)
	if err != nil {
		return false // closed a moment ago
	}
	if moved != p.moved || p.since.IsZero() {
		p.moved, p.since = moved, now
	}
	return now.Sub(p.since) >= quiet
}

// passed is what the kernel has counted of a connection.
func passed(c *net.TCPConn) (n uint64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		return 0, errors.Join(e, err)
	}
	return info.Bytes_acked + info.Bytes_received, nil
}
