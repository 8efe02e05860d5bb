package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/origin"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// Guests accepts connections that the metadata service carries for guests (internal/origin), so that a request's source is
// the guest and not the host. Only the users named may connect: anybody else could say to be any guest.
func Guests(l *net.UnixListener, log *slog.Logger, uids ...uint32) net.Listener {
	return &guests{log: log, Guarded: service.Guarded{UnixListener: l, Users: uids, Stranger: func(uid uint32, err error) {
		log.Warn("a stranger where guests' requests come from", "uid", uid, "err", err)
	}}}
}

type guests struct {
	service.Guarded
	log *slog.Logger
}

func (g *guests) Accept() (net.Conn, error) {
	c, err := g.Guarded.Accept()
	if err != nil {
		return nil, err
	}
	return &carried{UnixConn: c.(*net.UnixConn), log: g.log}, nil
}

// carried is a guest's connection. Whose it is, is read when it is first asked for, which the server does in the
// connection's own goroutine: one that says nothing holds up no other.
type carried struct {
	*net.UnixConn
	log   *slog.Logger
	once  sync.Once
	guest origin.Guest
	err   error
}

// originTimeout bounds the wait for who it is, which comes with the connection.
const originTimeout = 5 * time.Second

func (c *carried) origin() (origin.Guest, error) {
	c.once.Do(func() {
		c.SetReadDeadline(time.Now().Add(originTimeout))
		if c.guest, c.err = origin.Read(c.UnixConn); c.err != nil {
			c.log.Warn("a connection for a guest that says not for whom", "err", c.err)
			c.Close()
		}
		c.SetReadDeadline(time.Time{})
	})
	return c.guest, c.err
}

// RemoteAddr is the guest's address in its VPC.
func (c *carried) RemoteAddr() net.Addr {
	g, err := c.origin()
	if err != nil {
		return c.UnixConn.RemoteAddr()
	}
	return net.TCPAddrFromAddrPort(g.From)
}

func (c *carried) Read(b []byte) (int, error) {
	if _, err := c.origin(); err != nil {
		return 0, fmt.Errorf("read a guest's request: %w", err)
	}
	return c.UnixConn.Read(b)
}

type carriedKey struct{}

// Gateway is the host whose gateway carries a machine's registration; false for every other request.
func Gateway(ctx context.Context) (cloud.HostID, bool) {
	c, ok := ctx.Value(carriedKey{}).(*carried)
	if !ok {
		return "", false
	}
	g, err := c.origin()
	if err != nil || g.VPC != origin.Gateway {
		return "", false
	}
	return cloud.HostID(g.Instance), true
}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*carried); ok {
		return context.WithValue(ctx, carriedKey{}, g)
	}
	return ctx
}

// guestOf is the instance whose request this is, "" for those from elsewhere.
func guestOf(ctx context.Context) string {
	c, ok := ctx.Value(carriedKey{}).(*carried)
	if !ok {
		return ""
	}
	g, err := c.origin()
	if err != nil {
		return ""
	}
	return string(g.Instance)
}
