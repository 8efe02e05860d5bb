package wire

import (
	"context"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// An agent must be back within a second of its network, however long that was away. The kernel's own patience is of
// another kind: what it sends into nothing it repeats after 0.2, 0.6, 1.4, 3 seconds and so on, a SYN after 1, 3 and 7,
// and of a connection on which nothing happens it says nothing at all. So dial does not wait for a SYN to be repeated,
// and watch ends a connection whose other side is not there.
const (
	// again is how long a connection may take to come about before another is begun beside it.
	again = 500 * time.Millisecond
	// idle is after what time without a word the other side's kernel is asked whether it is there. That costs a guest and its
	// host a packet each way.
	idle = time.Second
	// look is how often watch looks, and dead is how long nothing may have come of what was sent: by then it was sent three
	// times, or the other side has been asked for longer than any way across a network takes.
	look = 250 * time.Millisecond
	dead = 1200 * time.Millisecond
	mute = idle + 500*time.Millisecond
)

// Network is the dialer of the guest's network.
var Network Dialer = dial

// dial opens a connection to addr and has it watched. It gives up when ctx ends, or when the kernel says that nobody is there.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: idle, Interval: idle, Count: 10}}
	type answer struct {
		conn net.Conn
		err  error
	}
	got := make(chan answer)
	for {
		go func() {
			conn, err := d.DialContext(ctx, network, addr)
			select {
			case got <- answer{conn, err}:
			case <-ctx.Done():
				if err == nil {
					conn.Close()
				}
			}
		}()
		select {
		case a := <-got:
			if tcp, ok := a.conn.(*net.TCPConn); ok {
				go watch(tcp) // until it is closed
			}
			return a.conn, a.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// watch closes a connection when what was sent on it is not even acknowledged by the other side's kernel. That a peer does
// not read is no sign of it: its kernel says so.
func watch(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	t := time.NewTicker(look)
	defer t.Stop()
	for range t.C {
		var info *unix.TCPInfo
		var failed error
		err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil || failed != nil {
			return // closed
		}
		if vanished(info) {
			conn.SetLinger(0) // what it has not taken it will not take
			conn.Close()
			return
		}
	}
}

// vanished reports whether the other side has not answered for too long.
func vanished(info *unix.TCPInfo) bool {
	silent := time.Duration(info.Last_ack_recv) * time.Millisecond
	return silent >= dead && info.Retransmits >= 2 || silent >= mute && info.Probes > 0
}
