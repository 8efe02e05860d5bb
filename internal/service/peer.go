package service

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// Peer returns the user of the process at the other end when it connected (SO_PEERCRED, unix(7)).
func Peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("ask who connects: %w", err)
	}
	return cred.Uid, nil
}

// Guarded accepts the connections of some users and closes all others.
type Guarded struct {
	*net.UnixListener
	Users    []uint32
	Stranger func(uid uint32, err error) // is told of each that was closed
}

// Accept returns the next connection of one of the users.
func (g Guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := Peer(c)
		if err == nil && slices.Contains(g.Users, uid) {
			return c, nil
		}
		g.Stranger(uid, err)
		c.Close()
	}
}
