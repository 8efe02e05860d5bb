// Package mux is many connections over one: smux version 1, which the stock plugin speaks for ports, and version 2 for what
// is ours on both ends.
//
// It is the door of the library. The plugin's ends have no keepalive, because a session's idle time goes by its bytes, and
// frames that fill a message of the session together with their header.
package mux

import (
	"io"
	"time"

	"github.com/xtaci/smux"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// FrameSize is the largest payload of a frame: the fewer the frames, the more bytes a second.
const FrameSize = wire.MaxData - 8

// Session and Stream are the library's.
type (
	Session = smux.Session
	Stream  = smux.Stream
)

func config() *smux.Config {
	c := smux.DefaultConfig()
	c.KeepAliveDisabled = true
	c.MaxFrameSize = FrameSize
	// Version 1 knows no window of a stream: what nobody reads fills the session's buffer, and then all wait.
	c.MaxReceiveBuffer, c.MaxStreamBuffer = 4<<20, 1<<20
	return c
}

// guarded is what both ends of our own have: a window for each connection, so that one which nobody reads holds up no other, a
// bound of what a peer can hold of our memory, and a peer that is silent for half a minute is gone.
func guarded() *smux.Config {
	c := smux.DefaultConfig()
	c.Version = 2
	c.KeepAliveInterval, c.KeepAliveTimeout = 10*time.Second, 30*time.Second
	c.MaxReceiveBuffer, c.MaxStreamBuffer = 1<<20, 256<<10
	return c
}

// GuardedServer is the end of our own that accepts connections.
func GuardedServer(rw io.ReadWriteCloser) (*Session, error) { return smux.Server(rw, guarded()) }

// GuardedClient is the end of our own that opens them.
func GuardedClient(rw io.ReadWriteCloser) (*Session, error) { return smux.Client(rw, guarded()) }

// Server is the end that accepts streams.
func Server(rw io.ReadWriteCloser) (*Session, error) { return smux.Server(rw, config()) }

// Client is the end that opens them.
func Client(rw io.ReadWriteCloser) (*Session, error) { return smux.Client(rw, config()) }
