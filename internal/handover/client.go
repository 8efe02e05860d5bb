package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// retryAfter is how long a daemon waits before it looks for the agent again. A refused connect costs some
// 10 microseconds, and until the agent is back nothing holds the sockets but the daemon.
const retryAfter = 50 * time.Millisecond

// Client is a daemon's side, for one service.
type Client struct {
	path    string
	service string
	log     *slog.Logger
	sockets map[place]*served // belongs to Run
}

type place struct {
	vpc  cloud.VPCID
	name string
}

// Socket is one that was handed over: exactly one of Listener and Packets is not nil.
type Socket struct {
	VPC      cloud.VPCID
	Name     string
	Listener net.Listener
	Packets  *net.UDPConn
}

// Addr is where guests ask.
func (s Socket) Addr() net.Addr {
	if s.Packets != nil {
		return s.Packets.LocalAddr()
	}
	return s.Listener.Addr()
}

func (s Socket) close() {
	if s.Packets != nil {
		s.Packets.Close()
	} else {
		s.Listener.Close()
	}
}

type served struct {
	fd     int
	cookie uint64
	socket Socket
}

// NewClient returns the side of a daemon that serves the named service.
func NewClient(path, service string, log *slog.Logger) *Client {
	return &Client{path: path, service: service, log: log.With("component", "handover", "service", service), sockets: map[place]*served{}}
}

// Run keeps a connection to the agent until ctx ends, connecting again for ever. It calls add with each socket
// that is handed over, and remove after it has closed the socket again. Neither
// may block. While the agent is away the sockets go on. They are closed before Run returns.
func (c *Client) Run(ctx context.Context, add, remove func(Socket)) error {
	defer func() {
		for at := range c.sockets {
			c.drop(at, remove)
		}
	}()
	last := ""
	for ctx.Err() == nil {
		err := c.session(ctx, add, remove)
		if err != nil && err.Error() != last && ctx.Err() == nil {
			last = err.Error()
			c.log.Info("agent is away", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// session speaks with the agent once, until the connection ends.
func (c *Client) session(ctx context.Context, add, remove func(Socket)) error {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: c.path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	p := newPeer(conn)
	go p.write() // ends with p.close
	defer p.close()
	defer context.AfterFunc(ctx, p.close)()
	err = p.send(message{Op: "hello", Service: c.service}, -1)
	for at, s := range c.sockets {
		err = errors.Join(err, p.send(message{Op: "offer", Service: c.service, VPC: string(at.vpc), Socket: at.name}, s.fd))
	}
	err = errors.Join(err, p.send(message{Op: "held", Service: c.service}, -1))
	for err == nil {
		var m message
		var fd int
		if m, fd, err = p.receive(); err != nil {
			break
		}
		switch vpc := cloud.VPCID(m.VPC); m.Op {
		case "offer":
			err = c.accept(place{vpc, m.Socket}, fd, add, remove)
		case "withdraw":
			for at := range c.sockets {
				if at.vpc == vpc {
					c.drop(at, remove)
				}
			}
		}
	}
	return err
}

// accept serves a socket in the place of the one that is served there, if that is another.
func (c *Client) accept(at place, fd int, add, remove func(Socket)) error {
	cookie, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	if s := c.sockets[at]; s != nil {
		if s.cookie == cookie {
			unix.Close(fd)
			return nil
		}
		c.drop(at, remove)
	}
	s, err := open(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("serve the socket %q of %s: %w", at.name, at.vpc, err)
	}
	s.VPC, s.Name = at.vpc, at.name
	c.sockets[at] = &served{fd: fd, cookie: cookie, socket: s}
	add(s)
	return nil
}

func (c *Client) drop(at place, remove func(Socket)) {
	s := c.sockets[at]
	if s == nil {
		return
	}
	delete(c.sockets, at)
	s.socket.close()
	unix.Close(s.fd)
	remove(s.socket)
}

// open makes a listener, or what receives datagrams, of a duplicate of the socket.
func open(fd int) (Socket, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return Socket{}, err
	}
	dup, err := duplicate(fd)
	if err != nil {
		return Socket{}, err
	}
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	if kind != unix.SOCK_DGRAM {
		l, err := net.FileListener(f)
		return Socket{Listener: l}, err
	}
	p, err := net.FilePacketConn(f)
	if err != nil {
		return Socket{}, err
	}
	u, ok := p.(*net.UDPConn)
	if !ok {
		p.Close()
		return Socket{}, errors.New("it is not one of UDP")
	}
	return Socket{Packets: u}, nil
}
