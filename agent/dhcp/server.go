package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Server answers in any number of namespaces.
type Server struct {
	Counters Counters

	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	sockets map[string]*socket
}

// socket is one namespace's pair of sockets.
type socket struct {
	in      *net.UDPConn
	out     int
	hosts   atomic.Pointer[map[key]*host]
	serving bool // guarded by Server.mu
}

// New returns a server without networks.
func New(log *slog.Logger) *Server {
	return &Server{log: log, wake: make(chan struct{}, 1), sockets: map[string]*socket{}}
}

// Apply makes the networks and their hosts the wanted ones: all others are answered no more.
func (s *Server) Apply(want []Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	var errs []error
	for _, n := range want {
		keep[n.Name] = true
		k := s.sockets[n.Name]
		if k == nil {
			var err error
			if k, err = open(n); err != nil {
				errs = append(errs, fmt.Errorf("serve DHCP in %s: %w", n.Name, err))
				continue
			}
			s.sockets[n.Name] = k
		}
		hosts := compile(n.Hosts)
		k.hosts.Store(&hosts)
	}
	for name, k := range s.sockets {
		if !keep[name] {
			k.close()
			delete(s.sockets, name)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return errors.Join(errs...)
}

// Close ends the service in all networks.
func (s *Server) Close() { _ = s.Apply(nil) }

// Run serves what Apply has set, until ctx ends. Requests that came before are answered then.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s.mu.Lock()
		for _, k := range s.sockets {
			if !k.serving && ctx.Err() == nil {
				k.serving = true
				_ = k.in.SetReadDeadline(time.Time{})
				wg.Go(func() { s.serve(ctx, k) })
			}
		}
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, k := range s.sockets {
				_ = k.in.SetReadDeadline(time.Unix(1, 0)) // wakes the readers; the socket stays for the next Run
			}
			return nil
		}
	}
}

// serve answers one network until its socket is closed.
func (s *Server) serve(ctx context.Context, k *socket) {
	defer func() {
		s.mu.Lock()
		k.serving = false
		s.mu.Unlock()
	}()
	buf := make([]byte, 2048) // a request is smaller than the MTU of any tap we make, or not for us
	oob := make([]byte, 128)
	for {
		n, oobn, _, _, err := k.in.ReadMsgUDPAddrPort(buf, oob)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.Counters.ReadErrors.Add(1)
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond): // an error that stays must not cost a processor
			}
			continue
		}
		index := arrival(oob[:oobn])
		frame := answer(*k.hosts.Load(), index, buf[:n], &s.Counters)
		if frame == nil {
			continue
		}
		if err := unix.Sendto(k.out, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}); err != nil {
			s.Counters.SendErrors.Add(1)
			s.log.Debug("DHCP answer not sent", "ifindex", index, "err", err)
		}
	}
}

// arrival returns the index of the link that a packet came in by, 0 if the kernel did not say.
func arrival(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

func (k *socket) close() {
	k.in.Close()
	unix.Close(k.out)
}

func open(n Network) (*socket, error) {
	in, out := -1, -1
	err := n.Enter(func() (err error) {
		if in, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
			{unix.SOL_SOCKET, unix.SO_RCVBUF, 1 << 20},
			{unix.SOL_IP, unix.IP_PKTINFO, 1},
		} {
			if err := unix.SetsockoptInt(in, o[0], o[1], o[2]); err != nil {
				return err
			}
		}
		if err := unix.Bind(in, &unix.SockaddrInet4{Port: 67}); err != nil {
			return err
		}
		// Protocol 0: this socket receives nothing.
		out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		if in >= 0 {
			unix.Close(in)
		}
		return nil, err
	}
	f := os.NewFile(uintptr(in), "dhcp")
	defer f.Close() // FilePacketConn makes its own copy
	c, err := net.FilePacketConn(f)
	if err != nil {
		unix.Close(out)
		return nil, err
	}
	k := &socket{in: c.(*net.UDPConn), out: out}
	hosts := map[key]*host{}
	k.hosts.Store(&hosts)
	return k, nil
}
