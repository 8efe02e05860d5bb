//go:build net

package eni

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/nstest"
	"golang.org/x/sys/unix"
)

// server accepts connections in a namespace, tells whom it sees, and sends back what it gets.
type server struct{ seen chan string }

func tcp(t *testing.T, n *nstest.Namespace, at netip.AddrPort) server {
	t.Helper()
	var l net.Listener
	if err := n.Do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := server{make(chan string, 16)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.seen <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String()
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return s
}

// from connects from a namespace and returns the address that the server sees, "" if there is no connection.
func (s server) from(t *testing.T, n *nstest.Namespace, to netip.AddrPort) string {
	t.Helper()
	if !reaches(t, n, to.String()) {
		return ""
	}
	return <-s.seen
}

// stream is a connection that stays.
type stream struct{ fd int }

// stay connects from a namespace and keeps the connection.
func (s server) stay(t *testing.T, n *nstest.Namespace, to netip.AddrPort) stream {
	t.Helper()
	var fd int
	err := n.Do(func() (err error) {
		family, sa := sockaddr(to)
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		for _, o := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &unix.Timeval{Sec: 1}); err != nil {
				return err
			}
		}
		return unix.Connect(fd, sa)
	})
	if err != nil {
		t.Fatalf("connect from %s to %s: %v", n.Name, to, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	<-s.seen
	return stream{fd}
}

// alive reports whether a byte comes back within a second.
func (s stream) alive(t *testing.T) bool {
	t.Helper()
	if _, err := unix.Write(s.fd, []byte{'x'}); err != nil {
		return false
	}
	n, err := unix.Read(s.fd, make([]byte, 16))
	return err == nil && n > 0
}

// datagrams is a UDP socket in a namespace.
type datagrams struct{ c *net.UDPConn }

func udp(t *testing.T, n *nstest.Namespace, at string) datagrams {
	t.Helper()
	var c net.PacketConn
	if err := n.Do(func() (err error) { c, err = net.ListenPacket("udp4", at); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return datagrams{c.(*net.UDPConn)}
}

// passes sends a datagram to the other socket and reports from where it arrives within half a second, if it does.
func (d datagrams) passes(t *testing.T, to netip.AddrPort, at datagrams) (netip.AddrPort, bool) {
	t.Helper()
	if _, err := d.c.WriteToUDPAddrPort([]byte("x"), to); err != nil {
		return netip.AddrPort{}, false
	}
	_ = at.c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, from, err := at.c.ReadFromUDPAddrPort(make([]byte, 16))
	return from, err == nil
}
