package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// Server is the agent's side: it holds the sockets of each service in each VPC.
type Server struct {
	path  string
	log   *slog.Logger
	ready chan struct{}

	mu        sync.Mutex
	users     map[string][]uint32 // who may speak for a service, besides root and the agent's own user
	sockets   map[key]*held
	wanted    map[key]bool // in use by somebody who has not given it back yet
	withdrawn map[cloud.VPCID]bool
	peers     map[*peer]string // with the service of each
}

type key struct {
	service string
	vpc     cloud.VPCID
	name    string
}

// String says which socket it is in words for people.
func (k key) String() string {
	if k.name == "" {
		return fmt.Sprintf("the socket of %s in %s", k.service, k.vpc)
	}
	return fmt.Sprintf("the socket %q of %s in %s", k.name, k.service, k.vpc)
}

type held struct {
	fd     int
	cookie uint64
	sure   bool // the kernel has said that it is where it should be
}

// NewServer returns a Server that will listen at path.
func NewServer(path string, log *slog.Logger) *Server {
	return &Server{
		path: path, log: log.With("component", "handover"), ready: make(chan struct{}),
		users: map[string][]uint32{}, sockets: map[key]*held{}, wanted: map[key]bool{},
		withdrawn: map[cloud.VPCID]bool{}, peers: map[*peer]string{},
	}
}

// Ready is closed when daemons can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }
func (s *Server) String() string         { return "handover" }

// Admit lets a user speak for a service. Root and the agent's own user always may; nobody else: who has a
// service's sockets can answer guests in its name.
func (s *Server) Admit(service string, uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[service] = append(s.users[service], uid)
}

// Offer makes sure that the service has the socket of that name in the VPC. It calls open, and takes the file, only if
// the server cannot tell that somebody holds that socket. When open says that the address is in use, a daemon has the
// socket and will give it back when it connects: that is no error, and shows in Health until then.
func (s *Server) Offer(service string, vpc cloud.VPCID, name string, open func() (*os.File, error)) error {
	k := key{service, vpc, name}
	s.mu.Lock()
	delete(s.withdrawn, vpc)
	h := s.sockets[k]
	sure := h != nil && h.sure
	s.mu.Unlock()
	if sure {
		return nil
	}
	f, err := open()
	if err != nil {
		if !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("open %s: %w", k, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if h := s.sockets[k]; h != nil {
			h.sure = true
		} else {
			s.wanted[k] = true
		}
		return nil
	}
	fd, err := unwrap(f)
	if err != nil {
		return fmt.Errorf("open %s: %w", k, err)
	}
	cookie, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("open %s: %w", k, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sockets[k]; old != nil {
		unix.Close(old.fd) // it was bound somewhere that is no more
	}
	delete(s.wanted, k)
	s.sockets[k] = &held{fd: fd, cookie: cookie, sure: true}
	for p, service := range s.peers {
		if service == k.service {
			s.give(p, k)
		}
	}
	return nil
}

// Withdraw closes the sockets of all services in the VPC, here and in the daemons.
func (s *Server) Withdraw(vpc cloud.VPCID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdrawn[vpc] = true
	for k, h := range s.sockets {
		if k.vpc == vpc {
			unix.Close(h.fd)
			delete(s.sockets, k)
		}
	}
	for k := range s.wanted {
		if k.vpc == vpc {
			delete(s.wanted, k)
		}
	}
	for p, service := range s.peers {
		p.send(message{Op: "withdraw", Service: service, VPC: string(vpc)}, -1) // a peer that is gone needs no telling
	}
}

// Held returns the VPCs in which a socket is held, also those that a daemon gave back and
// nobody has offered since: whoever knows which VPCs there should be withdraws the rest.
func (s *Server) Held() []cloud.VPCID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var vpcs []cloud.VPCID
	for k := range s.sockets {
		vpcs = append(vpcs, k.vpc)
	}
	slices.Sort(vpcs)
	return slices.Compact(vpcs)
}

// Health names a socket that somebody has and has not given back.
func (s *Server) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.wanted {
		return fmt.Errorf("the address of %s is in use by a process that has not given it back", k)
	}
	return nil
}

// Run serves daemons until ctx ends. The sockets stay open until the process ends.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(s.path)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	close(s.ready)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			l.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept at %s: %w", s.path, err)
		}
		serving.Go(func() {
			p := newPeer(c)
			defer context.AfterFunc(ctx, p.close)()
			if err := s.serve(p); err != nil && ctx.Err() == nil {
				s.log.Info("daemon disconnected", "reason", err)
			}
		})
	}
}

// serve speaks with one daemon until the connection ends.
func (s *Server) serve(p *peer) error {
	defer p.close()
	uid, err := service.Peer(p.conn)
	if err != nil {
		return err
	}
	if !s.known(uid) { // before anything is read: a stranger who says nothing would keep a connection here
		s.log.Debug("a stranger was sent away", "uid", uid)
		return nil
	}
	hello, fd, err := p.receive()
	if err != nil {
		return err
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	service := hello.Service
	if hello.Op != "hello" || !s.admitted(service, uid) {
		return fmt.Errorf("user %d may not serve %q", uid, service)
	}
	defer s.leave(p)
	go p.write() // ends with p.close
	for {
		m, fd, err := p.receive()
		if err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
		switch m.Op {
		case "offer":
			s.take(p, key{service, cloud.VPCID(m.VPC), m.Socket}, fd)
		case "held":
			s.join(p, service)
		}
	}
}

func (s *Server) admitted(service string, uid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uid == 0 || int(uid) == os.Geteuid() || slices.Contains(s.users[service], uid)
}

// known reports whether a user may speak for any service.
func (s *Server) known(uid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uid == 0 || int(uid) == os.Geteuid() {
		return true
	}
	for _, users := range s.users {
		if slices.Contains(users, uid) {
			return true
		}
	}
	return false
}

// maxNames bounds the sockets of a service in a VPC, which daemons that are not trusted give back: dns has four.
const maxNames = 8

// names counts the sockets of a service in a VPC; s.mu is held.
func (s *Server) names(k key) (n int) {
	for o := range s.sockets {
		if o.service == k.service && o.vpc == k.vpc {
			n++
		}
	}
	return n
}

// take keeps a socket that a daemon had, unless there is a better one.
func (s *Server) take(p *peer, k key, fd int) {
	cookie, err := identify(fd)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.log.Warn("refused what a daemon gave back", "service", k.service, "vpc", k.vpc, "socket", k.name, "err", err)
		unix.Close(fd)
	case s.withdrawn[k.vpc]:
		unix.Close(fd)
		p.send(message{Op: "withdraw", Service: k.service, VPC: string(k.vpc)}, -1)
	case s.sockets[k] == nil && s.names(k) >= maxNames:
		s.log.Warn("refused what a daemon gave back: it has too many", "service", k.service, "vpc", k.vpc, "socket", k.name)
		unix.Close(fd)
	case s.sockets[k] != nil:
		unix.Close(fd) // join sends ours, which the daemon compares with its own
	default:
		s.sockets[k] = &held{fd: fd, cookie: cookie, sure: s.wanted[k]}
		delete(s.wanted, k)
	}
}

// join tells a daemon of all sockets and, from now on, of all changes.
func (s *Server) join(p *peer, service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers[p] = service
	for k := range s.sockets {
		if k.service == service {
			s.give(p, k)
		}
	}
	s.log.Info("daemon connected", "service", service)
}

func (s *Server) leave(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// give sends one socket; s.mu is held.
func (s *Server) give(p *peer, k key) {
	err := p.send(message{Op: "offer", Service: k.service, VPC: string(k.vpc), Socket: k.name}, s.sockets[k].fd)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Error("socket not given", "service", k.service, "vpc", k.vpc, "socket", k.name, "err", err)
		p.conn.Close() // the daemon comes again, and gets all of them
	}
}

// listen opens the meeting point. Everybody may connect; the kernel says who they are.
func listen(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unixpacket"}
	l, err := net.ListenUnix("unixpacket", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, err := net.DialUnix("unixpacket", nil, addr); err == nil {
			c.Close()
			return nil, fmt.Errorf("socket %s is served by another agent: stop it first", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket of a dead agent: %w", err)
		}
		l, err = net.ListenUnix("unixpacket", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s to daemons: %w", path, err)
	}
	return l, nil
}
