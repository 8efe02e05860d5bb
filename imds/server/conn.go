package server

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// caller is who is at the other end: an address in a VPC.
type caller struct {
	vpc  cloud.VPCID
	addr netip.Addr
}

// account is whom a connection counts for: the instance, as one may have hundreds of addresses and whole prefixes of them; or an
// address whose bundle is not there yet.
type account struct {
	instance cloud.InstanceID
	stranger caller
}

// callers counts the connections of each.
type callers struct {
	mu   sync.Mutex
	open map[account]int
}

func (c *callers) enter(of account) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[of] >= maxConnections {
		return false
	}
	c.open[of]++
	return true
}

func (c *callers) leave(of account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[of]--; c.open[of] == 0 {
		delete(c.open, of)
	}
}

// listener accepts the connections of one VPC, and drops those of a caller that has too many.
type listener struct {
	net.Listener
	vpc    cloud.VPCID
	server *Server
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			return nil, errors.New("the listener is not one of TCP")
		}
		remote, _ := tcp.RemoteAddr().(*net.TCPAddr)
		who := caller{l.vpc, remote.AddrPort().Addr().Unmap()}
		of, ok := l.server.reach(who)
		if !ok || !l.server.callers.enter(of) {
			l.server.metrics.refused.Inc()
			tcp.SetLinger(0) // a reset: it holds nothing here
			tcp.Close()
			continue
		}
		l.server.metrics.open.Inc()
		return &conn{TCPConn: tcp, caller: who, account: of, server: l.server}, nil
	}
}

// reach returns whom a connection counts for, and whether there is a metadata service at all for who comes. By IPv6 an instance's
// owner decides that, and it is off unless he does. Then nothing answers there; an error page would have clients give up that ask by
// IPv4 at the same time. Who is unknown is turned away there, too.
func (s *Server) reach(who caller) (account, bool) {
	if who.addr.Is4() {
		if id := s.index.Lately(who.vpc, who.addr); id != "" { // the request itself is answered for who it is then
			return account{instance: id}, true
		}
		return account{stranger: who}, true
	}
	found, err := s.index.Behind(who.vpc, who.addr)
	return account{instance: found.ID}, err == nil && found.Metadata.Options.HTTPProtocolIPv6 == "enabled"
}

type connKey struct{}

// conn is a connection of a known caller.
type conn struct {
	*net.TCPConn
	caller  caller
	account account
	server  *Server
	once    sync.Once
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.server.callers.leave(c.account)
		c.server.metrics.open.Dec()
	})
	return c.TCPConn.Close()
}

// setHops limits how many routers what is sent from now on may pass, plus one. The guest is the first hop: the
// host's end of a tap sends, and does not forward.
func (c *conn) setHops(n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	level, option := syscall.IPPROTO_IP, syscall.IP_TTL
	if c.caller.addr.Is6() {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = syscall.SetsockoptInt(int(fd), level, option, n) })
	return errors.Join(err, inner)
}
