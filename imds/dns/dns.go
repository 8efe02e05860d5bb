// Package dns is the resolver of a host's guests: at the second address of their VPC's block, and at 169.254.169.253.
//
// Who asks is decided as for metadata: the VPC is that of the socket, which the agent handed over, and the sender's
// address has been checked by the firewall. Names of the VPC are package zone's to answer, from what the agent has
// written about that VPC and no other. All else goes to the host's own resolvers, and their answers come
// back as they are, except for what belongs to one hop: the ID, EDNS, and the TTLs of what was kept for a while. What
// is kept is kept for each VPC alone, so nobody learns what another VPC has asked.
//
//	question -> malformed, refused?   -> an error, or silence
//	         -> a name of the VPC?    -> zone
//	         -> kept?                 -> cache
//	         -> being asked already?  -> wait with the first
//	         -> resolvers in turn, UDP and then TCP if the answer is cut -> cache
//
// A guest can have so many questions under way and no more; each is bounded in time and size. Answers by UDP are at
// most 1232 bytes, so they are never fragments, and ANY gets one small record.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// The limits. A question has at most 255 bytes of name, and some options.
const (
	maxQuestion    = 4096
	tcpIdle        = 10 * time.Second // RFC 7766 asks for a few seconds
	tcpWrite       = 5 * time.Second
	maxConnections = 16   // of one guest
	maxUnderWay    = 64   // questions of one guest that wait for the host's resolvers
	maxAllUnderWay = 2048 // of all guests: a socket each
	again          = 10 * time.Millisecond
)

// Server is the resolver of a host.
type Server struct {
	index    *bundle.Index
	networks *bundle.Networks
	forward  *forwarder
	cache    *cache
	log      *slog.Logger
	news     service.News // of VPCs
	metrics  *metrics
	now      func() time.Time

	underWay, connections limiter
	serving               sync.WaitGroup
}

// New returns a Server that knows VPCs from networks, guests from index, and the rest of the world from resolvers.
func New(index *bundle.Index, networks *bundle.Networks, resolvers *Resolvers, log *slog.Logger) *Server {
	s := &Server{
		index: index, networks: networks, cache: newCache(cacheBytes), now: time.Now,
		log: log.With("component", "dns"), metrics: newMetrics(),
		underWay:    limiter{each: maxUnderWay, all: maxAllUnderWay},
		connections: limiter{each: maxConnections, all: maxAllUnderWay},
	}
	s.forward = &forwarder{resolvers: resolvers, flights: map[key]*flight{}, metrics: s.metrics}
	return s
}

// Ready is nil: sockets come and go with VPCs, and there may be none.
func (s *Server) Ready() <-chan struct{} { return nil }
func (s *Server) String() string         { return "dns" }

// Health says why names of the world cannot be resolved.
func (s *Server) Health() error {
	_, err := s.forward.resolvers.list(s.now())
	return err
}

// Run waits for ctx to end, and then for the questions that are being answered.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.serving.Wait()
	return nil
}

// Add begins to answer the guests of a VPC at a socket, until somebody closes it. Questions under way end with ctx.
func (s *Server) Add(ctx context.Context, from handover.Socket) {
	s.log.Info("serving", "vpc", from.VPC, "socket", from.Name)
	s.serving.Go(func() {
		if from.Packets != nil {
			s.receive(ctx, from.VPC, from.Packets)
		} else {
			s.accept(ctx, from.VPC, from.Listener)
		}
	})
}

// Remove is told that a socket is closed.
func (s *Server) Remove(from handover.Socket) {
	s.news.Forget(string(from.VPC))
	s.log.Info("serving ended", "vpc", from.VPC, "socket", from.Name)
}

// caller is who asks: an instance, or an address whose bundle is not there yet.
type caller struct {
	vpc  cloud.VPCID
	id   cloud.InstanceID
	addr netip.Addr
}

func (s *Server) caller(vpc cloud.VPCID, addr netip.Addr) caller {
	found, err := s.index.Behind(vpc, addr)
	if err != nil {
		return caller{vpc: vpc, addr: addr}
	}
	return caller{vpc: vpc, id: found.ID}
}

// receive answers datagrams. Only what must wait gets a goroutine.
func (s *Server) receive(ctx context.Context, vpc cloud.VPCID, conn *net.UDPConn) {
	buf := make([]byte, maxQuestion+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of memory, or of a link that went down: the socket stays good
			s.log.Debug("datagram not received", "vpc", vpc, "err", err)
			pause(ctx, again)
			continue
		}
		reply := func(p []byte) {
			if p != nil {
				_, _ = conn.WriteToUDPAddrPort(p, from) // a guest that is gone needs no answer
			}
		}
		q, p := s.read(vpc, buf[:min(n, maxQuestion+1)], "udp")
		if q == nil {
			reply(p)
			continue
		}
		if p, ok := s.immediate(q); ok {
			reply(p)
			continue
		}
		who := s.caller(vpc, from.Addr().Unmap())
		if !s.underWay.enter(who) {
			s.metrics.count(q, limited) // silence: the guest asks again, later
			continue
		}
		s.serving.Go(func() {
			defer s.underWay.leave(who)
			reply(s.ask(ctx, q))
		})
	}
}

func (s *Server) accept(ctx context.Context, vpc cloud.VPCID, l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Debug("connection not accepted", "vpc", vpc, "err", err)
			pause(ctx, again)
			continue
		}
		remote, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok {
			c.Close()
			continue
		}
		who := s.caller(vpc, remote.AddrPort().Addr().Unmap())
		if !s.connections.enter(who) {
			c.Close()
			s.metrics.queries.WithLabelValues("tcp", limited).Inc()
			continue
		}
		s.serving.Go(func() {
			defer s.connections.leave(who)
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			s.converse(ctx, vpc, who, c)
		})
	}
}

// converse answers one question after the other on a connection, each behind its length (RFC 1035, 4.2.2).
func (s *Server) converse(ctx context.Context, vpc cloud.VPCID, who caller, c net.Conn) {
	var buf [2 + maxQuestion]byte
	for {
		c.SetReadDeadline(time.Now().Add(tcpIdle))
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf[:]))
		if n > maxQuestion {
			return
		}
		if _, err := io.ReadFull(c, buf[2:2+n]); err != nil {
			return
		}
		q, p := s.read(vpc, buf[2:2+n], "tcp")
		if q != nil {
			var ok bool
			if p, ok = s.immediate(q); !ok {
				if !s.underWay.enter(who) {
					s.metrics.count(q, limited)
					return
				}
				p = s.ask(ctx, q)
				s.underWay.leave(who)
			}
		}
		if p == nil {
			return
		}
		c.SetWriteDeadline(time.Now().Add(tcpWrite))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)); err != nil {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// limiter counts what each guest, and all together, have under way.
type limiter struct {
	each, all int

	mu    sync.Mutex
	of    map[caller]int
	total int
}

func (l *limiter) enter(who caller) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.of[who] >= l.each {
		return false
	}
	if l.of == nil {
		l.of = map[caller]int{}
	}
	l.of[who]++
	l.total++
	return true
}

func (l *limiter) leave(who caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[who]--; l.of[who] == 0 {
		delete(l.of, who)
	}
}
