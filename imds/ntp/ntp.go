// Package ntp tells a host's guests what time it is, at 169.254.169.123.
//
// It is a server of NTP's simplest kind (RFC 4330, and RFC 5905's server mode): it remembers no client, and says
// what the host's clock says, with what the kernel knows about how good that is. Answers are as long as the
// shortest question, so nothing can be made bigger with them. The time of arrival is the kernel's own, so a
// server that is slow, or was dead for a moment, tells the right time still.
package ntp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// stale is how old a question may be that waited in the socket while nobody served it: clients wait for 1 to 5 s.
const stale = 5 * time.Second

// Server is the clock of a host.
type Server struct {
	log     *slog.Logger
	news    service.News
	read    func(now time.Time) (clock, error)
	queries *prometheus.CounterVec
	serving sync.WaitGroup
}

// New returns a Server. Trusted means that the host's clock is right although the kernel may not know.
func New(trusted bool, log *slog.Logger) *Server {
	return &Server{
		log:  log.With("component", "ntp"),
		read: func(now time.Time) (clock, error) { return read(trusted, now) },
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "ichiro", Subsystem: "ntp", Name: "queries_total",
			Help: "Questions for the time by result: answered, unsynchronised (answered so), ignored (not a client's question), stale, failed.",
		}, []string{"result"}),
	}
}

// Ready is nil: sockets come and go with VPCs, and there may be none.
func (s *Server) Ready() <-chan struct{} { return nil }
func (s *Server) String() string         { return "ntp" }

// Expose registers the metrics with the process's registry.
func (s *Server) Expose() {
	prometheus.MustRegister(s.queries, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "ichiro", Subsystem: "ntp", Name: "synchronised", Help: "1 if guests are told that the host's clock is right.",
	}, func() float64 {
		if c, err := s.read(time.Now()); err != nil || c.leap == leapUnknown {
			return 0
		}
		return 1
	}))
}

// Run waits for ctx to end, and for those who serve.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.serving.Wait()
	return nil
}

// Add begins to answer the guests of a VPC at a socket, until somebody closes it.
func (s *Server) Add(ctx context.Context, from handover.Socket) {
	if from.Packets == nil {
		s.log.Error("the agent gave a socket that receives no datagrams", "vpc", from.VPC)
		return
	}
	if err := timestamps(from.Packets); err != nil {
		s.log.Warn("the kernel tells no time of arrival", "vpc", from.VPC, "err", err) // ours is a little later
	}
	s.log.Info("serving", "vpc", from.VPC, "socket", from.Name)
	s.serving.Go(func() { s.receive(ctx, from.VPC, from.Packets) })
}

// Remove is told that a socket is closed.
func (s *Server) Remove(from handover.Socket) {
	s.log.Info("serving ended", "vpc", from.VPC, "socket", from.Name)
}

func (s *Server) receive(ctx context.Context, vpc cloud.VPCID, conn *net.UDPConn) {
	var buf [512]byte
	oob := make([]byte, unix.CmsgSpace(16))
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf[:], oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of memory, or of a link that went down: the socket stays good
			s.log.Debug("datagram not received", "vpc", vpc, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		now := time.Now()
		r, ok := parse(buf[:n])
		arrived := arrival(oob[:oobn], now)
		c, err := s.read(now)
		if s.news.Is("clock", err, now) {
			if err != nil {
				s.log.Error("no guest is told the time", "err", err)
			} else {
				s.log.Info("guests are told the time again")
			}
		}
		switch {
		case !ok:
			s.queries.WithLabelValues("ignored").Inc()
			continue
		case err != nil:
			s.queries.WithLabelValues("failed").Inc()
			continue
		case now.Sub(arrived) > stale:
			s.queries.WithLabelValues("stale").Inc()
			continue
		case c.leap == leapUnknown:
			s.queries.WithLabelValues("unsynchronised").Inc()
		default:
			s.queries.WithLabelValues("answered").Inc()
		}
		p := answer(r, c, arrived, time.Now())
		_, _ = conn.WriteToUDPAddrPort(p[:], from) // a guest that is gone needs no answer
	}
}

// timestamps asks the kernel to say when each datagram arrived (socket(7)).
func timestamps(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("set SO_TIMESTAMPNS: %w", err)
	}
	return nil
}

// arrival returns the kernel's time of arrival, or now.
func arrival(oob []byte, now time.Time) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return now
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			t := time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			if t.Before(now) {
				return t
			}
		}
	}
	return now
}
