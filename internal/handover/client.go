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

// Client is a daemon's side.
type Client struct {
	path    string
	service string
	log     *slog.Logger
	sockets map[cloud.VPCID]*served // belongs to Run
}

type served struct {
	fd       int
	cookie   uint64
	listener net.Listener
}

// NewClient returns the side of a daemon that serves the named service.
func NewClient(path, service string, log *slog.Logger) *Client {
	return &Client{path: path, service: service, log: log.With("component", "handover"), sockets: map[cloud.VPCID]*served{}}
}

// Run keeps a connection to the agent until ctx ends, connecting again for ever. It calls add with a
// listener for each socket that is handed over, and remove after it has closed the listener again. Neither
// may block. While the agent is away the listeners go on. They are closed before Run returns.
func (c *Client) Run(ctx context.Context, add func(cloud.VPCID, net.Listener), remove func(cloud.VPCID)) error {
	defer func() {
		for vpc := range c.sockets {
			c.drop(vpc, remove)
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
func (c *Client) session(ctx context.Context, add func(cloud.VPCID, net.Listener), remove func(cloud.VPCID)) error {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: c.path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	p := newPeer(conn)
	go p.write() // ends with p.close
	defer p.close()
	defer context.AfterFunc(ctx, p.close)()
	err = p.send(message{Op: "hello", Service: c.service}, -1)
	for vpc, s := range c.sockets {
		err = errors.Join(err, p.send(message{Op: "offer", Service: c.service, VPC: string(vpc)}, s.fd))
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
			err = c.accept(vpc, fd, add, remove)
		case "withdraw":
			c.drop(vpc, remove)
		}
	}
	return err
}

// accept serves a socket in the place of the one that is served for the VPC, if that is another.
func (c *Client) accept(vpc cloud.VPCID, fd int, add func(cloud.VPCID, net.Listener), remove func(cloud.VPCID)) error {
	cookie, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	if s := c.sockets[vpc]; s != nil {
		if s.cookie == cookie {
			unix.Close(fd)
			return nil
		}
		c.drop(vpc, remove)
	}
	l, err := listener(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("serve the socket of %s: %w", vpc, err)
	}
	c.sockets[vpc] = &served{fd: fd, cookie: cookie, listener: l}
	add(vpc, l)
	return nil
}

func (c *Client) drop(vpc cloud.VPCID, remove func(cloud.VPCID)) {
	s := c.sockets[vpc]
	if s == nil {
		return
	}
	delete(c.sockets, vpc)
	s.listener.Close()
	unix.Close(s.fd)
	remove(vpc)
}

// listener makes a listener of a duplicate of the socket.
func listener(fd int) (net.Listener, error) {
	dup, err := duplicate(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "listener")
	defer f.Close()
	return net.FileListener(f)
}
